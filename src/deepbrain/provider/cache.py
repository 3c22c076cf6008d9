"""Which images stay on a machine: a budget of disk, and the longest unused goes first.

Images with a name are the provider's own and stay, as do those of orders that are to run or do run.
"""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.provider.record import replace_file
from deepbrain.sandbox.sandbox import ImageInfo, Sandbox, SandboxError

DEFAULT_SHARE: Final = 10
"""Percent of the disk, where the provider names no budget."""
DISK_RESERVE: Final = 1 << 30
"""Bytes of disk that no image may take."""
WANTED: Final = 4
"""Room that is made for an image, in its size as it is sent: that, and what it unpacks to."""
LEAST: Final = 2
"""Room that it must have at least."""


class NoRoom(DeepBrainError):
    """The image does not fit; the text is the sentence the renter reads."""


class ImageCache:
    """Makes room for images. `data` is the agent's directory."""

    def __init__(self, sandbox: Sandbox, data: Path, budget: int = 0) -> None:
        self._sandbox = sandbox
        self._data = data
        self._uses = data / "image-uses.json"
        self._budget = budget
        self._held: dict[str, int] = {}
        self._changing = asyncio.Lock()

    @property
    def budget(self) -> int:
        """Bytes of all unpacked images."""
        return self._budget or shutil.disk_usage(self._data).total * DEFAULT_SHARE // 100

    def note_use(self, digest: str) -> None:
        """It is wanted now."""
        uses = self._read_uses()
        uses[digest] = time.time()
        replace_file(self._uses, json.dumps(uses).encode())

    @asynccontextmanager
    async def room(self, digest: str, size: int, kept: frozenset[str]) -> AsyncIterator[int]:
        """Hold room for an image that is sent in `size` bytes; gives how much it may unpack to.

        Images in `kept` stay. Raises: NoRoom.
        """
        async with self._changing:
            free = await self._make_room(size, kept | {digest})
            self._held[digest] = min(free, WANTED * size)
        try:
            yield free - size
        finally:
            del self._held[digest]

    async def _make_room(self, size: int, kept: frozenset[str]) -> int:
        doomed = await self._removable(kept)
        while (free := await self._free()) < WANTED * size and doomed:
            try:
                await self._sandbox.remove_image(doomed.pop(0).digest)
            except SandboxError:
                continue  # a tenant came meanwhile
        if free < LEAST * size:
            raise NoRoom(
                f"the image of {size >> 20} MiB does not fit: this machine keeps at most "
                f"{self.budget >> 20} MiB of images, and has {max(free, 0) >> 20} MiB free for them"
            )
        return free

    async def _free(self) -> int:
        used = sum(image.disk for image in await self._sandbox.images())
        on_disk = shutil.disk_usage(self._data).free - DISK_RESERVE
        return min(self.budget - used, on_disk) - sum(self._held.values())

    async def _removable(self, kept: frozenset[str]) -> list[ImageInfo]:
        """The longest unused first."""
        states = await self._sandbox.list()
        in_use = {state.spec.image for state in states if state.needs_image}
        uses = self._read_uses()
        found = [
            image
            for image in await self._sandbox.images()
            if not image.name and image.digest not in in_use | kept
        ]
        return sorted(found, key=lambda image: uses.get(image.digest, 0.0))

    def _read_uses(self) -> dict[str, float]:
        try:
            found = json.loads(self._uses.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

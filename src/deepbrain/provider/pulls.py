"""Have an order's image fetched, by a process of its own (`sandbox/pull.py`)."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.sandbox.open import UNPACK_UID
from deepbrain.sandbox.reference import Credentials

MAX_LINE: Final = 8 << 10

OnSize = Callable[[int], Awaitable[None]]
"""Called with the bytes to come, before they do; what it raises ends the pull."""
OnProgress = Callable[[int, int], None]
"""`(bytes done, bytes in all)`."""


class PullFailed(DeepBrainError):
    """The image does not come; the text is the sentence the renter reads."""


@dataclass(frozen=True, slots=True)
class PullRules:
    """What a provider allows."""

    max_bytes: int
    """Of all blobs of an image."""
    stall_seconds: int
    """Without a byte, after which a connection is given up."""
    private: bool
    """Whether registries in private networks and on this machine may be asked."""


@dataclass(frozen=True, slots=True)
class Puller:
    """Pulls of one image at one place."""

    source: str
    digest: str
    rules: PullRules
    credentials: Credentials | None = field(repr=False)

    async def check(self, at: Path) -> None:
        """Ask for the image without fetching it. Raises: PullFailed: these credentials may not have it."""
        await self._run(at, only_check=True)

    async def fetch(self, at: Path, on_size: OnSize, on_progress: OnProgress) -> None:
        """Bring all blobs into the directory, going on behind what an earlier try left there.

        Raises: PullFailed; whatever `on_size` raises.
        """
        await self._run(at, on_size, on_progress)

    async def _run(
        self,
        at: Path,
        on_size: OnSize | None = None,
        on_progress: OnProgress | None = None,
        *,
        only_check: bool = False,
    ) -> None:
        process = await _start(at)
        try:
            await self._ask(process, only_check=only_check)
            async for said in _lines(process):
                if "error" in said:
                    raise PullFailed(str(said["error"]))
                if "size" in said and on_size is not None and process.stdin is not None:
                    await on_size(int(said["size"]))
                    process.stdin.write(b"go\n")
                elif "done" in said and on_progress is not None:
                    on_progress(int(said["done"]), int(said["total"]))
            if await process.wait():
                raise PullFailed("the image could not be fetched: what fetches it died")
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, process: asyncio.subprocess.Process, *, only_check: bool) -> None:
        known = self.credentials or Credentials("", "")
        request = {
            "source": self.source,
            "digest": self.digest,
            "username": known.username,
            "secret": known.secret,
            "private": self.rules.private,
            "max_bytes": self.rules.max_bytes,
            "stall_seconds": self.rules.stall_seconds,
            "only_check": only_check,
        }
        if process.stdin is not None:
            with suppress(ConnectionError):  # it died; its end says so
                process.stdin.write(json.dumps(request).encode() + b"\n")
                await process.stdin.drain()


async def _start(at: Path) -> asyncio.subprocess.Process:
    """Its environment is empty: a password's place is named in ours."""
    uid = UNPACK_UID if os.geteuid() == 0 else 0
    await asyncio.to_thread(_make_directory, at, uid)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deepbrain.sandbox.pull", str(at), str(uid)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        limit=MAX_LINE,
    )


def _make_directory(at: Path, uid: int) -> None:
    at.mkdir(mode=0o700, parents=True, exist_ok=True)
    if uid:
        os.chown(at, uid, uid)


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
    """What it says. Raises: PullFailed: something else than it should."""
    if process.stdout is None:
        return
    try:
        while line := await process.stdout.readline():
            yield json.loads(line)
    except ValueError as error:  # also a line that is too long
        raise PullFailed("the image could not be fetched: what fetches it is broken") from error

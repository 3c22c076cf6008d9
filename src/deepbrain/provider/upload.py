"""Take a blob (an image's or a workspace's tar) from its renter, resumably, and check its hash.

What has arrived stays in `<sha256>.part`; the next try goes on behind it. Only a whole file with the
right digest gets its final name; a wrong one is removed. The newest try wins: an older one is most
likely a dead connection.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

from deepbrain.net.errors import RefusalCode, Refused, StreamEnded
from deepbrain.net.frames import reply_bytes
from deepbrain.net.messages import Digest, Done, Have
from deepbrain.net.stream import READ_SIZE, Stream
from deepbrain.primitives.units import U64
from deepbrain.provider.record import OrderFiles

DISK_RESERVE: Final = 1 << 30
"""Bytes of disk that no upload may take."""

OnProgress = Callable[[int, int], None]
"""`(bytes done, bytes in all)`."""


class Uploads:
    """Which uploads are under way."""

    def __init__(self) -> None:
        self._under_way: dict[Path, asyncio.Task[None]] = {}

    async def receive(
        self,
        files: OrderFiles,
        sha256: Digest,
        size: int,
        stream: Stream,
        on_progress: OnProgress,
    ) -> None:
        """Raises: Refused: no room, or the bytes do not match the digest; NetError: it was cut off."""
        if files.blob(sha256).exists():
            await stream.write(reply_bytes(Have(offset=U64(size))) + reply_bytes(Done()))
            return
        part = files.part(sha256)
        await self._supersede(part)
        task = asyncio.current_task()
        if task is not None:
            self._under_way[part] = task
        try:
            await _receive(files, sha256, size, stream, on_progress)
        finally:
            if self._under_way.get(part) is task:
                del self._under_way[part]
        await stream.write(reply_bytes(Done()))

    async def _supersede(self, part: Path) -> None:
        while (older := self._under_way.pop(part, None)) is not None:
            older.cancel()
            await asyncio.wait((older,))


async def _receive(
    files: OrderFiles, sha256: Digest, size: int, stream: Stream, on_progress: OnProgress
) -> None:
    part = files.part(sha256)
    with part.open("a+b") as file:
        hashing, offset = await asyncio.to_thread(_resume, file, size)
        _ensure_room(part, size - offset)
        await stream.write(reply_bytes(Have(offset=U64(offset))))
        while offset < size:
            chunk = await stream.read_some(min(READ_SIZE, size - offset))
            if not chunk:
                raise StreamEnded("the upload was cut off")
            await asyncio.to_thread(_append, file, hashing, chunk)
            offset += len(chunk)
            on_progress(offset, size)
        if hashing.digest() != sha256:
            part.unlink()
            raise Refused(
                RefusalCode.MISMATCH, "what arrived does not match its hash; send it again"
            )
        await asyncio.to_thread(os.fsync, file.fileno())
    part.rename(files.blob(sha256))


def _resume(file: IO[bytes], size: int) -> tuple[Any, int]:
    """The hash of what is there, and how much; too much counts as nothing."""
    file.seek(0, os.SEEK_END)
    if file.tell() > size:
        file.truncate(0)
    file.seek(0)
    hashing = hashlib.sha256()
    while chunk := file.read(1 << 20):
        hashing.update(chunk)
    return hashing, file.tell()


def _append(file: IO[bytes], hashing: Any, chunk: bytes) -> None:
    file.write(chunk)
    hashing.update(chunk)


def _ensure_room(part: Path, missing: int) -> None:
    if shutil.disk_usage(part.parent).free < missing + DISK_RESERVE:
        raise Refused(RefusalCode.FAILED, "the machine's disk is full; rent another machine")

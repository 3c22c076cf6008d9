"""Take a blob (an image's or a workspace's tar) from its renter, resumably, and check its hash.

What has arrived stays in `<sha256>.part`; the next try goes on behind it. Only a whole file with the
right digest gets its final name; a wrong one is removed. The newest try wins: an older one is most
likely a dead connection. Disk and hashing have two threads of their own, in short pieces, so that
uploads take turns and nobody else waits for them.
"""

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from deepbrain.net.errors import RefusalCode, Refused, StreamEnded
from deepbrain.net.frames import reply_bytes
from deepbrain.net.messages import Digest, Done, Have
from deepbrain.net.stream import READ_SIZE, Stream
from deepbrain.primitives.units import U64
from deepbrain.provider.record import OrderFiles

DISK_RESERVE: Final = 1 << 30
"""Bytes of disk that no upload may take."""

THREADS: Final = 2
_HASH_SIZE: Final = 4 << 20
"""Bytes that are hashed at once, when an upload goes on behind what is there."""

T = TypeVar("T")

OnProgress = Callable[[int, int], None]
"""`(bytes done, bytes in all)`."""


class Uploads:
    """Which uploads are under way."""

    def __init__(self) -> None:
        self._under_way: dict[Path, asyncio.Task[None]] = {}
        self._missing: dict[Path, int] = {}
        """Bytes that are still to come, and have their room on the disk."""
        self._disk = ThreadPoolExecutor(THREADS, "upload")

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
            await self._receive(files, sha256, size, stream, on_progress)
        except OSError as error:
            raise _refusal_of(error) from error
        finally:
            if self._under_way.get(part) is task:
                del self._under_way[part]
        await stream.write(reply_bytes(Done()))

    async def _supersede(self, part: Path) -> None:
        while (older := self._under_way.pop(part, None)) is not None:
            older.cancel()
            await asyncio.wait((older,))

    async def _receive(
        self,
        files: OrderFiles,
        sha256: Digest,
        size: int,
        stream: Stream,
        on_progress: OnProgress,
    ) -> None:
        part = files.part(sha256)
        with part.open("a+b") as file:
            hashing, offset = await self._resume(file, size)
            with self._room(part, size - offset):
                await stream.write(reply_bytes(Have(offset=U64(offset))))
                while offset < size:
                    chunk = await stream.read_some(min(READ_SIZE, size - offset))
                    if not chunk:
                        raise StreamEnded("the upload was cut off")
                    await self._in_thread(_append, file, hashing, chunk)
                    offset += len(chunk)
                    self._missing[part] = size - offset
                    on_progress(offset, size)
            if hashing.digest() != sha256:
                part.unlink(missing_ok=True)
                raise Refused(
                    RefusalCode.MISMATCH, "what arrived does not match its hash; send it again"
                )
            await self._in_thread(os.fsync, file.fileno())
        part.rename(files.blob(sha256))

    async def _resume(self, file: IO[bytes], size: int) -> tuple[Any, int]:
        """The hash of what is there, and how much; too much counts as nothing."""
        if os.fstat(file.fileno()).st_size > size:
            file.truncate(0)
        file.seek(0)
        hashing = hashlib.sha256()
        while await self._in_thread(_hash_some, file, hashing):
            continue
        return hashing, file.tell()

    @contextmanager
    def _room(self, part: Path, missing: int) -> Iterator[None]:
        """Room for what is to come, beside what other uploads were promised. Raises: Refused."""
        promised = sum(self._missing.values())
        if shutil.disk_usage(part.parent).free < promised + missing + DISK_RESERVE:
            raise _disk_is_full()
        self._missing[part] = missing
        try:
            yield
        finally:
            del self._missing[part]

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Do it to its end, cancelled or not: the file must not be written to by one who has left."""
        loop = asyncio.get_running_loop()
        doing = loop.run_in_executor(self._disk, work, *arguments)
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            await asyncio.wait((doing,))
            raise


def _hash_some(file: IO[bytes], hashing: Any) -> int:
    chunk = file.read(_HASH_SIZE)
    hashing.update(chunk)
    return len(chunk)


def _append(file: IO[bytes], hashing: Any, chunk: bytes) -> None:
    file.write(chunk)
    hashing.update(chunk)


def _refusal_of(error: OSError) -> Refused:
    if isinstance(error, FileNotFoundError):  # everything of the order was removed meanwhile
        return Refused(RefusalCode.NOT_NOW, "the order has ended, and its files are gone")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_is_full()
    return Refused(
        RefusalCode.FAILED, "the machine cannot write what arrives; rent another machine"
    )


def _disk_is_full() -> Refused:
    return Refused(RefusalCode.FAILED, "the machine's disk is full; rent another machine")

"""One bidirectional stream of bytes, safe to wait on with a timeout.

Reads of the transport underneath are not cancel-safe: a cancelled read loses bytes. So exactly one
task per stream reads it, into a bounded buffer, and everybody else waits on the buffer.
"""

import asyncio
from collections import deque
from enum import Enum
from math import inf
from types import TracebackType
from typing import Final, Protocol, Self

from deepbrain.net.errors import NetError, StreamEnded

READ_SIZE: Final = 1 << 18
"""Bytes asked of the transport at once; each ask costs a foreign call of about 60 µs."""

HIGH_WATER: Final = 1 << 20
"""Bytes buffered per stream before its reader task stops reading: the peer is then slowed down."""

CRUMB: Final = 4096
"""Smaller pieces that wait to be read are kept together: each alone costs more than it holds."""

WRITE_SIZE: Final = 1 << 18
"""Larger writes are cut into pieces of this size, so that streams share the connection."""


class RawStream(Protocol):
    """What a transport offers. Every method raises a `NetError` and nothing else."""

    async def read(self, limit: int) -> bytes:
        """Up to `limit` bytes, or none at the end. May lose bytes when cancelled."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def finish(self) -> None:
        """Say that nothing more will be written."""
        ...

    async def reset(self, code: int) -> None:
        """Give up writing; what is under way may be lost."""
        ...

    async def stop(self, code: int) -> None:
        """Ask the other side to stop writing."""
        ...


class _Sending(Enum):
    OPEN = "open"
    BROKEN = "broken"  # a write is under way, or one failed or was cancelled half-way
    FINISHED = "finished"
    RESET = "reset"


class Stream:
    """One request and its answer. Reads by one task at a time; writes by one task at a time.

    As a context manager it finishes cleanly when the block ends, and resets both directions when
    the block raises.
    """

    def __init__(self, raw: RawStream) -> None:
        self._raw = raw
        self._chunks: deque[bytes | bytearray] = deque()
        self._at = 0
        """How much of the first chunk has been read."""
        self._buffered = 0
        self._ended = False
        self._failure: NetError | None = None
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._sending = _Sending.OPEN
        self.received_bytes = self.sent_bytes = 0
        """What has passed so far."""
        self.heard_at = -inf
        """When bytes last came, by the event loop's clock: a sign of life of the other side."""

    async def read_some(self, limit: int = READ_SIZE) -> bytes:
        """Up to `limit` bytes, at least one; none at the end. Safe to cancel and to time out.

        Raises: NetError: the stream was reset or the connection lost (after what arrived before).
        """
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return b""
            await self._wait_filled()
        return self._take(limit)

    async def read_exactly(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises: StreamEnded: it ended before; NetError.

        A cancelled call keeps what it had read in the buffer.
        """
        parts: list[bytes] = []
        missing = size
        try:
            while missing:
                part = await self.read_some(missing)
                if not part:
                    raise StreamEnded("the stream ended in the middle of a message")
                parts.append(part)
                missing -= len(part)
        except asyncio.CancelledError:
            self._give_back(parts)
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write(self, data: bytes) -> None:
        """Send all of `data`; waits while the other side does not read.

        A cancelled write leaves the stream unusable for writing. Raises: NetError.
        """
        if self._sending is not _Sending.OPEN:
            raise StreamEnded("the stream is closed for writing")
        self._sending = _Sending.BROKEN
        for start in range(0, len(data), WRITE_SIZE):
            piece = data[start : start + WRITE_SIZE]
            await self._raw.write(piece)
            self.sent_bytes += len(piece)
        self._sending = _Sending.OPEN

    async def finish(self) -> None:
        """Say that nothing more will be written. What was written still arrives. Idempotent."""
        if self._sending is _Sending.OPEN:
            self._sending = _Sending.FINISHED
            await self._raw.finish()

    async def reset(self, code: int = 0) -> None:
        """Abandon both directions. Never raises; idempotent."""
        await self._stop_reading(code)
        if self._sending is _Sending.RESET:
            return
        self._sending = _Sending.RESET
        try:
            await self._raw.reset(code)
        except NetError:
            return  # it is gone already, which is all we wanted

    async def close(self) -> None:
        """Finish writing (reset after a write that failed) and stop reading. Never raises."""
        try:
            await self.finish()
        except NetError:
            self._sending = _Sending.BROKEN
        if self._sending is _Sending.BROKEN:
            await self.reset(1)
        await self._stop_reading(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.reset(1)

    async def _wait_filled(self) -> None:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_all())
        self._filled.clear()
        await self._filled.wait()

    async def _read_all(self) -> None:
        try:
            while chunk := await self._raw.read(READ_SIZE):
                self._keep(chunk)
                self.received_bytes += len(chunk)
                self.heard_at = asyncio.get_running_loop().time()
                self._filled.set()
                while self._buffered >= HIGH_WATER:
                    self._drained.clear()
                    await self._drained.wait()
            self._ended = True
        except NetError as error:
            self._failure = error
        finally:
            self._filled.set()

    def _keep(self, chunk: bytes) -> None:
        self._buffered += len(chunk)
        last = self._chunks[-1] if self._chunks else None
        if len(chunk) >= CRUMB or last is None:
            self._chunks.append(chunk)
        elif isinstance(last, bytearray) and len(last) < READ_SIZE:
            last += chunk
        else:
            self._chunks.append(bytearray(chunk))

    def _take(self, limit: int) -> bytes:
        first = self._chunks[0]
        piece = bytes(first[self._at : self._at + limit])
        self._at += len(piece)
        if self._at == len(first):
            self._chunks.popleft()
            self._at = 0
        self._buffered -= len(piece)
        if self._buffered < HIGH_WATER:
            self._drained.set()
        return piece

    def _give_back(self, parts: list[bytes]) -> None:
        """What was taken last is the next to be read again."""
        if self._at:
            self._chunks[0] = self._chunks[0][self._at :]
            self._at = 0
        self._chunks.extendleft(reversed(parts))
        self._buffered += sum(map(len, parts))

    async def _stop_reading(self, code: int) -> None:
        if self._ended or self._failure is not None:
            return
        self._failure = StreamEnded("the stream is closed for reading")
        if self._reader is not None:
            self._reader.cancel()
            # The reader holds the transport's lock on the stream until it is really gone.
            await asyncio.wait([self._reader])
        self._filled.set()
        try:
            await self._raw.stop(code)
        except NetError:
            return  # the other side is gone already

"""A stream that outlives its connection: what was under way when that broke is sent again over the next.

Both ends keep one `Lasting`, under a name of 16 random bytes. It is a `RawStream`, so a `Stream` on top of
it is used like any other; below it, one QUIC stream at a time carries records both ways:

    DATA  u32 length, bytes      ACK  u64 how many bytes (and the end) have come,
    END   nothing more comes          u64 how many of them were read
                                 RESET  u32 code: both directions are given up

Each side keeps what it has sent until it has come, and sends no more than `WINDOW` bytes beyond what was
read. So whatever comes has its place and is taken at once: an acknowledgement never waits behind bytes that
nobody reads, by which two sides that both write before they read would wait for each other for ever.
When a connection breaks, both tell how much they have received, and go on from there: no byte is lost
and none comes twice. Little-endian throughout.
"""

import asyncio
import struct
from collections import deque
from typing import Final

from deepbrain.net.errors import (
    ConnectionLost,
    MalformedMessage,
    NetError,
    StreamEnded,
    StreamReset,
)
from deepbrain.net.stream import Stream

WINDOW: Final = 1 << 20
"""Bytes that are on their way or wait there to be read."""

RECORD: Final = 1 << 16
"""Bytes of one DATA record at most."""

ACK_EVERY: Final = 1 << 16
"""Bytes received, or read, before that is said."""

GOODBYE_SECONDS: Final = 2.0
"""How long a side that gives up tries to say so."""

_DATA: Final = 0
_ACK: Final = 1
_END: Final = 2
_RESET: Final = 3
_LENGTH: Final = struct.Struct("<I")
_PROGRESS: Final = struct.Struct("<QQ")


class Lasting:
    """One end. `carry` moves its bytes over a stream; everything else is what a `Stream` asks for."""

    def __init__(self) -> None:
        self._sent: deque[bytes] = deque()
        """Sent over the present carrier, and not acknowledged."""
        self._queue: deque[bytes] = deque()
        """To be sent after that."""
        self._acked = 0
        """Where these begin; one more than all bytes once the end is acknowledged, too."""
        self._written = 0
        """Where they end."""
        self._granted = 0
        """How many of ours were read there, as far as we know."""
        self._finished = False
        self._came = bytearray()
        self.received = 0
        """Bytes (and the end) that came, ever: what the other side need not send again."""
        self._told = 0
        """The `received` that the other side knows of."""
        self._read_told = 0
        """How many bytes it knows to have been read."""
        self._end_came = False
        self._deaf = False
        """Nobody reads any more; what comes is dropped."""
        self._failure: NetError | None = None
        self._reset_code: int | None = None
        """Set where giving up began here, and the other side is to hear of it."""
        self._changed = asyncio.Event()
        self._carrying: asyncio.Task[None] | None = None
        self._end_sent = False

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to carry."""
        if self._failure is not None:
            return self._reset_code is None
        return self._end_came and self._finished and self._acked > self._written

    @property
    def _was_read(self) -> int:
        """Bytes that came and do not wait to be read."""
        return self.received - self._end_came - len(self._came)

    # What `Stream` asks of a `RawStream`.

    async def read(self, limit: int) -> bytes:
        while not self._came:
            if self._failure is not None:
                raise self._failure
            if self._end_came or self._deaf:
                return b""
            await self._wait()
        chunk = bytes(self._came[:limit])
        del self._came[:limit]
        self._wake()
        return chunk

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), RECORD):
            piece = data[start : start + RECORD]
            while self._failure is None and self._written - self._granted + len(piece) > WINDOW:
                await self._wait()
            if self._failure is not None:
                raise self._failure
            self._queue.append(bytes(piece))
            self._written += len(piece)
            self._wake()

    async def finish(self) -> None:
        self._finished = True
        self._wake()

    async def reset(self, code: int) -> None:
        if self._failure is None and not self.is_over:
            self._reset_code = code
            self.fail(StreamEnded("the stream was given up here"))

    async def stop(self, code: int) -> None:
        """Drop what still comes; a code other than 0 gives up the whole."""
        self._deaf = True
        self._came.clear()
        self._wake()
        if code:
            await self.reset(code)

    def fail(self, failure: NetError) -> None:
        """Nobody carries it any further. Idempotent."""
        if self._failure is None:
            self._failure = failure
            self._wake()

    # What whoever holds the connection does.

    async def carry(self, stream: Stream, received: int) -> None:
        """Move bytes over `stream` until there is nothing left to move.

        `received` is how much the other side has. A carrier that was at work before is ended.
        Raises: NetError: the stream or its connection broke, and another may go on; MalformedMessage.
        """
        if not self._acked <= received <= self._written + self._finished:
            raise MalformedMessage("the other side has received what was never sent")
        await self._take_over()
        self._note_ack(received)
        self._queue.extendleft(reversed(self._sent))
        self._sent.clear()
        self._end_sent = received > self._written
        self._told, self._read_told = self.received, 0  # what was said last may have been lost
        task = asyncio.create_task(self._carry(stream))
        self._carrying = task
        try:
            await task
        except asyncio.CancelledError:
            if self._carrying is not task and not _is_cancelled():
                raise ConnectionLost("another connection goes on with the stream") from None
            raise
        finally:
            if self._carrying is task:
                self._carrying = None
            task.cancel()
            await asyncio.wait([task])

    async def _take_over(self) -> None:
        former, self._carrying = self._carrying, None
        if former is not None:
            former.cancel()
            await asyncio.wait([former])

    async def _carry(self, stream: Stream) -> None:
        receiving = asyncio.create_task(self._receive(stream))
        sending = asyncio.create_task(self._send(stream))
        try:
            done, _ = await asyncio.wait((receiving, sending), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            # One direction is through; the other has its own end, unless all is given up.
            if self._failure is None:
                await asyncio.gather(receiving, sending)
            elif self._reset_code is not None:
                await asyncio.wait([sending], timeout=GOODBYE_SECONDS)
        finally:
            for task in (receiving, sending):
                task.cancel()
            await asyncio.wait((receiving, sending))

    async def _send(self, stream: Stream) -> None:
        while True:
            if self._reset_code is not None:
                await stream.write(bytes((_RESET,)) + _LENGTH.pack(self._reset_code))
                self._reset_code = None
                return
            if self._failure is not None:
                return
            if self._has_news():
                self._told, self._read_told = self.received, self._was_read
                progress = _PROGRESS.pack(self._told, self._read_told)
                await stream.write(bytes((_ACK,)) + progress)
            elif self._queue:
                piece = self._next_piece()
                self._sent.append(piece)
                await stream.write(bytes((_DATA,)) + _LENGTH.pack(len(piece)) + piece)
            elif self._finished and not self._end_sent:
                self._end_sent = True
                await stream.write(bytes((_END,)))
            elif self.is_over:
                return
            else:
                await self._wait()

    def _has_news(self) -> bool:
        """Whether the other side should hear how far we are. One that has sent its end needs no room."""
        came, was_read = self.received - self._told, self._was_read - self._read_told
        if self._end_came:
            return came > 0
        return came >= ACK_EVERY or was_read >= ACK_EVERY

    async def _receive(self, stream: Stream) -> None:
        while not self.is_over:
            kind = await stream.read_some(1)
            if not kind:
                if self._end_came and self._finished:
                    return  # only acknowledgements were left
                raise StreamEnded("the stream ended before what it carries")
            if kind[0] == _DATA:
                (length,) = _LENGTH.unpack(await stream.read_exactly(_LENGTH.size))
                await self._accept(stream, length)
            elif kind[0] == _ACK:
                came, was_read = _PROGRESS.unpack(await stream.read_exactly(_PROGRESS.size))
                if not self._acked <= came <= self._written + self._finished:
                    raise MalformedMessage("what was never sent was acknowledged")
                if not self._granted <= was_read <= min(came, self._written):
                    raise MalformedMessage("what never came was read")
                self._granted = was_read
                self._note_ack(came)
            elif kind[0] == _END and not self._end_came:
                self._end_came = True
                self.received += 1
                self._wake()
            elif kind[0] == _RESET:
                await stream.read_exactly(_LENGTH.size)
                self._reset_code = None
                self.fail(StreamReset("the other side gave up on the stream"))
                return
            else:
                raise MalformedMessage("the stream carries something that is no record")

    async def _accept(self, stream: Stream, length: int) -> None:
        if not 0 < length <= RECORD or self._end_came:
            raise MalformedMessage(f"a record has 1 to {RECORD} bytes, not {length}")
        if len(self._came) + length > WINDOW:
            raise MalformedMessage(f"more than {WINDOW} bytes came before they were read")
        data = await stream.read_exactly(length)
        self.received += length
        if not self._deaf:
            self._came += data
        self._wake()

    def _note_ack(self, offset: int) -> None:
        """Forget what the other side has."""
        done = min(offset, self._written) - min(self._acked, self._written)
        while done > 0:
            pieces = self._sent or self._queue
            piece = pieces.popleft()
            if len(piece) > done:
                pieces.appendleft(piece[done:])
            done -= min(done, len(piece))
        self._acked = offset
        self._wake()

    def _next_piece(self) -> bytes:
        """The next bytes to send: small writes together, up to a record."""
        pieces = [self._queue.popleft()]
        size = len(pieces[0])
        while self._queue and size + len(self._queue[0]) <= RECORD:
            pieces.append(self._queue.popleft())
            size += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _wait(self) -> None:
        await self._changed.wait()

    def _wake(self) -> None:
        # Whoever waits holds the old event, so nobody misses a change.
        self._changed.set()
        self._changed = asyncio.Event()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

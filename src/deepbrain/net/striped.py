"""One stream over several connections: on a long path that loses packets each alone is slow.

Both ends keep one `Striped`, under a name of 16 random bytes. It is a `RawStream`, so a `Stream` on top of
it is used like any other; below it are *lanes*, each a QUIC stream of a connection of its own, that carry
records both ways:

    PIECE  u64 number, u32 length, bytes      numbered from 0; the piece without bytes is the end
    ACK    u64 pieces that have come over this lane, u64 the number below which pieces may be sent
    STOP   nobody reads any more

Every lane takes the next piece whenever it has room, so a fast one carries more, and pieces are put in
order where they arrive. A lane that is lost loses nothing: what it had not delivered goes over the others.
Without any lane the stream is lost; one that is *reset* gives up the whole. Little-endian throughout.

Memory of one end: what it sends, `QUEUE_BYTES` and `LANE_PIECES` a lane; what comes, `WINDOW` pieces.
"""

import asyncio
import heapq
import struct
from collections import deque
from typing import Any, Final

from deepbrain.net.errors import MalformedMessage, NetError, StreamEnded, StreamReset
from deepbrain.net.stream import Stream

PIECE: Final = 1 << 16
"""Bytes of one piece at most."""

WINDOW: Final = 128
"""Pieces that may have come and not been read, in order or not."""

LANE_PIECES: Final = 8
"""Pieces under way on one lane: more would wait long behind a lane that is slow for a while."""

QUEUE_BYTES: Final = 1 << 20
"""Bytes that wait for a lane before their writer waits, too."""

GOODBYE_SECONDS: Final = 2.0
"""How long a side that is through waits for the other to say that it is, too."""

_TELL_EVERY: Final = WINDOW // 4
"""How much further pieces may be sent, before that is told without an occasion."""

_PIECE: Final = 0
_ACK: Final = 1
_STOP: Final = 2
_PIECE_HEAD: Final = struct.Struct("<QI")
_ACK_BODY: Final = struct.Struct("<QQ")


class _Lane:
    """What one lane has under way."""

    __slots__ = ("acked", "came", "stop_told", "told", "under_way")

    def __init__(self) -> None:
        self.under_way: deque[int] = deque()
        """Pieces sent over it and not acknowledged, in order."""
        self.acked = 0
        """Pieces sent over it and acknowledged."""
        self.came = 0
        self.told = 0
        """The `came` that the other side knows of."""
        self.stop_told = False


class Striped:
    """One end. `carry` makes a stream a lane; everything else is what a `Stream` asks for."""

    def __init__(self) -> None:
        self._lanes: set[_Lane] = set()
        self._failure: NetError | None = None
        self._failed = asyncio.Event()
        self._changed = asyncio.Event()

        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._kept: dict[int, bytes] = {}
        """Pieces that were sent and not acknowledged."""
        self._again: list[int] = []
        """A heap of those whose lane was lost."""
        self._next_number = 0
        self._may_send = WINDOW
        self._finished = False
        self._end_sent = False
        self._unwanted = False
        """The other side reads no more."""

        self._ahead: dict[int, bytes] = {}
        """Pieces that came before an earlier one."""
        self._came: deque[bytes] = deque()
        self._next_due = 0
        self._taken = 0
        """Pieces that were read, or dropped, in order."""
        self._told_limit = WINDOW
        self._end: int | None = None
        """The number of the end, once it has come."""
        self._deaf = False
        self.moved = 0
        """Bytes that went or came so far."""

    @property
    def lanes(self) -> int:
        return len(self._lanes)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to carry."""
        return self._failure is not None or (self._is_sent and self._has_come)

    @property
    def _is_sent(self) -> bool:
        return self._unwanted or (self._end_sent and not self._kept)

    @property
    def _has_come(self) -> bool:
        return self._deaf or self._end_came

    @property
    def _end_came(self) -> bool:
        return self._end is not None and self._next_due > self._end

    # What `Stream` asks of a `RawStream`.

    async def read(self, limit: int) -> bytes:
        while not self._came:
            if self._end_came or self._deaf:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._changed.wait()
        parts, size = [], 0
        while self._came and size + len(self._came[0]) <= limit:
            parts.append(self._came.popleft())
            size += len(parts[-1])
            self._taken += 1
        if not parts:
            parts.append(self._came[0][:limit])
            self._came[0] = self._came[0][limit:]
        self._wake()
        return b"".join(parts)

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            while self._queued >= QUEUE_BYTES and self._failure is None and not self._unwanted:
                await self._changed.wait()
            if self._failure is not None:
                raise self._failure
            if self._unwanted:
                raise StreamReset("the other side gave up on the stream")
            piece = bytes(data[start : start + PIECE])
            self._queue.append(piece)
            self._queued += len(piece)
            self._wake()

    async def finish(self) -> None:
        self._finished = True
        self._wake()

    async def reset(self, code: int) -> None:
        if not self.is_over:
            self.fail(StreamEnded("the stream was given up here"))

    async def stop(self, code: int) -> None:
        """Read no more, and say so; a code other than 0 gives up the whole."""
        if code:
            await self.reset(code)
        if not self._end_came:
            self._deaf = True
            self._taken = self._next_due
            self._came.clear()
            self._ahead.clear()
        self._wake()

    def fail(self, failure: NetError) -> None:
        """Nobody carries it any further. Idempotent."""
        if self._failure is None:
            self._failure = failure
            for kept in (self._queue, self._kept, self._ahead):
                kept.clear()
            self._failed.set()
            self._wake()

    # What whoever holds the connections does.

    async def carry(self, stream: Stream) -> None:
        """Be a lane until there is nothing left to carry; the caller closes the stream.

        Raises: NetError: the lane is lost, or the whole has failed; the caller resets the stream.
        """
        lane = _Lane()
        self._lanes.add(lane)
        try:
            await self._carry(lane, stream)
        except (StreamReset, MalformedMessage) as error:
            self.fail(error)
            raise
        except NetError as error:
            if len(self._lanes) == 1:
                self.fail(error)
            raise
        finally:
            self._lose(lane)

    def _lose(self, lane: _Lane) -> None:
        self._lanes.discard(lane)
        if not self._lanes and not self.is_over:
            self.fail(StreamEnded("the last lane of the stream was given up"))
        for number in lane.under_way:
            if number in self._kept:
                heapq.heappush(self._again, number)
        self._told_limit = 0  # it may have been told over this lane only
        self._wake()

    async def _carry(self, lane: _Lane, stream: Stream) -> None:
        receiving = asyncio.create_task(self._receive(lane, stream))
        sending = asyncio.create_task(self._send(lane, stream))
        failing = asyncio.create_task(self._failed.wait())
        tasks: set[asyncio.Task[Any]] = {receiving, sending, failing}
        try:
            waiting = tasks - {failing}
            while waiting and self._failure is None:
                limit = GOODBYE_SECONDS if sending not in waiting else None
                done, _ = await asyncio.wait(
                    waiting | {failing}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    return
                for task in done & waiting:
                    task.result()
                waiting -= done
            if self._failure is not None:
                raise self._failure
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, lane: _Lane, stream: Stream) -> None:
        while self._failure is None:
            if self._deaf and not lane.stop_told:
                lane.stop_told = True
                await stream.write(bytes((_STOP,)))
            elif lane.came > lane.told or self._limit - self._told_limit >= _TELL_EVERY:
                lane.told, self._told_limit = lane.came, self._limit
                body = _ACK_BODY.pack(lane.came, self._limit)
                await stream.write(bytes((_ACK,)) + body)
            elif self.is_over:
                await stream.finish()
                return
            elif (number := self._next_for(lane)) is not None:
                piece = self._kept[number]
                lane.under_way.append(number)
                self.moved += len(piece)
                head = bytes((_PIECE,)) + _PIECE_HEAD.pack(number, len(piece))
                await stream.write(head + piece)
            else:
                await self._changed.wait()

    @property
    def _limit(self) -> int:
        return self._taken + WINDOW

    def _next_for(self, lane: _Lane) -> int | None:
        """The piece that this lane is to carry next."""
        if len(lane.under_way) >= LANE_PIECES or self._unwanted:
            return None
        while self._again:
            number = heapq.heappop(self._again)
            if number in self._kept:
                return number
        if self._next_number >= self._may_send or self._end_sent:
            return None
        if self._queue:
            piece = self._next_piece()
        elif self._finished:
            piece, self._end_sent = b"", True
        else:
            return None
        number, self._next_number = self._next_number, self._next_number + 1
        self._kept[number] = piece
        return number

    def _next_piece(self) -> bytes:
        """The next bytes to send: small writes together, up to a piece."""
        pieces = [self._queue.popleft()]
        size = len(pieces[0])
        while self._queue and size + len(self._queue[0]) <= PIECE:
            pieces.append(self._queue.popleft())
            size += len(pieces[-1])
        self._queued -= size
        self._wake()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _receive(self, lane: _Lane, stream: Stream) -> None:
        while True:
            kind = await stream.read_some(1)
            if not kind:
                if self._has_come and (self._unwanted or not lane.under_way):
                    return
                raise StreamEnded("a lane ended before what it carries")
            if kind[0] == _PIECE:
                await self._accept(lane, stream)
            elif kind[0] == _ACK:
                body = await stream.read_exactly(_ACK_BODY.size)
                self._note_ack(lane, *_ACK_BODY.unpack(body))
            elif kind[0] == _STOP:
                self._unwanted = True
                self._queue.clear()
                self._kept.clear()
                self._again.clear()
                self._wake()
            else:
                raise MalformedMessage("the lane carries something that is no record")

    async def _accept(self, lane: _Lane, stream: Stream) -> None:
        number, length = _PIECE_HEAD.unpack(await stream.read_exactly(_PIECE_HEAD.size))
        if length > PIECE:
            raise MalformedMessage(f"a piece has at most {PIECE} bytes, not {length}")
        piece = await stream.read_exactly(length) if length else b""
        if number >= self._limit or (self._end is not None and number > self._end):
            raise MalformedMessage("a piece came that was not to be sent")
        lane.came += 1
        if number >= self._next_due and number not in self._ahead and not self._deaf:
            self._ahead[number] = piece
            if not length:
                self._note_end(number)
            self._put_in_order()
        self._wake()

    def _note_end(self, number: int) -> None:
        if self._end is not None or any(ahead > number for ahead in self._ahead):
            raise MalformedMessage("the stream has two ends, or goes on behind its end")
        self._end = number

    def _put_in_order(self) -> None:
        while (piece := self._ahead.pop(self._next_due, None)) is not None:
            self._next_due += 1
            self.moved += len(piece)
            if piece:
                self._came.append(piece)

    def _note_ack(self, lane: _Lane, came: int, limit: int) -> None:
        done = came - lane.acked
        if not 0 <= done <= len(lane.under_way):
            raise MalformedMessage("what was never sent was acknowledged")
        for _ in range(done):
            self._kept.pop(lane.under_way.popleft(), None)
        lane.acked = came
        self._may_send = max(self._may_send, limit)
        self._wake()

    def _wake(self) -> None:
        # Whoever waits holds the old event, so nobody misses a change.
        self._changed.set()
        self._changed = asyncio.Event()

"""A stream over several connections, on the network in memory and on real QUIC over loopback."""

import asyncio
import os
import random

import pytest
from tests.net.ends import KINDS, Net, Pair, connect

from deepbrain.net import striped as module
from deepbrain.net.errors import (
    ConnectionLost,
    MalformedMessage,
    NetError,
    StreamEnded,
    StreamReset,
)
from deepbrain.net.stream import HIGH_WATER, Stream
from deepbrain.net.striped import LANE_PIECES, PIECE, QUEUE_BYTES, WINDOW, Striped

pytestmark = pytest.mark.parametrize("kind", KINDS)

DATA = random.Random(5).randbytes(40 * PIECE + 17)


class Ends:
    """Two ends of one stream, and the connections between them."""

    def __init__(self, kind: str) -> None:
        self.net = Net(kind)
        self.near, self.far = Striped(), Striped()
        self.near_stream, self.far_stream = Stream(self.near), Stream(self.far)
        self.pairs: list[Pair] = []
        self.carriers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Ends":
        self._dialler, self._listener = await self.net.bind(), await self.net.bind()
        return self

    async def __aexit__(self, *_: object) -> None:
        for carrier in self.carriers:
            carrier.cancel()
        await asyncio.gather(*self.carriers, return_exceptions=True)
        await self.net.close()

    async def add_lane(self) -> Pair:
        pair = await connect(self.net, self._dialler, self._listener)
        near, far = await opened(pair)
        for striped, stream in ((self.near, near), (self.far, far)):
            self.carriers.append(asyncio.create_task(carry(striped, stream)))
        self.pairs.append(pair)
        return pair

    async def over(self) -> list[BaseException | None]:
        """What each carrier ended with, all of them soon."""
        async with asyncio.timeout(5):
            return await asyncio.gather(*self.carriers, return_exceptions=True)


async def opened(pair: Pair) -> tuple[Stream, Stream]:
    near = await pair.near.open()
    await near.write(b"?")
    far = await pair.far.accept()
    assert await far.read_exactly(1) == b"?"
    return near, far


async def carry(striped: Striped, stream: Stream) -> None:
    async with stream:
        await striped.carry(stream)


async def send(stream: Stream, data: bytes, step: int = 100_000) -> None:
    for start in range(0, len(data), step):
        await stream.write(data[start : start + step])
        await asyncio.sleep(0)
    await stream.finish()


async def receive(stream: Stream) -> bytes:
    got = bytearray()
    while chunk := await stream.read_some():
        got += chunk
    return bytes(got)


@pytest.mark.parametrize("lanes", [1, 2, 8])
async def test_both_ways_everything_arrives_in_order_and_every_lane_ends(kind, lanes):
    async with Ends(kind) as ends:
        for _ in range(lanes):
            await ends.add_lane()
        back = DATA[::-1]
        async with asyncio.timeout(20):
            _, _, forth, came_back = await asyncio.gather(
                send(ends.near_stream, DATA),
                send(ends.far_stream, back, 999),
                receive(ends.far_stream),
                receive(ends.near_stream),
            )
        assert forth == DATA
        assert came_back == back
        assert await ends.over() == [None] * (2 * lanes)
        assert ends.near.is_over
        assert ends.far.is_over


async def test_nothing_at_all_ends_too(kind):
    async with Ends(kind) as ends:
        await ends.add_lane()
        await ends.near_stream.finish()
        await ends.far_stream.finish()
        assert await receive(ends.far_stream) == b""
        assert await receive(ends.near_stream) == b""
        assert await ends.over() == [None, None]


@pytest.mark.parametrize("seed", range(4))
async def test_lanes_that_are_lost_and_join_lose_no_byte(kind, seed):
    """One after another breaks midway, the first among them, while others join."""
    random_ = random.Random(seed)
    async with Ends(kind) as ends:
        for _ in range(3):
            await ends.add_lane()
        data = DATA * 6
        sending = asyncio.create_task(send(ends.near_stream, data))
        answering = asyncio.create_task(send(ends.far_stream, DATA))
        reading = asyncio.create_task(receive(ends.near_stream))
        got = bytearray()
        for step in range(12):
            async with asyncio.timeout(20):
                got += await ends.far_stream.read_exactly(len(data) // 14)
            if step % 2:
                await ends.add_lane()
            alive = [pair for pair in ends.pairs if pair is not None]
            if len(alive) > 2:
                lost = alive[0] if not step else random_.choice(alive)
                ends.pairs.remove(lost)
                random_.choice((lost.near, lost.far)).close(2, "cut")
        async with asyncio.timeout(20):
            got += await receive(ends.far_stream)
            assert await reading == DATA
            await sending
            await answering
        assert bytes(got) == data


async def test_without_any_lane_the_stream_is_lost_on_both_sides(kind):
    async with Ends(kind) as ends:
        pairs = [await ends.add_lane() for _ in range(2)]
        writing = asyncio.create_task(ends.near_stream.write(bytes(64 << 20)))
        assert await ends.far_stream.read_exactly(100_000) == bytes(100_000)
        for pair in pairs:
            pair.near.close(2, "cut")
        async with asyncio.timeout(5):
            with pytest.raises(NetError):
                await writing
            with pytest.raises(ConnectionLost):
                await receive(ends.far_stream)
        assert all(isinstance(error, NetError) for error in await ends.over())


async def test_a_reset_gives_up_the_whole_although_its_lanes_are_full(kind):
    async with Ends(kind) as ends:
        for _ in range(3):
            await ends.add_lane()
        writing = asyncio.create_task(ends.near_stream.write(bytes(64 << 20)))
        await asyncio.sleep(0.3)
        assert not writing.done()
        writing.cancel()
        await asyncio.wait([writing])
        await ends.near_stream.close()
        with pytest.raises(StreamReset):
            async with asyncio.timeout(5):
                await receive(ends.far_stream)
        assert all(isinstance(error, NetError) for error in await ends.over())


async def test_a_side_that_reads_no_more_stops_the_writer_and_is_still_heard(kind):
    """As a machine does that refuses an upload halfway."""
    async with Ends(kind) as ends:
        for _ in range(3):
            await ends.add_lane()
        writing = asyncio.create_task(ends.near_stream.write(bytes(64 << 20)))
        await ends.far_stream.read_exactly(100_000)
        await ends.far_stream.write(b"no")
        await ends.far_stream.close()
        async with asyncio.timeout(5):
            with pytest.raises(StreamReset):
                await writing
            assert await receive(ends.near_stream) == b"no"
        await ends.near_stream.close()
        await ends.over()


async def test_who_does_not_read_holds_a_bounded_number_of_bytes(kind):
    async with Ends(kind) as ends:
        for _ in range(8):
            await ends.add_lane()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await ends.near_stream.write(bytes(PIECE))
                sent += PIECE

        writing = asyncio.create_task(flood())
        await ends.far_stream.read_exactly(1)
        await asyncio.sleep(1)
        stalled = sent
        await asyncio.sleep(0.3)
        held = len(ends.far._ahead) + len(ends.far._came)
        assert held <= WINDOW
        assert len(ends.near._kept) <= 8 * LANE_PIECES
        assert sent == stalled <= (WINDOW + 8 * LANE_PIECES) * PIECE + QUEUE_BYTES + 2 * HIGH_WATER
        writing.cancel()
        await asyncio.wait([writing])


async def test_a_lane_that_stands_still_is_passed_by_the_others(kind, monkeypatch):
    async with Ends(kind) as ends:
        pair = await connect(ends.net, ends._dialler, ends._listener)
        near, _unread = await opened(pair)
        stuck = asyncio.create_task(carry(ends.near, near))
        ends.carriers.append(stuck)
        for _ in range(2):
            await ends.add_lane()
        sending = asyncio.create_task(send(ends.near_stream, DATA))
        await asyncio.sleep(0.5)
        assert len(ends.far._ahead) >= 30
        pair.near.close(2, "cut")
        async with asyncio.timeout(5):
            assert await receive(ends.far_stream) == DATA
        await sending


RECORDS = {
    "no record": b"\x07",
    "a piece too large": b"\x00" + (0).to_bytes(8, "little") + (PIECE + 1).to_bytes(4, "little"),
    "a piece beyond the window": b"\x00" + WINDOW.to_bytes(8, "little") + b"\x01\x00\x00\x00x",
    "an acknowledgement of nothing": b"\x01" + (9).to_bytes(8, "little") + bytes(8),
    "two ends": b"".join(b"\x00" + n.to_bytes(8, "little") + bytes(4) for n in (3, 5)),
    "a piece behind the end": b"\x00"
    + (3).to_bytes(8, "little")
    + bytes(4)
    + b"\x00"
    + (4).to_bytes(8, "little")
    + b"\x01\x00\x00\x00x",
    "an end before what has come": b"\x00"
    + (4).to_bytes(8, "little")
    + b"\x01\x00\x00\x00x"
    + b"\x00"
    + (3).to_bytes(8, "little")
    + bytes(4),
    "an acknowledgement taken back": b"\x01" + bytes(16) + b"\x01" + b"\xff" * 16,
}


@pytest.mark.parametrize("what", RECORDS)
async def test_what_breaks_the_rules_ends_the_whole_stream(kind, what):
    async with Ends(kind) as ends:
        await ends.add_lane()
        pair = await connect(ends.net, ends._dialler, ends._listener)
        near, far = await opened(pair)
        ends.carriers.append(asyncio.create_task(carry(ends.far, far)))
        await near.write(RECORDS[what])
        with pytest.raises(MalformedMessage):
            async with asyncio.timeout(5):
                await receive(ends.far_stream)
        assert not ends.far._kept
        assert not ends.far._ahead


async def test_a_lane_that_ends_early_is_a_lost_one(kind, monkeypatch):
    monkeypatch.setattr(module, "GOODBYE_SECONDS", 0.1)
    async with Ends(kind) as ends:
        pair = await connect(ends.net, ends._dialler, ends._listener)
        near, far = await opened(pair)
        ends.carriers.append(asyncio.create_task(carry(ends.far, far)))
        await asyncio.sleep(0)
        await near.finish()
        with pytest.raises(StreamEnded):
            async with asyncio.timeout(5):
                await ends.far_stream.read_exactly(1)


async def test_random_bytes_on_a_lane_do_no_more_than_end_it(kind):
    for seed in range(30 if kind == "fake" else 5):
        async with Ends(kind) as ends:
            pair = await connect(ends.net, ends._dialler, ends._listener)
            near, far = await opened(pair)
            carrying = asyncio.create_task(carry(ends.far, far))
            await near.write(bytes((seed % 4,)) + os.urandom(2000))
            await near.finish()
            with pytest.raises(NetError):
                async with asyncio.timeout(5):
                    await carrying

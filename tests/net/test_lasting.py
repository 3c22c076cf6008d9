"""A lasting stream: whatever breaks beneath it, every byte comes once and in order."""

import asyncio
import os
import random
import struct
from collections.abc import Callable

import pytest
from tests.net.ends import Net, connect

from deepbrain.net.errors import MalformedMessage, NetError, StreamReset
from deepbrain.net.lasting import RECORD, WINDOW, Lasting
from deepbrain.net.stream import Stream
from deepbrain.net.transport import CLOSED_BROKEN


class Wire:
    """Carries two ends over one connection after another, cut by `cut`."""

    def __init__(self, kind: str = "fake") -> None:
        self.near, self.far = Lasting(), Lasting()
        self._net = Net(kind)
        self.pair = None
        self.carriers = 0
        self.failures: list[BaseException] = []

    async def run(self) -> None:
        """Until both ends are over."""
        dialler, listener = await self._net.bind(), await self._net.bind()
        while not (self.near.is_over and self.far.is_over):
            self.pair = await connect(self._net, dialler, listener)
            self.carriers += 1
            try:
                near = await self.pair.near.open()
                await near.write(b"?")
                far = await self.pair.far.accept()
                await far.read_exactly(1)
            except NetError:
                continue  # cut before anything was carried
            sides = ((self.near, near, self.far), (self.far, far, self.near))
            carried = [asyncio.create_task(a.carry(s, b.received)) for a, s, b in sides]
            for outcome in await asyncio.gather(*carried, return_exceptions=True):
                if isinstance(outcome, NetError):
                    self.failures.append(outcome)
                elif outcome is not None:
                    raise outcome

    def cut(self) -> None:
        if self.pair is not None:
            self.pair.near.close(CLOSED_BROKEN, "cut")


async def _pour(stream: Stream, payload: bytes, dice: random.Random) -> None:
    at = 0
    while at < len(payload):
        size = dice.choice((1, 7, 1000, 70_000, 300_000))
        await stream.write(payload[at : at + size])
        at += size
        if dice.random() < 0.3:
            await asyncio.sleep(0)
    await stream.finish()


async def _drain(stream: Stream, each: int = 0, then: Callable[[], None] = lambda: None) -> bytes:
    """Everything, calling `then` after every so many bytes."""
    got, mark = bytearray(), each
    while chunk := await stream.read_some(50_000):
        got += chunk
        if each and len(got) >= mark:
            then()
            mark = len(got) + each
        await asyncio.sleep(0)
    return bytes(got)


@pytest.mark.parametrize("seed", range(12))
async def test_cuts_lose_and_double_nothing(seed):
    dice, wire = random.Random(seed), Wire()
    near, far = Stream(wire.near), Stream(wire.far)
    there, back = dice.randbytes(3_000_000), dice.randbytes(1_500_000)
    running = asyncio.create_task(wire.run())
    async with asyncio.timeout(30):
        _, _, came_there, came_back = await asyncio.gather(
            _pour(near, there, dice),
            _pour(far, back, dice),
            _drain(far, dice.randrange(100_000, 600_000), wire.cut),
            _drain(near, dice.randrange(100_000, 600_000), wire.cut),
        )
    await asyncio.wait_for(running, 5)
    assert came_there == there
    assert came_back == back
    assert wire.carriers > 2, "it was cut too seldom to show anything"


async def test_a_writer_waits_while_nobody_carries_and_keeps_no_more_than_a_window():
    lasting = Lasting()
    writing = asyncio.create_task(Stream(lasting).write(bytes(3 * WINDOW)))
    await asyncio.sleep(0.05)
    assert not writing.done()
    assert sum(map(len, lasting._queue)) <= WINDOW
    lasting.fail(StreamReset("enough"))
    with pytest.raises(StreamReset):
        await writing


async def test_a_reader_that_does_not_read_is_given_no_more_than_a_window():
    wire = Wire()
    running = asyncio.create_task(wire.run())
    writing = asyncio.create_task(Stream(wire.near).write(bytes(8 * WINDOW)))
    await asyncio.sleep(0.2)
    assert not writing.done()
    assert len(wire.far._came) == WINDOW
    for task in (writing, running):
        task.cancel()
    await asyncio.gather(writing, running, return_exceptions=True)


@pytest.mark.parametrize("kind", ["fake", "iroh"])
async def test_two_sides_that_both_write_before_they_read_do_not_wait_for_each_other(kind):
    """Far is like `cat`: it takes nothing more while nobody takes what it gives back."""
    wire = Wire(kind)
    running = asyncio.create_task(wire.run())
    near, far = Stream(wire.near), Stream(wire.far)
    payload = random.Random(1).randbytes(12 * WINDOW)

    async def echo() -> None:
        while chunk := await far.read_some(50_000):
            await far.write(chunk)
        await far.finish()

    async def read_late() -> bytes:
        await asyncio.sleep(0.5)  # until everything between has filled
        return await _drain(near)

    async with asyncio.timeout(30):
        _, came, _ = await asyncio.gather(
            _pour(near, payload, random.Random(2)), read_late(), echo()
        )
    assert came == payload
    await asyncio.wait_for(running, 5)


async def test_giving_up_is_heard_on_the_other_side():
    wire = Wire()
    running = asyncio.create_task(wire.run())
    near, far = Stream(wire.near), Stream(wire.far)
    await near.write(b"half a mess")
    assert await far.read_exactly(11) == b"half a mess"
    await near.reset()
    with pytest.raises(StreamReset):
        await far.read_some()
    await asyncio.wait_for(running, 5)


HOSTILE = {
    "an unknown record": b"\x09",
    "a record without bytes": b"\x00" + struct.pack("<I", 0),
    "a record that is too long": b"\x00" + struct.pack("<I", RECORD + 1),
    "acknowledging what was never sent": b"\x01" + struct.pack("<QQ", 99, 0),
    "acknowledging less than before": b"\x01"
    + struct.pack("<QQ", 3, 0)
    + b"\x01"
    + struct.pack("<QQ", 0, 0),
    "having read what never came": b"\x01" + struct.pack("<QQ", 3, 4),
    "having read less than before": b"\x01"
    + struct.pack("<QQ", 3, 3)
    + b"\x01"
    + struct.pack("<QQ", 3, 2),
    "more than there is room for": (b"\x00" + struct.pack("<I", RECORD) + bytes(RECORD))
    * (WINDOW // RECORD + 1),
    "bytes after the end": b"\x02\x00" + struct.pack("<I", 1) + b"x",
    "two ends": b"\x02\x02",
}


@pytest.mark.parametrize("sent", HOSTILE.values(), ids=HOSTILE.keys())
async def test_what_breaks_the_rules_ends_the_carrier(sent):
    net = Net("fake")
    pair = await connect(net, await net.bind(), await net.bind())
    lasting = Lasting()
    await Stream(lasting).write(b"hello")
    near = await pair.near.open()
    writing = asyncio.create_task(near.write(sent))
    with pytest.raises(MalformedMessage):
        async with asyncio.timeout(5):
            await lasting.carry(await pair.far.accept(), 0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await net.close()


async def test_nobody_has_received_what_was_never_sent():
    net = Net("fake")
    pair = await connect(net, await net.bind(), await net.bind())
    near = await pair.near.open()
    await near.write(os.urandom(1))
    with pytest.raises(MalformedMessage):
        await Lasting().carry(await pair.far.accept(), 1)
    await net.close()

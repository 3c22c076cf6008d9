"""When the solo engine seals."""

import asyncio
import contextlib
import time

import pytest

from deepbrain.node.solo import SoloEngine
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import Moment

AUTHOR = AccountId(b"a" * 32)


class ToyLedger:
    """Holds `size` extrinsics a block, and notes when blocks come."""

    head = None

    def __init__(self, size=10):
        self.pool = []
        self.size = size
        self.blocks = []
        self.moments = []
        self.times = []
        self.stuck = False

    @property
    def earliest(self):
        return Moment(self.moments[-1] + 1) if self.moments else Moment(0)

    @property
    def waiting(self):
        return len(self.pool)

    async def propose(self, data):
        return () if self.stuck else tuple(self.pool[: self.size])

    async def finalize(self, data, extrinsics):
        del self.pool[: len(extrinsics)]
        self.blocks.append(extrinsics)
        self.moments.append(data.moment)
        self.times.append(time.monotonic())


@contextlib.asynccontextmanager
async def running(engine):
    task = asyncio.create_task(engine.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_empty_blocks_come_at_the_interval():
    ledger = ToyLedger()
    async with running(SoloEngine(ledger, AUTHOR, interval=0.05)):
        await asyncio.sleep(0.28)
    assert 2 <= len(ledger.blocks) <= 7


async def test_what_arrives_is_sealed_at_once_and_a_burst_shares_a_block():
    ledger = ToyLedger()
    engine = SoloEngine(ledger, AUTHOR, interval=60, min_gap=0.05)
    async with running(engine):
        await asyncio.sleep(0.1)
        started = time.monotonic()
        for index in range(6):
            ledger.pool.append(b"%d" % index)
            engine.announce([b"%d" % index])
            await asyncio.sleep(0.004)
        await asyncio.sleep(0.15)
    filled = [block for block in ledger.blocks if block]
    assert sum(map(len, filled)) == 6
    assert len(filled) <= 3
    assert ledger.times[1] - started < 1
    assert ledger.times[2] - ledger.times[1] >= 0.045


async def test_what_one_block_cannot_hold_follows_without_waiting():
    ledger = ToyLedger(size=2)
    engine = SoloEngine(ledger, AUTHOR, interval=60, min_gap=0.01)
    async with running(engine):
        await asyncio.sleep(0.02)
        ledger.pool += [b"1", b"2", b"3", b"4", b"5"]
        engine.announce([b"1"])
        await asyncio.sleep(0.2)
    assert ledger.pool == []


async def test_what_never_fits_does_not_make_the_chain_spin():
    ledger = ToyLedger()
    ledger.stuck = True
    engine = SoloEngine(ledger, AUTHOR, interval=60, min_gap=0.01)
    async with running(engine):
        ledger.pool.append(b"1")
        engine.announce([b"1"])
        await asyncio.sleep(0.2)
    assert len(ledger.blocks) <= 2


async def test_a_clock_that_is_set_back_does_not_stop_the_chain():
    ledger = ToyLedger()
    now = [1000]
    engine = SoloEngine(ledger, AUTHOR, interval=60, clock=lambda: Moment(now[0]))
    await engine.seal()
    now[0] = 10
    await engine.seal()
    now[0] = 2000
    await engine.seal()
    assert ledger.moments == [1000, 1001, 2000]


async def test_a_ledger_that_fails_stops_the_engine():
    class Full(ToyLedger):
        async def finalize(self, data, extrinsics):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await SoloEngine(Full(), AUTHOR, interval=0.01).run()

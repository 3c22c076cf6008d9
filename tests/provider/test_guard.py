"""A disk that fills stops new orders before it hurts, and a person's pause is nobody else's to end."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.provider.house import ALICE, CAPACITY, eventually, house, make_agent, manifest_of

from deepbrain.net.messages import Stage
from deepbrain.provider import disk
from deepbrain.provider.chain import Closing, Known
from deepbrain.provider.disk import RESERVE, DiskBudget
from deepbrain.provider.fake import FakeChain
from deepbrain.provider.guard import DiskGuard

UNIT = DiskBudget.of(CAPACITY).unit_bytes


class Disk:
    """Stands for the file system's free bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 1 << 40
        monkeypatch.setattr(disk, "os", SimpleNamespace(statvfs=self._statvfs))

    def _statvfs(self, path: Path) -> SimpleNamespace:
        assert path.exists()
        return SimpleNamespace(f_bavail=self.free // 4096, f_frsize=4096)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def known(chain: FakeChain) -> Known:
    found = await chain.snapshot()
    assert isinstance(found, Known)
    return found


async def act(guard: DiskGuard, chain: FakeChain) -> bool:
    guard.look()
    return await guard.act(chain, await known(chain))


async def test_it_pauses_when_full_and_resumes_with_room_to_spare(
    tmp_path: Path, free: Disk
) -> None:
    chain, guard = FakeChain(), DiskGuard(tmp_path, tmp_path, CAPACITY)
    assert not await act(guard, chain)
    free.free = UNIT + RESERVE - 4096
    assert await act(guard, chain)
    assert chain.paused
    assert not await act(guard, chain), "once is enough"
    free.free = UNIT + RESERVE
    assert not await act(guard, chain), "barely enough is not enough to begin anew"
    free.free = 2 * (UNIT + RESERVE)
    again = DiskGuard(tmp_path, tmp_path, CAPACITY)
    assert await act(again, chain), "a restarted agent knows its own pause"
    assert not chain.paused


async def test_what_a_person_paused_stays_paused(tmp_path: Path, free: Disk) -> None:
    chain, guard = FakeChain(), DiskGuard(tmp_path, tmp_path, CAPACITY)
    chain.edit(paused=True)
    assert not await act(guard, chain)
    chain.edit(paused=False)
    free.free = 0
    assert await act(guard, chain)
    chain.edit(paused=True)  # a person says so too, while it is paused for its disk
    free.free = 1 << 40
    assert not await act(guard, chain)
    assert chain.paused


async def test_a_machine_without_free_units_has_nothing_to_pause(
    tmp_path: Path, free: Disk
) -> None:
    chain, guard = FakeChain(), DiskGuard(tmp_path, tmp_path, replace(CAPACITY, units=1))
    chain.place(1, ALICE.public, manifest_of("x").hash())
    free.free = 0
    assert not await act(guard, chain), "its renter may still extend"


async def test_the_agent_serves_on_with_a_full_disk_and_takes_nothing_new(
    tmp_path: Path, free: Disk
) -> None:
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "wait-term")
        free.free = 0
        home.place(2, manifest_of("wait-term", salt=2))
        await eventually(lambda: 2 in home.chain.closings)
        assert home.chain.closings[2] == (Closing.FAILED, None), "the renter has all money back"
        await eventually(lambda: home.chain.paused)
        assert (await session.status()).stage is Stage.RUNNING
        await session.stop()
        await eventually(lambda: home.chain.closings.get(1) == (Closing.EXITED, 7))
        free.free = 1 << 40
        home.chain.make_block()
        await eventually(lambda: not home.chain.paused)


async def test_a_clock_that_jumps_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends are counted by the monotonic clock and by the chain; the wall clock is for people."""
    import time

    truth = time.time
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "wait-term")
        for jump in (86_400 * 400, -86_400 * 400):
            monkeypatch.setattr(time, "time", lambda jump=jump: truth() + jump)
            monkeypatch.setattr(time, "time_ns", lambda jump=jump: int((truth() + jump) * 1e9))
            home.chain.make_block()
            await home.stop()
            await home.agent.endpoint.close()
            home.agent = make_agent(await home.net.bind(), home.data, home.chain, home.sandbox)
            home.start()
            session = await home.session(1)
            assert (await session.status()).stage is Stage.RUNNING
        assert home.chain.closings == {}

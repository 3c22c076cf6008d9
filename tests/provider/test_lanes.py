"""Bulk over several connections: when it spreads, what a lost one costs, and what it may do."""

import asyncio
import os
import time
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path

import pytest
from tests.net.ends import KINDS
from tests.provider.house import House, eventually, house, manifest_of, tar_of

from deepbrain.net import lanes
from deepbrain.net import session as session_module
from deepbrain.net.errors import ConnectionLost, NetError, RefusalCode, Refused
from deepbrain.net.frames import expect_reply, request_bytes
from deepbrain.net.messages import (
    CopyOut,
    Digest,
    Done,
    Lane,
    PutBlob,
    Scope,
    Stage,
    State,
    Status,
    Stop,
    StreamName,
    Stripe,
)
from deepbrain.net.session import Session
from deepbrain.net.stream import Stream
from deepbrain.net.striped import Striped
from deepbrain.primitives.units import U8, U64
from deepbrain.provider import gate, upload
from deepbrain.provider.gate import CONNECTIONS_PER_ORDER, LANES_PER_ORDER
from deepbrain.provider.stripes import LANES_PER_STREAM, STRIPED_PER_ORDER, Stripes

TAR = tar_of({"data": os.urandom(16 << 20)})
DIGEST = Digest(sha256(TAR).digest())
LANE = U8(Scope.LANE.value)
NAME = StreamName(bytes(16))


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is dialled counts as far away."""
    monkeypatch.setattr(lanes, "FAR_SECONDS", 0.0)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "upload.tar"
    path.write_bytes(TAR)
    return path


async def awaiting(home: House, *argv: str) -> Session:
    """An order that waits for its workspace."""
    manifest = manifest_of(*(argv or ("files",)), workspace=TAR)
    home.place(1, manifest)
    session = await home.session(1)
    await session.put_manifest(manifest)
    return session


def joined(home: House) -> int:
    """Lanes of the striped stream there is."""
    begun = home.agent._gate._stripes._begun.values()
    return sum(one.striped.lanes for one in begun)


class Watch:
    """Notes the most connections there were while bytes moved, and acts once so many have."""

    def __init__(self, home: House, at: int = 1 << 62, act=lambda: None) -> None:
        self.most = 0
        self._home, self._at, self._act = home, at, act

    def __call__(self, done: int, total: int) -> None:
        self.most = max(self.most, self._home.agent._gate.visits)
        if done >= self._at and joined(self._home) > 2:
            self._at = 1 << 62
            self._act()


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's disk takes a while, so that there is something to see."""
    append = upload._append

    def slow(*arguments: object) -> None:
        time.sleep(0.02)
        append(*arguments)

    monkeypatch.setattr(upload, "_append", slow)


@pytest.mark.parametrize("kind", KINDS)
async def test_both_directions_use_several_connections_and_leave_none(
    kind, tmp_path, far, archive, slow_disk
):
    async with house(kind, tmp_path) as home:
        session = await awaiting(home)
        watch = Watch(home)
        await session.put_blob(archive, DIGEST, watch)
        assert watch.most == lanes.LANES
        await eventually(lambda: home.agent._gate.visits == 1)
        await home.wait_stage(session, Stage.EXITED)
        got = bytearray()
        most = 0
        async with aclosing(session.copy_out(["data"])) as chunks:
            async for chunk in chunks:
                got += chunk
                await asyncio.sleep(0.002)
                most = max(most, home.agent._gate.visits)
        assert TAR[512 : 512 + (1 << 20)] in got
        assert len(got) >= 16 << 20
        assert most == lanes.LANES
        await eventually(lambda: home.agent._gate.visits == 1)
        assert home.agent._gate._stripes.of_order(1) == 0


async def test_who_is_near_is_sent_all_over_one_connection(tmp_path, archive):
    async with house("fake", tmp_path) as home:
        session = await awaiting(home)
        watch = Watch(home)
        await session.put_blob(archive, DIGEST, watch)
        assert watch.most == 1


async def test_a_small_file_goes_over_one_connection(tmp_path, far, monkeypatch):
    monkeypatch.setattr(lanes, "_LOOK_SECONDS", 0.001)
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "wait-term")
        volume = home.sandbox._tenant(1).volume
        (volume / "small").write_bytes(os.urandom(lanes.LARGE_BYTES // 2))
        async with aclosing(session.copy_out(["small"])) as chunks:
            async for _ in chunks:
                await asyncio.sleep(0.01)
                assert home.agent._gate.visits == 1


async def test_behind_a_relay_there_is_one_until_the_path_is_direct(tmp_path, archive, slow_disk):
    async with house("fake", tmp_path) as home:
        network = home.net._fake
        network.is_relayed, network.round_trip = True, 0.2
        session = await awaiting(home)

        def becomes_direct() -> None:
            network.is_relayed = False
            session._connection.is_relayed = False

        seen = []

        def watch(done: int, total: int) -> None:
            seen.append((session.is_direct, home.agent._gate.visits))
            if done >= 8 << 20:
                becomes_direct()

        await session.put_blob(archive, DIGEST, watch)
        assert {visits for direct, visits in seen if not direct} == {1}
        assert max(seen) == (True, lanes.LANES)


async def test_a_lane_that_stays_on_a_relay_is_not_used(
    tmp_path, far, archive, monkeypatch, slow_disk
):
    monkeypatch.setattr(lanes, "DIRECT_SECONDS", 0.3)
    async with house("fake", tmp_path) as home:
        session = await awaiting(home)
        home.net._fake.is_relayed = True
        most = 0

        def watch(done: int, total: int) -> None:
            nonlocal most
            most = max(most, joined(home))
            if most > 1:
                return
            for connection in tuple(session._lanes._connections)[:2]:
                connection.is_relayed = False  # two of them leave it in time

        await session.put_blob(archive, DIGEST, watch)
        assert most == 3
        await eventually(lambda: len(session._lanes) == 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["the first", "another"])
async def test_an_upload_survives_a_lane_that_is_lost(
    kind, which, tmp_path, far, archive, slow_disk
):
    async with house(kind, tmp_path) as home:
        session = await awaiting(home)

        def cut() -> None:
            alive = session._lanes._connections
            connection = session._connection if which == "the first" else next(iter(alive))
            connection.close(2, "cut")

        await session.put_blob(archive, DIGEST, Watch(home, 6 << 20, cut))
        again = await home.session(1)
        await home.wait_stage(again, Stage.EXITED)
        if which == "another":
            await session.status()


@pytest.mark.parametrize("kind", KINDS)
async def test_results_survive_a_lane_that_is_lost(kind, tmp_path, far, archive):
    async with house(kind, tmp_path) as home:
        session = await awaiting(home)
        await session.put_blob(archive, DIGEST)
        await home.wait_stage(session, Stage.EXITED)
        got, cut = bytearray(), False
        async with aclosing(session.copy_out(["data"])) as chunks:
            async for chunk in chunks:
                got += chunk
                if not cut and len(got) > 3 << 20:
                    cut = True
                    await eventually(lambda: joined(home) > 3)
                    session._connection.close(2, "cut")
                    next(iter(session._lanes._connections)).close(2, "cut")
        assert cut
        assert TAR[512:600_000] in got


@pytest.mark.parametrize("kind", KINDS)
async def test_without_lanes_it_is_lost_and_goes_on_where_it_stopped(
    kind, tmp_path, far, archive, slow_disk
):
    async with house(kind, tmp_path) as home:
        session = await awaiting(home)

        def cut_once_some_has_come(done: int, _: int) -> None:
            [part] = home.data.rglob("*.part")
            if done >= 9 << 20 and part.stat().st_size > 1 << 20 and joined(home) > 2:
                session._lanes.cut(2, "cut")
                session._connection.close(2, "cut")

        with pytest.raises(ConnectionLost):
            async with asyncio.timeout(10):
                await session.put_blob(archive, DIGEST, cut_once_some_has_come)
        await eventually(lambda: home.agent._gate._stripes.of_order(1) == 0)
        session = await home.session(1)
        first = []
        await session.put_blob(archive, DIGEST, lambda done, _: first.append(done))
        assert first[0] > 1 << 20
        await home.wait_stage(session, Stage.EXITED)


async def test_a_machine_that_falls_silent_is_left_on_all_lanes_at_once(
    tmp_path, far, archive, slow_disk, monkeypatch
):
    """They share the path; each alone would notice after 30 s."""
    monkeypatch.setattr(session_module, "BEAT_SECONDS", 0.05)

    async def silent() -> None:
        raise TimeoutError

    async with house("fake", tmp_path) as home:
        session = await awaiting(home)
        sending = asyncio.create_task(session.put_blob(archive, DIGEST))
        await eventually(lambda: joined(home) > 3)
        monkeypatch.setattr(session, "_hear", silent)
        with pytest.raises(ConnectionLost):
            async with asyncio.timeout(2):
                await sending
        await eventually(lambda: home.agent._gate.visits == 0)


async def test_a_session_that_is_closed_leaves_nothing(tmp_path, far, archive, slow_disk):
    async with house("fake", tmp_path) as home:
        session = await awaiting(home)
        sending = asyncio.create_task(session.put_blob(archive, DIGEST, Watch(home)))
        await eventually(lambda: len(session._lanes) == lanes.LANES - 1)
        session.close()
        with pytest.raises(NetError):
            await sending
        await eventually(lambda: home.agent._gate.visits == 0)
        assert not session._lanes._tasks
        assert home.agent._gate._stripes.of_order(1) == 0


async def test_an_upload_ends_with_its_order_on_all_lanes(tmp_path, far, archive, slow_disk):
    async with house("fake", tmp_path) as home:
        session = await awaiting(home)
        sending = asyncio.create_task(session.put_blob(archive, DIGEST))
        await eventually(lambda: len(session._lanes) == lanes.LANES - 1)
        home.chain.end(1)
        with pytest.raises(NetError):
            async with asyncio.timeout(10):
                await sending
        await eventually(lambda: home.agent._gate._stripes.of_order(1) == 0)


@pytest.mark.parametrize("code", [RefusalCode.MALFORMED, RefusalCode.LIMIT])
async def test_a_machine_that_does_not_take_it_so_is_asked_as_ever(
    code, tmp_path, far, archive, monkeypatch
):
    """One older than striped streams calls the request malformed, and is not asked so again."""
    asked = 0

    def refuse(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise Refused(code, "no")

    monkeypatch.setattr(Stripes, "begin", refuse)
    async with house("fake", tmp_path) as home:
        session = await awaiting(home)
        await session.put_blob(archive, DIGEST)
        await home.wait_stage(session, Stage.EXITED)
        assert [chunk async for chunk in session.copy_out(["model.bin"])]
        assert asked == (1 if code is RefusalCode.MALFORMED else 2)


# -- what it may do


async def asked(session: Session, request) -> Stream:
    stream = await session._ask(request)
    await expect_reply(stream, Done)
    return stream


async def test_a_lane_may_carry_and_do_nothing_else(tmp_path):
    async with house("fake", tmp_path) as home:
        await home.running(1, "wait-term")
        lane = await home.session(1, scopes=LANE)
        for request in (Status(follow=False), Stop(), CopyOut(paths=(), changed_only=False)):
            with pytest.raises(Refused, match="does not allow"):
                await expect_reply(await lane._ask(request), State)
        striped = Striped()
        first = await asked(lane, Stripe(name=NAME))
        carrying = asyncio.create_task(striped.carry(first))
        inner = Stream(striped)
        await inner.write(request_bytes(CopyOut(paths=(), changed_only=False)))
        with pytest.raises(Refused, match="does not allow"):
            await expect_reply(inner, Done)
        carrying.cancel()
        await asyncio.wait([carrying])


async def test_only_who_began_it_may_join_and_only_bulk_is_taken(tmp_path):
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "wait-term")
        other = await home.session(1)
        striped = Striped()
        first = await asked(session, Stripe(name=NAME))
        with pytest.raises(Refused, match="does not have this stream"):
            await asked(other, Lane(name=NAME))
        with pytest.raises(Refused, match="does not have this stream"):
            await asked(session, Lane(name=StreamName(b"x" * 16)))
        with pytest.raises(Refused, match="of this name"):
            await asked(session, Stripe(name=NAME))
        second = await asked(session, Lane(name=NAME))
        carrying = asyncio.gather(striped.carry(first), striped.carry(second))
        inner = Stream(striped)
        await inner.write(request_bytes(Status(follow=False)))
        with pytest.raises(Refused, match="only bulk"):
            await expect_reply(inner, State)
        carrying.cancel()
        await asyncio.gather(carrying, return_exceptions=True)


async def test_an_order_has_few_striped_streams_and_each_few_lanes(tmp_path):
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "wait-term")
        names = [StreamName(bytes([number]) * 16) for number in range(STRIPED_PER_ORDER + 1)]
        for name in names[:-1]:
            await asked(session, Stripe(name=name))
        with pytest.raises(Refused, match="too many striped"):
            await asked(session, Stripe(name=names[-1]))
        for _ in range(LANES_PER_STREAM - 1):
            await asked(session, Lane(name=names[0]))
        with pytest.raises(Refused, match="lanes at most"):
            await asked(session, Lane(name=names[0]))
        assert home.agent._gate._stripes.of_order(1) == STRIPED_PER_ORDER


async def test_lanes_take_places_of_lanes_only(tmp_path):
    async with house("fake", tmp_path) as home:
        main = await home.running(1, "wait-term")
        first = await home.session(1, scopes=LANE)
        for _ in range(LANES_PER_ORDER + 1):
            await home.session(1, scopes=LANE)
        async with asyncio.timeout(3):
            await first.wait_broken()
        assert home.agent._gate.visits == LANES_PER_ORDER + 1
        await main.status()
        for _ in range(CONNECTIONS_PER_ORDER + 1):
            await home.session(1)
        async with asyncio.timeout(3):
            await main.wait_broken()
        assert home.agent._gate.visits == LANES_PER_ORDER + CONNECTIONS_PER_ORDER


async def test_a_striped_stream_whose_request_never_comes_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "REQUEST_SECONDS", 0.1)
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "wait-term")
        first = await asked(session, Stripe(name=NAME))
        with pytest.raises(NetError):
            async with asyncio.timeout(3):
                await Striped().carry(first)
        await eventually(lambda: home.agent._gate._stripes.of_order(1) == 0)
        ask = PutBlob(sha256=DIGEST, size=U64(1))
        with pytest.raises(Refused):
            await asked(session, ask)

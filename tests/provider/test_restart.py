"""Restart is the ordinary path, and a node that cannot be believed kills nobody."""

import asyncio
from dataclasses import replace

import pytest
from tests.provider.house import (
    ALICE,
    eventually,
    house,
    make_agent,
    manifest_of,
    tar_of,
)

from deepbrain.net.messages import Ending, Stage
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.provider.act import tenant_spec
from deepbrain.provider.chain import ChainUnavailable, Closing, OrderPhase
from deepbrain.provider.fake import FakeChain
from deepbrain.provider.record import Records, monotonic_ms
from deepbrain.sandbox.sandbox import Phase


async def restart(home, chain: FakeChain | None = None) -> None:
    """A new agent on the same data, tenants and chain."""
    await home.stop()
    old = home.agent
    await old.endpoint.close()
    home.agent = make_agent(await home.net.bind(), home.data, chain or home.chain, home.sandbox)
    home.start()


async def phase_of(home, order: int) -> Phase:
    return (await home.sandbox.state(order)).phase


async def test_a_running_job_survives_its_agent(tmp_path):
    async with house("fake", tmp_path) as home:
        await home.running(1, "wait-term")
        await eventually(lambda: home.chain.declared == [("start", 1)])
        await restart(home)
        session = await home.session(1)
        assert (await session.status()).stage is Stage.RUNNING
        await session.stop()
        await eventually(lambda: 1 in home.chain.closings)
        assert home.chain.closings[1] == (Closing.EXITED, 7)


async def test_a_job_that_ended_while_the_agent_was_away_is_closed(tmp_path):
    async with house("fake", tmp_path) as home:
        await home.running(1, "sleep", "0.2")
        await eventually(lambda: home.chain.declared == [("start", 1)])
        await home.stop()
        await asyncio.sleep(0.4)
        assert home.chain.orders[1].phase is OrderPhase.RUNNING
        await restart(home)
        await eventually(lambda: home.chain.closings.get(1) == (Closing.EXITED, 0))


async def test_a_lost_job_is_the_providers_fault(tmp_path):
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "sleep", "9")
        await eventually(lambda: home.chain.declared == [("start", 1)])
        await home.sandbox.lose_keeper(1)
        await eventually(lambda: home.chain.closings.get(1) == (Closing.FAILED, None))
        status = await home.wait_stage(session, Stage.EXITED)
        assert status.exit.ending is Ending.LOST


@pytest.mark.parametrize("stage", ["adopted", "manifest", "unpacked"])
async def test_an_agent_killed_before_the_start_goes_on(tmp_path, stage):
    workspace = tar_of({"a": b"1"})
    manifest = manifest_of("files", workspace=workspace)
    source = tmp_path / "ws.tar"
    source.write_bytes(workspace)
    async with house("fake", tmp_path) as home:
        home.place(1, manifest)
        session = await home.session(1)
        await home.wait_stage(session, Stage.AWAITING_MANIFEST)
        if stage != "adopted":
            await session.put_manifest(manifest)
        if stage == "unpacked":
            # Killed while unpacking: the volume holds half a file.
            await home.stop()
            record = home.agent.records.files(1).record()
            spec = tenant_spec(record, manifest, home.agent.config.capacity)
            volume = await home.sandbox.prepare(spec)
            (volume / "a").write_bytes(b"half")
            (volume / "link").symlink_to(tmp_path)
        await restart(home)
        session = await home.session(1)
        await session.put_manifest(manifest)
        await session.put_blob(source, manifest.workspace.sha256)
        await home.wait_stage(session, Stage.EXITED)
        await eventually(lambda: home.chain.closings.get(1) == (Closing.EXITED, 0))


async def test_a_silent_node_ends_nothing_and_renters_still_get_in(tmp_path):
    async with house("fake", tmp_path) as home:
        await home.running(1, "wait-term")
        await eventually(lambda: home.chain.declared == [("start", 1)])
        home.chain.silent = True
        home.chain._changed.set()
        await asyncio.sleep(0.1)
        session = await home.session(1)
        assert (await session.status()).stage is Stage.RUNNING
        await restart(home)
        session = await home.session(1)
        assert (await session.status()).stage is Stage.RUNNING
        home.chain.silent = False
        home.chain.end(1)
        await home.wait_stage(session, Stage.EXITED)


@pytest.mark.parametrize("lie", ["empty", "behind", "foreign", "foreign with the same number"])
async def test_a_node_that_cannot_be_believed_kills_nobody(tmp_path, lie):
    async with house("fake", tmp_path) as home:
        await home.running(1, "wait-term")
        await eventually(lambda: home.chain.declared == [("start", 1)])
        foreign = lie.startswith("foreign")
        liar = FakeChain(Hash(b"\x09" * 32) if foreign else home.chain.genesis)
        liar.block = 10_000 if foreign else 0 if lie == "empty" else 1
        if lie.endswith("number"):
            liar.place(1, AccountId(ALICE.public), Hash(bytes(32)))
            liar.end(1)
        await restart(home, liar)
        await asyncio.sleep(0.2)
        assert await phase_of(home, 1) is Phase.RUNNING
        await restart(home)
        session = await home.session(1)
        assert (await session.status()).stage is Stage.RUNNING
        assert liar.declared == []


async def test_with_the_chain_gone_a_job_ends_at_its_recorded_end(tmp_path):
    async with house("fake", tmp_path) as home:
        await home.running(1, "wait-term", seconds=60)
        await eventually(lambda: home.agent.records.files(1).record().ends_at is not None)
        home.chain.silent = True
        await home.stop()
        files = Records(home.data).files(1)
        files.save(replace(files.record(), latest_end=monotonic_ms() + 200))
        await restart(home)
        await asyncio.sleep(0.1)
        assert await phase_of(home, 1) is Phase.RUNNING
        home.agent.book.hint()
        await asyncio.sleep(0.3)
        home.agent.book.hint()
        session = await home.session(1)
        await home.wait_stage(session, Stage.EXITED)


async def test_an_extension_moves_the_end(tmp_path):
    async with house("fake", tmp_path) as home:
        await home.running(1, "wait-term", seconds=60)
        records = home.agent.records.files(1)
        await eventually(lambda: records.record().ends_at is not None)
        first = records.record()
        order = home.chain.orders[1]
        home.chain.orders[1] = replace(order, seconds=660, ends_at=order.ends_at + 600)
        home.chain.make_block()
        await eventually(lambda: records.record().ends_at == first.ends_at + 600)
        moved = records.record().latest_end - first.latest_end
        assert 590_000 < moved < 610_000
        assert home.sandbox._tenants[1].end_at == records.record().latest_end


async def test_a_term_that_is_over_ends_the_job(tmp_path):
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "wait-term", seconds=60)
        await eventually(lambda: home.chain.declared == [("start", 1)])
        home.chain.make_block(seconds=61)
        status = await home.wait_stage(session, Stage.EXITED)
        assert status.exit.code == 7
        assert home.chain.orders[1].phase is OrderPhase.ENDED


async def test_an_order_that_nobody_delivers_lapses(tmp_path):
    async with house("fake", tmp_path) as home:
        home.place(1, manifest_of("sleep", "1"))
        await eventually(lambda: home.agent.book.status(1) is not None)
        home.chain.make_block(seconds=601)
        await eventually(lambda: home.chain.closings.get(1) == (Closing.LAPSED, None))
        await eventually(lambda: not (home.data / "orders" / "1").exists())


async def test_declarations_are_tried_again_until_the_chain_takes_them(tmp_path, monkeypatch):
    monkeypatch.setattr("deepbrain.provider.loop.RETRY_SECONDS", (0.05,))
    async with house("fake", tmp_path) as home:
        refused = []
        accept = home.chain.start

        async def stubborn(order: int) -> None:
            refused.append(order)
            if len(refused) < 3:
                raise ChainUnavailable("the pool is full")
            await accept(order)

        home.chain.start = stubborn
        await home.running(1, "sleep", "9")
        await eventually(lambda: home.chain.declared == [("start", 1)])
        assert len(refused) == 3


async def test_a_damaged_record_stops_nobody_else_and_nothing_of_it_is_touched(tmp_path):
    async with house("fake", tmp_path) as home:
        await home.running(1, "wait-term")
        await eventually(lambda: home.chain.declared == [("start", 1)])
        await home.stop()
        (home.data / "orders" / "1" / "order.json").write_bytes(b"{")
        await restart(home)
        session = await home.running(2, "sleep", "0.1")
        await home.wait_stage(session, Stage.EXITED)
        assert await phase_of(home, 1) is Phase.RUNNING


async def test_a_job_goes_on_though_its_manifest_is_in_the_form_of_a_former_release(tmp_path):
    async with house("fake", tmp_path) as home:
        await home.running(1, "wait-term")
        await eventually(lambda: home.chain.declared == [("start", 1)])
        await home.stop()
        (home.data / "orders" / "1" / "manifest").write_bytes(b"\x01 of another form")
        await restart(home)
        session = await home.session(1)
        assert (await session.status()).stage is Stage.RUNNING
        await asyncio.sleep(0.2)
        assert home.chain.closings == {}
        await session.stop()
        await eventually(lambda: home.chain.closings.get(1) == (Closing.EXITED, 7))


async def test_an_order_that_was_not_started_gets_its_manifest_again(tmp_path):
    async with house("fake", tmp_path) as home:
        manifest = manifest_of("wait-term", workspace=tar_of({"a": b"b"}))
        home.place(1, manifest)
        session = await home.session(1)
        await session.put_manifest(manifest)
        await restart(home)
        (home.data / "orders" / "1" / "manifest").write_bytes(b"\x01 of another form")
        session = await home.session(1)
        wanted = await session.put_manifest(manifest)
        assert wanted.workspace
        assert Records(home.data).files(1).manifest() == manifest

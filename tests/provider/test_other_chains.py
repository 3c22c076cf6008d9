"""What is not the chain that showed an order says nothing of it; a helper that has gone, nothing either."""

import asyncio

import pytest
from tests.provider.house import eventually, house, manifest_of

from deepbrain.net.messages import Stage
from deepbrain.provider.chain import ChainUnavailable, OrderPhase
from deepbrain.provider.plan import Destroy
from deepbrain.sandbox.sandbox import HostLost, Phase


async def test_a_chain_begun_anew_or_forked_ends_no_tenant_however_high_it_is(tmp_path):
    async with house("fake", tmp_path) as home:
        await home.running(7, "wait-term")
        orders, home.chain.orders = home.chain.orders, {}
        home.chain.fork = 1
        for _ in range(5):  # far beyond the block that showed the order
            home.chain.make_block()
            await asyncio.sleep(0.05)
        assert (await home.sandbox.state(7)).phase is Phase.RUNNING
        home.chain.orders, home.chain.fork = orders, 0
        home.chain.end(7)
        async with asyncio.timeout(10):
            await home.sandbox.wait(7)


async def test_an_order_of_the_same_number_on_another_chain_is_not_this_one(tmp_path):
    async with house("fake", tmp_path) as home:
        await home.running(7, "wait-term")
        home.chain.fork = 1
        home.place(7, manifest_of("wait-term", salt=9))
        home.chain.end(7)
        await asyncio.sleep(0.2)
        assert (await home.sandbox.state(7)).phase is Phase.RUNNING


async def test_a_helper_that_goes_while_an_order_is_prepared_does_not_fail_the_order(tmp_path):
    async with house("fake", tmp_path) as home:
        prepare, failures = home.sandbox.prepare, [HostLost("gone"), HostLost("gone")]

        async def lost_twice(spec):
            if failures:
                raise failures.pop()
            return await prepare(spec)

        home.sandbox.prepare = lost_twice
        manifest = manifest_of("wait-term")
        home.place(7, manifest)
        session = await home.session(7)
        await session.put_manifest(manifest)
        await home.wait_stage(session, Stage.RUNNING)
        await eventually(lambda: home.chain.orders[7].phase is OrderPhase.RUNNING)


@pytest.mark.parametrize("blocks", [0, 100])
async def test_what_a_fork_said_is_not_done_once_the_right_node_is_back(tmp_path, blocks):
    """The plan was made from a fork's state; the check is answered by the right chain."""
    async with house("fake", tmp_path) as home:
        await home.running(7, "wait-term")
        orders, home.chain.orders = home.chain.orders, {}
        home.chain.fork = 1
        home.chain.block = home.agent.records.files(7).record().seen_block + blocks
        known = await home.chain.snapshot()
        home.chain.orders, home.chain.fork = orders, 0
        with pytest.raises(ChainUnavailable):
            await home.agent._actor.act(Destroy(7), known)
        assert (await home.sandbox.state(7)).phase is Phase.RUNNING

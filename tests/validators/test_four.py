"""Four validators in namespaces of their own, under load: what they survive, and what they refuse."""

import os

import pytest
from tests.validators import stories
from tests.validators.chain import STAKE, stash
from tests.validators.load import Load
from tests.validators.town import town

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

QUICK = {"interval_ms": 500}
KILLS = int(os.environ.get("KILLS", "12"))


async def test_one_may_die_two_halt_the_chain_and_a_partition_heals():
    async with town(4, **QUICK) as four, Load.of(four, 60) as load:
        assert not await stories.one_down(four)
        assert await stories.two_down(four)
        assert await stories.back(four)
        await stories.partition(four)
        assert await stories.sound(four, load) > 1000


async def test_a_double_signer_is_slashed_once_and_leaves_the_set():
    async with town(4, Offences={"slash_delay": 20}, **QUICK) as four, Load.of(four, 20) as load:
        lost = await stories.double_sign(four)
        assert lost == (1, STAKE * 5 // 100, False)
        await stories.slash_executed(four, stash(4).public, lost.slashed)
        assert await stories.sound(four, load) > 100


async def test_whoever_lacks_the_release_stops_before_the_upgrade():
    async with town(4, started=False, **QUICK) as four:
        for one in four.validators[:-1]:
            one.module = "tests.upgrade.node"
        await four.start()
        async with Load.of(four, 20) as load:
            await four.grow(4)
            await stories.sound(four, load)
            await stories.upgrade_that_one_lacks(four, load)
        await four.agree()


async def test_whatever_is_killed_whenever_comes_back_to_the_same_chain():
    async with town(4, **QUICK) as four, Load.of(four, 40) as load:
        assert await stories.kills(four, KILLS, seed=KILLS) == KILLS
        assert await stories.sound(four, load) > 100

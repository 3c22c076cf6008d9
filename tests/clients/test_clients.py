"""Every outside client, unmodified, does all it is made for against our node."""

import os

import pytest
from tests.clients.matrix import CLIENTS, drive, drive_through_upgrade, judge
from tests.installed import CannotRun
from tests.node.world import Wallet
from tests.upgrade.next_version import NEXT, NextRuntime
from tests.upgrade.test_upgrade import upgraded

from deepbrain.runtime.runtime import RUNTIMES

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]


async def or_skip(running):
    """What comes of it; where the machine lacks what a client needs, skip, unless nothing may be."""
    try:
        return await running
    except CannotRun as lack:
        if os.environ.get("REQUIRE_GVISOR") == "1":
            raise
        pytest.skip(str(lack))


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
async def test_an_unmodified_client_reads_pays_and_rents(client):
    verdicts = judge(client, *await or_skip(drive(client)))
    assert {step: v for step, v in verdicts.items() if v != "pass"} == {}


@pytest.mark.parametrize(
    "client", [c for c in CLIENTS if not c.is_python], ids=lambda client: client.name
)
async def test_a_client_sees_an_upgrade_without_connecting_again(client, monkeypatch):
    """The Python clients ask for the version at every call, and keep no connection to lose."""
    monkeypatch.setitem(RUNTIMES, NEXT, NextRuntime)

    async def upgrade(node):
        wallet = Wallet(node.chain.genesis_hash)
        await upgraded(node, wallet)

    seen = await or_skip(drive_through_upgrade(client, upgrade))
    assert "error" not in seen, seen["error"]
    assert seen["spec"] == NEXT
    assert seen["events"] == ["Noted", "TransactionFeePaid", "ExtrinsicSuccess"]
    assert seen["old_spec"] == 1
    assert not seen["old_has_it"]
    assert seen["connections"]

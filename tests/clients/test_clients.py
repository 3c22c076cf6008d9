"""Every outside client, unmodified, does all it is made for against our node."""

import asyncio
import os

import pytest
from tests.clients.matrix import (
    CLIENTS,
    SIGNER,
    drive,
    drive_through_upgrade,
    javascript,
    judge,
    node_for_clients,
    run_driver,
)
from tests.installed import CannotRun
from tests.node.world import Wallet, account, hexed, machine_id
from tests.upgrade.next_version import NEXT, NextRuntime
from tests.upgrade.test_upgrade import upgraded

from deepbrain.pallets.machines import Machines
from deepbrain.pallets.system import System
from deepbrain.runtime.runtime import RUNTIMES

SOME = ("polkadot-api over chainHead", "substrate-interface")

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
    "client", [c for c in CLIENTS if c.name in SOME], ids=lambda client: client.name
)
async def test_it_does_so_under_cometbft(client):
    """One of each kind: `make clients` has them all on both engines."""
    verdicts = judge(client, *await or_skip(drive(client, "cometbft")))
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
    assert seen["connections"] == 1


async def prove():
    """What an outside verifier says of proofs of a balance, an order's machine, and nothing."""
    place = await asyncio.to_thread(javascript)
    async with node_for_clients(interval=0.5) as (node, config):
        keys = {
            "balance": hexed(System.account.key_of(SIGNER.public)),
            "short": hexed(System.number.key_of()),
            "machine": hexed(Machines.machines.key_of(machine_id())),
            "absent": hexed(System.account.key_of(account("nobody"))),
        }
        page = f"http://127.0.0.1:{node.server.port}/"
        command = ["node", str(place / "proofs.mjs")]
        return await run_driver(command, place, {**config, "page": page, "keys": keys})


async def test_an_outside_verifier_accepts_our_proofs_and_no_changed_one():
    seen = (await or_skip(prove()))["proofs"]
    assert "error" not in seen, seen["error"]
    for name, proof in seen["found"].items():
        assert proof["root"], name
        assert proof["proven"] == proof["stored"], name
        assert (proof["stored"] is None) == (name == "absent")
    assert seen["tampered"] > 100
    assert seen["survived"] == 0

"""`substrate-interface`, unmodified, against a real node: what a Polkadot user's script does."""

import asyncio
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.node.world import Wallet, account, bond_call, hexed, machine_id, running_node

from deepbrain.primitives.ss58 import encode as address
from deepbrain.primitives.units import PLANCK

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "substrate-interface.txt"
VENV = ROOT / ".cache" / "venv-substrate-interface"
PIP_OPTIONS = (
    "--quiet",
    "--disable-pip-version-check",
    "--require-hashes",
    "--no-deps",
    "--only-binary=:all:",
)


@pytest.fixture(scope="module")
def python():
    """The interpreter of the client's own environment, made from its hashed lock file."""
    want = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    stamp, found = VENV / ".locked", VENV / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != want:
        stamp.unlink(missing_ok=True)
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run(
            [found, "-m", "pip", "install", *PIP_OPTIONS, "-r", LOCK],
            check=True,
        )
        stamp.write_text(want)
    return found


@pytest.fixture
async def seen(python):
    """What the client saw."""
    async with running_node(interval=0.5) as node:
        wallet = Wallet(node.chain.genesis_hash)
        bond = wallet.sign("Charlie", bond_call(node.chain.genesis_hash))
        await node.pool.submit([bond])
        while not bonded(node):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        process = await asyncio.create_subprocess_exec(
            python,
            Path(__file__).with_name("drive_substrate_interface.py"),
            f"ws://127.0.0.1:{node.server.port}",
            hexed(machine_id()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return json.loads(out)


def bonded(node):
    with node.chain.snapshot() as state:
        block = node.chain.executive(1).runtime.at(state, node.chain.head.hash)
        return machine_id() in block.machines.machines


async def test_an_unmodified_client_reads_pays_and_rents(seen):
    reads(seen)
    transfers(seen)
    rents(seen)


def reads(seen):
    assert seen["chain"] == "DeepBrain Dev"
    assert seen["properties"] == {"ss58Format": 42, "tokenDecimals": 15, "tokenSymbol": "DBC"}
    assert {"System", "Balances", "Machines", "Rent"} <= set(seen["pallets"])
    assert {"place", "start", "extend", "close"} <= set(seen["rent_calls"])
    assert seen["fee_constant"] == 4096
    assert seen["alice"]["data"]["free"] == 10_000_000 * PLANCK
    assert seen["machine"]["hardware"]["cpus"] == 8
    assert seen["machine"]["isolation"] == "Gvisor"
    assert seen["machines"] == [hexed(machine_id())]
    assert len(seen["heads"]) == 2
    assert seen["block"] >= 1


def transfers(seen):
    for name in ("transfer", "mortal"):
        done = seen[name]
        assert done["success"], done["error"]
        names = [f"{pallet}.{event}" for pallet, event, _ in done["events"]]
        assert "Balances.Transfer" in names
        assert names[-1] == "System.ExtrinsicSuccess"
        (moved,) = [found for _, event, found in done["events"] if event == "Transfer"]
        assert moved["amount"] == 5 * PLANCK
        assert moved["to"] == seen["edward"]
    assert seen["transfer"]["fee"] == int(seen["payment"]["partialFee"])
    assert seen["received"]["data"]["free"] == 10 * PLANCK
    assert "Transaction is outdated" in seen["stale"]


def rents(seen):
    placed = seen["place"]
    assert placed["success"], placed["error"]
    (order,) = [found for pallet, _, found in placed["events"] if pallet == "Rent"]
    assert order["machine"] == hexed(machine_id())
    refused = seen["refused"]
    assert not refused["success"]
    assert refused["error"]["name"] == "OfferChanged"
    assert refused["error"]["docs"]
    assert order["renter"] == address(account("Bob"))

"""The page that signs with an injected wallet, in a real browser."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.clients.matrix import DEST, SIGNER, javascript, node_for_clients, run_driver
from tests.clients.test_clients import or_skip
from tests.installed import CACHE, ROOT, CannotRun
from tests.node.world import connected, hexed, machine_id, running_node

from deepbrain.primitives.units import PLANCK

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]


async def browser() -> dict[str, str]:
    """Where Chromium is, and its libraries; it is unpacked into the cache where there is none."""
    found = shutil.which("chromium")
    if found is not None:
        return {"chromium": found, "libraries": ""}
    place = CACHE / "chromium"
    process = await asyncio.create_subprocess_exec(ROOT / "scripts" / "get-chromium", place)
    if await process.wait():
        raise CannotRun("Chromium could not be had")
    below = [place / "usr/lib/x86_64-linux-gnu", place / "lib/x86_64-linux-gnu"]
    libraries = [*below, below[0] / "pulseaudio"]
    return {
        "chromium": str(place / "usr/lib/chromium/chromium"),
        "libraries": ":".join(map(str, libraries)),
    }


async def visit(screenshot: Path) -> dict[str, Any]:
    place = await asyncio.to_thread(javascript)
    async with node_for_clients(interval=0.5) as (node, config):
        more = await browser()
        more |= {"page": f"http://127.0.0.1:{node.server.port}", "screenshot": str(screenshot)}
        command = ["node", str(place / "browse_wallet.mjs")]
        return await run_driver(command, place, {**config, **more})


async def test_a_renter_signs_with_the_wallet_in_her_browser(tmp_path):
    seen = await or_skip(visit(tmp_path / "page.png"))
    for step, found in seen.items():
        assert "error" not in found, (step, found["error"])
    connects(seen)
    signs(seen)
    assert (tmp_path / "page.png").stat().st_size > 10_000


def connects(seen):
    found = seen["connect"]
    assert "default-src 'none'" in found["policy"]
    assert "script-src 'self'" in found["policy"]
    assert found["chain"] == "DeepBrain Dev"
    assert found["head"].startswith("block ")
    assert SIGNER.address() in found["account"]
    assert found["balance"] == "1000 DBC free"
    provided = seen["wallet"]["provided"]
    assert provided["chain"] == "DeepBrain Dev"
    assert provided["rawMetadata"].startswith("0x6d657461")
    assert seen["wallet"]["said"] == []


def signs(seen):
    paid = seen["transfer"]
    assert paid["decoded"]["Call"] == "Balances.transfer_keep_alive"
    assert paid["decoded"]["dest"] == DEST.address()
    assert paid["decoded"]["value"] == str(2 * PLANCK)
    assert paid["decoded"]["Signed by"] == SIGNER.address()
    assert paid["status"].startswith("Done, in block 0x")
    fee = paid["decoded"]["Fee"].removesuffix(" DBC")
    assert f"Fee: {fee} DBC." in paid["status"]
    assert any(event.startswith("Balances.Transfer ") for event in paid["events"])
    placed = seen["place"]
    assert placed["decoded"]["machine"] == hexed(machine_id())
    assert placed["status"].startswith("Done, in block 0x")
    assert any(event.startswith("Rent.OrderPlaced ") for event in placed["events"])
    failed = seen["failing"]["status"]
    assert failed.startswith(
        "It failed, and only the fee was taken: OfferChanged: The machine's offer"
    )
    assert "units" in seen["mistyped"]["trouble"]
    assert len(seen["wallet"]["signed"]) == 3


# -- The node's side of it, without a browser.


@pytest.fixture
async def client():
    async with running_node() as node, connected(node) as client:
        client.genesis = str(node.chain.genesis_hash)
        yield client


def transfer(**changes):
    return {"dest": DEST.address(), "value": "5"} | changes


async def test_a_payload_says_what_the_call_says(client):
    alice = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
    name = "transfer_keep_alive"
    payload = await client.call("wallet_buildPayload", alice, "Balances", name, transfer(), "7")
    assert payload["genesisHash"] == client.genesis
    assert (payload["version"], payload["mode"]) == (4, 0)
    assert payload["tip"] == "0x" + (7).to_bytes(16, "big").hex()
    said = await client.call("wallet_decodePayload", payload)
    assert said["call"] == {
        "name": "Balances.transfer_keep_alive",
        "arguments": {"dest": DEST.address(), "value": "5"},
    }
    assert (said["tip"], said["nonce"], said["signer"]) == ("7", 0, alice)
    assert said["until_block"] > 0
    # What JavaScript's numbers cannot hold comes as text, to the last digit.
    much = {"value": str(10**30 + 1)}
    exact = await client.call("wallet_buildPayload", alice, "Balances", name, transfer(**much), "0")
    shown = await client.call("wallet_decodePayload", exact)
    assert shown["call"]["arguments"] == {"dest": DEST.address(), **much}
    # A call inside a call is shown, too, though it is not built here.
    inner = payload["method"][2:]
    nested = await client.call("wallet_decodePayload", {**payload, "method": f"0x070004{inner}"})
    assert nested["call"]["name"] == "Utility.batch"
    assert nested["call"]["arguments"]["calls"] == [said["call"]]


@pytest.mark.parametrize(
    ("pallet", "call", "arguments"),
    [
        ("Nothing", "transfer", {}),
        ("Balances", "nothing", {}),
        ("Utility", "batch", {"calls": []}),
        ("Balances", "transfer_keep_alive", {}),
        ("Balances", "transfer_keep_alive", transfer(more=1)),
        ("Balances", "transfer_keep_alive", transfer(value="-1")),
        ("Balances", "transfer_keep_alive", transfer(value="1" * 41)),
        ("Balances", "transfer_keep_alive", transfer(value=1 << 128)),
        ("Balances", "transfer_keep_alive", transfer(value=True)),
        ("Balances", "transfer_keep_alive", transfer(dest="5Grwva")),
        ("Balances", "transfer_keep_alive", transfer(dest=None)),
        ("System", "remark", {"remark": "0x" + "00" * 4097}),
        ("System", "remark", {"remark": "zz"}),
        ("Machines", "set_address", {"machine": "0x" + "00" * 32, "address": {"endpoints": []}}),
    ],
)
async def test_a_call_that_is_none_is_refused_with_the_reason(client, pallet, call, arguments):
    refused = await client.error("wallet_buildPayload", SIGNER.address(), pallet, call, arguments)
    assert refused["code"] == -32602
    assert len(refused["data"]) > 5


@pytest.mark.parametrize(
    "change",
    [
        {"genesisHash": "0x" + "00" * 32},
        {"specVersion": "0x00000063"},
        {"era": "0x"},
        {"era": None},
        {"nonce": "0x0100000000"},
        {"nonce": 5},
        {"tip": "0x" + "ff" * 17},
        {"method": "0x"},
        {"method": "0xffff"},
        {"method": "zz"},
        {"address": "nobody"},
        {"address": None},
    ],
)
async def test_a_payload_that_was_changed_is_refused_or_shown(client, change):
    payload = await client.call(
        "wallet_buildPayload", SIGNER.address(), "Balances", "transfer_keep_alive", transfer()
    )
    refused = await client.error("wallet_decodePayload", payload | change)
    assert refused["code"] == -32602
    refused = await client.error("wallet_submitSigned", payload | change, "0x01" + "00" * 64)
    assert refused["code"] == -32602


async def test_a_signature_that_is_none_is_refused(client):
    payload = await client.call(
        "wallet_buildPayload", SIGNER.address(), "Balances", "transfer_keep_alive", transfer()
    )
    for signature in ("0x", "0x01", "0x03" + "00" * 64, "0x02" + "00" * 64, "0x01" + "00" * 65):
        refused = await client.error("wallet_submitSigned", payload, signature)
        assert refused["code"] == -32602
    poor = await client.error("wallet_submitSigned", payload, "0x01" + "00" * 64)
    assert (poor["code"], poor["data"]) == (
        1010,
        "Inability to pay some fees (e.g. account balance too low)",
    )


async def test_every_offered_call_has_fields_and_words(client):
    calls = await client.call("wallet_calls")
    names = {f"{each['pallet']}.{each['call']}" for each in calls}
    assert {"Rent.place", "Balances.transfer_keep_alive", "Machines.bond"} <= names
    assert "Timestamp.set" not in names
    assert all(each["docs"] and json.dumps(each["fields"]) for each in calls)

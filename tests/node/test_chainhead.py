"""The newer groups of the RPC: `chainHead_v1`, `chainSpec_v1`, `transaction_v1`, `archive_v1`."""

import asyncio
from dataclasses import replace

import aiohttp
import pytest
from tests.node.world import (
    DEV,
    Wallet,
    account,
    connected,
    hexed,
    running_node,
    transfer_call,
)

from deepbrain.node.chain import InherentData, Notice, Order
from deepbrain.node.rpc import chainhead, follow, storage_pages, transaction
from deepbrain.pallets.system import System
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import PLANCK, Balance
from deepbrain.runtime.extrinsic import Signing

ACCOUNT_PREFIX = System.account.prefix
CROWD = tuple(
    (AccountId(bytes(28) + n.to_bytes(4, "big")), Balance(PLANCK)) for n in range(1, 1301)
)


@pytest.fixture
async def node():
    async with running_node() as node:
        yield node


@pytest.fixture
async def client(node):
    async with connected(node) as client:
        yield client


def key_of(name):
    return hexed(System.account.key_of(account(name)))


async def until(holds):
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def following(client, with_runtime=True):
    name = await client.call("chainHead_v1_follow", with_runtime)
    first = await client.next(name)
    assert first["event"] == "initialized"
    return name, first


async def block_of(client, name):
    """The three events of one block, in their order; gives its hash."""
    new, best, final = [await client.next(name) for _ in range(3)]
    assert [new["event"], best["event"], final["event"]] == [
        "newBlock",
        "bestBlockChanged",
        "finalized",
    ]
    assert best["bestBlockHash"] == new["blockHash"]
    assert final["finalizedBlockHashes"] == [new["blockHash"]]
    assert final["prunedBlockHashes"] == []
    return new


async def outcome(client, name, started):
    """The events of an operation, up to its last."""
    assert started["result"] == "started", started
    seen = []
    while True:
        event = await client.next(name)
        if event.get("operationId") == started["operationId"]:
            seen.append(event)
            if not event["event"].endswith("Items"):
                return seen


async def test_every_block_is_announced_once_in_order_and_pinned(node, client):
    await node.engine.seal()
    name, first = await following(client)
    assert first["finalizedBlockHashes"] == [
        str(node.chain.hash_of(n)) for n in range(node.chain.head.number + 1)
    ]
    spec = first["finalizedBlockRuntime"]["spec"]
    assert first["finalizedBlockRuntime"]["type"] == "valid"
    assert (spec["specName"], spec["specVersion"], spec["transactionVersion"]) == (
        "deepbrain",
        1,
        1,
    )
    assert spec["apis"]["0xdf6acb689907609b"] == 5
    parent = first["finalizedBlockHashes"][-1]
    for _ in range(5):
        await node.engine.seal()
        new = await block_of(client, name)
        assert new["parentBlockHash"] == parent
        assert new["newRuntime"] is None
        parent = new["blockHash"]
        header = await client.call("chainHead_v1_header", name, parent)
        assert hexed(blake2_256(bytes.fromhex(header[2:]))) == parent


async def test_a_block_between_written_and_told_is_announced_once(node, client):
    """Whoever begins to follow in that moment has it as the head."""
    chain, author = node.chain, node.engine._author
    order = Order(chain.head.hash, InherentData(chain.earliest + 1000, author), ())
    notice = chain.finalize(order, ())
    name, first = await following(client)
    heads = await client.call("chain_subscribeNewHeads")
    assert first["finalizedBlockHashes"][-1] == str(notice.head.hash)
    assert int((await client.next(heads))["number"], 16) == notice.head.number
    chain.publish(notice)
    await node.engine.seal()
    new = await block_of(client, name)
    assert new["parentBlockHash"] == str(notice.head.hash)
    assert int((await client.next(heads))["number"], 16) == notice.head.number + 1


async def test_where_blocks_are_passed_over_following_ends(node, client):
    name, _ = await following(client)
    head = replace(node.chain.head, number=node.chain.head.number + 2)
    node.chain.publish(Notice(head, (), {}, upgraded=True))
    assert await client.next(name) == {"event": "stop"}


async def test_whoever_listens_with_a_bug_stops_no_chain(node, client):
    def broken(*_):
        raise ZeroDivisionError

    node.chain.subscribe(broken)
    (digest,) = await node.pool.submit([Wallet(node.chain.genesis_hash).transfer("Bob")], broken)
    await until(lambda: digest not in node.pool)
    head = node.chain.head.number
    name, _ = await following(client)
    await node.engine.seal()
    await block_of(client, name)
    assert node.chain.head.number == head + 1


async def test_without_the_runtime_no_runtime_is_told_or_called(node, client):
    name, first = await following(client, False)
    assert "finalizedBlockRuntime" not in first
    await node.engine.seal()
    assert "newRuntime" not in await block_of(client, name)
    head = str(node.chain.head.hash)
    refused = await client.error("chainHead_v1_call", name, head, "Core_version", "0x")
    assert refused["code"] == -32802


async def test_a_block_is_read_as_long_as_it_is_pinned(node, client):
    name, first = await following(client)
    block = first["finalizedBlockHashes"][-1]
    (body,) = await outcome(client, name, await client.call("chainHead_v1_body", name, block))
    legacy = await client.call("chain_getBlock", block)
    assert body["event"] == "operationBodyDone"
    assert body["value"] == legacy["block"]["extrinsics"]

    async def call(function, arguments="0x"):
        started = await client.call("chainHead_v1_call", name, block, function, arguments)
        return (await outcome(client, name, started))[-1]

    version = await call("Core_version", "")
    assert version["output"] == await client.call("state_call", "Core_version", "0x")
    missing = await call("Core_nothing")
    assert missing["event"] == "operationError"
    assert "Core_nothing" in missing["error"]
    assert (await call("Core_version", "0x00"))["event"] == "operationError"

    assert await client.call("chainHead_v1_unpin", name, block) is None
    for method, more in (("header", ()), ("body", ()), ("storage", ([], None))):
        refused = await client.error(f"chainHead_v1_{method}", name, block, *more)
        assert refused["code"] == -32801
    assert (await client.error("chainHead_v1_unpin", name, block))["code"] == -32801


async def test_blocks_are_unpinned_all_or_none(node, client):
    for _ in range(3):
        await node.engine.seal()
    name, first = await following(client)
    one, two, three, *_ = first["finalizedBlockHashes"]
    twice = await client.error("chainHead_v1_unpin", name, [one, one])
    assert twice["code"] == -32804
    unknown = await client.error("chainHead_v1_unpin", name, [one, "0x" + "00" * 32])
    assert unknown["code"] == -32801
    assert await client.call("chainHead_v1_unpin", name, [one, two]) is None
    assert await client.call("chainHead_v1_header", name, three)
    assert (await client.error("chainHead_v1_header", name, one))["code"] == -32801


async def test_storage_by_value_hash_and_merkle_value(node, client):
    name, first = await following(client)
    block = first["finalizedBlockHashes"][-1]
    alice = key_of("Alice")
    value = await client.call("state_getStorage", alice)

    async def ask(*items, child=None):
        asked = [{"key": key, "type": kind} for key, kind in items]
        started = await client.call("chainHead_v1_storage", name, block, asked, child)
        assert started["discardedItems"] == 0
        *pages, last = await outcome(client, name, started)
        assert last["event"] == "operationStorageDone"
        return [item for page in pages for item in page["items"]]

    hashed = hexed(blake2_256(bytes.fromhex(value[2:])))
    assert await ask((alice, "value"), (alice, "hash"), (alice + "00", "value")) == [
        {"key": alice, "value": value},
        {"key": alice, "hash": hashed},
    ]
    assert await ask((alice, "value"), child="0x00") == []
    below = await ask((hexed(ACCOUNT_PREFIX), "descendantsValues"))
    assert {"key": alice, "value": value} in below
    assert [item["key"] for item in below] == await client.call(
        "state_getKeysPaged", hexed(ACCOUNT_PREFIX), 1000
    )
    hashes = await ask((hexed(ACCOUNT_PREFIX), "descendantsHashes"))
    assert {"key": alice, "hash": hashed} in hashes

    (root,) = await ask(("0x", "closestDescendantMerkleValue"))
    assert root["closestDescendantMerkleValue"] == str(node.chain.head.header.state_root)
    (one,) = await ask((alice, "closestDescendantMerkleValue"))
    (accounts,) = await ask((hexed(ACCOUNT_PREFIX), "closestDescendantMerkleValue"))
    proof = (await client.call("state_getReadProof", [alice], block))["proof"]
    named = {hexed(blake2_256(bytes.fromhex(node[2:]))) for node in proof}
    assert {one["closestDescendantMerkleValue"], accounts["closestDescendantMerkleValue"]} <= named
    assert await ask(("0xffffffff", "closestDescendantMerkleValue")) == []


@pytest.mark.parametrize(
    "items",
    [
        [{"key": "0x00"}],
        [{"key": "0x0", "type": "value"}],
        [{"key": "0x00", "type": "valu"}],
        [{"key": "0x00", "type": "value", "more": 1}],
        [{"key": "0x00", "type": "value", "paginationStartKey": "0x00"}],
        [7],
        "0x00",
    ],
)
async def test_a_malformed_storage_item_is_refused(client, items):
    name, first = await following(client)
    block = first["finalizedBlockHashes"][-1]
    assert (await client.error("chainHead_v1_storage", name, block, items, None))["code"] == -32602


async def test_what_is_long_comes_in_pages_that_wait(monkeypatch):
    monkeypatch.setattr(storage_pages, "PAGE_ITEMS", 100)
    spec = replace(DEV, balances=DEV.balances + CROWD)
    async with running_node(spec=spec) as node, connected(node) as client:
        name, first = await following(client)
        block = first["finalizedBlockHashes"][-1]
        query = [{"key": hexed(ACCOUNT_PREFIX), "type": "descendantsHashes"}]
        started = await client.call("chainHead_v1_storage", name, block, query, None)
        operation = started["operationId"]
        keys, pages = [], 0
        while True:
            *items, last = await outcome(client, name, started)
            keys += [item["key"] for event in items for item in event["items"]]
            pages += 1
            if last["event"] == "operationStorageDone":
                break
            assert last["event"] == "operationWaitingForContinue"
            assert len(items[0]["items"]) <= 100
            assert await client.call("chainHead_v1_continue", name, operation) is None
        with node.chain.snapshot() as state:
            assert keys == [hexed(key) for key, _ in state.iterate(ACCOUNT_PREFIX)]
        assert pages == len(keys) // 100 + 1
        # The operation is over: nothing is continued or stopped any more.
        assert await client.call("chainHead_v1_continue", name, operation) is None
        assert await client.call("chainHead_v1_stopOperation", name, operation) is None


async def test_operations_have_places_and_give_them_back(monkeypatch):
    monkeypatch.setattr(storage_pages, "PAGE_ITEMS", 100)
    spec = replace(DEV, balances=DEV.balances + CROWD)
    async with running_node(spec=spec) as node, connected(node) as client:
        name, first = await following(client)
        block = first["finalizedBlockHashes"][-1]
        long = {"key": hexed(ACCOUNT_PREFIX), "type": "descendantsHashes"}
        waiting = await client.call("chainHead_v1_storage", name, block, [long] * 20, None)
        assert waiting["discardedItems"] == 4
        await outcome(client, name, waiting)
        for method, more in (
            ("storage", ([long], None)),
            ("body", ()),
            ("call", ("Core_version", "0x")),
        ):
            full = await client.call(f"chainHead_v1_{method}", name, block, *more)
            assert full == {"result": "limitReached"}
        await client.call("chainHead_v1_stopOperation", name, waiting["operationId"])
        body = await client.call("chainHead_v1_body", name, block)
        assert (await outcome(client, name, body))[-1]["event"] == "operationBodyDone"
        # Unpinned meanwhile, what is under way goes on.
        waiting = await client.call("chainHead_v1_storage", name, block, [long], None)
        await outcome(client, name, waiting)
        await client.call("chainHead_v1_unpin", name, block)
        await client.call("chainHead_v1_continue", name, waiting["operationId"])
        assert (await outcome(client, name, waiting))[0]["items"]


async def test_operations_begun_and_dropped_leave_nothing_behind(node, client, monkeypatch):
    """While the client does not take what it is sent, and our answers wait."""
    name, first = await following(client)
    block = first["finalizedBlockHashes"][-1]
    (follow_,) = [
        listener.__self__
        for listener in node.chain._listeners.values()
        if isinstance(getattr(listener, "__self__", None), follow.Follow)
    ]
    wanted = asyncio.Event()
    monkeypatch.setattr(follow_._sink, "room", wanted.wait)
    for _ in range(50):
        for items in ([], [{"key": "0x00", "type": "value"}]):
            started = await client.call("chainHead_v1_storage", name, block, items, None)
            await client.call("chainHead_v1_stopOperation", name, started["operationId"])
    assert (follow_._asked, follow_._operations) == ({}, {})
    # One that asks for nothing takes a place, too.
    for _ in range(follow.MAX_OPERATIONS):
        assert (await client.call("chainHead_v1_storage", name, block, [], None)) != (
            chainhead.LIMIT_REACHED
        )
    full = await client.call("chainHead_v1_storage", name, block, [], None)
    assert full == chainhead.LIMIT_REACHED
    wanted.set()
    for _ in range(follow.MAX_OPERATIONS):
        assert (await client.next(name))["event"] == "operationStorageDone"


async def test_an_operation_that_does_not_wait_is_not_continued(node, client):
    name, first = await following(client)
    block = first["finalizedBlockHashes"][-1]
    batch = [
        {"jsonrpc": "2.0", "id": n, "method": f"chainHead_v1_{method}", "params": params}
        for n, (method, params) in enumerate((
            ("body", [name, block]),
            ("continue", [name, "o00000001"]),
        ))
    ]  # fmt: skip
    await client.socket.send_json(batch)
    while not client.batches:
        await client._receive()
    started, refused = client.batches.pop()
    assert refused["error"]["code"] == -32803
    assert (await outcome(client, name, started["result"]))[-1]["event"] == "operationBodyDone"


async def test_whoever_pins_too_much_or_too_long_is_stopped(node, client, monkeypatch):
    monkeypatch.setattr(follow, "MAX_PINNED", 6)
    name, _ = await following(client)
    while True:
        await node.engine.seal()
        event = await client.next(name)
        if event["event"] == "stop":
            break
        assert event["event"] in ("newBlock", "bestBlockChanged", "finalized")
    head = str(node.chain.head.hash)
    assert await client.call("chainHead_v1_header", name, head) is None
    assert await client.call("chainHead_v1_body", name, head) == {"result": "limitReached"}
    assert await client.call("chainHead_v1_unpin", name, head) is None
    assert await client.call("chainHead_v1_unfollow", name) is None

    monkeypatch.setattr(follow, "MAX_PINNED", 512)
    monkeypatch.setattr(follow, "MAX_PINNED_AGE", 3)
    name, first = await following(client)
    await client.call("chainHead_v1_unpin", name, first["finalizedBlockHashes"][:-1])
    for _ in range(3):
        await node.engine.seal()
        await client.call("chainHead_v1_unpin", name, (await block_of(client, name))["blockHash"])
    await node.engine.seal()
    assert await client.next(name) == {"event": "stop"}


async def test_a_connection_has_so_many_follows_and_sees_only_its_own(node, client):
    names = [(await following(client))[0] for _ in range(chainhead.MAX_FOLLOWS)]
    refused = await client.error("chainHead_v1_follow", True)
    assert refused["code"] == -32800
    assert await client.call("chainHead_v1_unfollow", names[0]) is None
    again, first = await following(client)
    head = first["finalizedBlockHashes"][-1]
    async with connected(node) as other:
        assert await other.call("chainHead_v1_header", again, head) is None
        assert await other.call("chainHead_v1_unfollow", again) is None
    assert await client.call("chainHead_v1_header", again, head)
    assert await client.call("chainHead_v1_header", names[0], head) is None


async def test_over_http_nothing_is_followed(node):
    async with aiohttp.ClientSession() as session:
        for method, params in (
            ("chainHead_v1_follow", [True]),
            ("chainHead_v1_header", ["x", "0x" + "00" * 32]),
            ("transaction_v1_broadcast", ["0x00"]),
            ("archive_v1_storage", ["0x" + "00" * 32, [], None]),
        ):
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            url = f"http://127.0.0.1:{node.server.port}/"
            async with session.post(url, json=body) as response:
                assert "WebSocket" in (await response.json())["error"]["message"]


async def test_the_chain_says_what_it_is(node, client):
    assert await client.call("chainSpec_v1_chainName") == "DeepBrain Dev"
    assert await client.call("chainSpec_v1_genesisHash") == str(node.chain.genesis_hash)
    assert await client.call("chainSpec_v1_properties") == await client.call("system_properties")


async def test_a_broadcast_extrinsic_gets_into_a_block(node, client):
    wallet = Wallet(node.chain.genesis_hash)
    before = node.chain.head.number
    name = await client.call("transaction_v1_broadcast", hexed(wallet.transfer("Alice")))
    assert isinstance(name, str)
    await until(lambda: node.chain.head.number > before)
    block = await client.call("chain_getBlock")
    assert len(block["block"]["extrinsics"]) == 2
    assert await client.call("transaction_v1_stop", name) is None
    assert (await client.error("transaction_v1_stop", name))["code"] == -32602


async def test_a_broadcast_waits_for_room_in_the_pool(node, client):
    """A nonce that is taken by one with a higher tip is free again when that one is gone."""
    wallet = Wallet(node.chain.genesis_hash)
    rich = wallet.sign("Alice", transfer_call(account("Dave"), PLANCK), nonce=1, tip=10**15)
    poor = wallet.sign("Alice", transfer_call(account("Bob"), PLANCK), nonce=1)
    await client.call("author_submitExtrinsic", hexed(rich))
    await client.call("transaction_v1_broadcast", hexed(poor))
    assert await client.call("author_pendingExtrinsics") == [hexed(rich)]
    node.pool.remove(blake2_256(rich), ban=False)
    await node.engine.seal()
    await until(lambda: node.pool.pending() == [poor])


async def test_a_bad_broadcast_is_silently_left_alone_and_takes_a_place(node, client):
    stranger = Wallet(node.chain.genesis_hash)
    stranger.signing = Signing(99, 1, node.chain.genesis_hash)
    for _ in range(transaction.MAX_BROADCASTS):
        assert await client.call("transaction_v1_broadcast", hexed(stranger.transfer("Bob")))
    assert await client.call("transaction_v1_broadcast", "0x00") is None
    assert await client.call("author_pendingExtrinsics") == []
    async with connected(node) as other:
        assert await other.call("transaction_v1_broadcast", "0x00")


async def test_a_closed_connection_leaves_no_listener(node):
    before = len(node.chain._listeners)
    async with connected(node) as client:
        await following(client)
        await client.call("transaction_v1_broadcast", "0x00")
        assert len(node.chain._listeners) == before + 2
    await until(lambda: len(node.chain._listeners) == before)


async def test_the_archive_reads_any_block(node, client):
    wallet = Wallet(node.chain.genesis_hash)
    await client.call("author_submitExtrinsic", hexed(wallet.transfer("Alice")))
    await until(lambda: not node.pool.pending())
    height = await client.call("archive_v1_finalizedHeight")
    assert height == node.chain.head.number
    genesis = await client.call("archive_v1_genesisHash")
    assert await client.call("archive_v1_hashByHeight", 0) == [genesis]
    assert await client.call("archive_v1_hashByHeight", height + 1) == []
    (block,) = await client.call("archive_v1_hashByHeight", height)
    header = await client.call("archive_v1_header", block)
    assert hexed(blake2_256(bytes.fromhex(header[2:]))) == block
    legacy = await client.call("chain_getBlock", block)
    assert await client.call("archive_v1_body", block) == legacy["block"]["extrinsics"]
    nowhere = "0x" + "77" * 32
    assert await client.call("archive_v1_header", nowhere) is None
    assert await client.call("archive_v1_body", nowhere) is None
    assert await client.call("archive_v1_call", nowhere, "Core_version", "0x") is None
    done = await client.call("archive_v1_call", block, "Core_version", "0x")
    assert done == {"success": True, "value": await client.call("state_call", "Core_version", "0x")}
    failed = await client.call("archive_v1_call", block, "Core_nothing", "0x")
    assert failed["success"] is False
    assert "Core_nothing" in failed["error"]

    async def read(block, *items):
        asked = [dict(zip(("key", "type", "paginationStartKey"), i, strict=False)) for i in items]
        name = await client.call("archive_v1_storage", block, asked, None)
        return await client.until(name, lambda event: event["event"] != "storage")

    alice = key_of("Alice")
    (before, _), (after, end) = [await read(each, (alice, "value")) for each in (genesis, block)]
    assert end == {"event": "storageDone"}
    assert before["value"] != after["value"] == await client.call("state_getStorage", alice)
    everybody = (await read(block, (hexed(ACCOUNT_PREFIX), "descendantsHashes")))[:-1]
    middle = everybody[len(everybody) // 2]["key"]
    rest = await read(block, (hexed(ACCOUNT_PREFIX), "descendantsHashes", middle))
    assert rest[:-1] == everybody[len(everybody) // 2 + 1 :]
    (error,) = await read(nowhere, (alice, "value"))
    assert error["event"] == "storageError"
    for _ in range(6):  # one that is over takes no place
        await read(block, (alice, "hash"))


async def test_a_long_archive_read_goes_as_fast_as_it_is_taken():
    spec = replace(DEV, balances=DEV.balances + CROWD)
    async with running_node(spec=spec) as node, connected(node) as client:
        block = str(node.chain.head.hash)
        query = [{"key": hexed(ACCOUNT_PREFIX), "type": "descendantsValues"}]
        names = [await client.call("archive_v1_storage", block, query * 3, None) for _ in range(4)]
        busy = await client.error("archive_v1_storage", block, query, None)
        assert "at once" in busy["data"]
        assert await client.call("archive_v1_stopStorage", names[0]) is None
        for name in names[1:]:
            seen = await client.until(name, lambda event: event["event"] != "storage")
            assert len(seen) > 3 * len(CROWD)

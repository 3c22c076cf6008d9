"""The RPC of a real node, as Polkadot clients use it, on both stores."""

import pytest
from tests.node.world import (
    Wallet,
    account,
    connected,
    hexed,
    is_final,
    running_node,
    transfer_call,
)

from deepbrain.frame.header import Header
from deepbrain.pallets.system import System
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import PLANCK, U32
from deepbrain.scale import codec_of
from deepbrain.state.trie import verify_proof

ALIASES = {
    "account_nextIndex",
    "author_unwatchExtrinsic",
    "chain_getFinalisedHead",
    "chain_getHead",
    "chain_getRuntimeVersion",
    "chain_subscribeAllHeads",
    "chain_subscribeFinalisedHeads",
    "chain_subscribeNewHead",
    "chain_subscribeNewHeads",
    "chain_unsubscribeNewHead",
    "chain_unsubscribeNewHeads",
    "payment_queryInfo",
    "state_callAt",
    "state_getKeysPagedAt",
    "state_getStorageAt",
    "state_queryStorageAt",
    "state_subscribeRuntimeVersion",
}


@pytest.fixture(params=["memory", "lmdb"])
def data(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "node"


@pytest.fixture
async def node(data):
    async with running_node(data) as node:
        yield node


@pytest.fixture
async def client(node):
    async with connected(node) as client:
        yield client


@pytest.fixture
def wallet(node):
    return Wallet(node.chain.genesis_hash)


async def finalize(client, *extrinsics):
    """Submit and wait for each; the block that holds the last."""
    block = ""
    for extrinsic in extrinsics:
        watch = await client.call("author_submitAndWatchExtrinsic", hexed(extrinsic))
        block = (await client.until(watch, is_final))[-1]["finalized"]
    return block


async def test_every_alias_is_there(client):
    names = (await client.call("rpc_methods"))["methods"]
    assert set(names) >= ALIASES
    assert names == sorted(names)


async def test_a_transfer_from_submission_to_the_proof_of_its_effect(client, wallet):
    before = await client.call("chain_getHeader")
    block = await finalize(client, wallet.transfer("Alice"))
    body = (await client.call("chain_getBlock", block))["block"]
    assert len(body["extrinsics"]) == 2
    assert int(body["header"]["number"], 16) > int(before["number"], 16)
    key = System.account.key_of(account("Dave"))
    stored = await client.call("state_getStorage", hexed(key), block)
    assert stored == await client.call("state_getStorageAt", hexed(key), block)
    assert await client.call("state_getStorageSize", hexed(key)) == len(stored) // 2 - 1
    digest = str(blake2_256(bytes.fromhex(stored[2:])))
    assert await client.call("state_getStorageHash", hexed(key)) == digest
    proof = await client.call("state_getReadProof", [hexed(key)], block)
    nodes = [bytes.fromhex(node[2:]) for node in proof["proof"]]
    root = Hash.from_hex(body["header"]["stateRoot"])
    assert hexed(verify_proof(root, nodes, key)) == stored
    genesis = await client.call("chain_getBlockHash", 0)
    assert await client.call("state_getStorage", hexed(key), genesis) != stored


async def test_a_block_hash_is_the_hash_of_its_encoded_header(client, wallet, node):
    await finalize(client, wallet.transfer("Alice"))
    head = node.chain.head
    assert head.hash == head.header.hash() == blake2_256(head.header.encode())
    assert Header.decode(head.header.encode()) == head.header
    child = await finalize(client, wallet.transfer("Alice"))
    header = await client.call("chain_getHeader", child)
    key = System.block_hash.key_of(head.number)
    assert await client.call("state_getStorage", hexed(key), child) == str(head.hash)
    parent = await client.call("chain_getHeader", header["parentHash"])
    assert int(parent["number"], 16) + 1 == int(header["number"], 16)
    log = header["digest"]["logs"][0]
    assert log == "0x06" + b"pow_".hex() + "80" + account("Alice").hex()


async def test_block_hashes_by_number_hex_and_list(client, node):
    genesis = str(node.chain.genesis_hash)
    head = await client.call("chain_getHead")
    assert head == await client.call("chain_getFinalizedHead")
    assert head == await client.call("chain_getBlockHash")
    assert await client.call("chain_getBlockHash", 0) == genesis
    assert await client.call("chain_getBlockHash", "0x0") == genesis
    assert await client.call("chain_getBlockHash", [0, 10**6]) == [genesis, None]
    assert await client.call("chain_getBlockHash", 10**9) is None
    assert (await client.error("chain_getBlockHash", 2**32))["code"] == -32602
    assert (await client.error("chain_getBlockHash", -1))["code"] == -32602
    assert await client.call("chain_getHeader", "0x" + "77" * 32) is None
    assert await client.call("chain_getBlock", "0x" + "77" * 32) is None


async def test_state_of_an_unknown_block_is_a_client_error(client):
    for method, *params in (
        ("state_getStorage", "0x00", "0x" + "77" * 32),
        ("state_getMetadata", "0x" + "77" * 32),
        ("state_getRuntimeVersion", "0x" + "77" * 32),
        ("state_call", "Core_version", "0x", "0x" + "77" * 32),
        ("state_getKeysPaged", "0x", 1, None, "0x" + "77" * 32),
        ("state_queryStorageAt", ["0x00"], "0x" + "77" * 32),
        ("state_getReadProof", ["0x00"], "0x" + "77" * 32),
    ):
        error = await client.error(method, *params)
        assert error["code"] == 4003, method
        assert error["message"].startswith("Client error: UnknownBlock"), method


async def test_runtime_calls_and_the_texts_that_clients_compare(client):
    version = await client.call("state_getRuntimeVersion")
    assert version["specName"] == "deepbrain"
    answer = await client.call("state_call", "AccountNonceApi_account_nonce", hexed(account("Bob")))
    assert answer == "0x00000000"
    error = await client.error("state_call", "Metadata_nothing", "0x")
    assert error["message"] == (
        "Client error: Execution failed: Other: Exported method Metadata_nothing is not found"
    )
    error = await client.error("state_call", "AccountNonceApi_account_nonce", "0x00")
    assert error["message"].startswith("Client error: Execution failed")
    plain = await client.call("state_getMetadata")
    assert plain.startswith("0x6d6574610e")
    for version in (14, 15):
        argument = hexed(codec_of(U32).encode(U32(version)))
        answer = await client.call("state_call", "Metadata_metadata_at_version", argument)
        decoded = codec_of(bytes | None).decode(bytes.fromhex(answer[2:]))
        assert decoded[:5] == b"meta" + bytes([version])


async def test_keys_come_in_pages(client):
    prefix = hexed(System.account.prefix)
    everybody = await client.call("state_getKeysPaged", prefix, 1000)
    assert len(everybody) >= 6
    assert everybody == sorted(everybody)
    first = await client.call("state_getKeysPaged", prefix, 2, prefix)
    rest = await client.call("state_getKeysPaged", prefix, 1000, first[-1])
    assert first + rest == everybody
    assert (await client.error("state_getKeysPaged", prefix, 1001))["code"] == 4002
    (entry,) = await client.call("state_queryStorageAt", [everybody[0], "0x1234"])
    assert [key for key, _ in entry["changes"]] == [everybody[0], "0x1234"]
    assert entry["changes"][1][1] is None
    pairs = await client.call("state_getPairs", prefix)
    assert [key for key, _ in pairs] == await client.call("state_getKeys", prefix) == everybody


async def test_fees_are_told_before_they_are_paid(client, wallet):
    extrinsic = wallet.transfer("Alice")
    info = await client.call("payment_queryInfo", hexed(extrinsic))
    assert info["class"] == "normal"
    assert int(info["partialFee"]) > 0
    assert info["weight"]["ref_time"] > 0
    before = (await funds(client, "Alice")).free
    await finalize(client, extrinsic)
    assert before - (await funds(client, "Alice")).free == PLANCK + int(info["partialFee"])


async def funds(client, name):
    stored = await client.call("state_getStorage", hexed(System.account.key_of(account(name))))
    return System.account.decode(bytes.fromhex(stored[2:])).data


async def test_a_watched_extrinsic_and_its_refusals(client, wallet):
    good = wallet.transfer("Alice", nonce=0)
    watch = await client.call("author_submitAndWatchExtrinsic", hexed(good))
    statuses = await client.until(watch, is_final)
    assert statuses[0] == "ready"
    assert [next(iter(status)) for status in statuses[1:]] == ["inBlock", "finalized"]
    assert await client.call("author_unwatchExtrinsic", watch) is True
    for extrinsic, code, data in (
        (good, 1010, "Transaction is outdated"),
        (good[:-1], 1001, None),
        (b"", 1001, None),
        (b"\x00" * 200_000, 1001, None),
        (forged(wallet.transfer("Alice", nonce=1)), 1010, "Transaction has a bad signature"),
        (
            wallet.transfer("Stranger", nonce=0),
            1010,
            "Inability to pay some fees (e.g. account balance too low)",
        ),
    ):
        for method in ("author_submitExtrinsic", "author_submitAndWatchExtrinsic"):
            error = await client.error(method, hexed(extrinsic))
            if error["code"] == 1012:  # the second time a forged one is known
                continue
            assert error["code"] == code
            assert code != 1010 or error["message"] == "Invalid Transaction"
            assert data is None or error["data"] == data


def forged(extrinsic):
    at = 2 + 1 + 1 + 32 + 1 + 10
    return extrinsic[:at] + bytes([extrinsic[at] ^ 1]) + extrinsic[at + 1 :]


async def test_future_ones_wait_and_nonces_count_the_pool(client, wallet, node):
    node.engine.announce = lambda extrinsics: None  # no block meanwhile
    node.pool.on_admitted = node.engine.announce
    watch = await client.call(
        "author_submitAndWatchExtrinsic", hexed(wallet.transfer("Bob", nonce=1))
    )
    assert await client.next(watch) == "future"
    assert await client.call("system_accountNextIndex", hexed(account("Bob"))) == 0
    first = wallet.transfer("Bob", nonce=0)
    digest = await client.call("author_submitExtrinsic", hexed(first))
    assert digest == str(blake2_256(first))
    assert await client.next(watch) == "ready"
    address = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
    assert await client.call("account_nextIndex", address) == 2
    assert len(await client.call("author_pendingExtrinsics")) == 2
    error = await client.error("author_submitExtrinsic", hexed(first))
    assert (error["code"], error["data"]) == (1013, digest)
    error = await client.error(
        "author_submitExtrinsic", hexed(wallet.transfer("Bob", nonce=0, amount=7))
    )
    assert error["code"] == 1014
    dearer = wallet.transfer("Bob", nonce=0, tip=10**12)
    await client.call("author_submitExtrinsic", hexed(dearer))
    assert hexed(first) not in await client.call("author_pendingExtrinsics")
    assert await client.call("author_removeExtrinsic", [str(blake2_256(dearer))]) == [
        str(blake2_256(dearer))
    ]
    assert (await client.error("author_submitExtrinsic", hexed(dearer)))["code"] == 1012
    assert (await client.error("account_nextIndex", "5Nonsense"))["code"] == -32602


async def test_a_batch_of_extrinsics_shares_a_block(client, wallet, node):
    requests = [
        {"jsonrpc": "2.0", "id": n, "method": "author_submitExtrinsic", "params": [hexed(raw)]}
        for n, raw in enumerate(wallet.transfer("Bob") for _ in range(100))
    ]
    await client.socket.send_json(requests)
    heads = await client.call("chain_subscribeNewHeads")
    total = 0
    while total < 100:
        block = await node_block(node, await client.next(heads))
        total += len(block.extrinsics) - 1
    assert total == 100
    assert [answer["id"] for answer in client.batches[0]] == list(range(100))


async def node_block(node, header):
    return node.chain.block(node.chain.hash_of(int(header["number"], 16)))


async def test_heads_storage_and_versions_are_followed(client, wallet):
    heads = await client.call("chain_subscribeNewHeads")
    finals = await client.call("chain_subscribeFinalizedHeads")
    version = await client.call("state_subscribeRuntimeVersion")
    key = hexed(System.account.key_of(account("Eve")))
    other = hexed(System.account.key_of(account("Ferdie")))
    storage = await client.call("state_subscribeStorage", [key, other])
    first = await client.next(heads)
    assert await client.next(finals) == first
    assert (await client.next(version))["specVersion"] == 1
    now = await client.next(storage)
    assert {name for name, _ in now["changes"]} == {key, other}
    block = await finalize(client, wallet.transfer("Alice", to="Eve"))
    change = await client.next(storage)
    assert change["block"] == block
    assert [name for name, _ in change["changes"]] == [key]
    assert int((await client.next(heads))["number"], 16) == int(first["number"], 16) + 1
    assert await client.call("state_unsubscribeStorage", storage) is True
    assert (await client.error("state_subscribeStorage", []))["code"] == -32602
    assert (await client.error("state_subscribeStorage"))["code"] == -32602


async def test_what_a_call_refuses_is_in_the_block_with_its_fee(client, wallet, node):
    call = transfer_call(account("Dave"), 2**127)
    block = await finalize(client, wallet.sign("Alice", call))
    number = node.chain.number_of(Hash.from_hex(block))
    executive = node.chain.executive(1)
    events = executive.runtime.events.decode(node.chain.events(number))
    assert [type(record.event).__name__ for record in events][-1] == "ExtrinsicFailed"
    assert await client.call("state_getStorage", hexed(System.events.key_of()), block) == hexed(
        node.chain.events(number)
    )


async def test_names_are_what_wallets_show(client):
    assert await client.call("system_chain") == "DeepBrain Dev"
    assert await client.call("system_chainType") == "Development"
    assert await client.call("system_properties") == {
        "ss58Format": 42,
        "tokenDecimals": 15,
        "tokenSymbol": "DBC",
    }
    assert (await client.call("system_health"))["isSyncing"] is False
    assert await client.call("system_name") == "DeepBrain"
    assert await client.call("system_version")
    assert await client.call("system_nodeRoles") == ["Authority"]
    assert (await client.call("system_syncState"))["startingBlock"] == 0
    assert await client.call("system_peers") == []

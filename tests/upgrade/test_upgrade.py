"""A new version of the rules takes over while everything runs."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.node.world import (
    DEV,
    Wallet,
    account,
    connected,
    hexed,
    running_node,
)
from tests.upgrade.next_version import NEXT, SOURCE, NextRuntime
from tests.upgrade.notes import Notes

from deepbrain.node.chain import Chain, InherentData, Order
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import CODE_KEY, Code, System
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import U32, BlockNumber
from deepbrain.runtime.extrinsic import Signing
from deepbrain.runtime.runtime import RUNTIMES
from deepbrain.state.memory import MemoryStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def both_versions(monkeypatch):
    monkeypatch.setitem(RUNTIMES, NEXT, NextRuntime)


def schedule(block):
    call = System.schedule_upgrade.make(
        spec_version=U32(NEXT), source=SOURCE, block=BlockNumber(block)
    )
    return Sudo.sudo.make(call=call)


def next_wallet(genesis, nonces):
    wallet = Wallet(genesis)
    wallet.signing = Signing(NEXT, 1, genesis)
    wallet.nonces = nonces
    return wallet


async def until_block(node, number):
    async with asyncio.timeout(20):
        while node.chain.head.number < number:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def upgraded(node, wallet, ahead=4):
    """Schedule an upgrade and wait for it; gives the block that made it."""
    block = node.chain.head.number + ahead
    (outcome,) = await node.pool.submit([wallet.sign("Alice", schedule(block))])
    assert isinstance(outcome, Hash), outcome
    await until_block(node, block)
    return block


async def test_everybody_who_listens_hears_of_the_upgrade(both_versions):
    async with running_node(interval=0.1) as node, connected(node) as client:
        wallet = Wallet(node.chain.genesis_hash)
        versions = await client.call("state_subscribeRuntimeVersion")
        assert (await client.next(versions))["specVersion"] == 1
        follow = await client.call("chainHead_v1_follow", True)
        block = await upgraded(node, wallet)
        assert (await client.next(versions))["specVersion"] == NEXT
        events = await client.until(follow, lambda event: event.get("newRuntime"))
        assert events[-1]["newRuntime"]["spec"]["specVersion"] == NEXT
        assert events[-1]["blockHash"] == str(node.chain.hash_of(block))
        header = await client.call("chain_getHeader", events[-1]["blockHash"])
        assert "0x08" in header["digest"]["logs"]
        events = await client.until(follow, lambda event: event["event"] == "newBlock")
        assert events[-1]["newRuntime"] is None
        code = Code(name="deepbrain", spec_version=U32(NEXT), source=SOURCE)
        assert await client.call("state_getStorage", hexed(CODE_KEY)) == hexed(code.encode())


async def test_old_blocks_answer_by_the_old_rules_and_new_ones_by_the_new(both_versions):
    async with running_node(interval=0.1) as node, connected(node) as client:
        wallet = Wallet(node.chain.genesis_hash)
        block = await upgraded(node, wallet)
        old, new = (str(node.chain.hash_of(n)) for n in (block - 1, block))
        for at, version in ((old, 1), (new, NEXT)):
            found = await client.call("state_getRuntimeVersion", at)
            assert found["specVersion"] == version
            assert (b"Notes".hex() in await client.call("state_getMetadata", at)) == (
                version == NEXT
            )
            for asked in (14, 15, 16):
                metadata = await client.call(
                    "state_call",
                    "Metadata_metadata_at_version",
                    hexed(asked.to_bytes(4, "little")),
                    at,
                )
                assert (b"Notes".hex() in metadata) == (version == NEXT)
        since = hexed(Notes.since.key_of())
        assert await client.call("state_getStorage", since, old) is None
        assert await client.call("state_getStorage", since, new) == hexed(
            block.to_bytes(4, "little")
        )


async def test_a_new_call_works_and_an_old_signature_does_not(both_versions):
    async with running_node(interval=0.1) as node, connected(node) as client:
        old = Wallet(node.chain.genesis_hash)
        # Signed by the old rules and not ready: it waits, and is thrown out when the rules change.
        waiting = old.transfer("Bob", nonce=5)
        await node.pool.submit([waiting])
        assert node.pool.pending() == [waiting]
        await upgraded(node, old)
        assert node.pool.pending() == []
        late = old.transfer("Bob", nonce=0)
        refused = await client.error("author_submitExtrinsic", hexed(late))
        assert (refused["code"], refused["data"]) == (1010, "Transaction has a bad signature")
        new = next_wallet(node.chain.genesis_hash, old.nonces)
        note = new.sign("Bob", Notes.note.make(text=b"hello"), nonce=0)
        watch = await client.call("author_submitAndWatchExtrinsic", hexed(note))
        *_, last = await client.until(watch, lambda s: isinstance(s, dict) and "finalized" in s)
        key = hexed(Notes.notes.key_of(account("Bob")))
        assert (
            await client.call("state_getStorage", key, last["finalized"]) == "0x14" + b"hello".hex()
        )


async def test_replayed_across_the_upgrade_the_chain_is_the_same(both_versions):
    async with running_node(interval=0.1) as node:
        wallet = Wallet(node.chain.genesis_hash)
        await upgraded(node, wallet)
        new = next_wallet(node.chain.genesis_hash, wallet.nonces)
        await node.pool.submit([new.sign("Bob", Notes.note.make(text=b"hello"))])
        await until_block(node, node.chain.head.number + 3)
        chain = node.chain
        again = Chain(MemoryStore(), DEV, "solo")
        for number in range(1, chain.head.number + 1):
            digest = chain.hash_of(number)
            block, header = chain.block(digest), chain.header(digest)
            executive = again.executive(chain.spec_version(digest))
            author = node.engine._author
            context = executive.context_of(
                BlockNumber(number), header.parent_hash, author, block.extrinsics
            )
            data = InherentData(context.moment, author)
            order = Order(header.parent_hash, data, block.extrinsics[1:])
            notice = again.finalize(order, ())
            assert notice.head.hash == digest


async def test_a_node_without_the_version_stops_with_one_sentence_and_loses_nothing(
    both_versions, tmp_path, monkeypatch
):
    async with running_node(tmp_path, interval=0.1) as node:
        wallet = Wallet(node.chain.genesis_hash)
        block = node.chain.head.number + 8
        await node.pool.submit([wallet.sign("Alice", schedule(block))])
        await until_block(node, node.chain.head.number + 2)
    words = [sys.executable, "-m", "deepbrain.node", "--data", str(tmp_path), "--interval", "0.05"]
    done = await asyncio.to_thread(
        subprocess.run, [*words, "--rpc-port", "0"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "The node stops before the next block: block makers must run version 2"
    )
    assert len(done.stderr.splitlines()) == 1
    # With the version it goes on, from the very block before.
    words[2] = "tests.upgrade.node"
    process = await asyncio.create_subprocess_exec(
        *words, "--rpc-port", "0", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    line = (await process.stdout.readline()).decode()
    assert f"head={block - 1}" in line
    process.terminate()
    assert await process.wait() == 0
    async with running_node(tmp_path) as node:
        assert node.chain.spec_version() == NEXT
        with node.chain.snapshot(node.chain.hash_of(block)) as state:
            assert state.get(Notes.since.key_of()) == block.to_bytes(4, "little")

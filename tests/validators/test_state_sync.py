"""A node that joins late, with the real CometBFT: a snapshot, a light client, and then block by block."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from tests.node.world import Wallet, account, running_node
from tests.validators.chain import free_ports, spec_file

from deepbrain.node.chain import Chain
from deepbrain.node.comet import retaining
from deepbrain.node.comet import snapshots as shelves
from deepbrain.node.comet.home import CometConfig, CometHome, StateSync
from deepbrain.node.node import Node, NodeConfig
from deepbrain.node.rpc.server import Bind
from deepbrain.node.signatures import InlineSignatures
from deepbrain.pallets.system import System
from deepbrain.primitives.hashing import blake2_256
from deepbrain.runtime.chainspec import ChainSpec
from deepbrain.state import snapshots as streams
from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.trie import prove, verify_proof

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

EVERY = 15
INTERVAL_MS = 500


@asynccontextmanager
async def validator(data, every=EVERY, interval_ms=INTERVAL_MS, **constants):
    """The one validator of a chain, with an RPC of CometBFT's; its peer name and that RPC."""
    home = CometHome(data / "comet")
    keys = home.ensure_keys()
    spec = ChainSpec.parse(spec_file([keys.key], interval_ms=interval_ms, **constants))
    p2p, rpc = free_ports(2)
    comet = CometConfig(
        listen=f"127.0.0.1:{p2p}",
        rpc=f"127.0.0.1:{rpc}",
        private=True,
        snapshot_interval=every,
    )
    async with running_node(data, spec=spec, comet=comet) as node:
        node.peer, node.comet_rpc = f"{keys.node_id}@127.0.0.1:{p2p}", comet.rpc
        yield node, spec


@asynccontextmanager
async def joining(spec, peers, sync, data, every=EVERY):
    CometHome(data / "comet").ensure_keys()
    (p2p,) = free_ports(1)
    comet = CometConfig(
        listen=f"127.0.0.1:{p2p}",
        private=True,
        peers=tuple(peers),
        sync=sync,
        snapshot_interval=every,
    )
    config = NodeConfig(spec=spec, data=data, bind=Bind(port=0), comet=comet)
    node = Node(config, signatures=InlineSignatures())
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


async def trusted(node, height):
    """What whoever starts a node would look up at a node of theirs."""
    commit = await asked_of(node, f"commit?height={height}")
    found = commit["signed_header"]["commit"]["block_id"]["hash"]
    return StateSync(servers=(node.comet_rpc, node.comet_rpc), height=height, hash=found)


async def asked_of(node, what):
    url = f"http://{node.comet_rpc}/{what}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return (await answer.json())["result"]


async def until(holds, seconds=90):
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - other processes do it
            await asyncio.sleep(0.05)


def shelf(node):
    return node.engine.snapshots.shelf


async def pay(node, count):
    wallet = Wallet(node.chain.genesis_hash)
    await node.pool.submit([wallet.transfer("Alice", to=f"new {n}") for n in range(count)])
    await until(lambda: node.pool.ready == 0)


async def test_a_fresh_node_joins_by_a_snapshot_follows_and_proves(tmp_path):
    async with validator(tmp_path / "first") as (first, spec):
        await pay(first, 20)
        await until(lambda: len(shelf(first).listed()) == 2)
        at = shelf(first).oldest
        await until(lambda: first.chain.head.number > at + 3)
        sync = await trusted(first, at + 1)
        data = tmp_path / "second"
        async with joining(spec, [first.peer], sync, data) as second:
            await until(lambda: second.chain.head.number > 0)
            joined = second.chain.oldest_block - 1
            assert joined >= at, "it executed every block"
            assert joined % EVERY == 0
            await until(lambda: second.chain.head.number > joined + EVERY)
            head = second.chain.head
            assert first.chain.hash_of(head.number) == head.hash
            assert first.chain.header(head.hash).state_root == head.header.state_root
            key = System.account.key_of(account("new 7"))
            with second.chain.snapshot(head.hash) as state:
                proof, value = prove(state, [key]), state.get(key)
            assert value is not None
            assert verify_proof(head.header.state_root, proof, key) == value
            # An extrinsic that it is given reaches the validator.
            wallet = Wallet(second.chain.genesis_hash)
            (outcome,) = await second.pool.submit([wallet.transfer("Bob", to="Alice")])
            await until(
                lambda: any(
                    blake2_256(raw) == outcome
                    for n in range(head.number, first.chain.head.number + 1)
                    for raw in first.chain.block(first.chain.hash_of(n)).extrinsics
                )
            )
            # It offers the next snapshot, and it is the same.
            await until(lambda: shelf(second).oldest is not None)
            both = {each.height: each.hash for each in shelf(second).listed()}.items() & {
                each.height: each.hash for each in shelf(first).listed()
            }.items()
            assert both
        # Started again, with the same options, it goes on where it was.
        stood_at = second.chain.head.number
        async with joining(spec, [first.peer], sync, data) as second:
            assert second.chain.head.number == stood_at
            await until(lambda: second.chain.head.number > stood_at + 3)
            assert second.chain.oldest_block == joined + 1


async def test_a_crash_between_our_joining_and_cometbft_s_is_begun_again(tmp_path):
    async with validator(tmp_path / "first") as (first, spec):
        await pay(first, 5)
        await until(lambda: shelf(first).oldest is not None)
        at = shelf(first).oldest
        await until(lambda: first.chain.head.number > at + 3)
        # This is what it leaves: our store at the snapshot's block, and a CometBFT without any.
        data = tmp_path / "second"
        store = LmdbStore(data / "chain")
        rows = shelf(first).path / str(at) / "rows"
        root = first.chain.header(first.chain.hash_of(at)).state_root
        Chain(store, spec, "cometbft").join(at, root, lambda: streams.read_stream(rows))
        store.close()
        async with joining(spec, [first.peer], await trusted(first, at + 1), data) as second:
            assert second.chain.head.number == at
            await until(lambda: second.chain.head.number > at + EVERY)
            head = second.chain.head
            assert first.chain.hash_of(head.number) == head.hash


async def test_a_peer_with_corrupt_chunks_does_not_stop_it(tmp_path, monkeypatch, caplog):
    # Many chunks: some are asked of each peer. Taken here, as another process would cut by megabytes.
    monkeypatch.setattr(streams, "CHUNK", 256)
    monkeypatch.setattr(shelves, "CHUNK", 256)
    async with validator(tmp_path / "first", every=0) as (first, spec):
        await pay(first, 20)
        async with joining(spec, [first.peer], None, tmp_path / "liar", every=0) as liar:
            at = first.chain.head.number + 2
            await until(lambda: liar.chain.head.number > at + 2)
            for node in (first, liar):
                shelves.take(node.store, at, shelf(node).path)
                shelf(node).look()
            assert shelf(first).listed() == shelf(liar).listed()
            assert shelf(first).listed()[0].chunks > 10
            rows = shelf(liar).path / str(at) / "rows"
            rows.write_bytes(bytes(rows.stat().st_size))
            sync = await trusted(first, 2)
            liar_peer = f"{liar.engine.keys.node_id}@{liar.config.comet.listen}"
            third_data = tmp_path / "third"
            async with joining(spec, [liar_peer, first.peer], sync, third_data, every=0) as third:
                await until(lambda: third.chain.head.number > 0, 120)
                assert "is not what its hash says" in caplog.text
                assert third.chain.oldest_block == at + 1
                head = third.chain.head
                await until(lambda: first.chain.head.number >= head.number)
                assert first.chain.hash_of(head.number) == head.hash


async def test_cometbft_forgets_what_nobody_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(retaining, "AT_LEAST", 5)
    monkeypatch.setattr(retaining, "EVERY", 5)
    brief = {"unbonding": 4}
    async with validator(
        tmp_path, every=0, interval_ms=200, Validators=brief, Timestamp={"era_length": 2000}
    ) as (node, _):
        await until(lambda: node.chain.head.number > 60)
        status = await asked_of(node, "status")
        earliest = int(status["sync_info"]["earliest_block_height"])
        assert 1 < earliest <= node.chain.head.number - 5
        # Ours are all there.
        assert node.chain.block(node.chain.hash_of(1)) is not None

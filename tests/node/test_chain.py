"""The chain in its data directory: restarts, strangers' directories, crashes, upgrades."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace

import aiohttp
import pytest
from tests.node.world import (
    DEV,
    RpcClient,
    Wallet,
    account,
    hexed,
    is_final,
    running_node,
)

from deepbrain.node.chain import Chain, InherentData, Order
from deepbrain.node.errors import NodeError
from deepbrain.node.node import Node, NodeConfig, load_spec
from deepbrain.node.rpc.server import Bind
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import System
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import U32, BlockNumber, Moment
from deepbrain.runtime.executive import Executive
from deepbrain.state.errors import StoreError, UnknownState
from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.memory import MemoryStore
from deepbrain.state.store import Retention
from deepbrain.state.trie import full_root


def order(chain, *extrinsics, moment=None):
    data = InherentData(moment or chain.earliest + 1000, account("Alice"))
    return Order(chain.head.hash, data, tuple(extrinsics))


@pytest.fixture
def chain():
    return Chain(MemoryStore(), DEV, "solo")


def test_a_block_that_is_proposed_and_finalised_runs_once(chain, monkeypatch):
    runs = []
    apply_block, propose = Executive.apply_block, Executive.propose
    monkeypatch.setattr(
        Executive, "apply_block", lambda *args: runs.append("apply") or apply_block(*args)
    )
    monkeypatch.setattr(
        Executive, "propose", lambda *args: runs.append("propose") or propose(*args)
    )
    wallet = Wallet(chain.genesis_hash)
    data = InherentData(Moment(1_000_000), account("Alice"))
    made = chain.propose(data, [wallet.transfer("Alice")], ())
    assert len(made.extrinsics) == 1
    proposed = Order(chain.head.hash, data, made.extrinsics)
    assert chain.accepts(proposed, ())
    chain.finalize(proposed, ())
    assert runs == ["propose"]
    other = order(chain, wallet.transfer("Alice"))
    assert chain.accepts(other, ())
    chain.finalize(other, ())
    assert runs == ["propose", "apply"]


def test_a_proposer_and_a_follower_come_to_the_same_block():
    maker, follower = (Chain(MemoryStore(), DEV, "solo") for _ in range(2))
    wallet = Wallet(maker.genesis_hash)
    extrinsics = [wallet.transfer(name) for name in ("Alice", "Bob", "Alice")]
    data = InherentData(Moment(1_000_000), account("Bob"))
    made = maker.propose(data, extrinsics, ())
    block = Order(maker.head.hash, data, made.extrinsics)
    maker.finalize(block, ())
    follower.finalize(block, ())
    assert maker.head == follower.head


def test_a_chain_that_names_its_rules_outlives_the_release_that_began_it(monkeypatch):
    named, unnamed = replace(DEV, source=Hash(bytes(range(32)))), DEV

    def genesis(spec):
        return Chain(MemoryStore(), spec, "solo").genesis_hash

    before = genesis(named), genesis(unnamed)
    monkeypatch.setattr("deepbrain.runtime.genesis.SOURCE", Hash(bytes(32)))  # another release
    assert genesis(named) == before[0]
    assert genesis(unnamed) != before[1]


def test_a_final_block_that_breaks_the_rules_stops_the_node(chain):
    with pytest.raises(NodeError, match="breaks the rules"):
        chain.finalize(order(chain, b"garbage"), ())
    assert chain.head.number == 0


def number_in(chain, number):
    """What the state after a block says of its number."""
    with chain.snapshot(chain.hash_of(number)) as state:
        return int.from_bytes(state.get(System.number.key_of()), "little")


def test_four_thousand_and_ninety_six_blocks_back_everything_is_read(chain):
    for _ in range(4200):
        chain.finalize(order(chain), ())
    oldest = chain.head.number - 4096
    for number in (oldest, oldest + 1, chain.head.number):
        assert number_in(chain, number) == number
        assert chain.spec_version(chain.hash_of(number)) == 1
        assert chain.call("Core_version", b"", chain.hash_of(number))
    for number in (0, 1, oldest - 1):
        with pytest.raises(UnknownState):
            number_in(chain, number)
        # Blocks are there for ever, and that of block 0 names the chain.
        assert chain.block(chain.hash_of(number)).header.number == number
    assert chain.events(1)
    assert chain.hash_of(0) == chain.genesis_hash
    assert chain.hash_of(chain.head.number + 1) is None


def test_an_archive_keeps_every_state():
    chain = Chain(MemoryStore(retention=Retention(states=None, proofs=4)), DEV, "solo")
    for _ in range(40):
        chain.finalize(order(chain), ())
    assert [number_in(chain, number) for number in range(1, 41)] == list(range(1, 41))


def test_a_directory_belongs_to_one_chain_and_one_engine(tmp_path):
    store = LmdbStore(tmp_path)
    Chain(store, DEV, "solo")
    with pytest.raises(NodeError, match="belongs to the solo engine"):
        Chain(store, DEV, "other")
    with pytest.raises(NodeError, match="another chain than mainnet"):
        Chain(store, load_spec("mainnet"), "solo")
    store.close()


def test_a_software_without_the_scheduled_runtime_stops_before_its_block(chain):
    wallet = Wallet(chain.genesis_hash)
    call = System.schedule_upgrade.make(
        spec_version=U32(99), source=Hash(b"s" * 32), block=BlockNumber(3)
    )
    chain.finalize(order(chain, wallet.sign("Alice", Sudo.sudo.make(call=call))), ())
    chain.finalize(order(chain), ())
    with pytest.raises(NodeError, match=r"^The node stops before the next block: .* 99 .*\.$"):
        chain.finalize(order(chain), ())
    assert chain.head.number == 2


def test_specs_that_are_not_there_or_not_right_are_one_sentence(tmp_path):
    with pytest.raises(NodeError, match="no chain spec"):
        load_spec("nowhere")
    bad = tmp_path / "bad.json"
    for text in ("", "[]", "{}", '{"id": 1}'):
        bad.write_text(text)
        with pytest.raises(NodeError, match="cannot be used"):
            load_spec(str(bad))


async def test_a_restart_goes_on_where_it_was(tmp_path):
    async with running_node(tmp_path) as node:
        wallet = Wallet(node.chain.genesis_hash)
        (digest,) = await node.pool.submit([wallet.transfer("Alice")])
        while digest in node.pool:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        head = node.chain.head
        with pytest.raises(StoreError, match="in use by process"):
            Node(NodeConfig(spec=DEV, data=tmp_path, bind=Bind(port=0)))
    async with running_node(tmp_path) as node:
        assert node.chain.header(head.hash) == head.header
        assert node.chain.head.number > head.number
        (error,) = await node.pool.submit([Wallet(node.chain.genesis_hash).transfer("Alice")])
        assert str(error) == "Transaction is outdated"


async def test_a_full_disk_stops_the_node_and_spoils_nothing(tmp_path, monkeypatch):
    async with running_node(tmp_path, interval=0.05) as node:
        monkeypatch.setattr(node.store, "_min_free", 1 << 60)
        with pytest.raises(StoreError):
            async with asyncio.timeout(5):
                await node.wait()
        number = node.chain.head.number
    async with running_node(tmp_path) as node:
        assert node.chain.head.number == number + 1


OPTIONS = ("--rpc-port", "0", "--interval", "0.05")


class Process:
    """A node in a process of its own."""

    def __init__(self, data):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deepbrain.node", "--data", data, *OPTIONS],
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = re.match(r"ready rpc=(\S+) genesis=(\S+)", self.process.stdout.readline())
        self.url, self.genesis = ready[1].replace("ws:", "http:"), Hash.from_hex(ready[2])

    def end(self, number):
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process.stdout.close()
        return code


async def submit_until(process, wallet, killed):
    """Transfer, and wait for each to be final, until the node is gone; what was final."""
    final = []
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(process.url) as socket:
            client = RpcClient(socket)
            index = await client.call("system_accountNextIndex", hexed(account("Alice")))
            wallet.nonces["Alice"] = index
            while True:
                raw = wallet.transfer("Alice", to="Dave", amount=10**15)
                watch = await client.call("author_submitAndWatchExtrinsic", hexed(raw))
                await client.until(watch, is_final)
                final.append(raw)
    except (AssertionError, aiohttp.ClientError):
        assert killed.is_set()
    return final


@pytest.mark.timeout(240)
async def test_kill_9_at_random_moments_loses_nothing(tmp_path):
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(1 << 32)))
    chance = random.Random(seed)
    final = []
    for _ in range(8):
        process = Process(tmp_path)
        wallet, killed = Wallet(process.genesis), asyncio.Event()
        work = asyncio.create_task(submit_until(process, wallet, killed))
        await asyncio.sleep(chance.uniform(0.05, 0.6))
        killed.set()
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        final += await work
    process = Process(tmp_path)
    assert process.end(signal.SIGTERM) == 0
    store = LmdbStore(tmp_path / "chain")
    chain = Chain(store, DEV, "solo")
    try:
        with chain.snapshot() as state:
            assert chain.head.header.state_root == full_root(state.iterate(b"")), seed
            nonce = System.account.decode(state.get(System.account.key_of(account("Alice")))).nonce
        included = [
            raw
            for number in range(1, chain.head.number + 1)
            for raw in chain.block(chain.hash_of(number)).extrinsics[1:]
        ]
        assert len(included) == len(set(included)) == nonce
        assert set(final) <= set(included), seed
        assert nonce >= len(final)
    finally:
        store.close()

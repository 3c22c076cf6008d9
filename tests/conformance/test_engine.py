"""One scenario for every engine: what the chain promises, whoever orders its extrinsics.

An engine joins by a row in `ENGINES`: its name, and an async context manager that gives a `World` in
which that engine runs.
"""

from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from tests.node.world import (
    DEV,
    RpcClient,
    Wallet,
    account,
    connected,
    hexed,
    is_final,
    running_node,
)
from tests.validators.chain import lone_validator

from deepbrain.frame.header import author_of
from deepbrain.node.chain import Chain, InherentData, Order
from deepbrain.node.node import Node
from deepbrain.pallets.system import System
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.units import PLANCK, BlockNumber, Moment
from deepbrain.runtime.chainspec import ChainSpec
from deepbrain.state.memory import MemoryStore
from deepbrain.state.trie import full_root


@dataclass
class World:
    """A network under one engine, and a client of one of its nodes."""

    node: Node
    client: RpcClient
    wallet: Wallet
    spec: ChainSpec

    async def final(self, *extrinsics):
        """Submit all, wait until all are final; their blocks."""
        watches = [
            await self.client.call("author_submitAndWatchExtrinsic", hexed(extrinsic))
            for extrinsic in extrinsics
        ]
        return [(await self.client.until(one, is_final))[-1]["finalized"] for one in watches]


@asynccontextmanager
async def solo(data):
    async with running_node(data, interval=0.2) as node, connected(node) as client:
        yield World(node, client, Wallet(node.chain.genesis_hash), DEV)


@asynccontextmanager
async def cometbft(data):
    async with lone_validator(data) as (node, spec), connected(node) as client:
        yield World(node, client, Wallet(node.chain.genesis_hash), spec)


ENGINES = {"solo": solo, "cometbft": cometbft}


@pytest.fixture(params=sorted(ENGINES))
async def world(request, tmp_path):
    async with ENGINES[request.param](tmp_path / "node") as world:
        yield world


async def test_extrinsics_become_final_in_the_order_of_their_nonces(world):
    extrinsics = [world.wallet.transfer("Alice") for _ in range(5)]
    blocks = await world.final(*extrinsics)
    order = []
    for block in dict.fromkeys(blocks):
        body = (await world.client.call("chain_getBlock", block))["block"]["extrinsics"]
        order += body[1:]
    assert order == [hexed(extrinsic) for extrinsic in extrinsics]


async def test_blocks_come_without_extrinsics_and_their_time_goes_on(world):
    heads = await world.client.call("chain_subscribeNewHeads")
    seen = [await world.client.next(heads) for _ in range(3)]
    numbers = [int(head["number"], 16) for head in seen]
    assert numbers == list(range(numbers[0], numbers[0] + 3))
    moments = []
    for number in numbers:
        block = await world.client.call("chain_getBlockHash", number)
        stored = await world.client.call("state_getStorage", hexed(Timestamp.now.key_of()), block)
        moments.append(Timestamp.now.decode(bytes.fromhex(stored[2:])))
    assert moments == sorted(set(moments))


async def test_the_root_in_the_header_is_that_of_the_whole_state(world):
    (block,) = await world.final(world.wallet.transfer("Alice"))
    header = await world.client.call("chain_getHeader", block)
    with world.node.chain.snapshot(world.node.chain.hash_of(int(header["number"], 16))) as state:
        assert header["stateRoot"] == str(full_root(state.iterate(b"")))


async def test_money_moves_once_and_the_fee_is_kept(world):
    before = free(world.node, "Dave")
    extrinsic = world.wallet.transfer("Alice", to="Dave", amount=3 * PLANCK)
    await world.final(extrinsic)
    assert free(world.node, "Dave") == before + 3 * PLANCK
    error = await world.client.error("author_submitExtrinsic", hexed(extrinsic))
    assert error["data"] == "Transaction is outdated"


async def test_a_block_that_somebody_else_made_is_judged(world):
    """What a BFT engine asks before it votes."""
    ledger, author = world.node.ledger, account("Bob")
    world.node.engine.announce = lambda extrinsics: None
    await stop_engine(world.node)
    data = InherentData(ledger.earliest + 1000, author)
    good = world.wallet.transfer("Bob")
    forged = good[:60] + bytes([good[60] ^ 1]) + good[61:]
    assert await ledger.accepts(data, [good])
    assert not await ledger.accepts(data, [forged])
    assert not await ledger.accepts(data, [good, good])
    assert not await ledger.accepts(data, [b"garbage"])
    assert not await ledger.accepts(InherentData(Moment(0), author), [good])
    head = await ledger.finalize(data, [good])
    assert head.number == world.node.chain.head.number
    assert blake2_256(good) not in world.node.pool


async def test_its_blocks_replayed_give_the_same_hashes(world):
    """Header and body are all there is to know of a block, whoever ordered it."""
    await world.final(*(world.wallet.transfer("Alice") for _ in range(3)))
    await world.final(world.wallet.transfer("Bob"))
    chain = world.node.chain
    again = Chain(MemoryStore(), world.spec, "replay")
    assert again.genesis_hash == chain.genesis_hash
    for number in range(1, chain.head.number + 1):
        digest = chain.hash_of(number)
        block = chain.block(digest)
        executive = again.executive(chain.spec_version(digest))
        context = executive.context_of(
            BlockNumber(number),
            block.header.parent_hash,
            author_of(block.header.digest),
            block.extrinsics,
        )
        data = InherentData(context.moment, context.author, context.report)
        body = block.extrinsics[len(executive.inherents(context)) :]
        notice = again.finalize(Order(again.head.hash, data, body), ())
        assert (notice.head.hash, notice.head.header) == (digest, block.header)


async def stop_engine(node):
    for task in node._tasks:
        task.cancel()
    await node.ledger.accepts(InherentData(node.ledger.earliest, account("Bob")), [])


def free(node, name):
    with node.chain.snapshot() as state:
        stored = state.get(System.account.key_of(account(name)))
    return System.account.decode(stored).data.free

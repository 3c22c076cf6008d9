"""The agent's chain over a real node in this process."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from deepbrain.client import Client
from deepbrain.node.node import Node, NodeConfig, load_spec
from deepbrain.node.rpc.server import Bind
from deepbrain.node.signatures import InlineSignatures
from deepbrain.pallets.machines import (
    Address,
    BondMessage,
    Hardware,
    Isolation,
    Machines,
    Network,
    bond_message,
)
from deepbrain.pallets.rent import Ended, Ending, OrderPlaced, Rent
from deepbrain.pallets.system import System
from deepbrain.primitives.ids import Hash, MachineId
from deepbrain.primitives.keys import Keypair, Scheme
from deepbrain.primitives.units import PLANCK, U16, U32, Balance, MicroUsd, Seconds
from deepbrain.provider.chain import ChainUnavailable, Closing, Known, OrderPhase, Unknown
from deepbrain.provider.onchain import OnChain

ALICE, BOB = Keypair.from_uri("//Alice"), Keypair.from_uri("//Bob")
KEY = Keypair.from_seed(b"\x07" * 32, Scheme.ED25519)
MACHINE = MachineId(KEY.public)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    bind = Bind(port=0)
    running = Node(
        NodeConfig(spec=load_spec("dev"), data=None, bind=bind, interval=0.2),
        signatures=InlineSignatures(),
    )
    await running.start()
    yield running
    await running.stop()


def url(node: Node) -> str:
    return f"ws://127.0.0.1:{node.server.port}"


async def bond(client: Client) -> None:
    message = BondMessage(machine=MACHINE, stash=BOB.public, controller=BOB.public, nonce=U32(0))
    hardware = Hardware(
        gpu_model="",
        gpus=U16(0),
        gpu_memory_mib=U32(0),
        cpu_model="test",
        cpus=U16(2),
        memory_mib=U32(1024),
        disk_mib=U32(1024),
    )
    call = Machines.bond.make(
        machine=MACHINE,
        hardware=hardware,
        isolation=Isolation.GVISOR,
        network=Network.NONE,
        price=MicroUsd(1000),
        address=Address(endpoints=(), relays=()),
        signature=KEY.sign(bond_message(client.genesis_hash, message)),
    )
    await client.submit(call, BOB)


async def place(client: Client) -> int:
    call = Rent.place.make(
        machine=MACHINE,
        units=U16(1),
        seconds=Seconds(60),
        manifest_hash=Hash(b"\x09" * 32),
        max_total=Balance(100 * PLANCK),
        offer_version=U32(0),
        start_within=Seconds(600),
    )
    receipt = await client.submit(call, ALICE, wait="finalized")
    return int(receipt.one(OrderPlaced).order)


async def known(chain: OnChain) -> Known:
    found = await chain.snapshot()
    assert isinstance(found, Known), found
    return found


async def test_an_order_is_seen_started_and_closed(node: Node) -> None:
    chain = OnChain(url(node), MACHINE, BOB)
    async with await Client.connect(url(node)) as client:
        assert (await known(chain)).orders == {}
        await bond(client)
        changes = aiter(chain.changes())
        async with asyncio.timeout(5):
            await anext(changes)
        number = await place(client)
        seen = await known(chain)
        order = seen.orders[number]
        assert (order.phase, order.renter, order.seconds) == (OrderPhase.PLACED, ALICE.public, 60)
        assert order.start_by > seen.service
        assert seen.owners == {BOB.public}
        assert seen.blocks_per_day == 86_400
        assert seen.genesis == client.genesis_hash
        await chain.start(number)
        seen = await known(chain)
        assert seen.orders[number].phase is OrderPhase.RUNNING
        assert 0 < seen.orders[number].ends_at - seen.service <= 60
        with pytest.raises(ChainUnavailable, match="AlreadyStarted"):
            await chain.start(number)
        await chain.close(number, Closing.EXITED, 3)
        assert (await known(chain)).orders[number].phase is OrderPhase.ENDED
        found = await client.at().get(Rent.orders, number)
        assert isinstance(found.status, Ended)
        assert (found.status.ending, found.status.exit_code) == (Ending.EXITED, 3)
        failed = await place(client)
        await chain.close(failed, Closing.FAILED, None)
        found = await client.at().get(Rent.orders, failed)
        assert found.status.ending is Ending.FAILED
        await changes.aclose()
    await chain.disconnect()


async def test_a_node_that_is_away_or_of_another_chain_is_unknown(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepbrain.provider.onchain.CONNECT_SECONDS", 0.3)
    nobody = OnChain("ws://127.0.0.1:9", MACHINE, BOB)
    assert isinstance(await nobody.snapshot(), Unknown)
    with pytest.raises(ChainUnavailable):
        await nobody.start(1)
    stranger = OnChain(url(node), MACHINE, BOB, genesis=Hash(bytes(32)))
    found = await stranger.snapshot()
    assert isinstance(found, Unknown)
    assert "another chain" in found.reason
    await stranger.disconnect()


async def test_the_controller_agrees_to_serve_a_stash_that_asks_and_no_other(node: Node) -> None:
    chain = OnChain(url(node), MACHINE, BOB)
    async with await Client.connect(url(node)) as client:
        assert not await chain.accept(ALICE.public), "nobody has asked"
        ask = Machines.propose_controller.make(controller=BOB.public)
        await client.submit(ask, ALICE, wait="finalized")
        assert await chain.accept(ALICE.public)
        assert await client.at().get(Machines.controller_of, ALICE.public) == BOB.public
        assert await chain.accept(ALICE.public), "it is so already"
        other = OnChain(url(node), MACHINE, ALICE)
        assert await other.accept(ALICE.public), "who is the stash needs nobody's word"
        await other.disconnect()
    await chain.disconnect()


async def test_a_paused_machine_that_moves_keeps_the_version_it_paused_at(node: Node) -> None:
    """By that version the disk's guard knows its own pause: it could not end it after an announcement."""
    chain = OnChain(url(node), MACHINE, BOB)
    async with await Client.connect(url(node)) as client:
        await bond(client)
        await chain.pause()
        await chain.announce(("https://relay.example",))
        seen = await known(chain)
        assert (seen.paused, seen.offer) == (True, 1)
        before = await client.at().get(System.account, BOB.public)
        await chain.announce(("https://relay.example",))
        after = await client.at().get(System.account, BOB.public)
        assert before == after, "what the chain says already costs no fee"
    await chain.disconnect()


async def test_the_machine_pauses_and_resumes_and_its_earnings_are_seen(node: Node) -> None:
    chain = OnChain(url(node), MACHINE, BOB)
    async with await Client.connect(url(node)) as client:
        assert (await known(chain)).offer is None
        await bond(client)
        number = await place(client)
        await chain.start(number)
        await asyncio.sleep(1.2)
        await chain.close(number, Closing.EXITED, 0)
        await chain.pause()
        seen = await known(chain)
        assert (seen.paused, seen.offer) == (True, 1)
        assert seen.unit_seconds >= 1
        await chain.resume()
        seen = await known(chain)
        assert (seen.paused, seen.offer) == (False, 2)
    await chain.disconnect()

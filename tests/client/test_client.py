"""The client against a real node in this process."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deepbrain.client import CallFailed, Client, InvalidExtrinsic, NotIncluded, WrongChain
from deepbrain.client.client import _constants_in
from deepbrain.client.rpc import Rpc
from deepbrain.client.submit import Submitter
from deepbrain.node.node import Node, NodeConfig, load_spec
from deepbrain.node.rpc.server import Bind
from deepbrain.node.signatures import InlineSignatures
from deepbrain.pallets.balances import Balances, Transfer
from deepbrain.pallets.machines import Machines
from deepbrain.pallets.oracle import Oracle
from deepbrain.pallets.rent import BurnStep, MachineUnavailable, NoSuchOrder, Rent
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import System
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import AccountId, Hash, MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import PLANCK, U16, U32, Balance, MicroUsd, Seconds

ALICE, BOB = Keypair.from_uri("//Alice"), Keypair.from_uri("//Bob")
NOBODY = Keypair.from_uri("//Nobody")


def config(data: Path | None = None, port: int = 0) -> NodeConfig:
    return NodeConfig(spec=load_spec("dev"), data=data, bind=Bind(port=port), interval=0.2)


async def started(config_: NodeConfig) -> Node:
    node = Node(config_, signatures=InlineSignatures())
    await node.start()
    return node


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    running = await started(config())
    yield running
    await running.stop()


@pytest.fixture
async def client(node: Node) -> AsyncIterator[Client]:
    async with await Client.connect(url(node)) as connected:
        yield connected


def url(node: Node) -> str:
    return f"ws://127.0.0.1:{node.server.port}"


async def free_of(client: Client, who: Keypair, at: Hash | None = None) -> int:
    account = await client.at(at).get(System.account, who.public)
    assert account is not None
    return int(account.data.free)


async def test_a_transfer_comes_back_as_its_event_at_a_block_that_can_be_read(
    client: Client,
) -> None:
    before = await free_of(client, BOB)
    receipt = await client.submit(
        Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(PLANCK)), ALICE
    )
    assert receipt.one(Transfer) == Transfer(
        from_=ALICE.public, to=BOB.public, amount=Balance(PLANCK)
    )
    assert await free_of(client, BOB, receipt.block.hash) == before + PLANCK
    parent = await client.request("chain_getBlockHash", int(receipt.block.number) - 1)
    assert await free_of(client, BOB, Hash.from_hex(parent)) == before


async def test_many_submissions_at_once_take_their_nonces_in_turn(client: Client) -> None:
    receipts = await asyncio.gather(
        *(
            client.submit(
                Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(PLANCK + i)), ALICE
            )
            for i in range(10)
        )
    )
    assert [int(r.one(Transfer).amount) - PLANCK for r in receipts] == list(range(10))
    account = await client.at().get(System.account, ALICE.public)
    assert account is not None
    assert account.nonce == 10


async def test_two_programs_with_one_key_do_not_disturb_each_other(node: Node) -> None:
    async with await Client.connect(url(node)) as one, await Client.connect(url(node)) as two:
        await asyncio.gather(
            *(
                client.submit(
                    Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(PLANCK)), ALICE
                )
                for client in (one, two, one, two)
            )
        )


async def test_a_failed_call_is_the_pallet_s_own_error(client: Client) -> None:
    with pytest.raises(CallFailed, match="No order has this id") as caught:
        await client.submit(Rent.close.make(order=OrderId(99), exit_code=None), ALICE)
    assert caught.value.reason is NoSuchOrder
    with pytest.raises(CallFailed, match="too little free money") as caught:
        await client.submit(
            Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(10**30)), ALICE
        )
    assert caught.value.name == "Token.FUNDS_UNAVAILABLE"
    assert MachineUnavailable is not NoSuchOrder


async def test_an_account_that_cannot_pay_the_fee_is_refused_by_the_pool(client: Client) -> None:
    with pytest.raises(InvalidExtrinsic, match="pay some fees"):
        await client.submit(
            Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(1)), NOBODY
        )


async def test_entries_are_paged_and_complete(client: Client, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("deepbrain.client.reads.PAGE", 2)
    accounts = {who: info async for who, info in client.at().entries(System.account)}
    assert ALICE.public in accounts
    assert len(accounts) >= 6
    many = await client.at().get_many(System.account, [*accounts, NOBODY.public])
    assert many[:-1] == list(accounts.values())
    assert many[-1] == System.account.default


async def test_what_is_absent_is_none_and_defaults_are_defaults(client: Client) -> None:
    assert await client.at().get(Rent.orders, OrderId(1)) is None
    assert await client.at().get(Machines.rented, MachineId(bytes(32))) == 0
    assert await client.at().get(Rent.next_id) == 0
    entries = [entry async for entry in client.at().entries(Rent.orders_of, ALICE.public)]
    assert entries == []


async def test_heads_start_with_the_head_there_is_and_go_on(client: Client) -> None:
    numbers = []
    async for head in client.heads():
        numbers.append(int(head.number))
        if len(numbers) == 3:
            break
    assert numbers == list(range(numbers[0], numbers[0] + 3))


async def test_constants_are_the_chain_s_own(client: Client) -> None:
    assert await client.constant(Rent, "min_term") == 10
    assert await client.constant(Timestamp, "minimum_period") == 500


async def test_constants_of_a_chain_that_no_release_knows_are_its_own_too() -> None:
    known = load_spec("dev")
    figures = {**known.constants, "Rent": {**known.constants["Rent"], "min_term": 77}}
    for name in ("Somebody's own", known.name):
        spec = dataclasses.replace(known, name=name, constants=figures)
        node = await started(dataclasses.replace(config(), spec=spec))
        try:
            async with await Client.connect(url(node)) as client:
                assert await client.constant(Rent, "min_term") == 77, name
                schedule = await client.constant(Rent, "burn_schedule")
                assert all(isinstance(step, BurnStep) for step in schedule)
        finally:
            await node.stop()


@pytest.mark.parametrize(
    "told", [None, "0x6d6574610f00", "0x6d6574610e", "0x6d6574610e" + "00" * 4]
)
def test_metadata_that_is_none_is_refused(told: object) -> None:
    with pytest.raises(DecodeError):
        _constants_in(told)


async def test_a_client_survives_a_restart_of_its_node(tmp_path: Path) -> None:
    first = await started(config(tmp_path))
    port = first.server.port
    async with await Client.connect(url(first)) as client:
        await client.submit(
            Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(PLANCK)), ALICE
        )
        seen: set[int] = set()

        async def watch() -> None:
            async for head in client.heads():
                seen.add(int(head.number))

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.3)
        await first.stop()
        before = len(seen)
        second = await started(config(tmp_path, port))
        try:
            await client.submit(
                Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(PLANCK)), ALICE
            )
            await asyncio.sleep(0.5)
            assert len(seen) > before
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await second.stop()


async def test_another_chain_at_the_same_address_is_told_apart(node: Node) -> None:
    with pytest.raises(WrongChain, match="another chain"):
        await Client.connect(url(node), genesis=Hash(bytes(32)))


async def test_an_extrinsic_whose_fate_is_unknown_is_found_in_the_blocks(
    client: Client, node: Node
) -> None:
    """As after a connection that broke between submission and inclusion."""
    async with await Rpc.open(url(node)) as rpc:
        submitter = Submitter(rpc, client._submitter._signing)
        watched: list[bytes] = []
        original = submitter._watch

        async def lose(raw, head, last, wait, turn):  # type: ignore[no-untyped-def]
            watched.append(raw)
            block = await submitter._look_for(raw, int(head.number), last)
            return await submitter._receipt(raw, block)

        submitter._watch = lose  # type: ignore[method-assign]
        receipt = await submitter.submit(
            Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(PLANCK)),
            ALICE,
            tip=0,
            wait="in_block",
            life=8,
        )
        assert receipt.one(Transfer).amount == PLANCK
        assert original is not None
        # Its nonce is used by now: offered again, it is refused, and no later block holds it.
        with pytest.raises(NotIncluded):
            head = int(receipt.block.number)
            await submitter._look_for(watched[0], head + 1, head + 4)


async def test_root_speaks_through_sudo(client: Client) -> None:
    call = Oracle.set_price.make(micro_usd=MicroUsd(5))
    await client.submit(Sudo.sudo.make(call=call), ALICE)
    quote = await client.at().get(Oracle.price)
    assert quote is not None
    assert quote.micro_usd == 5


async def test_placing_on_a_machine_that_is_not_there_fails_by_name(client: Client) -> None:
    call = Rent.place.make(
        machine=MachineId(bytes(32)),
        units=U16(1),
        seconds=Seconds(60),
        manifest_hash=Hash(bytes(32)),
        max_total=Balance(1),
        offer_version=U32(0),
        start_within=Seconds(60),
    )
    with pytest.raises(CallFailed, match="NoSuchMachine"):
        await client.submit(call, ALICE)
    assert isinstance(ALICE.public, AccountId)

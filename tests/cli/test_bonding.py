"""A machine is bonded where the stash's key is, from a file that its host wrote."""

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest
from tests.cli.market import ALICE, BOB, INVENTORY, open_market

from deepbrain.cli.chain import Choices
from deepbrain.cli.failure import UserError
from deepbrain.cli.provider.bonding import MAX_BYTES, BondRequest, make_request, read_request
from deepbrain.cli.provider.hosting import bond, with_disk, with_gpus
from deepbrain.cli.provider.machine import Listing, address_record, hardware_of
from deepbrain.pallets.machines import Isolation, Machines, Network
from deepbrain.pallets.system import System
from deepbrain.primitives.ids import Hash, MachineId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import PLANCK, Balance, MicroUsd
from deepbrain.provider.gpus import SeenGpu
from deepbrain.provider.identity import load_or_make_key
from deepbrain.provider.onchain import OnChain

HOST = Keypair.from_seed(b"\x11" * 32)
"""The host's controller: nobody has sent it anything yet."""
ADDRESSES = ("127.0.0.1:4001",)


def listing(place: Path, disk: int | None = None) -> Listing:
    return Listing(
        load_or_make_key(place),
        hardware_of(INVENTORY, with_disk(INVENTORY.capacity(), disk)),
        Isolation.GVISOR,
        Network.NONE,
        MicroUsd(0),
        address_record(ADDRESSES),
    )


async def carry_out(market, request: BondRequest, price: int = 20_000, **how) -> None:
    how = {"replace_controller": False, "yes": True} | how
    choices = Choices(market.url, None)
    fund = Balance(5 * PLANCK)
    await bond(choices, request, lambda: ALICE, MicroUsd(price), fund, **how)


async def test_bonded_funded_and_agreed_without_the_stash_on_the_host(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        client = market.client
        made = await make_request(client, listing(tmp_path), ALICE.public, HOST.public, ADDRESSES)
        path = tmp_path / "bond.json"
        path.write_text(made.to_json())
        request = read_request(path)
        assert request == made

        chain = OnChain(market.url, MachineId(load_or_make_key(tmp_path).public), HOST)

        async def agree() -> None:
            while not await chain.accept(ALICE.public):  # noqa: ASYNC110 - as the agent does
                await asyncio.sleep(0.2)

        agreeing = asyncio.create_task(agree())
        await carry_out(market, request)
        await agreeing
        await chain.disconnect()
        at = client.at()
        found = await at.get(Machines.machines, request.machine)
        assert found is not None
        assert (found.stash, found.price) == (ALICE.public, 20_000)
        assert await at.get(Machines.controller_of, ALICE.public) == HOST.public
        assert (await at.get(System.account, HOST.public)).data.free > 4 * PLANCK

        await carry_out(market, request, price=30_000)
        less = await make_request(
            client, listing(tmp_path, 8 << 30), ALICE.public, HOST.public, ADDRESSES
        )
        await carry_out(market, less, price=30_000)
        again = await client.at().get(Machines.machines, request.machine)
        assert (again.price, again.hardware.disk_mib) == (30_000, 8 << 10)

        other = await make_request(client, listing(tmp_path), ALICE.public, BOB.public, ADDRESSES)
        with pytest.raises(UserError, match="acts for this stash already"):
            await carry_out(market, other)


async def test_a_request_for_another_chain_is_refused_before_anything_is_spent(
    tmp_path: Path,
) -> None:
    async with open_market(tmp_path) as market:
        made = await make_request(
            market.client, listing(tmp_path), ALICE.public, HOST.public, ADDRESSES
        )
        elsewhere = dataclasses.replace(made, genesis=Hash(b"\x01" * 32))
        with pytest.raises(UserError, match="another chain"):
            await carry_out(market, elsewhere)
        assert await market.client.at().get(Machines.proposed, ALICE.public) is None


@pytest.mark.parametrize("change", [
    {"version": 2}, {"machine": "00"}, {"hardware": {}}, {"isolation": "steel"}, {"nonce": -1},
    {"signature": "zz"}, {"addresses": 7}, {"stash": None},
])  # fmt: skip
async def test_what_is_no_request_is_refused_in_a_sentence(tmp_path: Path, change: dict) -> None:
    async with open_market(tmp_path) as market:
        made = await make_request(
            market.client, listing(tmp_path), ALICE.public, HOST.public, ADDRESSES
        )
    fields = json.loads(made.to_json()) | change
    with pytest.raises(UserError):
        BondRequest.parse(json.dumps(fields).encode())
    for text in (b"", b"[]", b"[" * MAX_BYTES, b"\xff"):
        with pytest.raises(UserError, match="no bond request"):
            BondRequest.parse(text)


def test_a_disk_that_is_too_small_for_its_units_is_refused() -> None:
    capacity = INVENTORY.capacity()
    assert with_disk(capacity, None) == capacity
    with pytest.raises(UserError, match="1 GiB of disk each"):
        with_disk(capacity, (capacity.units << 30) - 1)


def test_gpus_that_a_sandbox_has_seen_are_the_units_and_what_is_declared() -> None:
    capacity = INVENTORY.capacity()
    assert with_gpus(capacity, ()) == capacity
    seen = [SeenGpu(f"nvidia.com/gpu={at}", f"GPU-{at}", "NVIDIA L4", 23_034) for at in range(2)]
    given = with_gpus(capacity, seen)
    assert (given.units, len(given.devices)) == (2, 2)
    hardware = hardware_of(INVENTORY, given, seen)
    assert (hardware.gpus, hardware.gpu_model, hardware.gpu_memory_mib) == (2, "NVIDIA L4", 23_034)
    assert hardware.units() == 2
    assert hardware.cpus == INVENTORY.cpus
    assert hardware_of(INVENTORY, capacity).units() == INVENTORY.cpus

"""A drained machine takes nothing new and waits for what runs; what it earned is on the chain."""

import asyncio
from pathlib import Path

import pytest
from tests.cli.market import ALICE, BOB, INVENTORY, open_market

from deepbrain.cli.chain import Choices
from deepbrain.cli.failure import UserError
from deepbrain.cli.provider.drain import read_load, wait_drained
from deepbrain.cli.provider.earned import read_earned
from deepbrain.cli.provider.machine import Listing, Owners, address_record, enlist, hardware_of
from deepbrain.pallets.machines import Isolation, Machines, Network
from deepbrain.pallets.rent import OrderPlaced, Rent
from deepbrain.primitives.ids import Hash, MachineId
from deepbrain.primitives.units import PLANCK, U8, U16, U32, Balance, MicroUsd, Seconds
from deepbrain.provider.identity import load_or_make_key


async def listed(client, place: Path) -> MachineId:
    listing = Listing(
        load_or_make_key(place),
        hardware_of(INVENTORY, INVENTORY.capacity()),
        Isolation.GVISOR,
        Network.NONE,
        MicroUsd(3_600_000),
        address_record(["127.0.0.1:4001"]),
    )
    await enlist(client, listing, Owners.alone(BOB))
    return listing.id


async def place(client, machine: MachineId, seconds: int) -> int:
    rent = Rent.place.make(
        machine=machine, units=U16(1), seconds=Seconds(seconds), manifest_hash=Hash(bytes(32)),
        max_total=Balance(10_000 * PLANCK), offer_version=U32(0), start_within=Seconds(600),
    )  # fmt: skip
    return (await client.submit(rent, ALICE)).one(OrderPlaced).order


async def test_it_waits_for_what_runs_and_says_what(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        client = market.client
        machine = await listed(client, tmp_path)
        runs, waits = await place(client, machine, 300), await place(client, machine, 3000)
        await client.submit(Rent.start.make(order=runs), BOB)
        load = await read_load(client, machine)
        assert load.open == (runs, waits)
        assert 3000 < load.seconds <= 3600, "the one that waits may start late, and run its term"
        choices, named = Choices(market.url, "//Bob"), machine.hex()
        with pytest.raises(UserError, match=f"orders {runs}, {waits} run; the last is over in"):
            await wait_drained(choices, None, named, Seconds(1))
        found = await client.at().get(Machines.machines, machine)
        assert found is not None
        assert found.paused, "it stays so"

        draining = asyncio.create_task(wait_drained(choices, None, named, Seconds(60)))
        await asyncio.sleep(1.2)
        await client.submit(Rent.close.make(order=waits, exit_code=None), ALICE)
        assert not draining.done()
        await client.submit(Rent.close.make(order=runs, exit_code=U8(0)), BOB)
        await asyncio.wait_for(draining, 30)

        earned = await read_earned(choices, None, named)
        assert (earned.orders, earned.day_orders, earned.running_orders) == (1, 1, 0)
        assert earned.unit_seconds >= 1
        assert earned.paid == earned.day_paid > 0
        assert earned.paid + earned.burned == earned.unit_seconds * PLANCK, "a DBC a second"
        assert earned.to_json()["paid"] == str(earned.paid)


async def test_a_stranger_drains_nobodys_machine(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine = await listed(market.client, tmp_path)
        with pytest.raises(Exception, match="NotController"):
            await wait_drained(Choices(market.url, "//Dave"), None, machine.hex(), Seconds(5))


async def test_a_machine_that_is_not_listed_needs_no_draining(tmp_path: Path) -> None:
    place = tmp_path / "machine"
    (place / "agent").mkdir(parents=True)
    load_or_make_key(place / "agent")
    async with open_market(tmp_path) as market:
        with pytest.raises(UserError, match="not on the chain"):
            await wait_drained(Choices(market.url, "//Bob"), place, None, None)

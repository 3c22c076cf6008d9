"""What `dbc join` lists when it is run again."""

import dataclasses
from pathlib import Path

import pytest
from tests.cli.market import ALICE, BOB, INVENTORY, open_market

from deepbrain.cli.failure import UserError
from deepbrain.cli.keys import named
from deepbrain.cli.provider.machine import (
    Listing,
    Owners,
    Place,
    address_record,
    closed_environment,
    enlist,
    hardware_of,
    set_controller,
    while_rented,
)
from deepbrain.cli.provider.serving import _owners
from deepbrain.pallets.machines import Isolation, Machines, Network
from deepbrain.pallets.rent import OrderPlaced, Rent
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import PLANCK, U16, U32, Balance, MicroUsd, Seconds
from deepbrain.provider.identity import AgentConfig, load_or_make_key, save_config
from deepbrain.provider.inventory import Inventory


def listing(place: Place, inventory: Inventory, price: int) -> Listing:
    return Listing(
        load_or_make_key(place.agent),
        hardware_of(inventory, inventory.capacity()),
        Isolation.GVISOR,
        Network.NONE,
        MicroUsd(price),
        address_record(["127.0.0.1:4001"]),
    )


async def test_a_rented_machine_joins_again_though_its_free_disk_has_changed(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path / "machine")
    place.make()
    async with open_market(tmp_path) as market:
        client, whole = market.client, INVENTORY.capacity()
        first = listing(place, INVENTORY, 20_000)
        assert await enlist(client, first, Owners.alone(BOB))
        save_config(
            place.agent,
            AgentConfig(chain=market.url, controller="//Bob", port=4001, capacity=whole),
        )
        rent = Rent.place.make(
            machine=first.id, units=U16(1), seconds=Seconds(600), manifest_hash=Hash(bytes(32)),
            max_total=Balance(100 * PLANCK), offer_version=U32(0), start_within=Seconds(600),
        )  # fmt: skip
        order = (await client.submit(rent, ALICE)).one(OrderPlaced).order

        fuller = dataclasses.replace(INVENTORY, disk_free_bytes=4 << 30)
        again = listing(place, fuller, 30_000)
        listed, capacity = await while_rented(client, place, again, fuller.capacity())
        assert not await enlist(client, listed, Owners.alone(BOB))
        found = await client.at().get(Machines.machines, first.id)
        assert found is not None
        assert (found.price, found.hardware, capacity) == (30_000, first.hardware, whole)

        await client.submit(Rent.close.make(order=order, exit_code=None), ALICE)
        listed, capacity = await while_rented(client, place, again, fuller.capacity())
        assert (listed, capacity) == (again, fuller.capacity()), "idle, it may change"


async def test_the_stash_agrees_once_and_its_key_is_not_asked_for_again(tmp_path: Path) -> None:
    def absent() -> Keypair:
        raise AssertionError("the stash's key is at home")

    async with open_market(tmp_path) as market:
        client = market.client
        assert (await _owners(client, None, BOB)).stash == BOB.public
        assert (await _owners(client, named("//Alice"), BOB)).stash == ALICE.public
        await set_controller(client, Owners(BOB, ALICE.public, lambda: ALICE))
        remembered = await _owners(client, None, BOB)
        assert (remembered.stash, remembered.unlock) == (ALICE.public, None)
        await set_controller(client, Owners(BOB, ALICE.public, absent))


async def test_without_the_stash_a_machine_serves_on_but_offers_no_more(tmp_path: Path) -> None:
    place = Place(tmp_path / "machine")
    place.make()
    async with open_market(tmp_path) as market:
        client = market.client
        first = listing(place, INVENTORY, 20_000)
        with pytest.raises(UserError, match="only the stash may bond"):
            await enlist(client, first, Owners(BOB, ALICE.public, None))
        whole = Owners(BOB, ALICE.public, lambda: ALICE)
        await set_controller(client, whole)
        assert await enlist(client, first, whole)

        daily = await _owners(client, None, BOB)
        dearer = dataclasses.replace(first, price=MicroUsd(30_000))
        with pytest.raises(UserError, match="only the stash may change the price"):
            await enlist(client, dearer, daily)

        async def declared(disk: int) -> int:
            inventory = dataclasses.replace(INVENTORY, disk_free_bytes=disk)
            assert not await enlist(client, listing(place, inventory, 20_000), daily)
            found = await client.at().get(Machines.machines, first.id)
            assert found is not None
            return int(found.hardware.disk_mib)

        less = await declared(4 << 30)
        assert less < first.hardware.disk_mib, "the disk is fuller, and the offer says so"
        assert await declared(INVENTORY.disk_free_bytes) == less, "more takes the stash"


def test_tenants_are_kept_from_the_addresses_that_the_machine_is_found_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DBC_CLOSED", raising=False)
    found = closed_environment(("203.0.113.7:4001", "[2001:db8::7]:4001", "203.0.113.7:4002"))
    assert found == {"DBC_CLOSED": "203.0.113.7"}
    monkeypatch.setenv("DBC_CLOSED", "198.51.100.0/24")
    assert closed_environment(("203.0.113.7:1",)) == {"DBC_CLOSED": "198.51.100.0/24,203.0.113.7"}

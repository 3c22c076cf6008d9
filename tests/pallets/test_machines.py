"""Machines join with their own signature, change their offer, and leave."""

import pytest
from tests.runtime.local import (
    ALICE,
    BOB,
    CHARLIE,
    DAVE,
    MACHINE,
    RIG,
    LocalChain,
    bond_call,
    hardware,
    key,
)

from deepbrain.pallets import machines
from deepbrain.pallets.machines import (
    Address,
    Ip4,
    Ip4Octets,
    Isolation,
    Machines,
    Network,
    Status,
    status_of,
)
from deepbrain.pallets.rent import Rent
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.keys import Scheme
from deepbrain.primitives.units import PLANCK, U8, U16, U32, MicroUsd

STAKE = 100 * PLANCK
"""For a GPU, in the dev spec."""


@pytest.fixture
def chain():
    return LocalChain()


def machine_of(chain):
    return chain.now().machines.machines.get(MACHINE)


def test_bonding_holds_the_stake_of_each_unit_and_takes_the_fixed_fee(chain):
    before = chain.free(BOB)
    chain.bond()
    assert chain.held(BOB) == 4 * STAKE
    assert 10 * PLANCK <= before - chain.free(BOB) - 4 * STAKE < 11 * PLANCK
    assert machine_of(chain).bond == 4 * STAKE
    assert chain.now().machines.total_gpus.get() == 4


def test_a_machine_without_gpus_sells_cores(chain):
    chain.bond(gpus=0)
    assert machine_of(chain).hardware.units() == 16
    assert chain.held(BOB) == 16 * STAKE // 10


def test_a_machine_is_bound_by_its_own_signature_only(chain):
    other = key("other", Scheme.ED25519)
    call = bond_call(chain, BOB, other, BOB, 1, 4, Isolation.GVISOR)
    arguments = dict(call.named()) | {"machine": MACHINE}
    forged = Machines.bond.make(**arguments)
    assert chain.refused(BOB, forged) is machines.BadSignature
    stolen = bond_call(chain, BOB, RIG, BOB, 1, 4, Isolation.GVISOR)
    assert chain.refused(CHARLIE, stolen) is machines.BadSignature


def test_an_old_signature_does_not_bring_a_machine_back(chain):
    call = bond_call(chain, BOB, RIG, BOB, 1, 4, Isolation.GVISOR)
    chain.do(BOB, call)
    chain.do(BOB, Machines.unbond.make(machine=MACHINE))
    assert chain.refused(BOB, call) is machines.BadSignature
    chain.bond()


def test_a_machine_is_bonded_once(chain):
    chain.bond()
    call = bond_call(chain, BOB, RIG, BOB, 1, 4, Isolation.GVISOR)
    assert chain.refused(BOB, call) is machines.AlreadyBonded


def test_leaving_gives_the_bond_back_and_the_peak_stays(chain):
    before = chain.free(BOB)
    chain.bond()
    chain.do(BOB, Machines.unbond.make(machine=MACHINE))
    assert chain.held(BOB) == 0
    assert before - chain.free(BOB) < 11 * PLANCK
    block = chain.now().machines
    assert (block.total_gpus.get(), block.peak_gpus.get()) == (0, 4)
    assert machine_of(chain) is None


ELSEWHERE = Address(
    endpoints=(Ip4(ip=Ip4Octets(bytes((127, 0, 0, 1))), port=U16(4433)),),
    relays=("https://relay.example",),
)


def test_another_address_is_the_same_offer(chain):
    """A machine's agent says where it is dialled whenever that changes: also while somebody chooses it."""
    chain.bond()
    chain.do(BOB, Machines.set_address.make(machine=MACHINE, address=ELSEWHERE))
    assert chain.events(machines.AddressChanged) == [machines.AddressChanged(machine=MACHINE)]
    assert (machine_of(chain).address, machine_of(chain).offer_version) == (ELSEWHERE, 0)
    chain.place(offer_version=U32(0))
    moved = Machines.set_address.make(machine=MACHINE, address=Address(endpoints=(), relays=()))
    assert chain.refused(ALICE, moved) is machines.NotController


def test_every_edit_of_the_terms_raises_the_version_of_the_offer(chain):
    chain.bond()
    edits = [
        Machines.set_price.make(machine=MACHINE, price=MicroUsd(5)),
        Machines.pause.make(machine=MACHINE),
        Machines.resume.make(machine=MACHINE),
        Machines.set_network.make(machine=MACHINE, network=Network.INTERNET),
        Machines.set_hardware.make(
            machine=MACHINE, hardware=hardware(2), isolation=Isolation.GVISOR_OWN
        ),
    ]
    refusals = {machines.NotController, machines.NotStash}
    for version, edit in enumerate(edits, 1):
        chain.do(BOB, edit)
        assert machine_of(chain).offer_version == version
        assert chain.refused(ALICE, edit) in refusals
    assert machine_of(chain).network is Network.INTERNET
    assert chain.held(BOB) == 2 * STAKE


def test_hardware_and_bond_stay_while_units_are_rented(chain):
    chain.bond()
    chain.place()
    other = Machines.set_hardware.make(
        machine=MACHINE, hardware=hardware(8), isolation=Isolation.GVISOR
    )
    assert chain.refused(BOB, other) is machines.UnitsRented
    assert chain.refused(BOB, Machines.unbond.make(machine=MACHINE)) is machines.UnitsRented


def test_nothing_is_no_machine(chain):
    chain.bond()
    empty = Machines.set_hardware.make(
        machine=MACHINE, hardware=hardware(0, 0), isolation=Isolation.GVISOR
    )
    assert chain.refused(BOB, empty) is machines.NoUnits


def test_a_controller_acts_for_a_stash_that_asked_it_and_that_it_accepted(chain):
    assert chain.refused(CHARLIE, Machines.accept_stash.make(stash=BOB.public)) is (
        machines.NotProposed
    )
    chain.do(BOB, Machines.propose_controller.make(controller=CHARLIE.public))
    chain.do(CHARLIE, Machines.accept_stash.make(stash=BOB.public))
    chain.bond(CHARLIE, stash=BOB)
    assert chain.held(BOB) == 4 * STAKE
    assert machine_of(chain).stash == BOB.public
    pause = Machines.pause.make(machine=MACHINE)
    assert chain.refused(DAVE, pause) is machines.NotController
    chain.do(CHARLIE, pause)
    chain.do(BOB, Machines.resume.make(machine=MACHINE))


def with_controller(chain):
    """BOB's machine, for which CHARLIE acts."""
    chain.do(BOB, Machines.propose_controller.make(controller=CHARLIE.public))
    chain.do(CHARLIE, Machines.accept_stash.make(stash=BOB.public))
    chain.bond(CHARLIE, stash=BOB)


def set_hardware(gpus=4, isolation=Isolation.GVISOR, **changes):
    declared = hardware(gpus).but(**changes)
    return Machines.set_hardware.make(machine=MACHINE, hardware=declared, isolation=isolation)


def test_a_controller_serves_and_pauses_and_nothing_else(chain):
    """Its key lies on the host: what its thief may do is what this test says."""
    with_controller(chain)
    address = Address(endpoints=(), relays=("https://relay.example",))
    second = bond_call(chain, CHARLIE, key("second", Scheme.ED25519), BOB, 1, 4, Isolation.GVISOR)
    for refused in (
        Machines.set_price.make(machine=MACHINE, price=MicroUsd(0)),
        Machines.unbond.make(machine=MACHINE),
        set_hardware(5),
        set_hardware(4, disk_mib=U32(1 << 31)),
        set_hardware(4, gpu_model="RTX 5090"),
    ):
        assert chain.refused(CHARLIE, refused) is machines.NotStash
    assert chain.refused(CHARLIE, second) is machines.BadSignature, "it would be its own stash"
    assert chain.held(BOB) == 4 * STAKE
    for allowed in (
        Machines.pause.make(machine=MACHINE),
        Machines.resume.make(machine=MACHINE),
        Machines.set_address.make(machine=MACHINE, address=address),
        set_hardware(4, disk_mib=U32(1024)),
        set_hardware(2, disk_mib=U32(1024), isolation=Isolation.GVISOR_OWN),
    ):
        chain.do(CHARLIE, allowed)
    assert chain.held(BOB) == 2 * STAKE, "what is no longer declared is no longer bonded"
    stronger = set_hardware(2, disk_mib=U32(1024))
    assert chain.refused(CHARLIE, stronger) is machines.NotStash
    chain.do(BOB, stronger)


def test_less_hardware_is_never_another_kind_of_unit(chain):
    """Without its GPUs a machine would sell its cores, of which it has more."""
    with_controller(chain)
    assert chain.refused(CHARLIE, set_hardware(0)) is machines.NotStash


def test_a_controller_starts_and_closes_orders_for_the_stash(chain):
    with_controller(chain)
    order = chain.place()
    before = chain.free(CHARLIE)
    chain.do(CHARLIE, Rent.start.make(order=order))
    chain.do(CHARLIE, Rent.close.make(order=order, exit_code=U8(0)))
    assert chain.free(CHARLIE) < before, "the stash is paid, the controller has fees only"


def test_a_controller_acts_for_one_stash_and_can_be_dismissed(chain):
    for stash in (BOB, DAVE):
        chain.do(stash, Machines.propose_controller.make(controller=CHARLIE.public))
    chain.do(CHARLIE, Machines.accept_stash.make(stash=BOB.public))
    assert chain.refused(CHARLIE, Machines.accept_stash.make(stash=DAVE.public)) is (
        machines.ControllerTaken
    )
    chain.do(BOB, Machines.propose_controller.make(controller=BOB.public))
    chain.do(CHARLIE, Machines.accept_stash.make(stash=DAVE.public))
    chain.bond()


def test_the_status_follows_from_the_facts(chain):
    chain.bond()
    machine = machine_of(chain)
    assert status_of(machine, U16(3)) is Status.OPEN
    assert status_of(machine, U16(4)) is Status.FULL
    assert status_of(machine.but(paused=True), U16(0)) is Status.PAUSED


def test_an_unknown_machine_is_no_offer(chain):
    call = Machines.pause.make(machine=MachineId(bytes(32)))
    assert chain.refused(BOB, call) is machines.NoSuchMachine
    assert chain.now().machines.machine_count.get() == U32(0)

"""Machines: who offers what, for how much, and where it is dialled.

    (unknown) ──bond──► open ◄──pause/resume──► paused ──unbond──► (unknown)
                          └── full while every unit is rented

A machine is one registered host. Its id is its transport key, and its own signature binds it to its
owner. It has n equal *units*: one GPU with 1/n of cores, memory and disk; or, without a GPU, one core
with its share. What it declares is a claim until verifiers measure it.

Two accounts stand behind it: the *stash* holds the bond and is paid, the *controller* serves day by
day. A stash that names no controller is its own; one that names another must be accepted by it.

    the stash alone     bond, unbond, set_price, set_hardware, propose_controller
    either of them      pause, resume, set_address, set_network, set_hardware to less; rent.start, rent.close

The controller's key lies on the host, whose thief can do with it what the second line says: lose the
owner orders, but neither touch the stash's money nor sell what is not his.

Money: `bond` costs a fixed fee and holds the stake of every unit from the stash, until `unbond`.
Offers: every edit of the terms raises `offer_version`, so that nobody rents on terms he has not seen.
        The address is no term: machines behind NAT change it while renters choose.
Status: computed from facts (`status_of`), never stored.
Invariants: M1  the bond held from a stash is the sum of the bonds of its machines.
            M2  `total_gpus` is the sum over machines; `peak_gpus` is never below it.
            M3  a machine never has more units rented than it has.
            M4  `stash_of` is the inverse of `controller_of`.
Units: price in µUSD per unit and hour; memory and disk in MiB.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Final

from deepbrain.frame.account import HoldReason
from deepbrain.frame.calls import call
from deepbrain.frame.context import Context
from deepbrain.frame.errors import PalletError, ensure
from deepbrain.frame.origin import Signed
from deepbrain.frame.pallet import Constant, Event, Pallet
from deepbrain.frame.storage import Counter, Map
from deepbrain.frame.traits import Chain, Charges, Clock, Holds, Offer
from deepbrain.frame.weight import SIGNATURE
from deepbrain.primitives.ids import AccountId, FixedBytes, Hash, MachineId
from deepbrain.primitives.keys import Scheme, Signature, domain_message, verify
from deepbrain.primitives.units import PLANCK, U16, U32, Balance, MicroUsd, Seconds
from deepbrain.scale import Enumeration, MaxLen, Struct, TaggedUnion

NO_UNITS: Final = U16(0)


class Isolation(Enumeration):
    """How a machine keeps a tenant from itself and from others; only the first may serve strangers."""

    GVISOR = 0
    GVISOR_OWN = 1
    PROCESS = 2


class Network(Enumeration):
    """What a machine's tenants can reach: nothing, or the public internet and nothing else."""

    NONE = 0
    INTERNET = 1


class Hardware(Struct):
    """What a machine says it has."""

    gpu_model: Annotated[str, MaxLen(64)]
    gpus: U16
    gpu_memory_mib: U32
    """Of one GPU."""
    cpu_model: Annotated[str, MaxLen(64)]
    cpus: U16
    memory_mib: U32
    disk_mib: U32

    def units(self) -> U16:
        """What is sold: GPUs, or cores where there is none."""
        return self.gpus or self.cpus

    def is_within(self, other: "Hardware") -> bool:
        """Whether it is the same kind of hardware, and nowhere more of it."""
        return (
            (self.gpu_model, self.cpu_model) == (other.gpu_model, other.cpu_model)
            and bool(self.gpus) == bool(other.gpus)
            and self.gpus <= other.gpus
            and self.gpu_memory_mib <= other.gpu_memory_mib
            and self.cpus <= other.cpus
            and self.memory_mib <= other.memory_mib
            and self.disk_mib <= other.disk_mib
        )


class Ip4Octets(FixedBytes, size=4):
    __slots__ = ()


class Ip6Octets(FixedBytes, size=16):
    __slots__ = ()


class Endpoint(TaggedUnion):
    """Where a machine can be dialled directly."""


class Ip4(Endpoint, index=0):
    """An IPv4 address and a UDP port."""

    ip: Ip4Octets
    port: U16


class Ip6(Endpoint, index=1):
    """An IPv6 address and a UDP port."""

    ip: Ip6Octets
    port: U16


class Address(Struct):
    """Where a machine is found, beside its id. All of it may be empty."""

    endpoints: Annotated[tuple[Endpoint, ...], MaxLen(4)]
    relays: Annotated[tuple[Annotated[str, MaxLen(128)], ...], MaxLen(4)]
    """URLs of relays that know the machine."""


class Machine(Struct):
    """A bonded machine."""

    stash: AccountId
    hardware: Hardware
    isolation: Isolation
    network: Network
    price: MicroUsd
    address: Address
    offer_version: U32
    paused: bool
    bond: Balance
    """What is held from the stash for it."""
    bonded_at: Seconds
    """Service time."""


class BondMessage(Struct):
    """What the machine signs, by ed25519 over `DBC/bond/v1`, the genesis hash, and this.

    `nonce` is how often the machine was bonded before, so that no old signature serves again.
    """

    machine: MachineId
    stash: AccountId
    controller: AccountId
    nonce: U32


class Status(Enum):
    """How a machine stands, for readers."""

    OPEN = "open"
    FULL = "full"
    PAUSED = "paused"


def status_of(machine: Machine, rented: U16) -> Status:
    """The status of a machine with so many units rented."""
    if machine.paused:
        return Status.PAUSED
    return Status.OPEN if rented < machine.hardware.units() else Status.FULL


def bond_message(genesis: Hash, message: BondMessage) -> bytes:
    """The bytes that a machine signs to be bonded."""
    return domain_message("bond", genesis, message.encode())


class ControllerProposed(Event, index=0):
    """A stash asks an account to act for it."""

    stash: AccountId
    controller: AccountId


class ControllerSet(Event, index=1):
    """`controller` acts for the machines of `stash` from now on."""

    stash: AccountId
    controller: AccountId


class MachineBonded(Event, index=2):
    """A machine joined; `bond` is held from its stash."""

    machine: MachineId
    stash: AccountId
    bond: Balance


class OfferChanged(Event, index=3):
    """The offer of a machine was edited."""

    machine: MachineId
    offer_version: U32


class MachineUnbonded(Event, index=4):
    """A machine left; its bond was released."""

    machine: MachineId
    stash: AccountId
    bond: Balance


class AddressChanged(Event, index=5):
    """A machine is dialled elsewhere from now on; its offer is what it was."""

    machine: MachineId


class NoSuchMachine(PalletError, index=0):
    """No bonded machine has this id."""


class AlreadyBonded(PalletError, index=1):
    """The machine is bonded; unbond it first."""


class NotController(PalletError, index=2):
    """Only the machine's stash or its controller may do this."""


class BadSignature(PalletError, index=3):
    """The signature is not the machine's over stash, controller, nonce and this chain."""


class NoUnits(PalletError, index=4):
    """A machine has at least one GPU or one core."""


class UnitsRented(PalletError, index=5):
    """Units are rented: wait until the orders end."""


class NotEnoughUnits(PalletError, index=6):
    """The machine has not so many free units."""


class ControllerTaken(PalletError, index=7):
    """The account acts for another stash."""


class NotProposed(PalletError, index=8):
    """The stash has not asked this account to act for it."""


class NotStash(PalletError, index=9):
    """Only the machine's stash may do this."""


class Machines(Pallet, index=20):
    bond_fee: Constant[Balance] = Balance(10 * PLANCK)
    """The fixed fee of `bond`."""
    gpu_stake: Constant[Balance]
    """What is held for each GPU: the first stage of its stake."""
    core_stake: Constant[Balance]
    """What is held for each core of a machine without a GPU."""

    machines: Map[MachineId, Machine]
    """Every bonded machine."""
    rented: Map[MachineId, U16] = Map(default=NO_UNITS)
    """Units of a machine that orders have taken."""
    bonds: Map[MachineId, U32] = Map(default=U32(0))
    """How often a machine was bonded: the nonce of its next bond message."""
    proposed: Map[AccountId, AccountId]
    """Stash → the account it asked to act for it."""
    controller_of: Map[AccountId, AccountId]
    """Stash → its controller, where that is another account."""
    stash_of: Map[AccountId, AccountId]
    """Controller → the stash it acts for."""
    machine_count: Counter[U32]
    """How many machines are bonded."""
    total_gpus: Counter[U32]
    """How many GPUs they have."""
    peak_gpus: Counter[U32]
    """The most GPUs that were ever bonded at once: the burn schedule goes by it."""

    def __init__(
        self, context: Context, holds: Holds, charges: Charges, chain: Chain, clock: Clock
    ) -> None:
        super().__init__(context)
        self.holds, self.charges, self.chain, self.clock = holds, charges, chain, clock

    @call(0, reads=1, writes=3)
    def propose_controller(self, stash: Signed, controller: AccountId) -> None:
        """Ask `controller` to act for your machines; yourself, to take that back. Cost: O(1)."""
        if controller == stash:
            self._set_controller(stash, stash)
            return
        self.proposed[stash] = controller
        self.emit(ControllerProposed(stash=stash, controller=controller))

    @call(1, reads=3, writes=4)
    def accept_stash(self, controller: Signed, stash: AccountId) -> None:
        """Act for the machines of `stash`, which has asked you to. Cost: O(1)."""
        ensure(self.proposed.get(stash) == controller, NotProposed)
        ensure(controller not in self.stash_of, ControllerTaken)
        self._set_controller(stash, controller)

    @call(2, reads=10, writes=7, compute=SIGNATURE)
    def bond(
        self,
        stash: Signed,
        machine: MachineId,
        hardware: Hardware,
        isolation: Isolation,
        network: Network,
        price: MicroUsd,
        address: Address,
        signature: Signature,
    ) -> None:
        """Bring a machine to the network, with its own signature. Cost: O(1)."""
        ensure(machine not in self.machines, AlreadyBonded)
        ensure(hardware.units() > 0, NoUnits)
        self._ensure_signed(signature, machine, stash)
        stake = self.stake_of(hardware)
        self.charges.charge(stash, self.bond_fee)
        self.holds.hold(stash, HoldReason.BOND, stake)
        self.machines[machine] = Machine(
            stash=stash,
            hardware=hardware,
            isolation=isolation,
            network=network,
            price=price,
            address=address,
            offer_version=U32(0),
            paused=False,
            bond=stake,
            bonded_at=self.clock.service(),
        )
        self.bonds[machine] = self.bonds.at(machine) + 1
        self.machine_count.add(1)
        self._count_gpus(NO_UNITS, hardware.gpus)
        self.emit(MachineBonded(machine=machine, stash=stash, bond=stake))

    @call(3, reads=1, writes=1)
    def set_price(self, stash: Signed, machine: MachineId, price: MicroUsd) -> None:
        """Ask another price of new orders, in µUSD per unit and hour. Cost: O(1)."""
        self._edit(machine, self._own(stash, machine).but(price=price))

    @call(4, reads=7, writes=5)
    def set_hardware(
        self, who: Signed, machine: MachineId, hardware: Hardware, isolation: Isolation
    ) -> None:
        """Declare other hardware, while no unit is rented; the bond follows.

        The controller may declare less of the same, and weaker isolation, but nothing more. Cost: O(1).
        """
        before = self._served(who, machine)
        is_less = hardware.is_within(before.hardware) and isolation.value >= before.isolation.value
        ensure(is_less or who == before.stash, NotStash)
        ensure(hardware.units() > 0, NoUnits)
        ensure(self.rented.at(machine) == 0, UnitsRented)
        stake = self.stake_of(hardware)
        if stake > before.bond:
            self.holds.hold(before.stash, HoldReason.BOND, stake - before.bond)
        elif stake < before.bond:
            self.holds.release(before.stash, HoldReason.BOND, before.bond - stake)
        self._count_gpus(before.hardware.gpus, hardware.gpus)
        self._edit(machine, before.but(hardware=hardware, isolation=isolation, bond=stake))

    @call(5, reads=2, writes=1)
    def set_address(self, who: Signed, machine: MachineId, address: Address) -> None:
        """Say where the machine is dialled; its offer is unchanged. Cost: O(1)."""
        self.machines[machine] = self._served(who, machine).but(address=address)
        self.emit(AddressChanged(machine=machine))

    @call(6, reads=2, writes=1)
    def pause(self, who: Signed, machine: MachineId) -> None:
        """Take no new orders; those that run go on. Cost: O(1)."""
        self._edit(machine, self._served(who, machine).but(paused=True))

    @call(7, reads=2, writes=1)
    def resume(self, who: Signed, machine: MachineId) -> None:
        """Take new orders again. Cost: O(1)."""
        self._edit(machine, self._served(who, machine).but(paused=False))

    @call(8, reads=6, writes=6)
    def unbond(self, stash: Signed, machine: MachineId) -> None:
        """Take the machine off the network and its bond back, while no unit is rented. Cost: O(1)."""
        leaving = self._own(stash, machine)
        ensure(self.rented.at(machine) == 0, UnitsRented)
        del self.machines[machine]
        self.machine_count.sub(1)
        self._count_gpus(leaving.hardware.gpus, NO_UNITS)
        self.holds.release(leaving.stash, HoldReason.BOND, leaving.bond)
        self.emit(MachineUnbonded(machine=machine, stash=leaving.stash, bond=leaving.bond))

    @call(9, reads=2, writes=1)
    def set_network(self, who: Signed, machine: MachineId, network: Network) -> None:
        """Say what new tenants can reach; those that run keep theirs. Cost: O(1)."""
        self._edit(machine, self._served(who, machine).but(network=network))

    # What other pallets may ask: `traits.Offers`.

    def offer(self, machine: MachineId) -> Offer:
        """What the machine offers. Raises: NoSuchMachine."""
        found = self.machines.expect(machine, NoSuchMachine)
        return Offer(
            stash=found.stash,
            controller=self._controller_of(found.stash),
            price=found.price,
            version=found.offer_version,
            open=not found.paused,
            for_strangers=found.isolation is Isolation.GVISOR,
        )

    def occupy(self, machine: MachineId, units: U16) -> None:
        """Take units from what is free. Raises: NotEnoughUnits."""
        found = self.machines.expect(machine, NoSuchMachine)
        rented = int(self.rented.at(machine)) + units
        ensure(rented <= found.hardware.units(), NotEnoughUnits)
        self.rented[machine] = U16(rented)

    def vacate(self, machine: MachineId, units: U16) -> None:
        """Give units back. Raises: ArithmeticFailure: they were not taken."""
        rented = self.rented.at(machine) - units
        if rented:
            self.rented[machine] = rented
        else:
            del self.rented[machine]

    def rented_units(self, machine: MachineId) -> U16:
        """Units that are taken."""
        return self.rented.at(machine)

    def most_gpus(self) -> U32:
        """The most GPUs that were ever bonded at once."""
        return self.peak_gpus.get()

    # Helpers of the calls.

    def stake_of(self, hardware: Hardware) -> Balance:
        """What is held for a machine like this."""
        each = self.gpu_stake if hardware.gpus else self.core_stake
        return each * hardware.units()

    def _controller_of(self, stash: AccountId) -> AccountId:
        return self.controller_of.get(stash) or stash

    def _own(self, who: AccountId, machine: MachineId) -> Machine:
        """The machine, if `who` is its stash."""
        found = self.machines.expect(machine, NoSuchMachine)
        ensure(found.stash == who, NotStash)
        return found

    def _served(self, who: AccountId, machine: MachineId) -> Machine:
        """The machine, if `who` is its stash or acts for it."""
        found = self.machines.expect(machine, NoSuchMachine)
        ensure(who in (found.stash, self._controller_of(found.stash)), NotController)
        return found

    def _edit(self, machine: MachineId, edited: Machine) -> None:
        version = edited.offer_version + 1
        self.machines[machine] = edited.but(offer_version=version)
        self.emit(OfferChanged(machine=machine, offer_version=version))

    def _ensure_signed(self, signature: Signature, machine: MachineId, stash: AccountId) -> None:
        message = BondMessage(
            machine=machine,
            stash=stash,
            controller=self._controller_of(stash),
            nonce=self.bonds.at(machine),
        )
        signed = bond_message(self.chain.genesis_hash(), message)
        ensure(verify(Scheme.ED25519, machine, signature, signed), BadSignature)

    def _set_controller(self, stash: AccountId, controller: AccountId) -> None:
        """Replace whoever acts for `stash`; itself, where nobody else shall."""
        former = self.controller_of.get(stash)
        if former is not None:
            del self.stash_of[former]
            del self.controller_of[stash]
        if controller != stash:
            self.controller_of[stash] = controller
            self.stash_of[controller] = stash
        del self.proposed[stash]
        self.emit(ControllerSet(stash=stash, controller=controller))

    def _count_gpus(self, before: U16, after: U16) -> None:
        total = U32(int(self.total_gpus.get()) - before + after)
        self.total_gpus.put(total)
        if total > self.peak_gpus.get():
            self.peak_gpus.put(total)

    def try_state(self) -> Iterator[str]:
        bonds: dict[AccountId, int] = {}
        gpus = 0
        for machine, found in self.machines.items():
            bonds[found.stash] = bonds.get(found.stash, 0) + found.bond
            gpus += found.hardware.gpus
            if self.rented.at(machine) > found.hardware.units():
                yield f"M3: {machine} has more units rented than it has"
        for stash, bond in bonds.items():
            if self.holds.held(stash, HoldReason.BOND) != bond:
                yield f"M1: the bond of {stash} is not that of its machines"
        if gpus != self.total_gpus.get() or gpus > self.peak_gpus.get():
            yield f"M2: there are {gpus} GPUs, counted are {self.total_gpus.get()}"
        acting = {controller: stash for stash, controller in self.controller_of.items()}
        if acting != dict(self.stash_of.items()):
            yield "M4: `stash_of` is not the inverse of `controller_of`"

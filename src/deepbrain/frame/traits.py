"""The small interfaces that pallets ask of one another.

Pallets are strangers: each says here what it needs, the least power that will do, and the runtime's
wiring hands it over. Failures not listed are `TokenFailure`.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from deepbrain.frame.account import AccountInfo, HoldReason
from deepbrain.frame.calls import Call
from deepbrain.frame.dispatch import DispatchError, Failure
from deepbrain.frame.origin import Origin
from deepbrain.primitives.ids import AccountId, Hash, MachineId
from deepbrain.primitives.units import U16, U32, Balance, MicroUsd, Moment, Seconds
from deepbrain.scale import Enumeration


class Accounts(Protocol):
    """Where accounts are stored."""

    def account_of(self, who: AccountId) -> AccountInfo:
        """The account; an empty one if it is not there."""

    def put_account(self, who: AccountId, info: AccountInfo) -> None:
        """Store the account, or remove it if it is empty and has never signed."""

    def everybody(self) -> Iterator[tuple[AccountId, AccountInfo]]:
        """Every account, for invariants. Cost: all of them."""


class Chain(Protocol):
    """Which chain this is."""

    def genesis_hash(self) -> Hash:
        """The hash of block 0, by which every signature is bound to this chain."""


class Clock(Protocol):
    """The two clocks."""

    def calendar(self) -> Moment:
        """The block's own time."""

    def genesis(self) -> Moment:
        """The time of block 1."""

    def service(self) -> Seconds:
        """Seconds of a running chain: what terms and deadlines are measured in."""

    def era(self) -> U32:
        """Whole eras of calendar time since block 1."""


class Payments(Protocol):
    """Moves fees."""

    def can_pay(self, who: AccountId, amount: int) -> bool:
        """Whether `collect` would succeed."""

    def collect(self, who: AccountId, amount: Balance) -> None:
        """Take a fee. The payer keeps at least the existential deposit."""

    def credit(self, to: AccountId, amount: Balance) -> None:
        """Give what was collected to whom it belongs, within the same block."""


class Charges(Protocol):
    """Takes fixed fees."""

    def charge(self, who: AccountId, amount: Balance) -> None:
        """Take `amount` to the treasury."""


class Holds(Protocol):
    """Money set aside with a named reason: still its owner's, but not to be spent."""

    def hold(self, who: AccountId, reason: HoldReason, amount: Balance) -> None:
        """Set `amount` aside."""

    def release(self, who: AccountId, reason: HoldReason, amount: Balance) -> None:
        """Give `amount` of the hold back to its owner."""

    def pay_held(self, who: AccountId, reason: HoldReason, to: AccountId, amount: Balance) -> None:
        """Pay `amount` of the hold to somebody else."""

    def burn_held(self, who: AccountId, reason: HoldReason, amount: Balance) -> None:
        """Destroy `amount` of the hold."""

    def transfer_hold(
        self, who: AccountId, from_: HoldReason, to: HoldReason, amount: Balance
    ) -> None:
        """Hold `amount` of what is held for one reason for another; it stays its owner's."""

    def held(self, who: AccountId, reason: HoldReason) -> Balance:
        """What is set aside for this reason."""


class OffenceKind(Enumeration):
    """What an account is slashed for. Append-only."""

    DOUBLE_SIGN = 0
    """As a validator it voted for two blocks in one round."""
    LIGHT_CLIENT_ATTACK = 1
    """As a validator it voted for a header made up for light clients."""


class Offences(Protocol):
    """Where those who broke the rules are brought before."""

    def report(self, offender: AccountId, kind: OffenceKind, amount: Balance) -> None:
        """Take `amount` of the offender's stake out of its reach; it is slashed later."""


class Price(Protocol):
    """What the token is worth."""

    def micro_usd_per_dbc(self) -> MicroUsd:
        """µUSD for one DBC; never zero. Raises: a PalletError: no price is known."""


class Offer(NamedTuple):
    """What a machine offers now."""

    stash: AccountId
    """Who is paid."""
    controller: AccountId
    """Who acts for the machine."""
    price: MicroUsd
    """µUSD for one unit and one hour."""
    version: U32
    open: bool
    """Whether it takes new orders."""
    for_strangers: bool
    """Whether its isolation may serve anybody but its owner."""


class Offers(Protocol):
    """The machines, as those who rent see them."""

    def offer(self, machine: MachineId) -> Offer:
        """What the machine offers. Raises: a PalletError: there is no such machine."""

    def occupy(self, machine: MachineId, units: U16) -> None:
        """Take units from what is free. Raises: a PalletError: there are not so many."""

    def vacate(self, machine: MachineId, units: U16) -> None:
        """Give units back."""

    def rented_units(self, machine: MachineId) -> U16:
        """Units that are taken, for invariants."""

    def most_gpus(self) -> U32:
        """The most GPUs that were ever bonded at once."""


class Dispatcher(Protocol):
    """Makes calls on behalf of a pallet."""

    def dispatch(self, call: Call, origin: Origin) -> Failure | None:
        """Make the call on a layer of its own; gives the reason if it failed."""

    def error_of(self, failure: Failure) -> DispatchError:
        """A failure as events carry it."""

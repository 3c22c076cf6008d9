"""TransactionPayment: what an extrinsic costs.

    fee = weight × `weight_price` + bytes × `length_price` + tip        fixed fees come on top, by call

The fee is taken before the call and kept whether it succeeds or fails; the treasury is credited with
the fees of a block at its end. The weight is what the call declares, whatever it turns out to need.
Invariants: F1  between blocks nothing is collected that the treasury has not.
Units: planck; weight in picoseconds of the reference CPU.
"""

from collections.abc import Iterator
from typing import Final

from deepbrain.frame.context import Context
from deepbrain.frame.pallet import Constant, Event, Pallet
from deepbrain.frame.storage import Counter
from deepbrain.frame.traits import Payments
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import Balance

TREASURY: Final = AccountId(b"modldbc/trsy".ljust(AccountId.SIZE, b"\0"))
"""Nobody has the key of this account."""


class TransactionFeePaid(Event, index=0):
    """An extrinsic's fee was taken, the tip included in it."""

    who: AccountId
    actual_fee: Balance
    tip: Balance


class Fees(Pallet, index=6, name="TransactionPayment"):
    weight_price: Constant[Balance] = Balance(1)
    """Planck for a picosecond of weight."""
    length_price: Constant[Balance] = Balance(10**9)
    """Planck for a byte: 10⁻⁶ DBC."""
    treasury: Constant[AccountId] = TREASURY
    """The account that fees are paid to."""

    collected: Counter[Balance]
    """What this block has collected for the treasury; nothing between blocks."""

    def __init__(self, context: Context, payments: Payments) -> None:
        super().__init__(context)
        self.payments = payments

    def fee_of(self, weight: int, length: int) -> Balance:
        """The fee of an extrinsic without its tip."""
        return Balance(weight * int(self.weight_price) + length * int(self.length_price))

    def take(self, who: AccountId, fee: Balance, tip: Balance) -> TransactionFeePaid:
        """Take fee and tip; gives the event, which comes after those of the call.

        Raises: TokenFailure.
        """
        total = fee + tip if tip else fee
        self.charge(who, total)
        return TransactionFeePaid(who=who, actual_fee=total, tip=tip)

    def can_take(self, who: AccountId, fee: Balance, tip: Balance) -> bool:
        """Whether `take` would succeed."""
        return self.payments.can_pay(who, int(fee) + int(tip))

    def on_finalize(self) -> None:
        """Credit the treasury with what this block collected."""
        collected = self.collected.get()
        if collected:
            self.payments.credit(self.treasury, collected)
            self.collected.reset()

    # What other pallets may ask: `traits.Charges`.

    def charge(self, who: AccountId, amount: Balance) -> None:
        """Take a fee for the treasury. Raises: TokenFailure."""
        self.payments.collect(who, amount)
        self.collected.add(amount)

    def try_state(self) -> Iterator[str]:
        if self.collected.get():
            yield "F1: fees were collected and not credited"

"""Balances: who has how much, what is set aside, and how much there is in all.

    free ──hold──► held for a reason ──release──► free
                        ├──pay_held──► somebody else's free      └──burn_held──► nobody's
                        └──transfer_hold──► held for another reason

Money: 1 DBC = 10¹⁵ planck; there will never be more than 10¹⁰ DBC. A hold has a reason and can be
spent for nothing else. Less than `existential_deposit` in all is dust: it is burned, and counted.
Invariants: B1  the sum of all accounts is `total_issuance` = `issued` − `burned`.
            B2  `reserved` of an account is the sum of its holds.
            B3  `total_issuance` is at most `max_issuance`.
            B4  an account with money has the existential deposit, unless some of it is held.
Units: planck.
"""

from collections.abc import Iterator
from typing import Annotated, Final

from deepbrain.frame.account import AccountInfo, HoldReason, with_money
from deepbrain.frame.calls import call
from deepbrain.frame.context import Context
from deepbrain.frame.errors import PalletError, TokenError, TokenFailure, ensure
from deepbrain.frame.lookup import Lookup
from deepbrain.frame.origin import Signed
from deepbrain.frame.pallet import Constant, Event, Pallet
from deepbrain.frame.storage import Counter, Map
from deepbrain.frame.traits import Accounts
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import PLANCK, Balance
from deepbrain.scale import Compact, MaxLen, Struct

NOTHING: Final = Balance(0)


class IdAmount(Struct):
    """So much is set aside for this reason."""

    __scale_path__ = ("frame_support", "traits", "tokens", "misc", "IdAmount")

    id: HoldReason
    amount: Balance


Holds = Annotated[tuple[IdAmount, ...], MaxLen(16)]


class DustLost(Event, index=1):
    """What was left of an account was less than the existential deposit, and was burned."""

    account: AccountId
    amount: Balance


class Transfer(Event, index=2):
    """Money changed hands."""

    from_: AccountId
    to: AccountId
    amount: Balance


class Minted(Event, index=10):
    """Money was made."""

    who: AccountId
    amount: Balance


class Burned(Event, index=11):
    """Money was destroyed."""

    who: AccountId
    amount: Balance


class Held(Event, index=20):
    """Money was set aside."""

    reason: HoldReason
    who: AccountId
    amount: Balance


class Released(Event, index=21):
    """Money set aside was given back to its owner."""

    reason: HoldReason
    who: AccountId
    amount: Balance


class TransferOnHold(Event, index=22):
    """Money set aside was paid to somebody else."""

    reason: HoldReason
    from_: AccountId
    to: AccountId
    amount: Balance


class BurnedHeld(Event, index=23):
    """Money set aside was destroyed."""

    reason: HoldReason
    who: AccountId
    amount: Balance


class HoldTooSmall(PalletError, index=0):
    """Less than this is held for the reason."""


class IssuanceExceeded(PalletError, index=1):
    """There would be more money than there may ever be."""


class Balances(Pallet, index=4):
    existential_deposit: Constant[Balance] = Balance(PLANCK // 100)
    """The least an account may have in all: 0.01 DBC."""
    max_issuance: Constant[Balance] = Balance(10**10 * PLANCK)
    """How much money there may ever be: 10¹⁰ DBC."""

    total_issuance: Counter[Balance]
    """How much money there is."""
    issued: Counter[Balance]
    """How much money was ever made."""
    burned: Counter[Balance]
    """How much money was ever destroyed, dust included."""
    holds: Map[AccountId, Holds] = Map(default=())
    """What is set aside, by reason."""

    def __init__(self, context: Context, accounts: Accounts) -> None:
        super().__init__(context)
        self.accounts = accounts

    @call(0, reads=3, writes=3)
    def transfer_allow_death(self, who: Signed, dest: Lookup, value: Compact[Balance]) -> None:
        """Send `value`; what is left of yours is burned if it is dust. Cost: O(1)."""
        self._transfer(who, dest, value, keep_alive=False)

    @call(3, reads=1, writes=1)
    def transfer_keep_alive(self, who: Signed, dest: Lookup, value: Compact[Balance]) -> None:
        """Send `value`, but not so much that your account would become dust. Cost: O(1)."""
        self._transfer(who, dest, value, keep_alive=True)

    @call(4, reads=3, writes=3)
    def transfer_all(self, who: Signed, dest: Lookup, keep_alive: bool) -> None:
        """Send all you may spend, or all but what keeps your account. Cost: O(1)."""
        data = self.accounts.account_of(who).data
        kept = self.existential_deposit.saturating_sub(data.reserved) if keep_alive else NOTHING
        self._transfer(who, dest, data.free.saturating_sub(kept), keep_alive=keep_alive)

    @call(10, reads=2, writes=2)
    def burn(self, who: Signed, value: Compact[Balance], keep_alive: bool) -> None:
        """Destroy your own money for good. Cost: O(1)."""
        self._withdraw(who, value, keep_alive=keep_alive)
        self._count_burned(value)
        self.emit(Burned(who=who, amount=value))

    # What other pallets may ask: `traits.Holds`, and the making of money for those who may.

    def held(self, who: AccountId, reason: HoldReason) -> Balance:
        """What is set aside for this reason."""
        return next((held.amount for held in self.holds.at(who) if held.id is reason), NOTHING)

    def hold(self, who: AccountId, reason: HoldReason, amount: Balance) -> None:
        """Set `amount` aside. Raises: TokenFailure: it is not there."""
        info = self.accounts.account_of(who)
        free = _taken(info.data.free, amount)
        self._set_held(who, reason, self.held(who, reason) + amount)
        self.accounts.put_account(who, with_money(info, free, info.data.reserved + amount))
        self.emit(Held(reason=reason, who=who, amount=amount))

    def release(self, who: AccountId, reason: HoldReason, amount: Balance) -> None:
        """Give `amount` of the hold back to its owner. Raises: HoldTooSmall."""
        self._take_held(who, reason, amount, to_free=amount)
        self.emit(Released(reason=reason, who=who, amount=amount))

    def pay_held(self, who: AccountId, reason: HoldReason, to: AccountId, amount: Balance) -> None:
        """Pay `amount` of the hold to somebody else. Raises: HoldTooSmall."""
        self._take_held(who, reason, amount, to_free=NOTHING)
        self._deposit(to, amount)
        self.emit(TransferOnHold(reason=reason, from_=who, to=to, amount=amount))

    def burn_held(self, who: AccountId, reason: HoldReason, amount: Balance) -> None:
        """Destroy `amount` of the hold. Raises: HoldTooSmall."""
        self._take_held(who, reason, amount, to_free=NOTHING)
        self._count_burned(amount)
        self.emit(BurnedHeld(reason=reason, who=who, amount=amount))

    def transfer_hold(
        self, who: AccountId, from_: HoldReason, to: HoldReason, amount: Balance
    ) -> None:
        """Hold `amount` for another reason; what it is for, its pallet says. Raises: HoldTooSmall."""
        held = self.held(who, from_)
        ensure(held >= amount, HoldTooSmall)
        self._set_held(who, from_, held - amount)
        self._set_held(who, to, self.held(who, to) + amount)

    def mint(self, who: AccountId, amount: Balance) -> None:
        """Make money. Raises: IssuanceExceeded."""
        issuance = self.total_issuance.get() + amount
        ensure(issuance <= self.max_issuance, IssuanceExceeded)
        self.total_issuance.put(issuance)
        self.issued.add(amount)
        self._deposit(who, amount)
        self.emit(Minted(who=who, amount=amount))

    def can_pay(self, who: AccountId, amount: int) -> bool:
        """Whether `collect` would succeed."""
        data = self.accounts.account_of(who).data
        return amount <= data.free and data.total() - amount >= self.existential_deposit

    def collect(self, who: AccountId, amount: Balance) -> None:
        """Take a fee. The payer keeps at least the existential deposit. Raises: TokenFailure."""
        self._withdraw(who, amount, keep_alive=True)

    def credit(self, to: AccountId, amount: Balance) -> None:
        """Give what was collected to whom it belongs, within the same block."""
        self._deposit(to, amount)

    # How money moves.

    def _transfer(self, who: AccountId, dest: Lookup, value: Balance, *, keep_alive: bool) -> None:
        if who == dest:
            _taken(self.accounts.account_of(who).data.free, value)
            self.emit(Transfer(from_=who, to=dest, amount=value))
            return
        if value < self.existential_deposit:
            self._ensure_receives(dest, value)
        self._withdraw(who, value, keep_alive=keep_alive)
        self._deposit(dest, value)
        self.emit(Transfer(from_=who, to=dest, amount=value))

    def _withdraw(self, who: AccountId, value: Balance, *, keep_alive: bool) -> None:
        info = self.accounts.account_of(who)
        free = _taken(info.data.free, value)
        if keep_alive and info.data.total() - value < self.existential_deposit:
            raise TokenFailure(TokenError.NOT_EXPENDABLE)
        self._settle(who, info, free, info.data.reserved)

    def _deposit(self, who: AccountId, value: Balance) -> None:
        """Credit an account. What would leave it below the existential deposit is dust."""
        info = self.accounts.account_of(who)
        self._settle(who, info, info.data.free + value, info.data.reserved)

    def _settle(self, who: AccountId, info: AccountInfo, free: Balance, reserved: Balance) -> None:
        """Store the money of an account, or burn it where it is dust."""
        if 0 < free < self.existential_deposit and not reserved:
            self._count_burned(free)
            self.emit(DustLost(account=who, amount=free))
            free = NOTHING
        self.accounts.put_account(who, with_money(info, free, reserved))

    def _ensure_receives(self, dest: Lookup, value: Balance) -> None:
        """Raises: TokenFailure: with so little, the account would be dust."""
        if self.accounts.account_of(dest).data.total() + value < self.existential_deposit:
            raise TokenFailure(TokenError.BELOW_MINIMUM)

    def _take_held(
        self, who: AccountId, reason: HoldReason, amount: Balance, *, to_free: Balance
    ) -> None:
        held = self.held(who, reason)
        ensure(held >= amount, HoldTooSmall)
        self._set_held(who, reason, held - amount)
        info = self.accounts.account_of(who)
        data = info.data
        self._settle(who, info, data.free + to_free, data.reserved - amount)

    def _set_held(self, who: AccountId, reason: HoldReason, amount: Balance) -> None:
        others = tuple(held for held in self.holds.at(who) if held.id is not reason)
        kept = (*others, IdAmount(id=reason, amount=amount)) if amount else others
        if kept:
            self.holds[who] = kept
        else:
            del self.holds[who]

    def _count_burned(self, amount: Balance) -> None:
        self.total_issuance.sub(amount)
        self.burned.add(amount)

    def try_state(self) -> Iterator[str]:
        total = 0
        for who, info in self.accounts.everybody():
            has = info.data.total()
            total += has
            if 0 < has < self.existential_deposit and not info.data.reserved:
                yield f"B4: {who} has dust"
            held = sum(int(held.amount) for held in self.holds.at(who))
            if held != info.data.reserved:
                yield f"B2: {who} has holds of {held} but {info.data.reserved} reserved"
        issuance = self.total_issuance.get()
        if total != issuance or issuance != self.issued.get() - self.burned.get():
            yield f"B1: accounts have {total}, issuance is {issuance}"
        if issuance > self.max_issuance:
            yield "B3: there is more money than there may ever be"


def _taken(free: Balance, amount: Balance) -> Balance:
    """What is left of `free`. Raises: TokenFailure: it is not there."""
    if amount > free:
        raise TokenFailure(TokenError.FUNDS_UNAVAILABLE)
    return free - amount

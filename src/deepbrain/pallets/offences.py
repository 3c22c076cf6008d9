"""Offences: who broke which rule, and what it costs.

    report ──► pending ──slash_delay──► slashed      the treasury has the money
                  └──cancel (root)────► cancelled    the offender has it back

Money: at `report` the amount moves from what the offender holds as stake to what it holds to be slashed,
in the same block: however soon its stake falls due, this part cannot be withdrawn. The delay leaves time
to cancel what a bug did, and costs the treasury nothing.
Records are kept for ever: one costs its offender a share of a stake, so there are few.
Slashes that are due are executed by the chain itself, a bounded number a block.

Invariants: X1  what is held from an account to be slashed is the sum of its pending offences.
            X2  the offences are those numbered below `next_id`.
            X3  every pending offence is scheduled for the second it is due, or parked.
Units: Balance in planck, instants and spans in seconds of service time.
"""

from collections.abc import Iterator
from typing import Annotated, Final

from deepbrain.frame.account import HoldReason
from deepbrain.frame.calls import call
from deepbrain.frame.context import Context
from deepbrain.frame.dispatch import FAILURES
from deepbrain.frame.errors import PalletError, ensure
from deepbrain.frame.origin import Root
from deepbrain.frame.pallet import Constant, Event, Pallet
from deepbrain.frame.schedule import Page, Schedule
from deepbrain.frame.storage import TWOX_64_CONCAT, Counter, DoubleMap, Map, Unit
from deepbrain.frame.traits import Clock, Holds, OffenceKind
from deepbrain.frame.weight import READ, WRITE, DispatchClass
from deepbrain.primitives.ids import AccountId, OffenceId
from deepbrain.primitives.units import U32, Balance, Seconds
from deepbrain.scale import Enumeration, Struct

DAY: Final = 24 * 3600

DUE_PER_BLOCK: Final = 16
"""Slashes executed in a block at most."""
SECONDS_PER_BLOCK: Final = 200
"""Seconds of the schedule looked at in a block at most: more than a block can let pass."""

SLASH_READS: Final = 7
SLASH_WRITES: Final = 7
"""What executing a slash touches, at most."""


class Outcome(Enumeration):
    """What became of an offence."""

    PENDING = 0
    SLASHED = 1
    CANCELLED = 2


class Offence(Struct):
    """An offence. Nothing of it changes but its outcome, and that once."""

    offender: AccountId
    kind: OffenceKind
    amount: Balance
    reported_at: Seconds
    due: Seconds
    """When it is slashed, unless cancelled before."""
    outcome: Outcome


class OffenceReported(Event, index=0):
    """`amount` of the offender's stake is held to be slashed at `due`."""

    offence: OffenceId
    offender: AccountId
    kind: OffenceKind
    amount: Balance
    due: Seconds


class Slashed(Event, index=1):
    """The treasury has what the offence costs."""

    offence: OffenceId
    offender: AccountId
    amount: Balance


class SlashCancelled(Event, index=2):
    """The offender has its money back, to spend."""

    offence: OffenceId
    offender: AccountId
    amount: Balance


class SlashParked(Event, index=3):
    """A slash could not be executed when it was due; the money stays held until root cancels it."""

    offence: OffenceId


class NoSuchOffence(PalletError, index=0):
    """No offence has this number."""


class NotPending(PalletError, index=1):
    """The offence was slashed or cancelled before."""


class Offences(Pallet, index=13):
    slash_delay: Constant[Seconds] = Seconds(13 * DAY)
    """How long after its report an offence is slashed: 13 days."""

    offences: Map[Annotated[OffenceId, TWOX_64_CONCAT], Offence]
    """Every offence there ever was."""
    next_id: Counter[OffenceId]
    """The number of the next offence. Numbers are never reused."""
    due_count: Map[Annotated[Seconds, TWOX_64_CONCAT], U32]
    """How many offences come up at a second."""
    due_pages: DoubleMap[
        Annotated[Seconds, TWOX_64_CONCAT], Annotated[U32, TWOX_64_CONCAT], Page[OffenceId]
    ]
    """Which they are, a page at a time."""
    due_cursor: Counter[Seconds]
    """The first second that is not done with."""
    parked: Map[Annotated[OffenceId, TWOX_64_CONCAT], Unit]
    """Offences that could not be slashed when they were due."""

    def __init__(self, context: Context, holds: Holds, clock: Clock, treasury: AccountId) -> None:
        super().__init__(context)
        self.holds, self.clock, self.treasury = holds, clock, treasury
        self.schedule = Schedule(self.due_count, self.due_pages, self.due_cursor)

    @call(0, reads=4, writes=4, dispatch_class=DispatchClass.OPERATIONAL)
    def cancel(self, origin: Root, offence: OffenceId) -> None:
        """Give a pending offence's money back to the offender, to spend. Cost: O(1).

        What else the offence had done stays done: who was banned for it stays banned.
        """
        found = self.offences.expect(offence, NoSuchOffence)
        ensure(found.outcome is Outcome.PENDING, NotPending)
        if found.amount:
            self.holds.release(found.offender, HoldReason.SLASH, found.amount)
        if offence in self.parked:
            del self.parked[offence]
        self.offences[offence] = found.but(outcome=Outcome.CANCELLED)
        self.emit(SlashCancelled(offence=offence, offender=found.offender, amount=found.amount))

    # What is due by itself.

    def post_inherents(self) -> int:
        """Execute the slashes that are due, a bounded number a block."""
        now, before = self.clock.service(), self.due_cursor.get()
        taken = 0
        for offence in self.schedule.take(now, entries=DUE_PER_BLOCK, seconds=SECONDS_PER_BLOCK):
            taken += 1
            self._try_slash(offence)
        return READ * (self.due_cursor.get() - before) + taken * (
            SLASH_READS * READ + SLASH_WRITES * WRITE
        )

    def _try_slash(self, offence: OffenceId) -> None:
        """Execute a slash, or park it: one that fails must not stop the others."""
        mark = self.context.journal.mark()
        try:
            self._slash(offence)
        except FAILURES:
            self.context.journal.rollback(mark)
            self.parked[offence] = ()
            self.emit(SlashParked(offence=offence))

    def _slash(self, offence: OffenceId) -> None:
        """Pay the treasury, unless the offence was cancelled in the meantime."""
        found = self.offences.expect(offence, NoSuchOffence)
        if found.outcome is not Outcome.PENDING:
            return
        if found.amount:
            self.holds.pay_held(found.offender, HoldReason.SLASH, self.treasury, found.amount)
        self.offences[offence] = found.but(outcome=Outcome.SLASHED)
        self.emit(Slashed(offence=offence, offender=found.offender, amount=found.amount))

    # What other pallets may ask: `traits.Offences`.

    def report(self, offender: AccountId, kind: OffenceKind, amount: Balance) -> None:
        """Take `amount` of the offender's stake out of its reach, and slash it in `slash_delay`.

        Raises: HoldTooSmall: so much is not held as stake.
        """
        now = self.clock.service()
        due = now + self.slash_delay
        self.holds.transfer_hold(offender, HoldReason.STAKE, HoldReason.SLASH, amount)
        offence = self.next_id.take()
        self.offences[offence] = Offence(
            offender=offender,
            kind=kind,
            amount=amount,
            reported_at=now,
            due=due,
            outcome=Outcome.PENDING,
        )
        self.schedule.add(due, offence)
        self.emit(
            OffenceReported(offence=offence, offender=offender, kind=kind, amount=amount, due=due)
        )

    def try_state(self) -> Iterator[str]:
        # Nobody else holds for this reason, and records stay: whoever has such a hold has a record.
        pending: dict[AccountId, int] = {}
        scheduled = list(self.schedule.entries())
        count = 0
        for offence, found in self.offences.items():
            count += 1
            is_pending = found.outcome is Outcome.PENDING
            amount = int(found.amount) if is_pending else 0
            pending[found.offender] = pending.get(found.offender, 0) + amount
            at = max(found.due, self.due_cursor.get())
            if is_pending and (at, offence) not in scheduled and offence not in self.parked:
                yield f"X3: offence {offence} is due at {at}, and not scheduled then"
            if offence >= self.next_id.get():
                yield f"X2: offence {offence} has a number that was not given yet"
        if count != self.next_id.get():
            yield f"X2: there are {count} offences, {self.next_id.get()} were numbered"
        for offender, amount in pending.items():
            if self.holds.held(offender, HoldReason.SLASH) != amount:
                yield f"X1: {offender} has offences of {amount}, another amount is held"

"""Rent: a renter rents units of a machine by the second, prepaid and settled to the planck.

    place ──► placed ──start──► running ──────────────close──────────────► ended
                 │                                                          exited   the job ended
                 │                                                          stopped  by the renter
                 └───────────────────────close────────────────────────────► expired  the term is over
                                                                            lapsed   not started in time
                                                                            failed   by the provider

*Time* is service time, in seconds. Placed, an order waits at most `start_within`, unbilled; from
`start` on, and not before, it is billed, for its term at most.

*Price*: a machine asks µUSD per unit and hour. `place` turns that into DBC once, at the price of its
day; each `extend` adds a *segment* at the price of its own. A segment is worth

    amount(seconds) = ⌊ price × units × seconds × 10¹⁵ / (3600 × µUSD per DBC) ⌋

*Money*: the worth of all segments is held from the renter. At the end the used seconds fill the
segments in turn; what they are worth is paid, the share of the burn schedule of it destroyed, and the
rest released, in the same block. A fixed fee is taken at `place` and never returned.

*Who may close*: the renter, at any time. The provider, at any time: it can only lower its own pay.
Anyone, once the term or the wait is over; the chain does it by itself then, a bounded number a block.

*Whom a machine serves*: everybody, if it isolates tenants by gVisor in its own network namespace;
otherwise only its own stash and controller.

Ended orders stay for `keep_ended` seconds, with their bill, and are then removed.

Invariants: R1  what is held for rent from an account is the worth of its open orders.
            R2  `orders_of` and `orders_on` list exactly the orders there are.
            R3  the units rented of a machine are those of its open orders.
            R4  every order is scheduled for the second it is due, or parked.
            R5  what a machine has earned is never less than what its kept orders paid.
Units: Balance in planck, price in µUSD per unit and hour, spans and instants in seconds.
"""

from collections.abc import Iterator
from typing import Annotated, Final

from deepbrain.frame.account import HoldReason
from deepbrain.frame.calls import call
from deepbrain.frame.context import Context
from deepbrain.frame.dispatch import FAILURES
from deepbrain.frame.errors import PalletError, ensure
from deepbrain.frame.origin import Signed
from deepbrain.frame.pallet import Constant, Event, Pallet
from deepbrain.frame.schedule import Page, Schedule
from deepbrain.frame.storage import TWOX_64_CONCAT, Counter, DoubleMap, Map, Unit
from deepbrain.frame.traits import Charges, Clock, Holds, Offer, Offers, Price
from deepbrain.frame.weight import READ, WRITE
from deepbrain.primitives.ids import AccountId, Hash, MachineId, OrderId
from deepbrain.primitives.units import (
    PLANCK,
    U8,
    U16,
    U32,
    U64,
    Balance,
    MicroUsd,
    Permill,
    Seconds,
)
from deepbrain.scale import Enumeration, MaxLen, Struct, TaggedUnion

HOUR: Final = 3600
DAY: Final = 24 * HOUR

MAX_SEGMENTS: Final = 16
"""Prices of an order's life; an extension at an unchanged price needs no new segment."""

DUE_PER_BLOCK: Final = 200
"""Orders that come up in a block at most."""
SECONDS_PER_BLOCK: Final = 200
"""Seconds of the schedule looked at in a block at most: more than a block can let pass."""

CLOSE_READS: Final = 17
CLOSE_WRITES: Final = 11
"""What ending an order touches, at most, whoever does it."""


class BurnStep(Struct):
    """From so many GPUs on, ever bonded at once, this share of a rent is destroyed."""

    gpus: U32
    share: Permill


class Segment(Struct):
    """A stretch of an order, at the price of the day it was bought."""

    seconds: Seconds
    price: MicroUsd
    """µUSD for a unit and an hour."""
    micro_usd_per_dbc: MicroUsd

    def worth(self, units: U16, seconds: int) -> int:
        """What `seconds` of it are worth, in planck, rounded down."""
        micro_usd = int(self.price) * int(units) * int(seconds)
        return micro_usd * PLANCK // (HOUR * int(self.micro_usd_per_dbc))


Segments = Annotated[tuple[Segment, ...], MaxLen(MAX_SEGMENTS)]


class Ending(Enumeration):
    """How an order ended."""

    EXITED = 0
    """The job ended by itself; the provider reported its exit code."""
    STOPPED = 1
    """The renter closed it."""
    EXPIRED = 2
    """Its term was over."""
    LAPSED = 3
    """The provider did not start it in time."""
    FAILED = 4
    """The provider gave it up."""


class Bill(Struct):
    """What an ended order came to: paid + burned + refunded is what was held."""

    used: Seconds
    paid: Balance
    burned: Balance
    refunded: Balance


class Earnings(Struct):
    """What a machine's billed orders came to, since it was first bonded."""

    orders: U64
    unit_seconds: U64
    """Billed seconds of each unit."""
    paid: Balance
    burned: Balance


class Status(TaggedUnion):
    """Placed → Running → Ended, or Placed → Ended."""


class Placed(Status, index=0):
    """Paid for, not started; lapses at `start_by`."""

    start_by: Seconds


class Running(Status, index=1):
    """Billed since `since`."""

    since: Seconds


class Ended(Status, index=2):
    """Settled; removed `keep_ended` seconds after `at`."""

    at: Seconds
    ending: Ending
    exit_code: U8 | None
    bill: Bill


class Order(Struct):
    """A rent order, from `place` until it is removed."""

    renter: AccountId
    machine: MachineId
    stash: AccountId
    """Who is paid."""
    units: U16
    segments: Segments
    manifest_hash: Hash
    """BLAKE2b-256 of the salted manifest: what to run."""
    placed_at: Seconds
    status: Status

    def term(self) -> int:
        """Seconds it may run in all."""
        return sum(int(segment.seconds) for segment in self.segments)

    def held(self) -> Balance:
        """What is held for it while it is open: the worth of all its segments."""
        return Balance(sum(part.worth(self.units, part.seconds) for part in self.segments))

    def worth(self, seconds: int) -> Balance:
        """What the first `seconds` are worth, each segment rounded down."""
        total, left = 0, seconds
        for segment in self.segments:
            used = min(left, int(segment.seconds))
            total += segment.worth(self.units, used)
            left -= used
        return Balance(total)

    def used(self, now: Seconds) -> int:
        """Billed seconds by `now`; none before it runs."""
        match self.status:
            case Running(since=since):
                return min(int(now) - since, self.term())
            case Ended(bill=bill):
                return int(bill.used)
            case _:
                return 0

    def due(self, keep_ended: Seconds) -> Seconds:
        """When the chain has to do something about it."""
        match self.status:
            case Placed(start_by=start_by):
                return start_by
            case Running(since=since):
                return since + self.term()
            case Ended(at=at):
                return at + keep_ended
            case _:
                raise TypeError(f"{self.status!r} is no status of an order")

    def is_open(self) -> bool:
        """Whether it still holds money and units."""
        return not isinstance(self.status, Ended)


class OrderPlaced(Event, index=0):
    """`held` planck were set aside for `units` of `machine`."""

    order: OrderId
    renter: AccountId
    machine: MachineId
    units: U16
    held: Balance


class OrderStarted(Event, index=1):
    """The tenant runs; the order is billed from this block on."""

    order: OrderId


class OrderExtended(Event, index=2):
    """The order may run `seconds` longer; `held` planck were added."""

    order: OrderId
    seconds: Seconds
    held: Balance


class OrderEnded(Event, index=3):
    """The order was settled."""

    order: OrderId
    ending: Ending
    exit_code: U8 | None
    bill: Bill


class OrderRemoved(Event, index=4):
    """An ended order was forgotten."""

    order: OrderId


class OrderParked(Event, index=5):
    """The chain could not do what was due; the order waits for a call to close it."""

    order: OrderId


class NoSuchOrder(PalletError, index=0):
    """No order has this id, or it was removed after its end."""


class BadTerm(PalletError, index=1):
    """The term is too short, or with what was bought before too long."""


class BadUnits(PalletError, index=2):
    """An order is for at least one unit."""


class BadStartWindow(PalletError, index=3):
    """The time to start is outside what this chain allows."""


class MachineUnavailable(PalletError, index=4):
    """The machine takes no new orders now."""


class OfferChanged(PalletError, index=5):
    """The machine's offer was edited since you saw it: look again."""


class OwnOrdersOnly(PalletError, index=6):
    """The machine cannot isolate strangers: it serves its own stash and controller only."""


class PriceAboveLimit(PalletError, index=7):
    """It would cost more than the limit you set."""


class NotProvider(PalletError, index=8):
    """Only the machine's stash or controller may do this."""


class NotRenter(PalletError, index=9):
    """Only the renter may do this."""


class AlreadyStarted(PalletError, index=10):
    """The order runs already."""


class StartWindowOver(PalletError, index=11):
    """The order was not started in time and can only be closed."""


class AlreadyEnded(PalletError, index=12):
    """The order is settled."""


class NotOver(PalletError, index=13):
    """Until its term or wait is over only the renter and the provider may close an order."""


class TooManySegments(PalletError, index=14):
    """The order was extended at too many different prices: place a new one."""


class Rent(Pallet, index=30):
    place_fee: Constant[Balance] = Balance(10 * PLANCK)
    """The fixed fee of `place`; never returned."""
    min_term: Constant[Seconds] = Seconds(60)
    """The shortest term, and the shortest extension."""
    max_term: Constant[Seconds] = Seconds(60 * DAY)
    """The longest term, extensions included."""
    min_start_window: Constant[Seconds] = Seconds(30)
    """The least time a provider is given to start."""
    max_start_window: Constant[Seconds] = Seconds(DAY)
    """The longest a renter's money waits for a start."""
    keep_ended: Constant[Seconds] = Seconds(DAY)
    """How long an ended order and its bill stay."""
    burn_schedule: Constant[tuple[BurnStep, ...]]
    """Which share of a rent is destroyed, by the most GPUs ever bonded at once; ascending."""

    orders: Map[Annotated[OrderId, TWOX_64_CONCAT], Order]
    """Open orders, and ended ones while they are kept."""
    orders_of: DoubleMap[AccountId, Annotated[OrderId, TWOX_64_CONCAT], Unit]
    """Renter → its orders."""
    orders_on: DoubleMap[MachineId, Annotated[OrderId, TWOX_64_CONCAT], Unit]
    """Machine → its orders."""
    next_id: Counter[OrderId]
    """The id of the next order. Ids are never reused."""
    earnings: Map[MachineId, Earnings]
    """What each machine has earned; nothing is removed, so that it can be asked for at any time."""
    due_count: Map[Annotated[Seconds, TWOX_64_CONCAT], U32]
    """How many orders come up at a second."""
    due_pages: DoubleMap[
        Annotated[Seconds, TWOX_64_CONCAT], Annotated[U32, TWOX_64_CONCAT], Page[OrderId]
    ]
    """Which they are, a page at a time."""
    due_cursor: Counter[Seconds]
    """The first second that is not done with."""
    parked: Map[Annotated[OrderId, TWOX_64_CONCAT], Unit]
    """Orders about which the chain could not do what was due."""

    def __init__(
        self,
        context: Context,
        holds: Holds,
        charges: Charges,
        clock: Clock,
        price: Price,
        offers: Offers,
    ) -> None:
        super().__init__(context)
        self.holds, self.charges, self.clock = holds, charges, clock
        self.price, self.offers = price, offers
        self.schedule = Schedule(self.due_count, self.due_pages, self.due_cursor)

    @call(0, reads=12, writes=9)
    def place(
        self,
        renter: Signed,
        machine: MachineId,
        units: U16,
        seconds: Seconds,
        manifest_hash: Hash,
        max_total: Balance,
        offer_version: U32,
        start_within: Seconds,
    ) -> None:
        """Rent `units` of `machine` for `seconds`, holding at most `max_total`. Cost: O(1)."""
        ensure(units > 0, BadUnits)
        ensure(self.min_term <= seconds <= self.max_term, BadTerm)
        ensure(self.min_start_window <= start_within <= self.max_start_window, BadStartWindow)
        offer = self.offers.offer(machine)
        ensure(offer.open, MachineUnavailable)
        ensure(offer.version == offer_version, OfferChanged)
        ensure(offer.for_strangers or renter in (offer.stash, offer.controller), OwnOrdersOnly)
        now = self.clock.service()
        order = Order(
            renter=renter,
            machine=machine,
            stash=offer.stash,
            units=units,
            segments=(self._segment(offer, seconds),),
            manifest_hash=manifest_hash,
            placed_at=now,
            status=Placed(start_by=now + start_within),
        )
        held = order.held()
        ensure(held <= max_total, PriceAboveLimit)
        self.offers.occupy(machine, units)
        self.charges.charge(renter, self.place_fee)
        self.holds.hold(renter, HoldReason.RENT, held)
        order_id = self.next_id.take()
        self.orders_of[renter, order_id] = ()
        self.orders_on[machine, order_id] = ()
        self._store(order_id, order)
        self.emit(
            OrderPlaced(order=order_id, renter=renter, machine=machine, units=units, held=held)
        )

    @call(1, reads=7, writes=3)
    def start(self, provider: Signed, order: OrderId) -> None:
        """Declare that the tenant runs: it is billed from this block on. Cost: O(1)."""
        found = self._open(order)
        ensure(self._is_provider(provider, found), NotProvider)
        now = self.clock.service()
        match found.status:
            case Placed(start_by=start_by):
                ensure(now < start_by, StartWindowOver)
            case _:
                raise AlreadyStarted
        self._store(order, found.but(status=Running(since=now)))
        self.emit(OrderStarted(order=order))

    @call(2, reads=9, writes=4)
    def extend(self, renter: Signed, order: OrderId, seconds: Seconds, max_total: Balance) -> None:
        """Buy `seconds` more at today's price, holding at most `max_total` more.

        A pause is no bar: it stops new orders, and a job that runs is not cut off by it. Cost: O(1).
        """
        found = self._open(order)
        ensure(renter == found.renter, NotRenter)
        ensure(seconds >= self.min_term and found.term() + seconds <= self.max_term, BadTerm)
        ensure(self.clock.service() < found.due(self.keep_ended), AlreadyEnded)
        offer = self.offers.offer(found.machine)
        segments = _joined(found.segments, self._segment(offer, seconds))
        ensure(len(segments) <= MAX_SEGMENTS, TooManySegments)
        extended = found.but(segments=segments)
        added = extended.held() - found.held()
        ensure(added <= max_total, PriceAboveLimit)
        self.holds.hold(renter, HoldReason.RENT, added)
        self._store(order, extended)
        self.emit(OrderExtended(order=order, seconds=seconds, held=added))

    @call(3, reads=CLOSE_READS, writes=CLOSE_WRITES)
    def close(self, who: Signed, order: OrderId, exit_code: U8 | None) -> None:
        """End an order and settle it.

        A provider that reports an `exit_code` says that the job ended; without one, that it gives the
        order up. Whoever else closes reports none: theirs is ignored. Cost: O(1).
        """
        found = self._open(order)
        ending = self._ending(who, found, exit_code)
        self._end(order, found, ending, exit_code if ending is Ending.EXITED else None)

    # What is due by itself.

    def post_inherents(self) -> int:
        """End what is over and forget what has ended long ago, a bounded number a block."""
        now, before = self.clock.service(), self.due_cursor.get()
        taken = 0
        for order_id in self.schedule.take(now, entries=DUE_PER_BLOCK, seconds=SECONDS_PER_BLOCK):
            taken += 1
            self._try_due(order_id, now)
        return READ * (self.due_cursor.get() - before) + taken * (
            CLOSE_READS * READ + CLOSE_WRITES * WRITE
        )

    def _try_due(self, order_id: OrderId, now: Seconds) -> None:
        """Do what is due, or park the order: one that fails must not stop the others."""
        mark = self.context.journal.mark()
        try:
            self._come_up(order_id, now)
        except FAILURES:
            self.context.journal.rollback(mark)
            self.parked[order_id] = ()
            self.emit(OrderParked(order=order_id))

    def _come_up(self, order_id: OrderId, now: Seconds) -> None:
        """Do what is due about an order, if anything still is.

        Every change of an order's deadline schedules it anew: an entry that comes up before the
        deadline it has now is a leftover.
        """
        order = self.orders.get(order_id)
        if order is None or order.due(self.keep_ended) > now:
            return
        match order.status:
            case Placed():
                self._end(order_id, order, Ending.LAPSED, None)
            case Running():
                self._end(order_id, order, Ending.EXPIRED, None)
            case Ended():
                self._forget(order_id, order)

    # How an order is priced, ended and settled.

    def _segment(self, offer: Offer, seconds: Seconds) -> Segment:
        rate = self.price.micro_usd_per_dbc()
        return Segment(seconds=seconds, price=offer.price, micro_usd_per_dbc=rate)

    def _ending(self, who: AccountId, order: Order, exit_code: U8 | None) -> Ending:
        """How the order ends if `who` closes it now. Raises: NotOver."""
        is_over = self.clock.service() >= order.due(self.keep_ended)
        match order.status:
            case Placed() if is_over:
                return Ending.LAPSED
            case Running() if self._is_provider(who, order) and exit_code is not None:
                return Ending.EXITED
            case Running() if is_over:
                return Ending.EXPIRED
            case _ if who == order.renter:
                return Ending.STOPPED
            case _:
                ensure(self._is_provider(who, order), NotOver)
                return Ending.FAILED

    def _end(self, order_id: OrderId, order: Order, ending: Ending, exit_code: U8 | None) -> None:
        now = self.clock.service()
        bill = self._settle(order, order.used(now))
        self.offers.vacate(order.machine, order.units)
        ended = Ended(at=now, ending=ending, exit_code=exit_code, bill=bill)
        self._store(order_id, order.but(status=ended))
        if order_id in self.parked:
            del self.parked[order_id]
        self.emit(OrderEnded(order=order_id, ending=ending, exit_code=exit_code, bill=bill))

    def _settle(self, order: Order, used: int) -> Bill:
        """Pay what was used, less the burned share; give the rest back."""
        held, due = order.held(), order.worth(used)
        burned = self.burn_share().of(due)
        paid, refunded = due - burned, held - due
        if burned:
            self.holds.burn_held(order.renter, HoldReason.RENT, burned)
        if paid:
            self.holds.pay_held(order.renter, HoldReason.RENT, order.stash, paid)
        if refunded:
            self.holds.release(order.renter, HoldReason.RENT, refunded)
        if used:
            self._count_earnings(order, used, paid, burned)
        return Bill(used=Seconds(used), paid=paid, burned=burned, refunded=refunded)

    def _count_earnings(self, order: Order, used: int, paid: Balance, burned: Balance) -> None:
        nothing = Earnings(orders=U64(0), unit_seconds=U64(0), paid=Balance(0), burned=Balance(0))
        before = self.earnings.get(order.machine) or nothing
        self.earnings[order.machine] = Earnings(
            orders=before.orders + 1,
            unit_seconds=before.unit_seconds + used * int(order.units),
            paid=before.paid + paid,
            burned=before.burned + burned,
        )

    def burn_share(self) -> Permill:
        """Which share of a rent is destroyed now."""
        peak, share = self.offers.most_gpus(), Permill(0)
        for step in self.burn_schedule:
            if peak >= step.gpus:
                share = step.share
        return share

    def _forget(self, order_id: OrderId, order: Order) -> None:
        del self.orders[order_id]
        del self.orders_of[order.renter, order_id]
        del self.orders_on[order.machine, order_id]
        self.emit(OrderRemoved(order=order_id))

    def _store(self, order_id: OrderId, order: Order) -> None:
        """Store an order whose deadline is new, and have it come up then."""
        self.orders[order_id] = order
        self.schedule.add(order.due(self.keep_ended), order_id)

    def _open(self, order_id: OrderId) -> Order:
        order = self.orders.expect(order_id, NoSuchOrder)
        ensure(order.is_open(), AlreadyEnded)
        return order

    def _is_provider(self, who: AccountId, order: Order) -> bool:
        if who == order.stash:
            return True
        offer = self.offers.offer(order.machine)
        return who == offer.controller

    def try_state(self) -> Iterator[str]:
        orders = dict(self.orders.items())
        opened = {order_id: order for order_id, order in orders.items() if order.is_open()}
        yield from self._check_money(opened)
        for index, attribute in ((self.orders_of, "renter"), (self.orders_on, "machine")):
            expected = {(getattr(order, attribute), order_id) for order_id, order in orders.items()}
            if set(index.keys()) != expected:
                yield f"R2: the index by {attribute} does not list the orders there are"
        scheduled = list(self.schedule.entries())
        for order_id, order in orders.items():
            at = max(order.due(self.keep_ended), self.due_cursor.get())
            if (at, order_id) not in scheduled and order_id not in self.parked:
                yield f"R4: order {order_id} is due at {at}, and not scheduled then"
        yield from self._check_earnings(orders)

    def _check_money(self, opened: dict[OrderId, Order]) -> Iterator[str]:
        held: dict[AccountId, int] = {}
        units: dict[MachineId, int] = {}
        for order in opened.values():
            held[order.renter] = held.get(order.renter, 0) + order.held()
            units[order.machine] = units.get(order.machine, 0) + order.units
        for renter, amount in held.items():
            if self.holds.held(renter, HoldReason.RENT) != amount:
                yield f"R1: {renter} has orders worth {amount}, another amount is held"
        for machine, rented in units.items():
            if self.offers.rented_units(machine) != rented:
                yield f"R3: {machine} has orders of {rented} units, another number is rented"

    def _check_earnings(self, orders: dict[OrderId, Order]) -> Iterator[str]:
        kept: dict[MachineId, int] = {}
        for order in orders.values():
            if isinstance(order.status, Ended):
                bill = order.status.bill
                kept[order.machine] = kept.get(order.machine, 0) + bill.paid
        for machine, paid in kept.items():
            earned = self.earnings.get(machine)
            if paid and (earned is None or earned.paid < paid):
                yield f"R5: the kept orders of {machine} paid {paid}, more than it has earned"


def _joined(segments: tuple[Segment, ...], added: Segment) -> tuple[Segment, ...]:
    """The segments with one more, or with the last one longer where the price is the same."""
    last = segments[-1]
    if (last.price, last.micro_usd_per_dbc) != (added.price, added.micro_usd_per_dbc):
        return (*segments, added)
    return (*segments[:-1], last.but(seconds=last.seconds + added.seconds))

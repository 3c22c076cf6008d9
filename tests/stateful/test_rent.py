"""Renting under random calls, against a model that bills with a pen, second by second."""

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.runtime.local import (
    ALICE,
    BOB,
    CHARLIE,
    DAVE,
    MACHINE,
    LocalChain,
    load_spec,
    place_call,
)

from deepbrain.pallets.machines import Address, Machines
from deepbrain.pallets.oracle import Oracle
from deepbrain.pallets.rent import Ended, Rent
from deepbrain.pallets.sudo import Sudo
from deepbrain.primitives.ids import OrderId
from deepbrain.primitives.units import PLANCK, U8, U16, U32, Balance, MicroUsd, Seconds

KEEP = 40
UNITS = 6


@dataclass
class ModelOrder:
    """An order as a person would write it down."""

    renter: object
    units: int
    rates: list[tuple[int, int, int]]
    """(seconds, price, µUSD per DBC) of each segment."""
    start_by: int
    since: int | None = None
    ended: int | None = None
    used: int = 0
    free_of: list = field(default_factory=list)

    def term(self):
        return sum(seconds for seconds, _, _ in self.rates)

    def worth(self, used):
        total = 0
        for seconds, price, rate in self.rates:
            part = min(used, seconds)
            total += price * self.units * part * 10**15 // (3600 * rate)
            used -= part
        return total

    def is_open(self):
        return self.ended is None


class RentMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.chain = LocalChain(load_spec(Rent={"keep_ended": KEEP, "min_term": 5}))
        self.chain.bond(gpus=UNITS)
        self.version, self.price, self.rate, self.paused = 0, 3_600_000, 1000, False
        self.orders: dict[int, ModelOrder] = {}
        self.paid = self.burned = 0
        self.issuance = self.total()

    # Time, as the model sees it: what is due happens when the block's time has come.

    def total(self):
        balances = self.chain.now().balances
        return int(balances.total_issuance.get()) + int(balances.burned.get())

    def clock(self):
        return int(self.chain.now().timestamp.service())

    def come_due(self, now):
        for order_id, order in list(self.orders.items()):
            if (order.is_open() and order.since is None and now >= order.start_by) or (
                order.is_open() and order.since is not None and now >= order.since + order.term()
            ):
                self.end(order, now)
            elif order.ended is not None and now >= order.ended + KEEP:
                del self.orders[order_id]

    def end(self, order, now):
        order.used = 0 if order.since is None else min(now - order.since, order.term())
        order.ended = now
        due = order.worth(order.used)
        self.burned += due * 300_000 // 1_000_000
        self.paid += due - due * 300_000 // 1_000_000

    def make(self, who, call) -> bool:
        """A call in the next block, a second later; what is due comes first."""
        self.come_due(self.clock() + 1)
        return self.chain.receipt(who, call).success

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds):
        while seconds > 0:
            step = min(seconds, 10)
            self.come_due(self.clock() + step)
            self.chain.block(after_ms=step * 1000)
            seconds -= step

    @rule(
        renter=st.sampled_from([ALICE, CHARLIE]),
        units=st.integers(0, UNITS),
        seconds=st.integers(3, 50),
        window=st.integers(4, 20),
    )
    def place(self, renter, units, seconds, window):
        call = place_call(
            units=U16(units),
            seconds=Seconds(seconds),
            start_within=Seconds(window),
            offer_version=U32(self.version),
        )
        order_id = int(self.chain.now().rent.next_id.get())
        done = self.make(renter, call)
        rented = sum(order.units for order in self.orders.values() if order.is_open())
        possible = units >= 1 and seconds >= 5 and window >= 5 and rented + units <= UNITS
        assert done == (possible and not self.paused)
        if done:
            self.orders[order_id] = ModelOrder(
                renter, units, [(seconds, self.price, self.rate)], self.clock() + window
            )

    def pick(self, data):
        return data.draw(st.sampled_from(sorted(self.orders)))

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def begin(self, data):
        order_id = self.pick(data)
        done = self.make(BOB, Rent.start.make(order=OrderId(order_id)))
        order = self.orders.get(order_id)
        possible = order is not None and order.is_open() and order.since is None
        assert done == possible
        if done:
            order.since = self.clock()

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), seconds=st.integers(4, 30))
    def extend(self, data, seconds):
        order_id = self.pick(data)
        renter = self.orders[order_id].renter
        call = Rent.extend.make(
            order=OrderId(order_id), seconds=Seconds(seconds), max_total=Balance(10**6 * PLANCK)
        )
        done = self.make(renter, call)
        order = self.orders.get(order_id)
        if order is None or not order.is_open() or seconds < 5:
            assert not done
            return
        last = order.rates[-1]
        if last[1:] == (self.price, self.rate):
            assert done
            order.rates[-1] = (last[0] + seconds, *last[1:])
        else:
            assert done == (len(order.rates) < 16)
            if done:
                order.rates.append((seconds, self.price, self.rate))

    @precondition(lambda self: self.orders)
    @rule(
        data=st.data(),
        who=st.sampled_from([ALICE, BOB, CHARLIE, DAVE]),
        code=st.none() | st.integers(0, 255).map(U8),
    )
    def close(self, data, who, code):
        order_id = self.pick(data)
        done = self.make(who, Rent.close.make(order=OrderId(order_id), exit_code=code))
        order = self.orders.get(order_id)
        possible = order is not None and order.is_open() and who in (BOB, order.renter)
        assert done == possible
        if done:
            self.end(order, self.clock())

    @rule(price=st.sampled_from([0, 1, 999, 3_600_000, 7_000_001]))
    def reprice(self, price):
        assert self.make(BOB, Machines.set_price.make(machine=MACHINE, price=MicroUsd(price)))
        self.version, self.price = self.version + 1, price

    @rule(paused=st.booleans())
    def pause(self, paused):
        """It stops new orders, and nothing else: what runs may be extended."""
        call = Machines.pause if paused else Machines.resume
        assert self.make(BOB, call.make(machine=MACHINE))
        self.version, self.paused = self.version + 1, paused

    @rule(relays=st.lists(st.just("https://relay.example"), max_size=1).map(tuple))
    def move(self, relays):
        """No term of the offer: who chose it before may still place."""
        address = Address(endpoints=(), relays=relays)
        assert self.make(BOB, Machines.set_address.make(machine=MACHINE, address=address))

    @rule(rate=st.sampled_from([1, 7, 1000, 2500]))
    def requote(self, rate):
        call = Sudo.sudo.make(call=Oracle.set_price.make(micro_usd=MicroUsd(rate)))
        assert self.make(ALICE, call)
        self.rate = rate

    @invariant()
    def agrees(self):
        """Orders, holds and bills are the model's; no planck came or went but by burning."""
        chain_orders = dict(self.chain.now().rent.orders.items())
        assert sorted(chain_orders) == sorted(self.orders)
        for order_id, order in self.orders.items():
            found = chain_orders[OrderId(order_id)]
            assert found.is_open() == order.is_open()
            if isinstance(found.status, Ended):
                bill = found.status.bill
                assert bill.used == order.used
                assert bill.paid + bill.burned == order.worth(order.used)
                assert bill.paid + bill.burned + bill.refunded == order.worth(order.term())
        for renter in (ALICE, CHARLIE):
            held = sum(
                order.worth(order.term())
                for order in self.orders.values()
                if order.is_open() and order.renter is renter
            )
            assert self.chain.held(renter) == held
        assert self.total() == self.issuance
        assert self.chain.now().balances.burned.get() == self.burned


TestRent = RentMachine.TestCase

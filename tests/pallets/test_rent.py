"""Renting, as stories."""

import pytest
from tests.runtime.local import (
    ALICE,
    BOB,
    CHARLIE,
    DAVE,
    MACHINE,
    LocalChain,
    key,
    load_spec,
    place_call,
)

from deepbrain.frame.dispatch import Token
from deepbrain.frame.errors import TokenError
from deepbrain.pallets import rent
from deepbrain.pallets.machines import Isolation, Machines, NotEnoughUnits
from deepbrain.pallets.oracle import Oracle
from deepbrain.pallets.rent import Ended, Ending, OrderEnded, OrderRemoved, Rent, Running
from deepbrain.pallets.sudo import Sudo
from deepbrain.primitives.ids import MachineId, OrderId
from deepbrain.primitives.units import PLANCK, U8, U16, U32, Balance, MicroUsd, Seconds

# 3.6 USD per unit and hour at 0.001 USD per DBC: 1 DBC a second.
SECOND = PLANCK


@pytest.fixture
def chain():
    chain = LocalChain()
    chain.bond()
    return chain


@pytest.fixture
def started(chain):
    order = chain.place()
    chain.do(BOB, Rent.start.make(order=order))
    return chain, order


def order_of(chain, order):
    return chain.now().rent.orders.get(order)


def ended(chain, order) -> Ended:
    status = order_of(chain, order).status
    assert isinstance(status, Ended)
    return status


def test_placing_holds_the_whole_price_and_takes_the_fixed_fee(chain):
    treasury = chain.now().fees.treasury
    before, pot = chain.free(ALICE), chain.free(treasury)
    order = chain.place(seconds=Seconds(100), units=U16(2))
    assert chain.held(ALICE) == 200 * SECOND
    paid = before - chain.free(ALICE) - 200 * SECOND
    assert paid >= 10 * PLANCK
    assert chain.free(treasury) - pot == paid
    assert order_of(chain, order).held() == 200 * SECOND
    assert chain.now().machines.rented.at(MACHINE) == 2


def test_the_price_is_floored_once_and_exactly(chain):
    chain.do(BOB, Machines.set_price.make(machine=MACHINE, price=MicroUsd(1)))
    call = Sudo.sudo.make(call=Oracle.set_price.make(micro_usd=MicroUsd(7)))
    chain.do(ALICE, call)
    order = chain.place(offer_version=U32(1), seconds=Seconds(61), units=U16(3))
    assert chain.held(ALICE) == 1 * 3 * 61 * 10**15 // (3600 * 7)
    assert order_of(chain, order).held() == chain.held(ALICE)


def test_an_order_is_billed_from_its_start_by_the_second(started):
    chain, order = started
    provider = chain.free(BOB)
    chain.block(after_ms=7000)
    receipt = chain.do(ALICE, Rent.close.make(order=order, exit_code=None), tip=0)
    bill = ended(chain, order).bill
    assert (bill.used, bill.refunded) == (8, 92 * SECOND)
    assert bill.burned == 8 * SECOND * 30 // 100
    assert bill.paid == 8 * SECOND - bill.burned
    assert chain.free(BOB) - provider == bill.paid
    assert chain.held(ALICE) == 0
    assert receipt.success
    assert ended(chain, order).ending is Ending.STOPPED
    assert chain.now().machines.rented.at(MACHINE) == 0


def test_the_provider_reports_an_exit_code(started):
    chain, order = started
    chain.do(BOB, Rent.close.make(order=order, exit_code=U8(3)))
    assert ended(chain, order).ending is Ending.EXITED
    assert ended(chain, order).exit_code == 3
    assert ended(chain, order).bill.used == 1


def test_a_provider_that_gives_up_is_paid_what_was_used(started):
    chain, order = started
    chain.block(after_ms=4000)
    chain.do(BOB, Rent.close.make(order=order, exit_code=None))
    assert ended(chain, order).ending is Ending.FAILED
    assert ended(chain, order).bill.used == 5


def test_a_provider_that_never_started_is_paid_nothing(chain):
    order = chain.place()
    chain.do(BOB, Rent.close.make(order=order, exit_code=U8(0)))
    assert ended(chain, order).ending is Ending.FAILED
    assert ended(chain, order).exit_code is None
    assert ended(chain, order).bill.refunded == 100 * SECOND


def test_nobody_else_closes_before_the_term_is_over(started):
    chain, order = started
    assert chain.refused(DAVE, Rent.close.make(order=order, exit_code=None)) is rent.NotOver


def test_the_chain_closes_at_the_term_by_itself(started):
    chain, order = started
    chain.advance(101)
    assert ended(chain, order).ending is Ending.EXPIRED
    assert ended(chain, order).bill.used == 100
    assert chain.held(ALICE) == 0


def test_an_order_that_is_not_started_in_time_lapses_and_refunds_the_rent_not_the_fee(chain):
    before = chain.free(ALICE)
    order = chain.place(start_within=Seconds(20))
    chain.advance(21)
    assert ended(chain, order).ending is Ending.LAPSED
    assert ended(chain, order).bill.refunded == 100 * SECOND
    assert 10 * PLANCK <= before - chain.free(ALICE) < 11 * PLANCK


def test_a_late_start_is_refused(chain):
    order = chain.place(start_within=Seconds(5))
    late = chain.signed(BOB, Rent.start.make(order=order))
    receipt = chain.block(late, after_ms=5000).receipts[-1]
    assert chain.reason(receipt) is rent.AlreadyEnded
    assert ended(chain, order).ending is Ending.LAPSED


def test_a_late_start_is_refused_even_where_the_queue_is_behind(chain, monkeypatch):
    monkeypatch.setattr(rent, "DUE_PER_BLOCK", 0)
    order = chain.place(start_within=Seconds(5))
    chain.block(after_ms=5000)
    assert chain.refused(BOB, Rent.start.make(order=order)) is rent.StartWindowOver
    chain.do(DAVE, Rent.close.make(order=order, exit_code=None))
    assert ended(chain, order).ending is Ending.LAPSED


def test_a_halted_chain_neither_bills_nor_lapses(chain):
    order = chain.place(start_within=Seconds(30))
    chain.block(after_ms=24 * 3600 * 1000)
    assert not isinstance(order_of(chain, order).status, Ended)
    chain.do(BOB, Rent.start.make(order=order))
    chain.block(after_ms=24 * 3600 * 1000)
    assert order_of(chain, order).used(chain.now().timestamp.service()) == 10


def test_an_ended_order_stays_a_day_and_is_then_forgotten():
    chain = LocalChain(load_spec(Rent={"keep_ended": 50}))
    chain.bond()
    order = chain.place()
    chain.do(ALICE, Rent.close.make(order=order, exit_code=None))
    chain.advance(45)
    assert order_of(chain, order) is not None
    chain.advance(10)
    assert order_of(chain, order) is None
    assert list(chain.now().rent.orders_of.under(ALICE.public)) == []
    assert chain.refused(BOB, Rent.start.make(order=order)) is rent.NoSuchOrder


def test_an_extension_is_a_segment_at_the_price_of_its_day(started):
    chain, order = started
    chain.do(ALICE, Sudo.sudo.make(call=Oracle.set_price.make(micro_usd=MicroUsd(2000))))
    extension = Rent.extend.make(order=order, seconds=Seconds(100), max_total=Balance(50 * SECOND))
    chain.do(ALICE, extension)
    assert chain.held(ALICE) == 150 * SECOND
    assert len(order_of(chain, order).segments) == 2
    chain.advance(150)
    assert not isinstance(order_of(chain, order).status, Ended)
    chain.advance(55)
    bill = ended(chain, order).bill
    assert bill.used == 200
    assert bill.paid + bill.burned == 150 * SECOND


def test_an_extension_at_the_same_price_needs_no_segment(started):
    chain, order = started
    for _ in range(20):
        chain.do(
            ALICE,
            Rent.extend.make(order=order, seconds=Seconds(10), max_total=Balance(10 * SECOND)),
        )
    assert len(order_of(chain, order).segments) == 1
    assert order_of(chain, order).term() == 300


def test_a_pause_stops_no_extension(started):
    chain, order = started
    chain.do(BOB, Machines.pause.make(machine=MACHINE))
    extension = Rent.extend.make(order=order, seconds=Seconds(100), max_total=Balance(100 * SECOND))
    chain.do(ALICE, extension)
    chain.advance(150)
    assert not isinstance(order_of(chain, order).status, Ended)
    chain.advance(55)
    assert ended(chain, order).bill.used == 200


def test_only_so_many_prices_fit_an_order(started):
    chain, order = started
    for price in range(1, rent.MAX_SEGMENTS + 1):
        chain.do(
            ALICE, Sudo.sudo.make(call=Oracle.set_price.make(micro_usd=MicroUsd(1000 + price)))
        )
        extension = Rent.extend.make(
            order=order, seconds=Seconds(10), max_total=Balance(10 * SECOND)
        )
        if price < rent.MAX_SEGMENTS:
            chain.do(ALICE, extension)
        else:
            assert chain.refused(ALICE, extension) is rent.TooManySegments


def test_what_a_machine_has_earned_is_counted_though_its_orders_are_forgotten(chain):
    assert chain.now().rent.earnings.get(MACHINE) is None
    bills = []
    for units, wait in ((2, 9_000), (1, 4_000)):
        order = chain.place(units=U16(units))
        chain.do(BOB, Rent.start.make(order=order))
        chain.block(after_ms=wait)
        chain.do(BOB, Rent.close.make(order=order, exit_code=U8(0)))
        bills.append((units, ended(chain, order).bill))
    unused = chain.place()
    chain.do(ALICE, Rent.close.make(order=unused, exit_code=None))
    earned = chain.now().rent.earnings.get(MACHINE)
    assert earned.orders == 2, "what was never started is no service"
    assert earned.unit_seconds == sum(units * bill.used for units, bill in bills)
    assert earned.paid == sum(bill.paid for _, bill in bills)
    assert earned.burned == sum(bill.burned for _, bill in bills)
    assert earned.paid > 0


def test_the_share_that_burns_goes_by_the_most_gpus_there_ever_were():
    schedule = [{"gpus": 0, "share": 0}, {"gpus": 8, "share": 1_000_000}]
    chain = LocalChain(load_spec(Rent={"burn_schedule": schedule}))
    chain.bond(gpus=4)
    burned = chain.now().balances.burned.get()
    order = chain.place()
    chain.do(BOB, Rent.start.make(order=order))
    chain.do(ALICE, Rent.close.make(order=order, exit_code=None))
    assert ended(chain, order).bill.burned == 0
    second = key("second", RIG_SCHEME)
    chain.bond(CHARLIE, machine=second, gpus=4)
    chain.do(CHARLIE, Machines.unbond.make(machine=MachineId(second.public)))
    provider = chain.free(BOB)
    order = chain.place()
    chain.do(BOB, Rent.start.make(order=order))
    fee = provider - chain.free(BOB)
    chain.do(ALICE, Rent.close.make(order=order, exit_code=None))
    bill = ended(chain, order).bill
    assert (bill.paid, bill.burned) == (0, SECOND)
    assert chain.free(BOB) == provider - fee
    assert chain.now().balances.burned.get() == burned + SECOND


RIG_SCHEME = key("x").scheme.__class__.ED25519


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"units": U16(0)}, rent.BadUnits),
        ({"units": U16(5)}, NotEnoughUnits),
        ({"seconds": Seconds(9)}, rent.BadTerm),
        ({"seconds": Seconds(60 * 86400 + 1)}, rent.BadTerm),
        ({"start_within": Seconds(4)}, rent.BadStartWindow),
        ({"start_within": Seconds(3601)}, rent.BadStartWindow),
        ({"offer_version": U32(1)}, rent.OfferChanged),
        ({"max_total": Balance(100 * SECOND - 1)}, rent.PriceAboveLimit),
        ({"seconds": Seconds(60 * 86400), "units": U16(4)}, rent.PriceAboveLimit),
    ],
)
def test_what_place_refuses(chain, changes, reason):
    assert chain.refused(ALICE, place_call(**changes)) is reason
    assert chain.held(ALICE) == 0


def test_too_little_balance_is_refused_and_holds_nothing(chain):
    call = place_call(seconds=Seconds(60 * 86400), units=U16(4), max_total=Balance(10**9 * PLANCK))
    assert chain.refused(ALICE, call) == Token(value=TokenError.FUNDS_UNAVAILABLE)
    assert chain.held(ALICE) == 0


def test_units_are_sold_once(chain):
    chain.place(units=U16(3))
    assert chain.refused(CHARLIE, place_call(units=U16(2))) is NotEnoughUnits
    chain.place(CHARLIE, units=U16(1))


def test_a_paused_machine_takes_no_new_orders(chain):
    order = chain.place()
    chain.do(BOB, Machines.pause.make(machine=MACHINE))
    assert chain.refused(ALICE, place_call(offer_version=U32(1))) is rent.MachineUnavailable
    chain.do(BOB, Rent.start.make(order=order))


def test_without_gvisor_a_machine_serves_its_owner_only():
    chain = LocalChain()
    chain.bond(isolation=Isolation.PROCESS)
    assert chain.refused(ALICE, place_call()) is rent.OwnOrdersOnly
    chain.place(BOB)


def test_strangers_neither_start_nor_extend(chain):
    order = chain.place()
    assert chain.refused(ALICE, Rent.start.make(order=order)) is rent.NotProvider
    extension = Rent.extend.make(order=order, seconds=Seconds(10), max_total=Balance(100 * SECOND))
    assert chain.refused(BOB, extension) is rent.NotRenter


def test_an_order_starts_and_ends_once(started):
    chain, order = started
    assert chain.refused(BOB, Rent.start.make(order=order)) is rent.AlreadyStarted
    chain.do(ALICE, Rent.close.make(order=order, exit_code=None))
    assert chain.refused(ALICE, Rent.close.make(order=order, exit_code=None)) is rent.AlreadyEnded
    assert chain.refused(BOB, Rent.start.make(order=order)) is rent.AlreadyEnded


def test_a_burst_of_due_orders_is_worked_off_a_bounded_number_a_block(monkeypatch):
    monkeypatch.setattr(rent, "DUE_PER_BLOCK", 3)
    chain = LocalChain()
    chain.bond(gpus=16)
    calls = [chain.signed(ALICE, place_call(start_within=Seconds(5)), ahead=n) for n in range(8)]
    chain.block(*calls)
    ends = []
    for _ in range(10):
        chain.block()
        ends.append(len(chain.events(OrderEnded)))
    assert max(ends) == 3
    assert sum(ends) == 8
    assert chain.held(ALICE) == 0


def test_an_order_that_cannot_be_settled_is_parked_and_hurts_no_other(chain):
    good, bad = chain.place(), chain.place()
    block = chain.now()
    # Money that vanished: a state no rule can reach.
    block.machines.rented[MACHINE] = U16(1)
    chain.state.apply(block.context.journal.changes(), {})
    for _ in range(31):
        context = chain.context()
        outcome = chain.executive.propose(chain.state, context, ()).outcome
        chain.state.apply(outcome.changes, {})
        chain.number, chain.moment = context.number, context.moment
    statuses = [order_of(chain, order).status for order in (good, bad)]
    assert sum(isinstance(status, Ended) for status in statuses) == 1
    assert len(list(chain.now().rent.parked.keys())) == 1


def test_events_tell_the_life_of_an_order(started):
    chain, order = started
    chain.do(BOB, Rent.close.make(order=order, exit_code=U8(0)))
    (event,) = chain.events(OrderEnded)
    assert event.order == order
    assert event.bill == ended(chain, order).bill
    assert chain.events(OrderRemoved) == []
    assert isinstance(order, OrderId)
    assert Running(since=Seconds(1)) == Running(since=Seconds(1))

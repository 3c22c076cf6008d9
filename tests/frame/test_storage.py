"""Storage items: keys, values, undo; and the schedule built on them."""

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.state.support import DictState

from deepbrain.frame.context import Context
from deepbrain.frame.errors import PalletError
from deepbrain.frame.journal import Journal
from deepbrain.frame.pallet import Constant, Pallet
from deepbrain.frame.schedule import PAGE, Page, Schedule
from deepbrain.frame.storage import (
    IDENTITY,
    TWOX_64_CONCAT,
    Counter,
    DoubleMap,
    Map,
    Maybe,
    Unit,
    Value,
)
from deepbrain.primitives.hashing import blake2_128, twox_64, twox_128
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.units import U8, U16, U32, Balance, Seconds


class Missing(PalletError, index=0):
    """There is none."""


class Shelf(Pallet, index=99):
    limit: Constant[U8] = U8(3)
    """How many."""

    label: Value[bytes]
    """Never absent."""
    owner: Maybe[AccountId]
    """There or not."""
    count: Counter[U16]
    """Counted."""
    books: Map[U32, Balance]
    """By number."""
    prices: Map[Annotated[U32, TWOX_64_CONCAT], Balance] = Map(default=Balance(7))
    """With a default."""
    lent: DoubleMap[AccountId, Annotated[Hash, IDENTITY], Unit]
    """Who has what."""
    due_count: Map[Seconds, U32]
    """Of the schedule."""
    due_pages: DoubleMap[Seconds, U32, Page[U16]]
    """Of the schedule."""
    due_cursor: Counter[Seconds]
    """Of the schedule."""


ANN, BEN = AccountId(b"a" * 32), AccountId(b"b" * 32)


class Desk:
    """A shelf over a state, block after block."""

    def __init__(self):
        self.state = DictState({})
        self.open()

    def open(self):
        self.journal = Journal(self.state)
        self.shelf = Shelf(Context.outside(self.journal))

    def commit(self):
        self.state.apply(self.journal.changes(), {})
        self.open()


@pytest.fixture
def desk():
    return Desk()


def test_keys_are_those_of_substrate():
    prefix = twox_128(b"Shelf") + twox_128(b"Books")
    number = (5).to_bytes(4, "little")
    assert Shelf.books.key_of(U32(5)) == prefix + blake2_128(number) + number
    assert Shelf.prices.key_of(U32(5))[32:] == twox_64(number) + number
    pair = Shelf.lent.key_of(ANN, Hash(bytes(32)))
    assert pair[32:] == blake2_128(ANN) + ANN + bytes(32)
    assert pair.startswith(Shelf.lent.key_of(ANN))
    assert Shelf.lent.keys_in(pair) == (ANN, Hash(bytes(32)))
    assert Shelf.due_count.name == "DueCount"


def test_what_was_never_written_is_zero_or_nothing(desk):
    shelf = desk.shelf
    assert (shelf.label.get(), shelf.owner.get(), shelf.count.get()) == (b"", None, 0)
    assert (shelf.books.get(U32(1)), shelf.prices.get(U32(1)), shelf.prices.at(U32(1))) == (
        None,
        None,
        7,
    )
    assert Shelf.prices.decode(None) == 7
    assert Shelf.books.decode(None) is None
    with pytest.raises(Missing):
        shelf.owner.expect(Missing)
    with pytest.raises(Missing):
        shelf.books.expect(U32(1), Missing)


def test_values_come_back_from_bytes(desk):
    shelf = desk.shelf
    shelf.label.put(b"x")
    shelf.owner.put(ANN)
    assert [shelf.count.take(), shelf.count.take(), shelf.count.add(5)] == [0, 1, 7]
    shelf.books[U32(1)] = Balance(10)
    shelf.books.mutate(U32(1), lambda book: book + 1, Missing)
    shelf.lent[ANN, Hash(bytes(32))] = ()
    desk.commit()
    shelf = desk.shelf
    assert (shelf.label.get(), shelf.owner.get(), shelf.count.get()) == (b"x", ANN, 7)
    assert dict(shelf.books.items()) == {1: 11}
    assert list(shelf.lent.under(ANN)) == [(Hash(bytes(32)), ())]
    assert list(shelf.lent.under(BEN)) == []
    shelf.owner.clear()
    del shelf.books[U32(1)]
    desk.commit()
    assert desk.shelf.owner.get() is None
    assert U32(1) not in desk.shelf.books
    assert set(desk.state.items) == {
        Shelf.label.key_of(),
        Shelf.count.key_of(),
        Shelf.lent.key_of(ANN, Hash(bytes(32))),
    }


def test_a_constant_is_the_pallets_own_or_the_specs():
    context = Context.outside(Journal(DictState({})))
    assert Shelf(context).limit == 3
    assert Shelf.constant_hints == {"limit": U8}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 4), st.integers(0, 9)),
        st.tuples(st.just("delete"), st.integers(0, 4)),
        st.tuples(st.just("read"), st.integers(0, 4)),
        st.tuples(st.sampled_from(["begin", "rollback", "keep", "commit"])),
    ),
    max_size=60,
)


@given(steps)
def test_layers_undo_exactly_what_they_displaced(steps):
    desk, model, layers = Desk(), {}, []
    for step, *arguments in steps:
        books = desk.shelf.books
        match step, arguments:
            case "put", (number, price):
                books[U32(number)] = Balance(price)
                model[number] = price
            case "delete", (number,):
                del books[U32(number)]
                model.pop(number, None)
            case "read", (number,):
                assert books.get(U32(number)) == model.get(number)
            case "begin", _:
                layers.append((desk.journal.mark(), dict(model)))
            case "rollback", _ if layers:
                mark, model = layers.pop()
                desk.journal.rollback(mark)
            case "keep", _ if layers:
                layers.pop()
            case "commit", _ if not layers:
                desk.commit()
        assert dict(desk.shelf.books.items()) == model
    for mark, before in reversed(layers):
        desk.journal.rollback(mark)
        model = before
    desk.commit()
    assert dict(desk.shelf.books.items()) == model


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3 * PAGE)), max_size=6),
    st.integers(20, 500),
    st.integers(1, 40),
)
def test_a_schedule_gives_everything_once_in_order_and_within_bounds(adds, entries, seconds):
    desk = Desk()
    expected = []
    for second, number in adds:
        schedule = schedule_of(desk.shelf)
        for entry in range(number):
            schedule.add(Seconds(second), U16(entry))
            expected.append((second, entry))
    desk.commit()
    assert sorted(schedule_of(desk.shelf).entries()) == sorted(expected)
    taken, now = [], 0
    for _ in range(400):
        found = list(schedule_of(desk.shelf).take(Seconds(now), entries=entries, seconds=seconds))
        assert len(found) <= entries
        taken += found
        now += 3
        desk.commit()
    assert sorted(taken) == sorted(entry for _, entry in expected)
    assert list(desk.shelf.due_count.items()) == []
    assert list(desk.shelf.due_pages.items()) == []


def test_what_is_scheduled_for_the_past_comes_up_next(desk):
    schedule = schedule_of(desk.shelf)
    assert list(schedule.take(Seconds(9), entries=10, seconds=100)) == []
    schedule.add(Seconds(3), U16(1))
    assert list(schedule.take(Seconds(9), entries=10, seconds=100)) == []
    assert list(schedule.take(Seconds(10), entries=10, seconds=100)) == [1]


def schedule_of(shelf):
    return Schedule(shelf.due_count, shelf.due_pages, shelf.due_cursor)


def test_a_type_without_a_zero_needs_a_default():
    with pytest.raises(TypeError, match="default"):

        class Bad(Pallet, index=98):
            owner: Value[tuple[U8, U8]]

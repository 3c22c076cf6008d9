"""What every store must do: the same stories told to each."""

import random

import pytest
from tests.state.support import DictState

from deepbrain.state.errors import StoreError, UnknownState
from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.memory import MemoryStore
from deepbrain.state.store import MAX_KEY, Commit, Retention
from deepbrain.state.trie import EMPTY_ROOT, compute_root, full_root, prove, verify_proof

ARCHIVE = Retention(states=None, proofs=None)


@pytest.fixture(params=["memory", "lmdb"])
def make(request, tmp_path):
    """Opens a store of each kind; closes it after the test."""
    opened = []

    def open_store(retention=ARCHIVE):
        if request.param == "memory":
            store = MemoryStore(retention=retention)
        else:
            store = LmdbStore(tmp_path / "db", retention=retention, sync=False, min_free=0)
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


def put_block(store, changes, *, tables=None, prune_below=None):
    """Commit a block as a node does; its state root."""
    with store.snapshot() as before:
        update = compute_root(before, changes)
    number = 0 if store.number is None else store.number + 1
    store.commit(
        Commit(
            number=number,
            root=update.root,
            changes=changes,
            branches=update.branches,
            before=update.before if number % 2 else None,
            tables=tables or {},
            prune_below=prune_below,
        )
    )
    return update.root


def random_changes(rng, state):
    changes = {}
    for _ in range(rng.randrange(8)):
        key = bytes(rng.choice((0, 1, 16, 255)) for _ in range(rng.randrange(1, 5)))
        if state and rng.random() < 0.4:
            key = rng.choice(sorted(state))
        changes[key] = None if rng.random() < 0.4 else rng.randbytes(rng.choice((0, 1, 31, 33, 90)))
    return changes


def random_chain(store, seed, blocks):
    """A chain of random blocks; the plain state after each."""
    rng = random.Random(seed)
    states = []
    state = DictState()
    for _ in range(blocks):
        changes = random_changes(rng, state.items)
        state.apply(changes)
        assert put_block(store, changes) == full_root(state.items.items())
        states.append(dict(state.items))
    return states


def assert_shows(snapshot, state):
    """A snapshot answers every kind of question as the plain state does."""
    plain = DictState(state)
    assert list(snapshot.iterate(b"")) == list(plain.iterate(b""))
    asked = [*state, b"", b"\x00\x01", b"missing", bytes(MAX_KEY + 200)]
    assert snapshot.get_many(asked) == plain.get_many(asked)
    for key in asked:
        assert snapshot.get(key) == plain.get(key)
        assert snapshot.seek(key) == plain.seek(key)
        for prefix in (b"", b"\x00", b"\xff", key):
            assert list(snapshot.iterate(prefix, key)) == list(plain.iterate(prefix, key))


def test_an_empty_store_has_an_empty_state(make):
    store = make()
    assert (store.number, store.root) == (None, None)
    with store.snapshot() as snapshot:
        assert snapshot.root == EMPTY_ROOT
        assert_shows(snapshot, {})
        put_block(store, {b"a": b"1"})
        assert_shows(snapshot, {})
    with pytest.raises(UnknownState):
        store.snapshot(1)


def test_every_block_can_be_read_as_it_was(make):
    store = make()
    states = random_chain(store, seed=1, blocks=60)
    for number, state in enumerate(states):
        with store.snapshot(number) as snapshot:
            assert (snapshot.number, snapshot.root) == (number, full_root(state.items()))
            assert_shows(snapshot, state)


def test_every_block_can_be_proven(make):
    store = make()
    states = random_chain(store, seed=2, blocks=40)
    for number, state in enumerate(states):
        with store.snapshot(number) as snapshot:
            for key in [*state, b"\x02", b"\x00"]:
                nodes = prove(snapshot, [key])
                assert verify_proof(snapshot.root, nodes, key) == state.get(key)


def test_a_snapshot_does_not_move(make):
    store = make()
    states = random_chain(store, seed=3, blocks=5)
    with store.snapshot() as at_head, store.snapshot(2) as earlier:
        random_chain_on(store, seed=4)
        assert_shows(at_head, states[-1])
        assert_shows(earlier, states[2])


def random_chain_on(store, seed):
    rng = random.Random(seed)
    for _ in range(10):
        put_block(store, random_changes(rng, {}))


def test_rollback_gives_an_earlier_block_back(make):
    store = make()
    states = random_chain(store, seed=5, blocks=30)
    for number in (29, 20, 7, 0):
        store.rollback(number)
        assert (store.number, store.root) == (number, full_root(states[number].items()))
        with store.snapshot() as snapshot:
            assert_shows(snapshot, states[number])
        for earlier in range(number):
            with store.snapshot(earlier) as snapshot:
                assert list(snapshot.iterate(b"")) == sorted(states[earlier].items())
    assert put_block(store, {b"k": b"v"}) == full_root({**states[0], b"k": b"v"}.items())
    with pytest.raises(UnknownState):
        store.rollback(2)


def test_old_states_are_forgotten_but_those_kept_stay_right(make):
    store = make(Retention(states=10, proofs=4, prune_limit=7))
    states = random_chain(store, seed=6, blocks=60)
    assert (store.oldest, store.oldest_proof) == (49, 55)
    for number in range(49, 60):
        with store.snapshot(number) as snapshot:
            assert_shows(snapshot, states[number])
            if number >= 55:
                prove(snapshot, [b"\x00"])
            else:
                with pytest.raises(UnknownState):
                    prove(snapshot, [b"\x00"])
    with pytest.raises(UnknownState):
        store.snapshot(48)
    with pytest.raises(UnknownState):
        store.rollback(54)
    store.rollback(55)
    with store.snapshot() as snapshot:
        assert_shows(snapshot, states[55])


def test_a_commit_may_say_what_to_forget(make):
    store = make()
    random_chain(store, seed=7, blocks=10)
    put_block(store, {}, prune_below=8)
    assert store.oldest == 8
    with pytest.raises(UnknownState):
        store.snapshot(7)
    put_block(store, {}, prune_below=3)
    assert store.oldest == 8


def test_blocks_go_in_order(make):
    store = make()
    put_block(store, {b"a": b"1"})
    for number in (0, 2, -1):
        with pytest.raises(StoreError, match="in order"):
            store.commit(Commit(number=number, root=EMPTY_ROOT, changes={b"a": b"2"}))
    with store.snapshot() as snapshot:
        assert_shows(snapshot, {b"a": b"1"})


def test_a_store_may_begin_at_any_block(make):
    store = make()
    update = compute_root(DictState(), {b"a": b"1"})
    store.commit(
        Commit(number=700, root=update.root, changes={b"a": b"1"}, branches=update.branches)
    )
    put_block(store, {b"a": b"2"})
    assert (store.number, store.oldest) == (701, 700)
    with store.snapshot(700) as snapshot:
        assert_shows(snapshot, {b"a": b"1"})


@pytest.mark.parametrize("key", [b"", bytes(MAX_KEY + 1)])
def test_keys_out_of_bounds_are_refused_and_nothing_is_written(make, key):
    store = make()
    with pytest.raises(StoreError):
        store.commit(
            Commit(
                number=0,
                root=EMPTY_ROOT,
                changes={b"a": b"1", key: b"2"},
                tables={"t": {b"k": b"v"}},
            )
        )
    assert store.number is None
    assert store.table_get("t", b"k") is None


def test_keys_of_the_full_length_are_kept(make):
    store = make()
    keys = [bytes(MAX_KEY), bytes(MAX_KEY - 1), b"\xff" * MAX_KEY]
    put_block(store, dict.fromkeys(keys, b"x" * 40))
    put_block(store, {keys[0]: None})
    with store.snapshot(0) as snapshot:
        assert_shows(snapshot, dict.fromkeys(keys, b"x" * 40))
        assert verify_proof(snapshot.root, prove(snapshot, keys[:1]), keys[0]) == b"x" * 40
    with store.snapshot() as snapshot:
        assert_shows(snapshot, dict.fromkeys(keys[1:], b"x" * 40))


def test_tables_hold_what_the_node_puts_there(make):
    store = make()
    put_block(store, {}, tables={"blocks": {b"\x00": b"genesis"}, "hashes": {b"h": b"\x00"}})
    store.write_tables({"pool": {b"x": b"1"}, "blocks": {b"\x01": b"one", b"\xff": b"last"}})
    assert store.table_get("blocks", b"\x00") == b"genesis"
    assert store.table_get("blocks", b"h") is None
    assert store.table_get("nothing", b"h") is None
    assert store.table_get("blocks", bytes(600)) is None
    store.write_tables({"blocks": {b"\x00": None, b"absent": None}})
    assert store.table_iterate("blocks") == [(b"\x01", b"one"), (b"\xff", b"last")]
    assert store.table_iterate("pool") == [(b"x", b"1")]
    assert store.table_iterate("nothing") == []


def test_tables_are_walked_in_pages_both_ways(make):
    store = make()
    keys = [bytes([a, b]) for a in (0, 7, 255) for b in (0, 9, 255)]
    store.write_tables({"m": {key: key for key in keys}, "n": {b"z": b""}, "l": {b"z": b""}})
    rows = [(key, key) for key in keys]
    assert store.table_iterate("m") == rows
    assert store.table_iterate("m", reverse=True) == rows[::-1]
    for prefix in (b"", b"\x00", b"\x07", b"\xff", b"\xff\xff"):
        mine = [row for row in rows if row[0].startswith(prefix)]
        assert store.table_iterate("m", prefix) == mine
        assert store.table_iterate("m", prefix, reverse=True) == mine[::-1]
        for place, key in enumerate(keys):
            after = [row for row in mine if row[0] > key]
            before = [row for row in mine if row[0] < key][::-1]
            assert store.table_iterate("m", prefix, key) == after, place
            assert store.table_iterate("m", prefix, key, reverse=True) == before
            assert store.table_iterate("m", prefix, key, limit=2) == after[:2]

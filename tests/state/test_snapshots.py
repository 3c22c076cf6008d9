"""A state as a stream, and a store that begins with one."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance.test_store import put_block, random_chain

from deepbrain.primitives.hashing import blake2_256
from deepbrain.state import snapshots
from deepbrain.state.errors import BadSnapshot, StoreError, UnknownState
from deepbrain.state.lmdb import LmdbReader, LmdbStore
from deepbrain.state.memory import MemoryStore
from deepbrain.state.snapshots import CHUNK, pack_row, parse_rows, state_rows, write_stream
from deepbrain.state.store import Retention
from deepbrain.state.trie import EMPTY_ROOT, full_root, prove, verify_proof

ROWS = st.dictionaries(
    st.binary(min_size=2, max_size=401), st.binary(max_size=300), max_size=30
).map(lambda rows: sorted(rows.items()))


@pytest.fixture(params=["memory", "lmdb"])
def store(request, tmp_path):
    kept = Retention(states=20, proofs=20)
    made = (
        MemoryStore(retention=kept)
        if request.param == "memory"
        else LmdbStore(tmp_path / "db", retention=kept, sync=False, min_free=0)
    )
    yield made
    made.close()


def stream_of(store, number, path):
    with path.open("wb") as file:
        found = write_stream(state_rows(lambda: store.snapshot(number), b"s"), file)
    return found, path.read_bytes()


@given(ROWS, st.integers(1, 500))
def test_rows_come_out_as_they_went_in_however_they_are_cut(rows, size):
    stream = b"".join(pack_row(*row) for row in rows)
    parts = (stream[at : at + size] for at in range(0, len(stream), size))
    assert list(parse_rows(parts)) == rows


@given(st.binary(max_size=400), ROWS)
def test_garbage_is_refused_or_is_the_one_form_of_what_it_says(garbage, rows):
    stream = b"".join(pack_row(*row) for row in rows) + garbage
    try:
        found = list(parse_rows([stream]))
    except BadSnapshot:
        return
    assert b"".join(pack_row(*row) for row in found) == stream


@given(ROWS.filter(bool), st.data())
def test_a_bit_that_flips_never_makes_an_error_of_another_kind(rows, data):
    stream = bytearray(b"".join(pack_row(*row) for row in rows))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = list(parse_rows([bytes(stream)]))
    except BadSnapshot:
        return
    assert found != rows


@pytest.mark.parametrize(
    "stream",
    [
        pack_row(b"sb", b"") + pack_row(b"sa", b""),
        pack_row(b"sa", b"") + pack_row(b"sa", b""),
        pack_row(b"s", b""),
        pack_row(b"s" * 402, b""),
        b"\x00\x02\xff\xff\xff\xffsa",
        pack_row(b"sa", b"1")[:-1],
    ],
    ids=["descending", "twice", "no key", "long key", "long value", "cut short"],
)
def test_what_is_in_no_canonical_form_is_refused(stream):
    with pytest.raises(BadSnapshot):
        list(parse_rows([stream]))


@pytest.mark.parametrize("front", [b"\xff\xff", b"\x00\x02\xff\xff\xff\xffsa"])
def test_a_row_that_never_ends_is_not_waited_for(front):
    taken = []

    def parts():
        yield front
        for number in range(1000):
            taken.append(number)
            yield bytes(CHUNK)

    with pytest.raises(BadSnapshot, match=r"has \d+ bytes"):
        list(parse_rows(parts()))
    assert len(taken) <= 1


def test_chunks_are_cut_by_place(tmp_path):
    rows = [(b"s%d" % number, bytes([number]) * 700_000) for number in range(5)]
    with (tmp_path / "rows").open("wb") as file:
        size, hashes = write_stream(iter(rows), file)
    stream = b"".join(pack_row(*row) for row in rows)
    assert (tmp_path / "rows").read_bytes() == stream
    assert size == len(stream)
    cuts = range(0, size, CHUNK)
    assert hashes == tuple(blake2_256(stream[at : at + CHUNK]) for at in cuts)
    assert len(hashes) == 4


def test_two_stores_with_another_past_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "READ_ENTRIES", 3)
    rng = random.Random(5)
    state = {rng.randbytes(6): rng.randbytes(rng.choice((0, 9, 50))) for _ in range(300)}
    memory = MemoryStore()
    disk = LmdbStore(tmp_path / "db", sync=False, min_free=0)
    keys = sorted(state)
    # One comes there in blocks, by way of entries that go again; the other at once, and goes on.
    for at in range(0, 300, 30):
        passing = {b"gone" + keys[at]: b"x"} if at < 270 else {b"gone" + keys[0]: None}
        put_block(memory, {key: state[key] for key in keys[at : at + 30]} | passing)
    put_block(memory, {b"gone" + keys[at]: None for at in range(30, 270, 30)})
    put_block(disk, {b"z": b"before"})
    put_block(disk, state | {b"z": None})
    for number in range(10):
        put_block(disk, {keys[number]: None, keys[-1]: b"%d" % number, b"new%d" % number: b""})
    first = stream_of(memory, 10, tmp_path / "first")
    assert first == stream_of(disk, 1, tmp_path / "second")
    assert list(parse_rows([first[1]])) == [(b"s" + key, state[key]) for key in keys]
    disk.close()


def test_another_process_s_reader_sees_the_same(tmp_path):
    disk = LmdbStore(tmp_path / "db", sync=False, min_free=0)
    random_chain(disk, 3, 10)
    here = stream_of(disk, 5, tmp_path / "here")
    disk.close()
    reader = LmdbReader(tmp_path / "db")
    assert stream_of(reader, 5, tmp_path / "there") == here
    with pytest.raises(UnknownState):
        reader.snapshot(11)
    reader.close()


def test_a_reader_needs_a_store(tmp_path):
    with pytest.raises(StoreError):
        LmdbReader(tmp_path)


def test_a_state_that_is_pruned_meanwhile_is_given_up(store, monkeypatch):
    monkeypatch.setattr(snapshots, "READ_ENTRIES", 2)
    for number in range(10):
        put_block(store, {b"%d" % number: b"1"})
    rows = state_rows(lambda: store.snapshot(9), b"s")
    assert next(rows)
    for number in range(30):
        put_block(store, {b"x": b"%d" % number})
    with pytest.raises(UnknownState):
        list(rows)


def test_a_store_begins_anew_with_a_state(store, monkeypatch):
    monkeypatch.setattr("deepbrain.state.store.BATCH_ENTRIES", 7)
    random_chain(store, 1, 30)
    store.write_tables({"old": {b"a": b"1"}})
    rng = random.Random(2)
    state = {rng.randbytes(rng.randrange(1, 4)): rng.randbytes(40) for _ in range(200)}
    root = full_root(state.items())
    store.replace(1000, root, sorted(state.items()), {"new": {b"b": b"2"}})
    assert (store.number, store.root, store.oldest, store.oldest_proof) == (1000, root, 1000, 1000)
    assert store.table_get("old", b"a") is None
    assert store.table_get("new", b"b") == b"2"
    with store.snapshot() as now:
        assert dict(now.iterate(b"")) == state
        for key in (*list(state)[:20], b"none"):
            assert verify_proof(root, prove(now, [key]), key) == state.get(key)
    for number in (0, 29, 999, 1001):
        with pytest.raises(UnknownState):
            store.snapshot(number)
    # And it goes on from there, with a history.
    key = min(state)
    after = put_block(store, {key: b"changed"})
    assert after == full_root((state | {key: b"changed"}).items())
    with store.snapshot(1000) as before:
        assert before.get(key) == state[key]
    store.rollback(1000)
    assert store.root == root


@pytest.mark.parametrize("why", ["another root", "an error of its source", "an empty key"])
def test_a_state_that_is_not_right_leaves_the_store_as_it_was(store, why):
    states = random_chain(store, 1, 5)
    store.write_tables({"old": {b"a": b"1"}})
    before = (store.number, store.root, store.oldest)

    def entries():
        yield from ({b"": b"1"} if why == "an empty key" else {b"a": b"1"}).items()
        if why == "an error of its source":
            raise BadSnapshot("cut")

    with pytest.raises(StoreError):
        store.replace(9, EMPTY_ROOT, entries(), {"new": {b"b": b"2"}})
    assert (store.number, store.root, store.oldest) == before
    assert store.table_get("old", b"a") == b"1"
    with store.snapshot() as now:
        assert dict(now.iterate(b"")) == states[-1]


def test_the_deepest_trie_that_keys_can_make_is_no_error_of_ours(store, monkeypatch):
    monkeypatch.setattr("deepbrain.state.store.BATCH_ENTRIES", 100)
    state = {}
    for length in range(400):
        for last in (b"\x11", b"\x12", b"\x21"):
            state[b"\x11" * length + last] = b"1"
    entries = sorted(state.items())
    with ThreadPoolExecutor(1) as executor:  # as the node's: its stack begins there
        root = executor.submit(full_root, entries).result()
        executor.submit(store.replace, 5, root, entries, {}).result()
    assert store.root == root


def test_an_empty_state_is_a_state(store):
    put_block(store, {b"a": b"1"})
    store.replace(5, EMPTY_ROOT, (), {})
    assert store.root == EMPTY_ROOT
    with store.snapshot() as now:
        assert list(now.iterate(b"")) == []


def test_a_process_that_ends_in_the_middle_leaves_the_store_as_it_was(tmp_path):
    store = LmdbStore(tmp_path / "db")
    put_block(store, {b"a": b"1"})
    store.close()
    died = subprocess.run([sys.executable, "-c", DIES, tmp_path / "db"], check=False)
    assert died.returncode == 9
    store = LmdbStore(tmp_path / "db")
    assert store.number == 0
    with store.snapshot() as now:
        assert list(now.iterate(b"")) == [(b"a", b"1")]
    store.close()


DIES = """
import os, sys
from pathlib import Path
from deepbrain.primitives.ids import Hash
from deepbrain.state.lmdb import LmdbStore

def entries():
    for number in range(30_000):
        yield number.to_bytes(4, "big"), bytes(1000)
    os._exit(9)

LmdbStore(Path(sys.argv[1])).replace(7, Hash(bytes(32)), entries(), {})
"""

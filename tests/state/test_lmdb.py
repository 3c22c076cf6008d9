"""What only the store on disk can get wrong: locks, room, crashes, threads."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import lmdb
import pytest
from tests.state.committing import RETENTION, changes_of, commit_next, state_after
from tests.state.support import DictState

from deepbrain.state.errors import StoreError
from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.store import Commit
from deepbrain.state.trie import EMPTY_ROOT, compute_root, full_root

ROOT = Path(__file__).parents[2]


def open_store(directory, **options):
    return LmdbStore(directory, **{"retention": RETENTION, "sync": False, "min_free": 0} | options)


def test_a_closed_store_opens_where_it_was(tmp_path):
    store = open_store(tmp_path)
    for _ in range(12):
        commit_next(store)
    before = (store.number, store.root, store.oldest, store.oldest_proof)
    store.close()
    store.close()
    again = open_store(tmp_path)
    assert (
        (again.number, again.root, again.oldest, again.oldest_proof)
        == before
        == (
            11,
            full_root(state_after(11).items()),
            3,
            7,
        )
    )
    with again.snapshot(5) as snapshot:
        assert dict(snapshot.iterate(b"")) == state_after(5)
    again.close()


def test_a_second_start_on_a_directory_is_refused_by_name(tmp_path):
    store = open_store(tmp_path)
    with pytest.raises(StoreError, match=rf"{tmp_path} is in use by process {os.getpid()}"):
        open_store(tmp_path)
    commit_next(store)
    store.close()
    open_store(tmp_path).close()


def test_a_second_start_in_another_process_is_refused(tmp_path):
    store = open_store(tmp_path)
    code = (
        "import sys, pathlib; from deepbrain.state.lmdb import LmdbStore;"
        "LmdbStore(pathlib.Path(sys.argv[1]))"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert run.returncode == 1
    assert f"StoreError: The data directory {tmp_path} is in use" in run.stderr
    store.close()


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot make the data directory"):
        open_store(tmp_path / "file" / "db")


def test_another_format_is_refused_and_the_lock_is_let_go(tmp_path):
    open_store(tmp_path).close()
    with lmdb.open(str(tmp_path), max_dbs=8) as env, env.begin(write=True) as txn:
        txn.put(b"format", b"99", db=env.open_db(b"meta", txn=txn))
    for _ in range(2):
        with pytest.raises(StoreError, match="another version"):
            open_store(tmp_path)


def test_something_else_in_the_directory_is_refused(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="failed"):
        open_store(tmp_path)


def test_a_nearly_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    store = open_store(tmp_path, min_free=100 << 20)
    commit_next(store)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=(100 << 20) - 1))
    for write in (lambda: commit_next(store), lambda: store.write_tables({"pool": {b"k": b"v"}})):
        with pytest.raises(StoreError, match="Only 99 MiB are free"):
            write()
    monkeypatch.undo()
    assert store.number == 0
    assert commit_next(store) == 1
    store.close()


def test_a_commit_that_fails_half_way_leaves_nothing(tmp_path):
    store = open_store(tmp_path, map_size=1 << 20)
    commit_next(store)
    big = Commit(number=1, root=EMPTY_ROOT, changes={b"big": bytes(4 << 20)})
    long_key = Commit(
        number=1, root=EMPTY_ROOT, changes={b"k": b"v"}, tables={"t": {bytes(600): b""}}
    )
    for commit in (big, long_key):
        with pytest.raises(StoreError):
            store.commit(commit)
        assert store.number == 0
        with store.snapshot() as snapshot:
            assert dict(snapshot.iterate(b"")) == state_after(0)
    assert commit_next(store) == 1
    store.close()


def test_displaced_values_are_read_where_they_are_not_given(tmp_path):
    given, read = open_store(tmp_path / "given"), open_store(tmp_path / "read")
    for number in range(10):
        commit_next(given)
        changes = changes_of(number)
        with read.snapshot() as state:
            update = compute_root(state, changes)
        read.commit(
            Commit(number=number, root=update.root, changes=changes, branches=update.branches)
        )
    for number in range(read.oldest, 10):
        with given.snapshot(number) as one, read.snapshot(number) as other:
            assert list(one.iterate(b"")) == list(other.iterate(b""))
    given.rollback(6)
    read.rollback(6)
    assert commit_next(given) == commit_next(read) == 7
    assert given.root == read.root == full_root(state_after(7).items())
    given.close()
    read.close()


def test_history_leaves_nothing_behind(tmp_path):
    """After the last block is forgotten no row of undo, nor a note of what is gone, is left."""
    store = open_store(tmp_path)
    for _ in range(20):
        commit_next(store)
    for number in range(20, 40):
        store.commit(Commit(number=number, root=store.root))
    with store._env.begin() as txn:
        for table in (store._flat.undo, store._flat.gone, store._branches.undo):
            assert txn.stat(table)["entries"] == 0
        assert txn.stat(store._branches.current)["entries"] == len(
            compute_root(DictState(), state_after(19)).branches
        )
    store.close()


def test_readers_are_undisturbed_by_commits_in_another_thread(tmp_path):
    store = open_store(tmp_path)
    commit_next(store)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            commit_next(store)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(60):
            with store.snapshot() as snapshot:
                items = list(snapshot.iterate(b""))
                assert full_root(items) == snapshot.root
    finally:
        stop.set()
        writer.join()
    store.close()


@pytest.mark.parametrize("seed", range(5))
def test_killed_while_committing_it_reopens_at_a_whole_block(tmp_path, seed):
    command = [sys.executable, "-m", "tests.state.committing", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        printed = [
            int(child.stdout.readline()) for _ in range(random.Random(seed).randrange(1, 40))
        ]
        threading.Event().wait(random.Random(seed).random() * 0.01)
        child.send_signal(signal.SIGKILL)
        printed += [int(line) for line in child.stdout if line.endswith("\n")]
    store = open_store(tmp_path)
    number = store.number
    assert number in (printed[-1], printed[-1] + 1)
    for block in range(store.oldest, number + 1):
        with store.snapshot(block) as snapshot:
            state = state_after(block)
            assert dict(snapshot.iterate(b"")) == state
            assert snapshot.root == full_root(state.items())
    assert len(store.table_iterate("blocks")) == number + 1
    assert commit_next(store) == number + 1
    assert store.root == full_root(state_after(number + 1).items())
    store.close()

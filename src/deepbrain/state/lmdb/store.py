"""The store on disk: what one block writes, in one transaction, and what guards it."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from deepbrain.primitives.ids import Hash
from deepbrain.state.errors import BadSnapshot, StoreError, UnknownState
from deepbrain.state.lmdb.reader import FORMAT, HEAD, MAP_SIZE, Head, LmdbReader, table_front
from deepbrain.state.lmdb.snapshot import LmdbSnapshot
from deepbrain.state.lmdb.versions import DatedView, View, block_name
from deepbrain.state.lock import DirectoryLock
from deepbrain.state.store import Commit, Retention, batched, check_changes, check_head
from deepbrain.state.trie.nodes import EMPTY_ROOT
from deepbrain.state.trie.update import compute_root

MIN_FREE: Final = 256 << 20
"""Bytes of disk that a commit leaves free."""
READER_CHECK: Final = 256
"""Blocks after which readers of other processes that were killed are looked for: they hold pages."""


class LmdbStore(LmdbReader):
    """A `Store` in a directory, made where it is missing.

    Cost of a commit at 100,000 keys: about 10 µs a changed flat key with its history, the same a
    branch record, and one fsync.
    """

    def __init__(
        self,
        directory: Path,
        *,
        retention: Retention | None = None,
        sync: bool = True,
        min_free: int = MIN_FREE,
        map_size: int = MAP_SIZE,
    ) -> None:
        """Open or make the store. Without `sync` a power cut may lose the last blocks: for tests.

        Raises: StoreError: the directory is in use, not writable, or of another format.
        """
        self._directory = directory
        self._retention = retention or Retention()
        self._min_free = min_free
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"Cannot make the data directory {directory}: {error.strerror}."
            ) from error
        self._lock = DirectoryLock(directory)
        try:
            with self._explained():
                self._open(map_size, sync)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, map_size: int, sync: bool) -> None:
        env = lmdb.open(
            str(self._directory),
            map_size=map_size,
            max_dbs=8,
            max_readers=512,
            sync=sync,
            readahead=False,
        )
        env.reader_check()
        self._take(env)
        with self._env.begin(write=True, db=self._meta) as txn:
            self._check_format(txn)
            txn.put(b"format", FORMAT)
            self._head = self._read_head(txn)

    @property
    def number(self) -> int | None:
        return self._head.number if self._head else None

    @property
    def root(self) -> Hash | None:
        return self._head.root if self._head else None

    @property
    def oldest(self) -> int:
        return self._head.oldest if self._head else 0

    @property
    def oldest_proof(self) -> int:
        return self._head.oldest_proof if self._head else 0

    def commit(self, commit: Commit) -> None:
        check_head(self.number, commit.number)
        check_changes(commit.changes)
        readable, provable = self._retention.oldest(commit.number, commit.prune_below)
        first = self._head is None
        head = Head(
            commit.number,
            Hash(commit.root),
            commit.number if first else max(self.oldest, readable),
            commit.number if first else max(self.oldest_proof, provable),
        )
        with self._writing() as txn:
            number = commit.number
            self._flat.write(txn, number, commit.changes, first=first)
            self._branches.write(txn, number, commit.branches, commit.before, first=first)
            self._write_tables(txn, commit.tables)
            txn.put(block_name(commit.number), head.root, db=self._roots)
            txn.put(HEAD, head.encode(), db=self._meta)
            self._prune(txn, head)
        self._head = head
        if commit.number % READER_CHECK == 0:
            self._env.reader_check()

    def _prune(self, txn: Any, head: Head) -> None:
        limit = self._retention.prune_limit
        self._flat.prune(txn, head.oldest, limit)
        self._branches.prune(txn, head.oldest_proof, limit)
        roots = txn.cursor(self._roots)
        while limit and roots.first() and roots.key() < block_name(head.oldest):
            roots.delete()
            limit -= 1

    def write_tables(self, tables: Mapping[str, Mapping[bytes, bytes | None]]) -> None:
        with self._writing() as txn:
            self._write_tables(txn, tables)

    def _write_tables(self, txn: Any, tables: Mapping[str, Mapping[bytes, bytes | None]]) -> None:
        for name, rows in tables.items():
            front = table_front(name)
            for key, value in rows.items():
                if value is None:
                    txn.delete(front + key, db=self._tables)
                else:
                    txn.put(front + key, value, db=self._tables)

    def replace(
        self,
        number: int,
        root: Hash,
        entries: Iterable[tuple[bytes, bytes]],
        tables: Mapping[str, Mapping[bytes, bytes | None]],
    ) -> None:
        with self._writing() as txn:
            for table in (self._flat, self._branches):
                txn.drop(table.current, delete=False)
                txn.drop(table.undo, delete=False)
            for each in (self._flat.gone, self._roots, self._tables):
                txn.drop(each, delete=False)
            found = self._fill(txn, number, entries)
            if found != root:
                raise BadSnapshot(f"The state's root is {found}, and not {root}.")
            self._write_tables(txn, tables)
            head = Head(number, root, number, number)
            txn.put(block_name(number), root, db=self._roots)
            txn.put(HEAD, head.encode(), db=self._meta)
        self._head = head

    def _fill(self, txn: Any, number: int, entries: Iterable[tuple[bytes, bytes]]) -> Hash:
        """Write a state into empty tables; its root. Memory is bounded: the trie grows by batches."""
        found = EMPTY_ROOT
        for batch in batched(entries):
            check_changes(batch)
            state = LmdbSnapshot(
                txn,
                DatedView(txn, self._flat, range(0)),
                View(txn, self._branches, range(0)),
                number,
                found,
            )
            update = compute_root(state, batch)
            self._flat.write(txn, number, batch, first=True)
            self._branches.write(txn, number, update.branches, update.before, first=True)
            found = update.root
        return found

    def rollback(self, number: int) -> None:
        head = self._head
        if head is None or not head.oldest_proof <= number <= head.number:
            raise UnknownState(f"Block {number} is too far back to return to.")
        with self._writing() as txn:
            self._flat.revert(txn, number)
            self._branches.revert(txn, number)
            roots = txn.cursor(self._roots)
            while roots.last() and roots.key() > block_name(number):
                roots.delete()
            head = head._replace(number=number, root=Hash(roots.value()))
            txn.put(HEAD, head.encode(), db=self._meta)
        self._head = head

    def close(self) -> None:
        super().close()
        self._lock.release()

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        """A write transaction, after the disk was seen to have room."""
        free = shutil.disk_usage(self._directory).free
        if free < self._min_free:
            raise StoreError(
                f"Only {free >> 20} MiB are free for {self._directory}: make room, at least"
                f" {self._min_free >> 20} MiB, and start the node again."
            )
        with self._explained(), self._env.begin(write=True) as txn:
            yield txn

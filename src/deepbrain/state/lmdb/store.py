"""The store on disk: what one block writes, in one transaction, and what guards it."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import lmdb

from deepbrain.primitives.ids import Hash
from deepbrain.state.errors import StoreError, UnknownState
from deepbrain.state.lmdb.snapshot import LmdbSnapshot
from deepbrain.state.lmdb.versions import DatedTable, DatedView, PlainTable, View, block_name
from deepbrain.state.lock import DirectoryLock
from deepbrain.state.store import (
    Commit,
    Retention,
    Snapshot,
    check_changes,
    check_head,
    prefix_end,
)
from deepbrain.state.trie.nodes import EMPTY_ROOT

MAP_SIZE: Final = 1 << 40
"""The largest the database can grow. The file is sparse: it takes what is in it."""
MIN_FREE: Final = 256 << 20
"""Bytes of disk that a commit leaves free."""

_FORMAT: Final = b"2"
_HEAD: Final = b"head"


class _Head(NamedTuple):
    """The record that says which blocks there are; one object, replaced whole, read by any thread."""

    number: int
    root: Hash
    oldest: int
    oldest_proof: int

    def encode(self) -> bytes:
        return self.root + b"".join(
            map(block_name, (self.number, self.oldest, self.oldest_proof)),
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        numbers = (int.from_bytes(data[at : at + 4], "big") for at in (32, 36, 40))
        return cls(next(numbers), Hash(data[:32]), next(numbers), next(numbers))


class LmdbStore:
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
        self._env: Any = lmdb.open(
            str(self._directory),
            map_size=map_size,
            max_dbs=8,
            max_readers=512,
            sync=sync,
            readahead=False,
        )
        self._env.reader_check()
        self._flat = DatedTable(self._env, "flat")
        self._branches = PlainTable(self._env, "branches")
        self._roots = self._env.open_db(b"roots")
        self._tables = self._env.open_db(b"tables")
        self._meta = self._env.open_db(b"meta")
        with self._env.begin(write=True, db=self._meta) as txn:
            if txn.get(b"format", _FORMAT) != _FORMAT:
                raise StoreError(
                    f"{self._directory} was written by another version: use that, or export and import."
                )
            txn.put(b"format", _FORMAT)
            self._head = self._read_head(txn)

    def _read_head(self, txn: Any) -> _Head | None:
        head = txn.get(_HEAD, db=self._meta)
        return None if head is None else _Head.decode(head)

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

    def snapshot(self, number: int | None = None) -> Snapshot:
        with self._explained():
            txn = self._env.begin()
        try:
            return self._snapshot(txn, self._read_head(txn), number)
        except BaseException:
            txn.abort()
            raise

    def _snapshot(self, txn: Any, head: _Head | None, number: int | None) -> LmdbSnapshot:
        if head is None and number is None:
            head = _Head(0, EMPTY_ROOT, 0, 0)
        wanted = head.number if head is not None and number is None else number
        if head is None or wanted is None or not head.oldest <= wanted <= head.number:
            raise UnknownState(f"The state of block {wanted} is not kept by this node.")
        past = range(wanted + 1, head.number + 1)
        provable = wanted >= head.oldest_proof
        return LmdbSnapshot(
            txn,
            DatedView(txn, self._flat, past),
            View(txn, self._branches, past) if provable else None,
            wanted,
            Hash(txn.get(block_name(wanted), db=self._roots)) if past else head.root,
        )

    def commit(self, commit: Commit) -> None:
        check_head(self.number, commit.number)
        check_changes(commit.changes)
        readable, provable = self._retention.oldest(commit.number, commit.prune_below)
        first = self._head is None
        head = _Head(
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
            txn.put(_HEAD, head.encode(), db=self._meta)
            self._prune(txn, head)
        self._head = head

    def _prune(self, txn: Any, head: _Head) -> None:
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
            front = _table_front(name)
            for key, value in rows.items():
                if value is None:
                    txn.delete(front + key, db=self._tables)
                else:
                    txn.put(front + key, value, db=self._tables)

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
            txn.put(_HEAD, head.encode(), db=self._meta)
        self._head = head

    def table_get(self, table: str, key: bytes) -> bytes | None:
        with self._explained(), self._env.begin(db=self._tables) as txn:
            try:
                value: bytes | None = txn.get(_table_front(table) + key)
            except lmdb.BadValsizeError:  # no such key can have been written
                value = None
            return value

    def table_iterate(
        self,
        table: str,
        prefix: bytes = b"",
        after: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[tuple[bytes, bytes]]:
        front = _table_front(table)
        rows: list[tuple[bytes, bytes]] = []
        with self._explained(), self._env.begin(db=self._tables) as txn:
            walk = _backwards if reverse else _forwards
            for key, value in walk(
                txn.cursor(), front + prefix, None if after is None else front + after
            ):
                if (limit is not None and len(rows) >= limit) or not key.startswith(front + prefix):
                    break
                rows.append((key[len(front) :], value))
        return rows

    def close(self) -> None:
        self._env.close()
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

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in one sentence what the database could not do."""
        try:
            yield
        except lmdb.MapFullError as error:
            raise StoreError(
                f"The database in {self._directory} reached its largest size."
            ) from error
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"The database in {self._directory} failed: {error}.") from error


def _table_front(name: str) -> bytes:
    """What the keys of a table of the node start with."""
    encoded = name.encode()
    return bytes((len(encoded),)) + encoded


def _forwards(cursor: Any, prefix: bytes, after: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    start = prefix if after is None else max(prefix, after + b"\x00")
    if cursor.set_range(start):
        yield from cursor


def _backwards(cursor: Any, prefix: bytes, after: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    end = prefix_end(prefix)
    if after is not None:
        end = after if end is None else min(end, after)
    found = cursor.set_range(end) if end is not None else False
    if cursor.prev() if found else cursor.last():
        yield from cursor.iterprev()

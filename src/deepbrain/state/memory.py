"""A store that forgets everything when the process ends: for tests, and for chains of one evening.

It behaves as `lmdb.LmdbStore` does, history included. Cost: a read 0.5 µs, a commit 2 µs a changed
key, plus a sort of all keys where a block adds new ones.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from threading import RLock
from typing import Self

from deepbrain.primitives.ids import Hash
from deepbrain.state.errors import BadSnapshot, UnknownState
from deepbrain.state.store import Commit, Retention, Snapshot, check_changes, check_head
from deepbrain.state.trie.nodes import EMPTY_ROOT
from deepbrain.state.trie.update import compute_root


class _Versions:
    """A sorted table, and the value of each changed key before each block."""

    def __init__(self) -> None:
        self.current: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        """Every key that exists or has a history, in order."""
        self.undo: dict[int, dict[bytes, bytes | None]] = {}
        """Block → key → value before it."""
        self.blocks: dict[bytes, list[int]] = {}
        """Key → the blocks in `undo` that changed it, ascending."""

    def at(self, key: bytes, number: int) -> bytes | None:
        """The value after block `number`."""
        blocks = self.blocks.get(key, ())
        later = bisect_right(blocks, number)
        return self.undo[blocks[later]][key] if later < len(blocks) else self.current.get(key)

    def write(self, number: int, changes: Mapping[bytes, bytes | None], *, first: bool) -> None:
        undo: dict[bytes, bytes | None] = {}
        fresh = []
        for key, value in changes.items():
            old = self.current.get(key)
            if value == old:
                continue
            if old is None and key not in self.blocks:
                fresh.append(key)
            undo[key] = old
            self._set(key, value)
        if fresh:
            self.keys = sorted({*self.keys, *fresh})
        if not first:
            self.undo[number] = undo
            for key in undo:
                self.blocks.setdefault(key, []).append(number)

    def prune(self, floor: int) -> None:
        """Forget what blocks up to `floor` displaced."""
        gone = False
        while self.undo and (number := next(iter(self.undo))) <= floor:
            for key in self.undo.pop(number):
                gone |= self._forget(key, 0)
        if gone:
            self._drop_keys()

    def revert(self, number: int) -> None:
        """Undo block `number`, the last one."""
        for key, old in self.undo.pop(number, {}).items():
            self._set(key, old)
            self._forget(key, -1)
        self._drop_keys()

    def _set(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.current.pop(key, None)
        else:
            self.current[key] = value

    def _forget(self, key: bytes, place: int) -> bool:
        """Drop the first or last block of a key's history; whether the key has neither now."""
        blocks = self.blocks[key]
        blocks.pop(place)
        if not blocks:
            del self.blocks[key]
        return not blocks and key not in self.current

    def _drop_keys(self) -> None:
        self.keys = [key for key in self.keys if key in self.current or key in self.blocks]


class MemoryStore:
    """A `Store` in memory. Safe from several threads: each access holds one lock."""

    def __init__(self, *, retention: Retention | None = None) -> None:
        self._retention = retention or Retention()
        self._lock = RLock()
        self._flat = _Versions()
        self._branches = _Versions()
        self._roots: dict[int, Hash] = {}
        self._tables: dict[str, dict[bytes, bytes]] = {}
        self._number: int | None = None
        self.oldest = 0
        self.oldest_proof = 0

    @property
    def number(self) -> int | None:
        return self._number

    @property
    def root(self) -> Hash | None:
        return None if self._number is None else self._roots[self._number]

    def snapshot(self, number: int | None = None) -> Snapshot:
        with self._lock:
            wanted = self._number if number is None else number
            if wanted is None:
                return _MemorySnapshot(MemoryStore(), 0)
            if self._number is None or not self.oldest <= wanted <= self._number:
                raise UnknownState(f"The state of block {wanted} is not kept by this node.")
            return _MemorySnapshot(self, wanted)

    def commit(self, commit: Commit) -> None:
        with self._lock:
            check_head(self._number, commit.number)
            check_changes(commit.changes)
            root = Hash(commit.root)
            first = self._number is None
            if first:
                self.oldest = self.oldest_proof = commit.number
            self._flat.write(commit.number, commit.changes, first=first)
            self._branches.write(commit.number, commit.branches, first=first)
            self._roots[commit.number] = root
            self._number = commit.number
            self.write_tables(commit.tables)
            self._prune(commit)

    def _prune(self, commit: Commit) -> None:
        readable, provable = self._retention.oldest(commit.number, commit.prune_below)
        self.oldest = max(self.oldest, readable)
        self.oldest_proof = max(self.oldest_proof, provable)
        self._flat.prune(self.oldest)
        self._branches.prune(self.oldest_proof)
        while (block := next(iter(self._roots))) < self.oldest:
            del self._roots[block]

    def write_tables(self, tables: Mapping[str, Mapping[bytes, bytes | None]]) -> None:
        with self._lock:
            for name, rows in tables.items():
                table = self._tables.setdefault(name, {})
                for key, value in rows.items():
                    if value is None:
                        table.pop(key, None)
                    else:
                        table[key] = value

    def replace(
        self,
        number: int,
        root: Hash,
        entries: Iterable[tuple[bytes, bytes]],
        tables: Mapping[str, Mapping[bytes, bytes | None]],
    ) -> None:
        changes: dict[bytes, bytes | None] = dict(entries)
        fresh = MemoryStore(retention=self._retention)
        with fresh.snapshot() as nothing:
            update = compute_root(nothing, changes)
        if update.root != root:
            raise BadSnapshot(f"The state's root is {update.root}, and not {root}.")
        fresh.commit(
            Commit(
                number=number, root=root, changes=changes, branches=update.branches, tables=tables
            )
        )
        with self._lock:
            self._flat, self._branches = fresh._flat, fresh._branches
            self._roots, self._tables = fresh._roots, fresh._tables
            self._number = self.oldest = self.oldest_proof = number

    def rollback(self, number: int) -> None:
        with self._lock:
            head = self._number
            if head is None or not self.oldest_proof <= number <= head:
                raise UnknownState(f"Block {number} is too far back to return to.")
            for block in range(head, number, -1):
                self._flat.revert(block)
                self._branches.revert(block)
                del self._roots[block]
            self._number = number

    def table_get(self, table: str, key: bytes) -> bytes | None:
        with self._lock:
            return self._tables.get(table, {}).get(key)

    def table_iterate(
        self,
        table: str,
        prefix: bytes = b"",
        after: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[tuple[bytes, bytes]]:
        with self._lock:
            rows = sorted(self._tables.get(table, {}).items(), reverse=reverse)
        found = [
            (key, value)
            for key, value in rows
            if key.startswith(prefix)
            and (after is None or (key < after if reverse else key > after))
        ]
        return found[:limit]

    def close(self) -> None:
        """Nothing to release."""


class _MemorySnapshot:
    """Looks the history up on every read, so that later commits do not show."""

    def __init__(self, store: MemoryStore, number: int) -> None:
        self._store = store
        self._flat = store._flat
        self._branches = store._branches
        self._lock = store._lock
        self.number = number
        self.root = store._roots.get(number, EMPTY_ROOT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to release."""

    def get(self, key: bytes, /) -> bytes | None:
        with self._lock:
            self._check(self._store.oldest)
            return self._flat.at(key, self.number)

    def get_many(self, keys: list[bytes], /) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def branch(self, path: bytes, /) -> bytes | None:
        with self._lock:
            self._check(self._store.oldest_proof)
            return self._branches.at(path, self.number)

    def seek(self, key: bytes, /) -> tuple[bytes, bytes] | None:
        return next(self._walk(key), None)

    def iterate(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        start = prefix if after is None else max(prefix, after + b"\x00")
        for key, value in self._walk(start):
            if not key.startswith(prefix):
                return
            yield key, value

    def _walk(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries from `start` on. Each step finds its place anew: commits may come between."""
        while True:
            with self._lock:
                keys = self._flat.keys
                place = bisect_left(keys, start)
                if place == len(keys):
                    return
                key = keys[place]
                value = self.get(key)
            if value is not None:
                yield key, value
            start = key + b"\x00"

    def _check(self, oldest: int) -> None:
        if self._store.number is not None and self.number < oldest:
            raise UnknownState(f"The state of block {self.number} is not kept by this node.")

"""A table whose past can be read: flat state and branch records are one each.

Up to three databases of the environment:

    current   key → value now
    undo      block ‖ key → value before that block; appended to, pruned from the front
    history   key → the blocks that changed it, as sorted duplicates (only where `indexed`)

The value after block B is what the first later change displaced: with an index one seek in `history`
and one read in `undo`, without it one read in `undo` for each later block; where there is no later
change, it is the current value. The undo rows in order serve pruning and rollback, so no list of keys by
block is kept apart. Numbers are big-endian: names sort by block.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

_ABSENT: Final = b"\x00"
_PRESENT: Final = b"\x01"
_FRONT: Final = 4
"""Bytes of a block number."""


def block_name(number: int) -> bytes:
    """A block number as the front of a name."""
    return number.to_bytes(_FRONT, "big")


class Versions:
    """The databases of one table. Every method works inside the caller's transaction."""

    __slots__ = ("current", "history", "undo")

    def __init__(self, env: Any, name: str, *, indexed: bool) -> None:
        self.current = env.open_db(name.encode())
        self.undo = env.open_db(f"{name}_undo".encode())
        self.history = (
            env.open_db(f"{name}_history".encode(), dupsort=True, dupfixed=True)
            if indexed
            else None
        )

    def write(
        self,
        txn: Any,
        number: int | None,
        changes: Mapping[bytes, bytes | None],
        before: Mapping[bytes, bytes | None] | None,
    ) -> None:
        """Apply a block's changes and note what they displace.

        `number` None: nothing lies before this block, so nothing is noted. `before` None: the values
        displaced are read here.
        """
        keys = sorted(changes)
        if before is None:
            before = dict(txn.cursor(self.current).getmulti(keys))
        puts, undo, index = [], [], []
        front = block_name(number or 0)
        for key in keys:
            value, old = changes[key], before.get(key)
            if value == old:
                continue
            if value is None:
                txn.delete(key, db=self.current)
            else:
                puts.append((key, value))
            undo.append((front + key, _ABSENT if old is None else _PRESENT + old))
            index.append((key, front))
        txn.cursor(self.current).putmulti(puts)
        if number is None:
            return
        txn.cursor(self.undo).putmulti(undo, append=True)
        if self.history is not None:
            txn.cursor(self.history).putmulti(index)

    def prune(self, txn: Any, floor: int, limit: int) -> None:
        """Forget at most `limit` of the values displaced up to block `floor`."""
        end = block_name(floor + 1)
        undo, history = txn.cursor(self.undo), self.history
        more = undo.first()
        while more and limit and (name := undo.key()) < end:
            if history is not None:
                txn.delete(name[_FRONT:], name[:_FRONT], db=history)
            undo.delete()  # moves on to the next row
            more = undo.key() != b""
            limit -= 1

    def revert(self, txn: Any, number: int) -> None:
        """Give back what every block after `number` displaced, newest first."""
        end = block_name(number + 1)
        undo = txn.cursor(self.undo)
        while undo.last() and (name := undo.key()) >= end:
            key, old = name[_FRONT:], _old(undo.value())
            if old is None:
                txn.delete(key, db=self.current)
            else:
                txn.put(key, old, db=self.current)
            if self.history is not None:
                txn.delete(key, name[:_FRONT], db=self.history)
            undo.delete()


class View:
    """A table as it was after one block, in one read transaction."""

    __slots__ = ("_history", "_past", "_txn", "_versions", "get")

    def __init__(self, txn: Any, versions: Versions, past: range) -> None:
        """`past`: the blocks after the wanted one, up to the newest; empty for the newest."""
        self._txn = txn
        self._versions = versions
        self._past = past
        self._history: Any = txn.cursor(versions.history) if past and versions.history else None
        self.get: Callable[[bytes], bytes | None]
        """The value of a key that the database can hold."""
        if not past:
            self.get = partial(txn.get, db=versions.current)
        elif self._history is not None:
            self.get = self._get_by_index
        else:
            self.get = self._get_by_block

    def _get_by_index(self, key: bytes) -> bytes | None:
        if self._history.set_range_dup(key, block_name(self._past[0])):
            name = self._history.value() + key
            return _old(self._txn.get(name, db=self._versions.undo))
        value: bytes | None = self._txn.get(key, db=self._versions.current)
        return value

    def _get_by_block(self, key: bytes) -> bytes | None:
        for number in self._past:
            row = self._txn.get(block_name(number) + key, db=self._versions.undo)
            if row is not None:
                return _old(row)
        value: bytes | None = self._txn.get(key, db=self._versions.current)
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """One value per key."""
        if self._past:
            return [self.get(key) for key in keys]
        found: dict[bytes, bytes] = dict(self._txn.cursor(self._versions.current).getmulti(keys))
        return [found.get(key) for key in keys]

    def walk(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries from the key `start` on, in order. Only the newest, or by an index."""
        entries = _walk(self._txn.cursor(self._versions.current), start)
        if not self._past:
            yield from entries
            return
        changed = _walk_keys(self._txn.cursor(self._versions.history), start)
        for key in _merge((key for key, _ in entries), changed):
            value = self.get(key)
            if value is not None:
                yield key, value


def _walk(cursor: Any, start: bytes) -> Iterator[tuple[bytes, bytes]]:
    if cursor.set_range(start) if start else cursor.first():
        yield from cursor


def _walk_keys(cursor: Any, start: bytes) -> Iterator[bytes]:
    """The distinct keys of a database with duplicates."""
    more = cursor.set_range(start) if start else cursor.first()
    while more:
        yield cursor.key()
        more = cursor.next_nodup()


def _merge(one: Iterator[bytes], other: Iterator[bytes]) -> Iterator[bytes]:
    """Two sorted runs of keys as one, each key once."""
    left, right = next(one, None), next(other, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left <= right):
            if left == right:
                right = next(other, None)
            if left is not None:
                yield left
            left = next(one, None)
        else:
            yield right
            right = next(other, None)


def _old(row: bytes) -> bytes | None:
    """The value in an undo row."""
    return row[1:] if row[0] else None

"""A table whose past can be read: flat state and branch records are one each.

Three databases of the environment:

    current   key → value now
    undo      block ‖ place → key and value before that block; appended to, pruned from the front
    history   key → the undo names of the blocks that changed it, as sorted duplicates

The value after block B is what the first later change displaced: one seek in `history`, one read in
`undo`; where there is no later change, it is the current value. The undo rows in order serve pruning
and rollback, so no list of keys by block is kept apart. Numbers are big-endian: names sort by block.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

_PLACE_BYTES: Final = 4
_ABSENT: Final = b"\x00"
_PRESENT: Final = b"\x01"


def block_name(number: int) -> bytes:
    """A block number as the front of a name."""
    return number.to_bytes(4, "big")


class Versions:
    """The three databases of one table. Every method works inside the caller's transaction."""

    __slots__ = ("current", "history", "undo")

    def __init__(self, env: Any, name: str) -> None:
        self.current = env.open_db(name.encode())
        self.undo = env.open_db(f"{name}_undo".encode())
        self.history = env.open_db(f"{name}_history".encode(), dupsort=True, dupfixed=True)

    def write(
        self, txn: Any, number: int, changes: Mapping[bytes, bytes | None], *, first: bool
    ) -> None:
        """Apply a block's changes and note what they displace; nothing lies before the `first` block."""
        keys = sorted(changes)
        cursor = txn.cursor(self.current)
        before = dict(cursor.getmulti(keys))
        puts, deletes, undo, history = [], [], [], []
        front = block_name(number)
        for place, key in enumerate(keys):
            value, old = changes[key], before.get(key)
            if value == old:
                continue
            if value is None:
                deletes.append(key)
            else:
                puts.append((key, value))
            name = front + place.to_bytes(_PLACE_BYTES, "big")
            undo.append((name, _row(key, old)))
            history.append((key, name))
        cursor.putmulti(puts)
        for key in deletes:
            txn.delete(key, db=self.current)
        if not first:
            txn.cursor(self.undo).putmulti(undo, append=True)
            txn.cursor(self.history).putmulti(history)

    def prune(self, txn: Any, floor: int, limit: int) -> int:
        """Forget at most `limit` of the values displaced up to block `floor`; how many it were."""
        end = block_name(floor + 1)
        undo, history = txn.cursor(self.undo), txn.cursor(self.history)
        removed = 0
        more = undo.first()
        while more and removed < limit and undo.key() < end:
            if history.set_key_dup(_key(undo.value()), undo.key()):
                history.delete()
            more = undo.delete() and undo.key() != b""
            removed += 1
        return removed

    def revert(self, txn: Any, number: int) -> None:
        """Give back what every block after `number` displaced, newest first."""
        end = block_name(number + 1)
        undo, history = txn.cursor(self.undo), txn.cursor(self.history)
        while undo.last() and undo.key() >= end:
            row = undo.value()
            key, old = _key(row), _old(row)
            if old is None:
                txn.delete(key, db=self.current)
            else:
                txn.put(key, old, db=self.current)
            if history.set_key_dup(key, undo.key()):
                history.delete()
            undo.delete()


class View:
    """A table as it was after one block, in one read transaction."""

    __slots__ = ("_cursor", "_history", "_later", "_txn", "_versions")

    def __init__(self, txn: Any, versions: Versions, number: int | None) -> None:
        """`number` None: as it is now."""
        self._txn = txn
        self._versions = versions
        self._cursor = txn.cursor(versions.current)
        self._history = None if number is None else txn.cursor(versions.history)
        self._later = b"" if number is None else block_name(number + 1) + bytes(_PLACE_BYTES)

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, which the database can hold."""
        if self._history is not None and self._history.set_range_dup(key, self._later):
            return _old(self._txn.get(self._history.value(), db=self._versions.undo))
        value: bytes | None = self._txn.get(key, db=self._versions.current)
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """One value per key."""
        if self._history is not None:
            return [self.get(key) for key in keys]
        found: dict[bytes, bytes] = dict(self._cursor.getmulti(keys))
        return [found.get(key) for key in keys]

    def walk(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries from the key `start` on, in order."""
        entries = _walk(self._txn.cursor(self._versions.current), start)
        if self._history is None:
            yield from entries
            return
        past = _walk_keys(self._txn.cursor(self._versions.history), start)
        for key in _merge((key for key, _ in entries), past):
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


def _row(key: bytes, old: bytes | None) -> bytes:
    length = len(key).to_bytes(2, "big")
    return length + key + (_ABSENT if old is None else _PRESENT + old)


def _key(row: bytes) -> bytes:
    return row[2 : 2 + int.from_bytes(row[:2], "big")]


def _old(row: bytes) -> bytes | None:
    at = 2 + int.from_bytes(row[:2], "big")
    return row[at + 1 :] if row[at] else None

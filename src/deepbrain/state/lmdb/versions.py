"""Tables whose past can be read.

`PlainTable` keeps what each block displaces, and finds it by looking through the later blocks: branch
records, which few ask for, and not far back.

    current   key → value now
    undo      block ‖ key → what stood there before that block; appended to, pruned from the front

`DatedTable`, for the flat state, also says since which block each value stands, and so needs no index
by key: from the value now, whose block is known, to the one it displaced, and so on back.

    current   key → block ‖ value
    gone      key → block that deleted it, as long as that block's undo rows are kept

Numbers are big-endian: names sort by block.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

_ABSENT: Final = b"\x00"
_PRESENT: Final = b"\x01"
_DELETED: Final = b"\x03"
"""As `_PRESENT`, and the block deleted it."""
_FRONT: Final = 4
"""Bytes of a block number."""

_Row = tuple[bytes, bytes]


def block_name(number: int) -> bytes:
    """A block number as the front of a name."""
    return number.to_bytes(_FRONT, "big")


class Table:
    """What both kinds share. Every method works inside the caller's transaction."""

    __slots__ = ("current", "undo")

    def __init__(self, env: Any, name: str) -> None:
        self.current = env.open_db(name.encode())
        self.undo = env.open_db(f"{name}_undo".encode())

    def _note(self, txn: Any, puts: list[_Row], undo: list[_Row]) -> None:
        """Write new rows and those they displace, both in order."""
        txn.cursor(self.current).putmulti(puts)
        txn.cursor(self.undo).putmulti(undo, append=True)

    def prune(self, txn: Any, floor: int, limit: int) -> None:
        """Forget at most `limit` of the values displaced up to block `floor`."""
        end = block_name(floor + 1)
        undo = txn.cursor(self.undo)
        more = undo.first()
        while more and limit and undo.key() < end:
            self._forget(txn, undo)
            undo.delete()  # moves on to the next row
            more = undo.key() != b""
            limit -= 1

    def revert(self, txn: Any, number: int) -> None:
        """Give back what every block after `number` displaced, newest first."""
        end = block_name(number + 1)
        undo = txn.cursor(self.undo)
        while undo.last() and (name := undo.key()) >= end:
            self._restore(txn, name[_FRONT:], undo.value())
            undo.delete()

    def _forget(self, txn: Any, undo: Any) -> None:
        """Drop what else is kept for the undo row under the cursor."""

    def _restore(self, txn: Any, key: bytes, row: bytes) -> None:
        """Put back what an undo row says."""
        if row[:1] == _ABSENT:
            txn.delete(key, db=self.current)
        else:
            txn.put(key, row[1:], db=self.current)


class PlainTable(Table):
    """A table that knows nothing of a value's past but what each block displaced."""

    __slots__ = ()

    def write(
        self,
        txn: Any,
        number: int,
        changes: Mapping[bytes, bytes | None],
        before: Mapping[bytes, bytes | None] | None,
        *,
        first: bool,
    ) -> None:
        """Apply a block's changes and note what they displace.

        `before` None: the values displaced are read here. `first`: nothing lies before this block, so
        nothing is noted.
        """
        keys = sorted(changes)
        if before is None:
            before = dict(txn.cursor(self.current).getmulti(keys))
        puts, undo = [], []
        front = block_name(number)
        for key in keys:
            value, old = changes[key], before.get(key)
            if value == old:
                continue
            if value is None:
                txn.delete(key, db=self.current)
            else:
                puts.append((key, value))
            undo.append((front + key, _ABSENT if old is None else _PRESENT + old))
        self._note(txn, puts, [] if first else undo)


class DatedTable(Table):
    """A table that knows since when each of its values stands."""

    __slots__ = ("gone",)

    def __init__(self, env: Any, name: str) -> None:
        super().__init__(env, name)
        self.gone = env.open_db(f"{name}_gone".encode())

    def write(
        self,
        txn: Any,
        number: int,
        changes: Mapping[bytes, bytes | None],
        *,
        first: bool,
    ) -> None:
        """As `PlainTable.write`; what is displaced is read here."""
        keys = sorted(changes)
        rows: dict[bytes, bytes] = dict(txn.cursor(self.current).getmulti(keys))
        some_are_gone = txn.stat(self.gone)["entries"] > 0
        puts, undo = [], []
        front = block_name(number)
        for key in keys:
            value, old = changes[key], rows.get(key)
            if old is None:
                if value is None:
                    continue
                displaced = _ABSENT
                if some_are_gone:
                    displaced += txn.pop(key, db=self.gone) or b""
            elif value is None:
                txn.delete(key, db=self.current)
                if not first:
                    txn.put(key, front, db=self.gone)
                displaced = _DELETED + old
            elif old.endswith(value) and len(old) == len(value) + _FRONT:
                continue
            else:
                displaced = _PRESENT + old
            if value is not None:
                puts.append((key, front + value))
            undo.append((front + key, displaced))
        self._note(txn, puts, [] if first else undo)

    def _forget(self, txn: Any, undo: Any) -> None:
        if undo.value()[:1] != _DELETED:
            return
        name = undo.key()
        if txn.get(name[_FRONT:], db=self.gone) == name[:_FRONT]:
            txn.delete(name[_FRONT:], db=self.gone)

    def _restore(self, txn: Any, key: bytes, row: bytes) -> None:
        super()._restore(txn, key, row)
        if row[:1] == _DELETED:
            txn.delete(key, db=self.gone)
        elif row[:1] == _ABSENT and len(row) > 1:
            txn.put(key, row[1:], db=self.gone)


class View:
    """A table as it was after one block, in one read transaction.

    `past`: the blocks after the wanted one, up to the newest; empty for the newest.
    """

    __slots__ = ("_current", "_past", "_txn", "_undo", "get")

    def __init__(self, txn: Any, table: Table, past: range) -> None:
        self._txn = txn
        self._current = table.current
        self._undo = table.undo
        self._past = past
        self.get: Callable[[bytes], bytes | None] = self._get_now() if not past else self._get_past
        """The value of a key that the database can hold."""

    def _get_now(self) -> Callable[[bytes], bytes | None]:
        return partial(self._txn.get, db=self._current)

    def _get_past(self, key: bytes) -> bytes | None:
        for number in self._past:
            row = self._txn.get(block_name(number) + key, db=self._undo)
            if row is not None:
                return _old(row)
        value: bytes | None = self._txn.get(key, db=self._current)
        return value


class DatedView(View):
    """A dated table as it was; its entries can be walked, too.

    Cost of a past value: one read where the value still stands, two where it changed once or with the
    very next block; at worst as many as half the blocks since.
    """

    __slots__ = ("_gone", "_seeker", "_since")

    def __init__(self, txn: Any, table: DatedTable, past: range) -> None:
        super().__init__(txn, table, past)
        self._seeker: Any = None
        self._gone = table.gone
        self._since = block_name(past.start) if past else b""
        """What was written in this block or later did not stand yet."""

    def _get_now(self) -> Callable[[bytes], bytes | None]:
        read = partial(self._txn.get, db=self._current)

        def get(key: bytes) -> bytes | None:
            row = read(key)
            return None if row is None else row[_FRONT:]

        return get

    def _get_past(self, key: bytes) -> bytes | None:
        row = self._txn.get(key, db=self._current)
        if row is not None:
            since = row[:_FRONT]
            return row[_FRONT:] if since < self._since else self._displaced(key, since)
        since = self._txn.get(key, db=self._gone)
        return None if since is None or since < self._since else self._displaced(key, since)

    def _displaced(self, key: bytes, since: bytes) -> bytes | None:
        """What stood before the first change in `_past`; the last change was in block `since`.

        It is looked for from both ends: a key that changes often did soon after, one that changes
        seldom has few changes to go back over.
        """
        read = self._txn.get
        for number in self._past:
            row = read(block_name(number) + key, db=self._undo)
            if row is None:
                row = read(since + key, db=self._undo)
                since = row[1 : 1 + _FRONT]
                if since >= self._since:
                    continue
            return None if row[:1] == _ABSENT else row[1 + _FRONT :]
        return None

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """One value per key."""
        if self._past:
            return [self.get(key) for key in keys]
        found: dict[bytes, bytes] = dict(self._txn.cursor(self._current).getmulti(keys))
        rows = map(found.get, keys)
        return [None if row is None else row[_FRONT:] for row in rows]

    def seek(self, start: bytes) -> tuple[bytes, bytes] | None:
        """The first entry from the key `start` on."""
        if self._past or not start:
            return next(self.walk(start), None)
        if self._seeker is None:
            self._seeker = self._txn.cursor(self._current)
        if not self._seeker.set_range(start):
            return None
        key, row = self._seeker.item()
        return key, row[_FRONT:]

    def walk(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries from the key `start` on, in order."""
        entries = _walk(self._txn.cursor(self._current), start)
        if not self._past:
            for key, row in entries:
                yield key, row[_FRONT:]
            return
        gone = _walk(self._txn.cursor(self._gone), start)
        for key in heapq.merge((key for key, _ in entries), (key for key, _ in gone)):
            value = self.get(key)
            if value is not None:
                yield key, value


def _walk(cursor: Any, start: bytes) -> Iterator[tuple[bytes, bytes]]:
    if cursor.set_range(start) if start else cursor.first():
        yield from cursor


def _old(row: bytes) -> bytes | None:
    """The value in an undo row."""
    return row[1:] if row[0] else None

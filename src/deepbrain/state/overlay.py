"""Changes on top of a state, in nested layers that can be taken back.

`begin` opens a layer, `commit` folds it into the one below, `rollback` undoes it. There is one dict
of values whatever the depth, so a read costs one look-up; a layer is a journal of what it displaced.
Cost: a read of a changed key about 0.15 µs, a put 0.2 µs, an empty layer 0.2 µs, closing a layer
0.1 µs per key it touched.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final, Literal, TypeAlias

from deepbrain.state.store import Reader, prefix_end


class _Untouched(Enum):
    """Marks a key whose value is the base's: never written, or written and rolled back."""

    MARK = 0


UNTOUCHED: Final = _Untouched.MARK
_Value: TypeAlias = bytes | Literal[_Untouched.MARK] | None

_FEW: Final = 32
"""Below this, single insertions are cheaper than sorting anew."""


class Overlay:
    """A `Reader` of `base` with changes on top. `base` must not change meanwhile."""

    __slots__ = ("_base", "_fresh", "_journal", "_layers", "_sorted", "_values", "reads", "writes")

    def __init__(self, base: Reader) -> None:
        self._base = base
        self._values: dict[bytes, _Value] = {}
        self._layers: list[dict[bytes, _Value]] = []
        self._journal: dict[bytes, _Value] | None = None
        self._sorted: list[bytes] = []
        self._fresh: list[bytes] = []
        self.reads = 0
        """Values asked for so far, repeated ones and those met while iterating included."""
        self.writes = 0
        """Puts and deletes so far, those rolled back included."""

    def get(self, key: bytes, /) -> bytes | None:
        """The newest value of `key`."""
        self.reads += 1
        value = self._values.get(key, UNTOUCHED)
        return self._base.get(key) if value is UNTOUCHED else value

    def get_many(self, keys: list[bytes], /) -> list[bytes | None]:
        """One value per key; what the overlay does not hold is read from the base at once."""
        self.reads += len(keys)
        values = self._values
        missing = [key for key in keys if values.get(key, UNTOUCHED) is UNTOUCHED]
        found = dict(zip(missing, self._base.get_many(missing), strict=True)) if missing else {}
        merged: list[bytes | None] = []
        for key in keys:
            value = values.get(key, UNTOUCHED)
            merged.append(found[key] if value is UNTOUCHED else value)
        return merged

    def put(self, key: bytes, value: bytes) -> None:
        """Give `key` a value."""
        self._set(key, value)

    def delete(self, key: bytes) -> None:
        """Take the value of `key` away; deleting what is absent is allowed."""
        self._set(key, None)

    def _set(self, key: bytes, value: bytes | None) -> None:
        self.writes += 1
        values = self._values
        journal = self._journal
        if journal is not None and key not in journal:
            journal[key] = values.get(key, UNTOUCHED)
        if key not in values:
            self._fresh.append(key)
        values[key] = value

    def begin(self) -> None:
        """Open a layer on top."""
        self._journal = {}
        self._layers.append(self._journal)

    def commit(self) -> None:
        """Close the top layer and keep its changes. Raises: IndexError: no layer is open."""
        closed = self._layers.pop()
        self._journal = below = self._layers[-1] if self._layers else None
        if below is None:
            return
        if not below:
            self._layers[-1] = self._journal = closed
            return
        for key, displaced in closed.items():
            below.setdefault(key, displaced)

    def rollback(self) -> None:
        """Close the top layer and undo its changes. Raises: IndexError: no layer is open."""
        closed = self._layers.pop()
        self._journal = self._layers[-1] if self._layers else None
        self._values.update(closed)

    @property
    def depth(self) -> int:
        """How many layers are open."""
        return len(self._layers)

    def changes(self) -> dict[bytes, bytes | None]:
        """What to write to make the base this state; None deletes. Open layers count.

        A key may be listed with the value that it has in the base: the trie drops those.
        """
        return {key: value for key, value in self._values.items() if value is not UNTOUCHED}

    def iterate(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Entries of the merged state in key order.

        Puts and deletes during the walk are seen when it reaches them; a key that did not exist when
        the walk began is not met.
        """
        values = self._values
        ours = iter(self._known(prefix, after))
        mine = next(ours, None)
        for key, value in self._base.iterate(prefix, after):
            while mine is not None and mine < key:
                yield from self._own_entry(mine)
                mine = next(ours, None)
            if mine == key:
                mine = next(ours, None)
            newest = values.get(key, UNTOUCHED)
            if newest is not None:
                self.reads += 1
                yield key, value if newest is UNTOUCHED else newest
        while mine is not None:
            yield from self._own_entry(mine)
            mine = next(ours, None)

    def _own_entry(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entry of a key that the base does not have."""
        value = self._values[key]
        if value is not None and value is not UNTOUCHED:
            self.reads += 1
            yield key, value

    def _known(self, prefix: bytes, after: bytes | None) -> list[bytes]:
        """The keys the overlay holds with that prefix, in order, after `after`."""
        self._sort()
        keys = self._sorted
        start = bisect_left(keys, prefix)
        if after is not None:
            start = max(start, bisect_right(keys, after))
        end = prefix_end(prefix)
        return keys[start : len(keys) if end is None else bisect_left(keys, end)]

    def _sort(self) -> None:
        """Bring the keys met since the last walk into order."""
        if len(self._fresh) < _FEW:
            for key in self._fresh:
                insort(self._sorted, key)
        else:
            self._sorted += self._fresh
            self._sorted.sort()
        self._fresh.clear()


class TracingOverlay(Overlay):
    """An overlay that also remembers which keys were touched: what declared weights are checked by."""

    __slots__ = ("read_keys", "written_keys")

    def __init__(self, base: Reader) -> None:
        super().__init__(base)
        self.read_keys: dict[bytes, None] = {}
        """Distinct keys read since the last `reset`, in order of first touch."""
        self.written_keys: dict[bytes, None] = {}
        """Distinct keys written since the last `reset`, in order of first touch."""

    def reset(self) -> None:
        """Forget the keys touched so far."""
        self.read_keys.clear()
        self.written_keys.clear()

    def get(self, key: bytes, /) -> bytes | None:
        self.read_keys[key] = None
        return super().get(key)

    def get_many(self, keys: list[bytes], /) -> list[bytes | None]:
        self.read_keys.update(dict.fromkeys(keys))
        return super().get_many(keys)

    def put(self, key: bytes, value: bytes) -> None:
        self.written_keys[key] = None
        super().put(key, value)

    def delete(self, key: bytes) -> None:
        self.written_keys[key] = None
        super().delete(key)

    def iterate(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        for key, value in super().iterate(prefix, after):
            self.read_keys[key] = None
            yield key, value


class ReadCache:
    """A `Reader` that asks `base` for each key once. `base` must never change: use it on snapshots.

    A hit costs 0.1 µs against 1.3 µs from the database. Walks go to the base.
    """

    __slots__ = ("_base", "_seen")

    def __init__(self, base: Reader) -> None:
        self._base = base
        self._seen: dict[bytes, bytes | None] = {}

    def get(self, key: bytes, /) -> bytes | None:
        """The value of `key`."""
        try:
            return self._seen[key]
        except KeyError:
            value = self._seen[key] = self._base.get(key)
            return value

    def get_many(self, keys: list[bytes], /) -> list[bytes | None]:
        """One value per key; those not seen before are read from the base at once."""
        missing = [key for key in keys if key not in self._seen]
        if missing:
            self._seen.update(zip(missing, self._base.get_many(missing), strict=True))
        return [self._seen[key] for key in keys]

    def iterate(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Entries of the base."""
        return self._base.iterate(prefix, after)


class EntriesState:
    """A `Reader` of a whole state in memory."""

    __slots__ = ("_entries", "_keys")

    def __init__(self, entries: Mapping[bytes, bytes]) -> None:
        self._entries = entries
        self._keys = sorted(entries)

    def get(self, key: bytes, /) -> bytes | None:
        """The value of `key`."""
        return self._entries.get(key)

    def get_many(self, keys: list[bytes], /) -> list[bytes | None]:
        """One value per key."""
        return [self._entries.get(key) for key in keys]

    def iterate(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Entries whose key starts with `prefix`, in key order, strictly after the key `after`."""
        first = prefix if after is None or after < prefix else after + b"\x00"
        for at in range(bisect_left(self._keys, first), len(self._keys)):
            key = self._keys[at]
            if not key.startswith(prefix):
                return
            yield key, self._entries[key]


class EmptyState:
    """A `Reader` without entries: what genesis is built on."""

    __slots__ = ()

    def get(self, key: bytes, /) -> bytes | None:
        """None."""
        return None

    def get_many(self, keys: list[bytes], /) -> list[bytes | None]:
        """None for each key."""
        return [None] * len(keys)

    def iterate(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Nothing."""
        return iter(())

    def seek(self, key: bytes, /) -> tuple[bytes, bytes] | None:
        """None."""
        return None

    def branch(self, path: bytes, /) -> bytes | None:
        """None."""
        return None

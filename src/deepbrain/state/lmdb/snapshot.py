"""The state after one block, read in one transaction."""

from collections.abc import Iterator
from typing import Any, Self

from deepbrain.primitives.ids import Hash
from deepbrain.state.errors import UnknownState
from deepbrain.state.lmdb.versions import DatedView, View
from deepbrain.state.store import MAX_KEY


class LmdbSnapshot:
    """A `Snapshot`. Keys that no state can hold (empty, too long) are simply absent."""

    __slots__ = ("_branches", "_flat", "_txn", "number", "root")

    def __init__(
        self, txn: Any, flat: DatedView, branches: View | None, number: int, root: Hash
    ) -> None:
        """`branches` None: proofs of that block are no longer kept."""
        self._txn = txn
        self._flat = flat
        self._branches = branches
        self.number = number
        self.root = root

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the read transaction."""
        self._txn.abort()

    def get(self, key: bytes, /) -> bytes | None:
        return self._flat.get(key) if 0 < len(key) <= MAX_KEY else None

    def get_many(self, keys: list[bytes], /) -> list[bytes | None]:
        if keys and 0 < min(map(len, keys)) <= max(map(len, keys)) <= MAX_KEY:
            return self._flat.get_many(keys)
        return [self.get(key) for key in keys]

    def seek(self, key: bytes, /) -> tuple[bytes, bytes] | None:
        return self._flat.seek(key) if len(key) <= MAX_KEY else next(self._walk(key), None)

    def iterate(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        start = prefix if after is None else max(prefix, after + b"\x00")
        for key, value in self._walk(start):
            if not key.startswith(prefix):
                return
            yield key, value

    def branch(self, path: bytes, /) -> bytes | None:
        if self._branches is None:
            raise UnknownState(f"Proofs of block {self.number} are no longer kept by this node.")
        return self._branches.get(path)

    def _walk(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries from `start` on, which may be longer than the database's keys."""
        for key, value in self._flat.walk(start[: MAX_KEY + 1]):
            if key >= start:
                yield key, value

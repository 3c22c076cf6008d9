"""What a store of the chain offers, and the one way to change it.

A store keeps the *flat* state (key → value), the trie's branch records, the history of both, the
head, and opaque tables of the node (blocks, receipts, indexes). One block is one `Commit`, written in
one transaction: after a crash it either happened or it did not.

Threads: `commit`, `write_tables` and `rollback` are called by one thread at a time (the node's
executor thread). Everything else may be called from any thread meanwhile; a snapshot is isolated from
later commits, belongs to one thread at a time, and lives less than a second.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from deepbrain.primitives.ids import Hash
from deepbrain.state.errors import StoreError

MAX_KEY: Final = 400
"""The longest state key in bytes: paths of the trie and the tables' names must fit the database too."""


BATCH_ENTRIES: Final = 10_000
BATCH_BYTES: Final = 16 << 20
"""Of `Store.replace`, at a time."""


class Reader(Protocol):
    """A state that can be read."""

    def get(self, key: bytes, /) -> bytes | None:
        """The value of `key`, or None where there is none."""

    def get_many(self, keys: list[bytes], /) -> list[bytes | None]:
        """One value per key, in the order of `keys`."""

    def iterate(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Entries whose key starts with `prefix`, in key order, strictly after the key `after`."""


class TrieReader(Reader, Protocol):
    """A state with the branch records of its trie (see `trie`)."""

    def seek(self, key: bytes, /) -> tuple[bytes, bytes] | None:
        """The first entry at or after `key`."""

    def branch(self, path: bytes, /) -> bytes | None:
        """The record of the branch at `path`. Raises: UnknownState: proofs of it are not kept."""


class Snapshot(TrieReader, AbstractContextManager["Snapshot"], Protocol):
    """The state after one block, unmoved by later commits. Close it within a second."""

    @property
    def number(self) -> int:
        """The block after which this was the state."""

    @property
    def root(self) -> Hash:
        """The state root after that block."""

    def __enter__(self) -> Self: ...

    def close(self) -> None:
        """Give the read transaction back. A closed snapshot must not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Everything that one block writes."""

    number: int
    """The head plus one; any number in an empty store."""
    root: bytes
    """The state root after the block, as `trie.compute_root` gave it."""
    changes: Mapping[bytes, bytes | None] = field(default_factory=dict)
    """Flat state: new value, or None to delete. Keys of 1 to `MAX_KEY` bytes."""
    branches: Mapping[bytes, bytes | None] = field(default_factory=dict)
    """Branch records, from the same `trie.compute_root`."""
    before: Mapping[bytes, bytes | None] | None = None
    """The branch records that `branches` displaces, from the same `trie.compute_root`, made on the
    head: saves reading them again. None: they are read."""
    tables: Mapping[str, Mapping[bytes, bytes | None]] = field(default_factory=dict)
    """Opaque tables of the node: table → key → value, or None to delete."""
    prune_below: int | None = None
    """States of blocks below this may be forgotten. None: as the store's `Retention` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How many blocks back a state can be read and proven."""

    states: int | None = 4096
    """Blocks whose state can be read; None keeps every one (an archive)."""
    proofs: int | None = 256
    """Blocks whose state can be proven and rolled back to; never more than `states`."""
    prune_limit: int = 20_000
    """History entries removed at most in one commit, so that no block pays for a long pause."""

    def oldest(self, head: int, asked: int | None) -> tuple[int, int]:
        """(oldest readable, oldest provable) block wanted once `head` is committed."""
        floor = head - self.states if self.states is not None else 0
        readable = max(0, floor if asked is None else asked)
        provable = head - self.proofs if self.proofs is not None else 0
        return readable, max(readable, provable)


class Store(Protocol):
    """A store of the chain: `memory.MemoryStore` or `lmdb.LmdbStore`."""

    @property
    def number(self) -> int | None:
        """The head's block number; None before the first commit."""

    @property
    def root(self) -> Hash | None:
        """The head's state root; None before the first commit."""

    @property
    def oldest(self) -> int:
        """The oldest block whose state can be read."""

    @property
    def oldest_proof(self) -> int:
        """The oldest block whose state can be proven, and rolled back to."""

    def snapshot(self, number: int | None = None) -> Snapshot:
        """The state after block `number`, of the head by default. Use it in a `with`.

        An empty store gives an empty state. Raises: UnknownState.
        """

    def commit(self, commit: Commit) -> None:
        """Write one block in one transaction, on disk when this returns. Raises: StoreError."""

    def write_tables(self, tables: Mapping[str, Mapping[bytes, bytes | None]]) -> None:
        """Write tables of the node apart from any block, in one transaction. Raises: StoreError."""

    def replace(
        self,
        number: int,
        root: Hash,
        entries: Iterable[tuple[bytes, bytes]],
        tables: Mapping[str, Mapping[bytes, bytes | None]],
    ) -> None:
        """Put the state after block `number`, and tables, in the place of all there is.

        One transaction: whatever this raises, and whenever the process ends, the store is as it was or
        as it shall be. No block before `number` can be read then. Cost: about 10 µs an entry.
        Raises: BadSnapshot: the entries have another root; whatever `entries` raises. StoreError.
        """

    def rollback(self, number: int) -> None:
        """Make `number` the head again. Tables are the caller's: they stay as they are.

        Raises: UnknownState: `number` is above the head or below `oldest_proof`.
        """

    def table_get(self, table: str, key: bytes) -> bytes | None:
        """One value of a table of the node."""

    def table_iterate(
        self,
        table: str,
        prefix: bytes = b"",
        after: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[tuple[bytes, bytes]]:
        """At most `limit` entries of a table with that prefix, in key order (or backwards).

        `after` is the key to go on from, itself left out, in either direction.
        """

    def close(self) -> None:
        """Release the files and the lock of the directory. Closing twice is allowed."""


def batched(entries: Iterable[tuple[bytes, bytes]]) -> Iterator[dict[bytes, bytes | None]]:
    """Entries in parts that fit into memory with what is made of them."""
    batch: dict[bytes, bytes | None] = {}
    size = 0
    for key, value in entries:
        batch[key] = value
        size += len(key) + len(value)
        if len(batch) >= BATCH_ENTRIES or size >= BATCH_BYTES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def check_head(head: int | None, number: int) -> None:
    """Raises: StoreError: block `number` does not follow `head`."""
    if number < 0 or (head is not None and number != head + 1):
        raise StoreError(f"Block {number} cannot be stored after block {head}: blocks go in order.")


def check_key(key: bytes) -> None:
    """Raises: StoreError: a state key is longer than `MAX_KEY`."""
    if len(key) > MAX_KEY:
        raise StoreError(
            f"A state key may have {MAX_KEY} bytes, not {len(key)}: shorten or hash the key."
        )


def check_changes(changes: Iterable[bytes]) -> None:
    """Raises: StoreError: a key is empty or too long. (The database has no empty keys.)"""
    for key in changes:
        if not key:
            raise StoreError("A state key has at least one byte: give the entry a prefix.")
        check_key(key)


def prefix_end(prefix: bytes) -> bytes | None:
    """The least key above every key that starts with `prefix`; None where there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else None

"""Reading the store on disk: by the process that writes it, or by another meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import lmdb

from deepbrain.primitives.ids import Hash
from deepbrain.state.errors import StoreError, UnknownState
from deepbrain.state.lmdb.snapshot import LmdbSnapshot
from deepbrain.state.lmdb.versions import DatedTable, DatedView, PlainTable, View, block_name
from deepbrain.state.store import Snapshot, prefix_end
from deepbrain.state.trie.nodes import EMPTY_ROOT

MAP_SIZE: Final = 1 << 40
"""The largest the database can grow. The file is sparse: it takes what is in it."""
FORMAT: Final = b"2"
HEAD: Final = b"head"


class Head(NamedTuple):
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


class LmdbReader:
    """A store on disk, to be read beside the process that writes it; takes no lock of the directory.

    One process opens a directory once: LMDB's rule. What the other commits shows in the next snapshot.
    """

    def __init__(self, directory: Path, *, map_size: int = MAP_SIZE) -> None:
        """Raises: StoreError: there is no store, or it is of another format."""
        self._directory = directory
        with self._explained():
            env = lmdb.open(
                str(directory),
                map_size=map_size,
                max_dbs=8,
                create=False,
                readonly=True,
                readahead=False,
            )
            try:
                self._take(env)
                with env.begin(db=self._meta) as txn:
                    self._check_format(txn)
            except BaseException:
                env.close()
                raise

    def _take(self, env: Any) -> None:
        """Open the tables of an environment."""
        self._env = env
        self._flat = DatedTable(env, "flat")
        self._branches = PlainTable(env, "branches")
        self._roots = env.open_db(b"roots")
        self._tables = env.open_db(b"tables")
        self._meta = env.open_db(b"meta")

    def _check_format(self, txn: Any) -> None:
        if txn.get(b"format", FORMAT, db=self._meta) != FORMAT:
            raise StoreError(
                f"{self._directory} was written by another version: use that, or export and import."
            )

    def _read_head(self, txn: Any) -> Head | None:
        head = txn.get(HEAD, db=self._meta)
        return None if head is None else Head.decode(head)

    def snapshot(self, number: int | None = None) -> Snapshot:
        with self._explained():
            txn = self._env.begin()
        try:
            return self._snapshot(txn, self._read_head(txn), number)
        except BaseException:
            txn.abort()
            raise

    def _snapshot(self, txn: Any, head: Head | None, number: int | None) -> LmdbSnapshot:
        if head is None and number is None:
            head = Head(0, EMPTY_ROOT, 0, 0)
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

    def table_get(self, table: str, key: bytes) -> bytes | None:
        with self._explained(), self._env.begin(db=self._tables) as txn:
            try:
                value: bytes | None = txn.get(table_front(table) + key)
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
        front = table_front(table)
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
        """Release the files. Closing twice is allowed."""
        self._env.close()

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


def table_front(name: str) -> bytes:
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

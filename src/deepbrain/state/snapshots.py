"""A state as one stream of bytes, the same whoever writes it.

    stream   row after row, keys strictly ascending:  length of key (2) ‖ of value (4) ‖ key ‖ value
    chunk    `CHUNK` bytes of the stream; the last may be shorter

A key has a section in front, so that other rows than those of the state can go with them; what they are
is the writer's. Lengths are big-endian. The stream says nothing of who vouches for it: whoever reads it
compares the hash of each chunk, and then the root.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.state.errors import BadSnapshot
from deepbrain.state.store import MAX_KEY, Snapshot

CHUNK: Final = 1 << 20
MAX_SECTION: Final = 1
MAX_VALUE: Final = 16 << 20
"""Bytes; far above what a block can put into one entry."""
READ_ENTRIES: Final = 2000
READ_BYTES: Final = 4 << 20
READ_SECONDS: Final = 0.3
"""Of one read transaction: while it is open, the database cannot use again what is freed."""

Row = tuple[bytes, bytes]

_FRONT: Final = 6


def state_rows(open_at: Callable[[], Snapshot], section: bytes) -> Iterator[Row]:
    """The entries of a state in order, by short read transactions: `open_at` opens the same state.

    Raises: UnknownState: the state was pruned meanwhile.
    """
    after: bytes | None = None
    more = True
    while more:
        rows, more = _read_some(open_at, after)
        for key, value in rows:
            yield section + key, value
        if rows:
            after = rows[-1][0]


def _read_some(open_at: Callable[[], Snapshot], after: bytes | None) -> tuple[list[Row], bool]:
    """The next entries, and whether there may be more."""
    rows: list[Row] = []
    size = 0
    with open_at() as state:
        until = time.monotonic() + READ_SECONDS
        for key, value in state.iterate(b"", after):
            rows.append((key, value))
            size += len(key) + len(value)
            if len(rows) >= READ_ENTRIES or size >= READ_BYTES or time.monotonic() >= until:
                return rows, True
    return rows, False


def pack_row(key: bytes, value: bytes) -> bytes:
    """A row as it stands in the stream."""
    return len(key).to_bytes(2, "big") + len(value).to_bytes(4, "big") + key + value


def write_stream(rows: Iterable[Row], file: BinaryIO) -> tuple[int, tuple[Hash, ...]]:
    """Write rows; how many bytes the stream has, and the hash of each chunk."""
    size = 0
    hashes: list[Hash] = []
    waiting = bytearray()
    for key, value in rows:
        waiting += pack_row(key, value)
        while len(waiting) >= CHUNK:
            chunk = bytes(waiting[:CHUNK])
            del waiting[:CHUNK]
            hashes.append(blake2_256(chunk))
            size += file.write(chunk)
    if waiting:
        hashes.append(blake2_256(bytes(waiting)))
        size += file.write(waiting)
    return size, tuple(hashes)


def read_stream(path: Path) -> Iterator[Row]:
    """The rows of a file. Raises: BadSnapshot, OSError."""
    with path.open("rb") as file:
        yield from parse_rows(iter(lambda: file.read(CHUNK), b""))


def parse_rows(parts: Iterable[bytes]) -> Iterator[Row]:
    """The rows of a stream that comes in parts of any length, of which `MAX_VALUE` and one part are held.

    Raises: BadSnapshot: it is not in the one form that a stream can have.
    """
    held = bytearray()
    last = b""
    for part in parts:
        held += part
        at = 0
        while (row := _row_at(held, at)) is not None:
            key, value, at = row
            if key <= last:
                raise BadSnapshot("The rows of a snapshot are out of order.")
            last = key
            yield key, value
        del held[:at]
    if held:
        raise BadSnapshot("A snapshot is cut short.")


def _row_at(held: bytearray, at: int) -> tuple[bytes, bytes, int] | None:
    """A row and where it ends; None where it is not whole yet."""
    if len(held) < at + _FRONT:
        return None
    key_size = int.from_bytes(held[at : at + 2], "big")
    value_size = int.from_bytes(held[at + 2 : at + _FRONT], "big")
    if not MAX_SECTION < key_size <= MAX_SECTION + MAX_KEY:
        raise BadSnapshot(f"A key in a snapshot has {key_size} bytes.")
    if value_size > MAX_VALUE:
        raise BadSnapshot(f"A value in a snapshot has {value_size} bytes.")
    middle = at + _FRONT + key_size
    end = middle + value_size
    if len(held) < end:
        return None
    return bytes(held[at + _FRONT : middle]), bytes(held[middle:end]), end

"""What a node needs to go on from a block without those before it, as the rows of a snapshot.

    h ‖ number   a header, of the last `HEADERS` blocks before the snapshot's
    s ‖ key      an entry of the state after the block

The state root vouches for all of it: the state has the hashes of those blocks, and of its own block the
extrinsics' root, the digest and the parent's hash, of which its header is made here.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from deepbrain.frame.header import NO_DIGEST, Digest, Header
from deepbrain.pallets.system import System
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import BlockNumber
from deepbrain.state.errors import BadSnapshot
from deepbrain.state.snapshots import Row, state_rows
from deepbrain.state.store import Snapshot

HEADERS: Final = 4096
"""As many as the state knows hashes of."""
MAX_HEADER: Final = 4096
"""Bytes."""

_HEADER: Final = b"h"
_STATE: Final = b"s"
_NUMBER: Final = 4
_HASH: Final = 32

Rows = Callable[[], Iterator[Row]]
"""Gives the rows from the start, each time."""


class Readable(Protocol):
    """A store, as far as a snapshot is made of it."""

    def snapshot(self, number: int | None = None) -> Snapshot: ...
    def table_get(self, table: str, key: bytes) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Joined:
    """What a snapshot says beside the state, checked against the state."""

    header: Header
    headers: dict[int, bytes]
    """By number, the snapshot's own block included."""
    events: bytes | None
    """Those of the snapshot's block."""


def rows_of(store: Readable, number: int) -> Iterator[Row]:
    """A snapshot of block `number`. Raises: UnknownState: it is pruned. BadSnapshot: a header is missing."""
    for earlier in range(_first(number), number):
        name = _name(earlier)
        header = store.table_get("headers", name)
        if header is None:
            raise BadSnapshot(f"The header of block {earlier} is missing: no snapshot can be made.")
        yield _HEADER + name, header
    yield from state_rows(lambda: store.snapshot(number), _STATE)


def entries_of(rows: Iterable[Row]) -> Iterator[Row]:
    """The state among the rows."""
    return ((key[1:], value) for key, value in rows if key[:1] == _STATE)


def examine(rows: Iterable[Row], number: int, root: Hash, genesis: Hash) -> Joined:
    """Look through a snapshot of block `number` whose state root shall be `root`.

    Whether that is the state's root is not looked at: `Store.replace` does. Raises: BadSnapshot: it is of
    another chain, or its parts do not belong together; whatever `rows` raises.
    """
    expected = range(_first(number), number)
    wanted = _VALUES | {_hash_key(earlier) for earlier in (*expected, 0, number - 1)}
    headers: dict[int, bytes] = {}
    known: dict[bytes, bytes] = {}
    # What is kept of a stream of any length is bounded: the numbers ascend, and so do the keys.
    for key, value in rows:
        if key[:1] == _HEADER:
            headers[_number_in(key, value, expected)] = value
        elif key[:1] == _STATE:
            if key[1:] in wanted:
                known[key[1:]] = value
        else:
            raise BadSnapshot("A snapshot has rows of no kind that this version knows.")
    if len(headers) != len(expected):
        raise BadSnapshot("A snapshot has other headers than those before its block.")
    hashes = {earlier: _hash_in(known, earlier) for earlier in (*headers, 0, number - 1)}
    if hashes[0] != genesis:
        raise BadSnapshot(f"A snapshot is of the chain {hashes[0]}, and this node is of {genesis}.")
    for earlier, encoded in headers.items():
        if blake2_256(encoded) != hashes[earlier]:
            raise BadSnapshot(f"The header of block {earlier} in a snapshot is not that block's.")
    header = Header(
        parent_hash=hashes[number - 1],
        number=BlockNumber(number),
        state_root=root,
        extrinsics_root=Hash(_sized(known.get(_EXTRINSICS_ROOT))),
        digest=_digest_in(known.get(_DIGEST)),
    )
    return Joined(header, headers | {number: header.encode()}, known.get(_EVENTS))


_EXTRINSICS_ROOT: Final = System.extrinsics_root.key_of()
_DIGEST: Final = System.digest.key_of()
_EVENTS: Final = System.events.key_of()
_VALUES: Final = frozenset((_EXTRINSICS_ROOT, _DIGEST, _EVENTS))


def _first(number: int) -> int:
    """The first header that goes with block `number`; that of block 0 every node has."""
    return max(1, number - HEADERS + 1)


def _name(number: int) -> bytes:
    return number.to_bytes(_NUMBER, "big")


def _number_in(key: bytes, value: bytes, expected: range) -> int:
    if len(key) != len(_HEADER) + _NUMBER or len(value) > MAX_HEADER:
        raise BadSnapshot("A snapshot has what is no header.")
    number = int.from_bytes(key[1:], "big")
    if number not in expected:
        raise BadSnapshot("A snapshot has other headers than those before its block.")
    return number


def _hash_key(number: int) -> bytes:
    return System.block_hash.key_of(BlockNumber(number))


def _hash_in(known: dict[bytes, bytes], number: int) -> Hash:
    return Hash(_sized(known.get(_hash_key(number))))


def _sized(value: bytes | None) -> bytes:
    if value is None or len(value) != _HASH:
        raise BadSnapshot("The state in a snapshot does not know the blocks before it.")
    return value


def _digest_in(value: bytes | None) -> Digest:
    if value is None:
        return NO_DIGEST
    try:
        return Digest.decode(value)
    except DecodeError as error:
        raise BadSnapshot(f"The state in a snapshot has a digest that is none: {error}.") from error

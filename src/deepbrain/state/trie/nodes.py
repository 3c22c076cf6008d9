"""Nodes of Substrate's base-16 trie as bytes (`trie-db` node codec, state versions 0 and 1).

A node starts with a header that holds its kind and the number of nibbles of its *partial*, the part of
the key it stands for. Keys and partials are hex strings here, one character a nibble: slicing,
comparing and packing them then run at C speed.

    leaf     header ‖ partial ‖ value
    branch   header ‖ partial ‖ bitmap of 16 children, little-endian ‖ own value if any ‖ children
    value    compact length ‖ bytes, or, from state version 1 on, the hash of one above 32 bytes
    child    compact length ‖ the node where it has below 32 bytes, else its hash
"""

from hashlib import blake2b
from typing import Final, NamedTuple

from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import Hash
from deepbrain.scale import encode_compact
from deepbrain.state.store import MAX_KEY

HASH_LENGTH: Final = 32
REFERENCE_LENGTH: Final = 33
"""A child by hash: the compact length 32 and the hash."""
MAX_NIBBLES: Final = 2 * MAX_KEY

EMPTY: Final = b"\x00"
"""The node of a trie without keys."""

SLOTS: Final = {nibble: slot for slot, nibble in enumerate("0123456789abcdef")}
NIBBLES: Final = "0123456789abcdef"

_HASH_SLOT: Final = b"\x80"


def digest(data: bytes) -> bytes:
    """BLAKE2b-256 as plain bytes, for inner loops."""
    return blake2b(data, digest_size=32).digest()


EMPTY_ROOT: Final = Hash(digest(EMPTY))


def _headers(kind: int, bits: int) -> tuple[bytes, ...]:
    """The headers of a kind by partial length; the length overflows `bits` into bytes of 255."""
    most = (1 << bits) - 1
    headers = [bytes((kind | length,)) for length in range(most)]
    for length in range(most, MAX_NIBBLES + 1):
        full, rest = divmod(length - most, 255)
        headers.append(bytes((kind | most,)) + b"\xff" * full + bytes((rest,)))
    return tuple(headers)


LEAF: Final = _headers(0x40, 6)
LEAF_HASHED: Final = _headers(0x20, 5)
BRANCH: Final = _headers(0x80, 6)
BRANCH_VALUE: Final = _headers(0xC0, 6)
BRANCH_HASHED: Final = _headers(0x10, 4)


class Kind(NamedTuple):
    """What the first bits of a header say."""

    headers: tuple[bytes, ...]
    bits: int
    branch: bool
    value: bool
    hashed: bool


_LEAF = Kind(LEAF, 6, branch=False, value=True, hashed=False)
_LEAF_HASHED = Kind(LEAF_HASHED, 5, branch=False, value=True, hashed=True)
_BRANCH = Kind(BRANCH, 6, branch=True, value=False, hashed=False)
_BRANCH_VALUE = Kind(BRANCH_VALUE, 6, branch=True, value=True, hashed=False)
_BRANCH_HASHED = Kind(BRANCH_HASHED, 4, branch=True, value=True, hashed=True)


def kind_of(first: int) -> Kind:
    """The kind of node a first byte announces. Raises: DecodeError: none."""
    if first >= 0x40:
        return (_LEAF, _BRANCH, _BRANCH_VALUE)[(first >> 6) - 1]
    if first >= 0x20:
        return _LEAF_HASHED
    if first >= 0x10:
        return _BRANCH_HASHED
    raise DecodeError("a trie node has an unknown header")


def pack(nibbles: str) -> bytes:
    """Nibbles as bytes; an odd number gets a zero nibble in front."""
    return bytes.fromhex(nibbles if len(nibbles) % 2 == 0 else "0" + nibbles)


def value_part(value: bytes, version: int = 1) -> tuple[bytes, bool]:
    """A value as it stands in a node, and whether that is its hash."""
    if len(value) > HASH_LENGTH and version:
        return digest(value), True
    return encode_compact(len(value)) + value, False


def leaf(partial: str, value: bytes, version: int = 1) -> bytes:
    """The node of one key."""
    part, hashed = value_part(value, version)
    return (LEAF_HASHED if hashed else LEAF)[len(partial)] + pack(partial) + part


def branch(partial: str, own: tuple[bytes, bool] | None, bitmap: int, children: bytes) -> bytes:
    """The node of several keys; `own` is the `value_part` of the key that ends here."""
    if own is None:
        header, part = BRANCH[len(partial)], b""
    else:
        part, hashed = own
        header = (BRANCH_HASHED if hashed else BRANCH_VALUE)[len(partial)]
    return b"".join((header, pack(partial), bitmap.to_bytes(2, "little"), part, children))


def reference(node: bytes) -> bytes:
    """How a parent names a child: by itself where it is short, else by hash."""
    if len(node) >= HASH_LENGTH:
        return _HASH_SLOT + blake2b(node, digest_size=32).digest()
    return bytes((len(node) << 2,)) + node


def read_header(node: bytes) -> tuple[Kind, str, int]:
    """Kind, partial, and where the rest begins. Raises: DecodeError: malformed or too long."""
    if not node:
        raise DecodeError("a trie node is empty")
    kind = kind_of(node[0])
    most = (1 << kind.bits) - 1
    length, at = node[0] & most, 1
    if length == most:
        while True:
            if at >= len(node) or length > MAX_NIBBLES:
                raise DecodeError("a trie node has a malformed partial")
            length, at = length + node[at], at + 1
            if node[at - 1] != 255:
                break
    end = at + (length + 1) // 2
    if end > len(node) or length > MAX_NIBBLES:
        raise DecodeError("a trie node has a malformed partial")
    nibbles = node[at:end].hex()
    if length % 2:
        if nibbles[0] != "0":
            raise DecodeError("a trie node has padding that is not zero")
        nibbles = nibbles[1:]
    return kind, nibbles, end

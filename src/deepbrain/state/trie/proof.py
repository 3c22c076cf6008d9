"""Read proofs: the nodes from the root to a key, as `state_getReadProof` answers them.

A proof is a list of nodes, and of the values that nodes only name by hash. Children below 32 bytes are
inside their parents and are not listed. The absence of a key is proven by the node where its path ends.
Cost: about 20 µs and 2.5 kB a key to make.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from deepbrain.primitives.errors import DecodeError
from deepbrain.scale import decode_compact
from deepbrain.state.errors import StoreError
from deepbrain.state.store import TrieReader, check_key
from deepbrain.state.trie.nodes import (
    EMPTY,
    EMPTY_ROOT,
    HASH_LENGTH,
    SLOTS,
    digest,
    leaf,
    read_header,
)
from deepbrain.state.trie.update import path_key


class _Open(NamedTuple):
    """A node taken apart."""

    partial: str
    value: bytes | None
    hashed: bool
    children: dict[str, bytes]
    """By nibble: a hash, or a node below 32 bytes."""


def prove(state: TrieReader, keys: Sequence[bytes]) -> list[bytes]:
    """The nodes that prove each key's value or absence, each once, the root first.

    Raises: StoreError: a key is too long. UnknownState: proofs of this state are no longer kept.
    """
    nodes: dict[bytes, None] = {}
    for key in keys:
        check_key(key)
        nodes.update(dict.fromkeys(_trail(state, key)))
    return list(nodes)


def closest_merkle_value(state: TrieReader, key: bytes) -> bytes | None:
    """How its parent names the node at `key`, or the closest one below it; None where there is none.

    That is the node itself below 32 bytes, else its hash; the root is always named by its hash. Equal
    answers at two blocks mean that nothing below `key` has changed. Cost: that of a proof.
    Raises: StoreError: the key is too long. UnknownState: proofs of this state are no longer kept.
    """
    check_key(key)
    path, wanted = "", key.hex()
    record = state.branch(path_key(""))
    if record is None:
        entry = state.seek(b"")
        if entry is None or not entry[0].hex().startswith(wanted):
            return None
        return digest(leaf(entry[0].hex(), entry[1]))
    while True:
        node = record[:-2]
        opened = _read(node)
        base = path + opened.partial
        if base.startswith(wanted):
            return _merkle_value(node) if path else digest(node)
        nibble = wanted[len(base) : len(base) + 1]
        if not wanted.startswith(base) or nibble not in opened.children:
            return None
        path = base + nibble
        if (record[-2] | record[-1] << 8) >> SLOTS[nibble] & 1:
            found, value = _leaf_below(state, path)
            return (
                _merkle_value(leaf(found[len(path) :], value)) if found.startswith(wanted) else None
            )
        record = state.branch(path_key(path))
        if record is None:
            raise StoreError("The state trie lacks a branch: restore the data directory.")


def _merkle_value(node: bytes) -> bytes:
    return digest(node) if len(node) >= HASH_LENGTH else node


def verify_proof(root: bytes, nodes: Sequence[bytes], key: bytes) -> bytes | None:
    """The value of `key` under `root`, or None where the proof shows that there is none.

    Raises: DecodeError: the proof is malformed, lacks a node, or holds one that is not needed.
    """
    return verify_proofs(root, nodes, [key])[key]


def verify_proofs(
    root: bytes, nodes: Sequence[bytes], keys: Sequence[bytes]
) -> dict[bytes, bytes | None]:
    """The value of each key under `root`, from the proof made for exactly these keys.

    Raises: DecodeError: as `verify_proof`.
    """
    known = {digest(node): node for node in nodes}
    if len(known) != len(nodes):
        raise DecodeError("a proof holds a node twice")
    used: dict[bytes, None] = {}
    values = {key: _follow(root, known, used, key.hex()) for key in keys}
    if len(used) != len(known):
        raise DecodeError("a proof holds nodes that it does not need")
    return values


def _trail(state: TrieReader, key: bytes) -> Iterator[bytes]:
    """The nodes on the way to one key, as far as a proof lists them."""
    path, wanted = "", key.hex()
    record = state.branch(path_key(""))
    if record is None:
        yield from _lone_root(state, wanted)
        return
    while True:
        node = record[:-2]
        if not path or len(node) >= HASH_LENGTH:
            yield node
        opened = _read(node)
        base = path + opened.partial
        if wanted == base and opened.hashed:
            yield _flat(state, base)
        nibble = wanted[len(base) : len(base) + 1]
        if not wanted.startswith(base) or nibble not in opened.children:
            return
        path = base + nibble
        if (record[-2] | record[-1] << 8) >> SLOTS[nibble] & 1:
            yield from _leaf_trail(state, path, wanted)
            return
        record = state.branch(path_key(path))
        if record is None:
            raise StoreError("The state trie lacks a branch: restore the data directory.")


def _lone_root(state: TrieReader, wanted: str) -> Iterator[bytes]:
    """The proof in a trie of at most one key."""
    entry = state.seek(b"")
    if entry is None:
        yield EMPTY
        return
    found, value = entry
    yield leaf(found.hex(), value)
    if found.hex() == wanted and len(value) > HASH_LENGTH:
        yield value


def _leaf_trail(state: TrieReader, path: str, wanted: str) -> Iterator[bytes]:
    """The leaf below `path`, and its value where that is the wanted one and stands by hash."""
    found, value = _leaf_below(state, path)
    node = leaf(found[len(path) :], value)
    if len(node) >= HASH_LENGTH:
        yield node
    if found == wanted and len(value) > HASH_LENGTH:
        yield value


def _leaf_below(state: TrieReader, path: str) -> tuple[str, bytes]:
    """The only key below `path`, in nibbles, and its value."""
    entry = state.seek(bytes.fromhex(path if len(path) % 2 == 0 else path + "0"))
    if entry is None or not entry[0].hex().startswith(path):
        raise StoreError("The state trie and the state differ: restore the data directory.")
    return entry[0].hex(), entry[1]


def _flat(state: TrieReader, key: str) -> bytes:
    value = state.get(bytes.fromhex(key))
    if value is None:
        raise StoreError("The state trie and the state differ: restore the data directory.")
    return value


def _follow(
    root: bytes, known: dict[bytes, bytes], used: dict[bytes, None], wanted: str
) -> bytes | None:
    """Walk from the root to a key through the known nodes, noting those used."""
    node = _take(root, known, used)
    if root == EMPTY_ROOT:
        return None
    while True:
        opened = _read(node)
        if wanted == opened.partial:
            if opened.value is not None and opened.hashed:
                return _take(opened.value, known, used)
            return opened.value
        if not wanted.startswith(opened.partial):
            return None
        rest = wanted[len(opened.partial) :]
        child = opened.children.get(rest[0])
        if child is None:
            return None
        node = _take(child, known, used) if len(child) == HASH_LENGTH else child
        wanted = rest[1:]


def _take(hashed: bytes, known: dict[bytes, bytes], used: dict[bytes, None]) -> bytes:
    node = known.get(hashed)
    if node is None:
        raise DecodeError("a proof lacks a node")
    used[hashed] = None
    return node


def _read(node: bytes) -> _Open:
    """Take a node apart. Raises: DecodeError: it is not exactly one well-formed node."""
    kind, partial, at = read_header(node)
    bitmap = 0
    if kind.branch:
        bitmap, at = int.from_bytes(_cut(node, at, 2), "little"), at + 2
    value = None
    if kind.hashed:
        value, at = _cut(node, at, HASH_LENGTH), at + HASH_LENGTH
    elif kind.value:
        value, at = _read_bytes(node, at)
    children = {}
    for nibble, slot in SLOTS.items():
        if bitmap >> slot & 1:
            child, at = _read_bytes(node, at)
            if not 0 < len(child) <= HASH_LENGTH:
                raise DecodeError("a trie node names a child of a wrong length")
            children[nibble] = child
    if at != len(node) or (kind.branch and len(children) + (value is not None) < 2):
        raise DecodeError("a trie node is malformed")
    return _Open(partial, value, kind.hashed, children)


def _read_bytes(node: bytes, at: int) -> tuple[bytes, int]:
    length, at = decode_compact(node, at)
    return _cut(node, at, length), at + length


def _cut(node: bytes, at: int, length: int) -> bytes:
    if at + length > len(node):
        raise DecodeError("a trie node is cut short")
    return node[at : at + length]

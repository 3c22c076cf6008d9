"""What `chainHead_v1_storage` and `archive_v1_storage` find, a bounded page at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from deepbrain.node.rpc.params import QueryKind, StorageQuery
from deepbrain.node.rpc.wire import Json
from deepbrain.primitives.hashing import blake2_256
from deepbrain.state.store import Snapshot
from deepbrain.state.trie import closest_merkle_value

PAGE_ITEMS: Final = 500
PAGE_BYTES: Final = 256 * 1024
"""Of keys and values, before they are written as hex."""

Item = dict[str, Json]


def read_page(
    state: Snapshot, queries: Sequence[StorageQuery]
) -> tuple[list[Item], list[StorageQuery]]:
    """Some of what the queries ask for, and what is still to be asked.

    Raises: UnknownState: the trie of this state is no longer kept. Cost: that of one page.
    """
    items: list[Item] = []
    size = 0
    for place, query in enumerate(queries):
        if len(items) >= PAGE_ITEMS or size >= PAGE_BYTES:
            return items, list(queries[place:])
        for key, item, weight in _found(state, query):
            items.append(item)
            size += weight
            if query.below and (len(items) >= PAGE_ITEMS or size >= PAGE_BYTES):
                return items, [replace(query, after=key), *queries[place + 1 :]]
    return items, []


def _found(state: Snapshot, query: StorageQuery) -> Iterator[tuple[bytes, Item, int]]:
    """Key, item and bytes of what one query finds."""
    if query.kind is QueryKind.MERKLE_VALUE:
        found = closest_merkle_value(state, query.key)
        if found is not None:
            yield query.key, _item(query.key, "closestDescendantMerkleValue", found), len(found)
        return
    hashed = query.kind in (QueryKind.HASH, QueryKind.HASHES_BELOW)
    name = "hash" if hashed else "value"
    for key, value in _entries(state, query):
        told = blake2_256(value) if hashed else value
        yield key, _item(key, name, told), len(key) + len(told)


def _entries(state: Snapshot, query: StorageQuery) -> Iterator[tuple[bytes, bytes]]:
    if query.below:
        yield from state.iterate(query.key, query.after)
        return
    value = state.get(query.key)
    if value is not None:
        yield query.key, value


def _item(key: bytes, name: str, value: bytes) -> Item:
    return {"key": "0x" + key.hex(), name: "0x" + value.hex()}

"""Typed reads of the chain's state at one block.

    at = client.at(block)
    order = await at.get(Rent.orders, OrderId(7))            # Order | None
    async for (account, order_id), _ in at.entries(Rent.orders_of, me): ...

The storage items are the pallets' own definitions: what the node writes is what is decoded here.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, TypeVar, overload

from deepbrain.client.rpc import Rpc
from deepbrain.frame.storage import Item, Map, Maybe, Value
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import Hash

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

PAGE: Final = 256
"""Keys per request."""


def unhex(text: object) -> bytes:
    """`0x…` as bytes. Raises: DecodeError: the node sent something else."""
    if not isinstance(text, str) or not text.startswith("0x"):
        raise DecodeError("the node sent something that is not hex")
    try:
        return bytes.fromhex(text[2:])
    except ValueError as error:
        raise DecodeError("the node sent something that is not hex") from error


class At:
    """The state after one block; `block` is `None` for whichever is newest when a read is made."""

    def __init__(self, rpc: Rpc, block: Hash | None) -> None:
        self._rpc = rpc
        self.block = block

    @overload
    async def get(self, item: Value[T]) -> T: ...
    @overload
    async def get(self, item: Maybe[T]) -> T | None: ...
    @overload
    async def get(self, item: Map[K, V], *keys: Any) -> V | None: ...
    async def get(self, item: Item[Any], *keys: Any) -> Any:
        """One value; `None` where a `Maybe` or a `Map` has none (a map's default, where it has one).

        A `DoubleMap` takes both its keys. Raises: RpcError: the state of the block is gone;
        DecodeError, NodeUnreachable.
        """
        if len(keys) != item.KEYS:
            raise TypeError(f"{item.name} has {item.KEYS} keys")
        found = await self._rpc.call(
            "state_getStorage", "0x" + item.key_of(*keys).hex(), *self._where()
        )
        return item.decode(None if found is None else unhex(found))

    async def get_many(self, item: Map[K, V], keys: Iterable[Any]) -> list[V | None]:
        """Values in the order of `keys` (pairs for a `DoubleMap`), `PAGE` per request."""
        wanted = [item.key_of(*(key if item.KEYS > 1 else (key,))) for key in keys]
        values: list[V | None] = []
        for start in range(0, len(wanted), PAGE):
            page = wanted[start : start + PAGE]
            found = await self._values(page)
            values += [item.decode(found.get(key)) for key in page]
        return values

    async def entries(self, item: Map[K, V], *prefix: Any) -> AsyncIterator[tuple[K, V]]:
        """Every entry, in storage order, below the first keys given; fetched `PAGE` at a time.

        All of one block: an `At` without one is pinned to the head first.
        """
        at = await self._pinned()
        start = stem = item.key_of(*prefix)
        while keys := await at._keys(stem, start):
            found = await at._values(keys)
            for key in keys:
                value = item.decode(found.get(key))
                if value is not None:
                    yield _key_of(item, key), value
            start = keys[-1]

    async def _keys(self, stem: bytes, start: bytes) -> list[bytes]:
        found = await self._rpc.call(
            "state_getKeysPaged", "0x" + stem.hex(), PAGE, "0x" + start.hex(), *self._where()
        )
        if not isinstance(found, list):
            raise DecodeError("the node sent no list of keys")
        keys = [unhex(key) for key in found]
        # A node that repeats itself must not keep us here for ever.
        if any(not key.startswith(stem) or key <= start for key in keys if key != stem):
            raise DecodeError("the node sent keys that were not asked for")
        return keys

    async def _values(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        found = await self._rpc.call(
            "state_queryStorageAt", ["0x" + key.hex() for key in keys], *self._where()
        )
        try:
            changes = [pair for block in found for pair in block["changes"]]
            return {unhex(key): None if value is None else unhex(value) for key, value in changes}
        except (TypeError, KeyError, ValueError) as error:
            raise DecodeError("the node sent no storage values") from error

    async def _pinned(self) -> "At":
        if self.block is not None:
            return self
        return At(self._rpc, Hash(unhex(await self._rpc.call("chain_getBlockHash"))))

    def _where(self) -> tuple[str, ...]:
        return () if self.block is None else (str(self.block),)


def _key_of(item: Map[K, Any], storage_key: bytes) -> K:
    keys: Any = item.keys_in(storage_key)
    only: K = keys if item.KEYS > 1 else keys[0]
    return only

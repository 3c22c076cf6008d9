"""From positional JSON params to typed arguments, derived once from a function's signature."""

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from deepbrain.node.rpc.errors import invalid_params
from deepbrain.node.rpc.subscriptions import Peer
from deepbrain.node.rpc.wire import Json
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import BlockNumber

Parser = Callable[[Json], Any]

MAX_LIST: Final = 1000
"""Entries of a list parameter (keys, hashes)."""


@dataclass(frozen=True, slots=True)
class BlockQuery:
    """What `chain_getBlockHash` is asked: one number, or several (answered by an array)."""

    numbers: tuple[int, ...]
    several: bool


class QueryKind(Enum):
    """What of a storage entry, or of all those below it, is asked for."""

    VALUE = "value"
    HASH = "hash"
    MERKLE_VALUE = "closestDescendantMerkleValue"
    VALUES_BELOW = "descendantsValues"
    HASHES_BELOW = "descendantsHashes"


@dataclass(frozen=True, slots=True)
class StorageQuery:
    """One item of `chainHead_v1_storage` or `archive_v1_storage`."""

    key: bytes
    kind: QueryKind
    after: bytes | None = None
    """Where to go on, for what lies below a key."""

    @property
    def below(self) -> bool:
        """Whether it may find any number of entries."""
        return self.kind in (QueryKind.VALUES_BELOW, QueryKind.HASHES_BELOW)


class JsonObject(dict[str, Json]):
    """A JSON object as it came, for a function that reads it itself."""


@dataclass(frozen=True, slots=True)
class Hashes:
    """What `chainHead_v1_unpin` is given: one hash or several."""

    hashes: tuple[Hash, ...]


class Params:
    """Binds the `params` array of a request to one function's parameters, a first `peer` left out."""

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = typing.get_type_hints(function)
        parameters = list(inspect.signature(function).parameters.values())
        self.wants_peer = bool(parameters) and hints[parameters[0].name] is Peer
        if self.wants_peer:
            del parameters[0]
        self.names = tuple(parameter.name for parameter in parameters)
        self._parsers = tuple(_parser_of(hints[name]) for name in self.names)
        self._required = sum(
            parameter.default is inspect.Parameter.empty for parameter in parameters
        )

    def bind(self, params: Json) -> list[Any]:
        """Raises: RpcFault: the params are not an array, too few, too many, or of a wrong type."""
        if params is None:
            params = []
        if not isinstance(params, list):
            raise invalid_params("params must be an array")
        if not self._required <= len(params) <= len(self.names):
            raise invalid_params(
                f"got {len(params)} params for ({', '.join(self.names)}), "
                f"of which {self._required} are required"
            )
        try:
            return [parse(value) for parse, value in zip(self._parsers, params, strict=False)]
        except (ValueError, DecodeError) as error:
            raise invalid_params(str(error)) from None


def hex_bytes(value: Json) -> bytes:
    """Hex to bytes; clients leave out the `0x` as they like. Raises: ValueError."""
    if not isinstance(value, str):
        raise ValueError("expected bytes as hex")
    text = value.removeprefix("0x")
    data = bytes.fromhex(text)
    if 2 * len(data) != len(text):
        raise ValueError("hex must not contain spaces")  # which `fromhex` skips
    return data


def _hash(value: Json) -> Hash:
    return Hash(hex_bytes(value))


def _integer(value: Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("expected an integer")
    if not 0 <= value < 1 << 64:
        raise ValueError("the integer is out of range")
    return value


def _string(value: Json) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a string")
    return value


def _block_number(value: Json) -> int:
    """A number as JSON or, as JavaScript clients send it, as hex."""
    if isinstance(value, str) and value.startswith("0x") and len(value) <= 18:
        value = int(value, 16)
    number = _integer(value)
    if number > BlockNumber.MAX:
        raise ValueError("the block number is out of range")
    return number


def _block_query(value: Json) -> BlockQuery:
    if isinstance(value, list):
        return BlockQuery(tuple(_list_of(_block_number)(value)), several=True)
    return BlockQuery((_block_number(value),), several=False)


def _boolean(value: Json) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _hashes(value: Json) -> Hashes:
    if isinstance(value, list):
        return Hashes(tuple(_list_of(_hash)(value)))
    return Hashes((_hash(value),))


_QUERY_KEYS: Final = ("key", "paginationStartKey", "type")


def _storage_query(value: Json) -> StorageQuery:
    if not isinstance(value, dict) or any(name not in _QUERY_KEYS for name in value):
        raise ValueError("an item has a key, a type, and nothing else")
    after = value.get("paginationStartKey")
    query = StorageQuery(
        key=hex_bytes(value.get("key")),
        kind=QueryKind(value.get("type")),
        after=None if after is None else hex_bytes(after),
    )
    if query.after is not None and not query.below:
        raise ValueError("paginationStartKey is for what lies below a key")
    return query


def _object(value: Json) -> JsonObject:
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    return JsonObject(value)


_SCALARS: Final[dict[Any, Parser]] = {
    JsonObject: _object,
    bool: _boolean,
    Hashes: _hashes,
    StorageQuery: _storage_query,
    bytes: hex_bytes,
    Hash: _hash,
    int: _integer,
    str: _string,
    BlockQuery: _block_query,
}


def _parser_of(hint: Any) -> Parser:
    if isinstance(hint, types.UnionType):
        (inner_hint,) = (arg for arg in hint.__args__ if arg is not types.NoneType)
        inner = _parser_of(inner_hint)
        return lambda value: None if value is None else inner(value)
    if typing.get_origin(hint) is list:
        return _list_of(_parser_of(hint.__args__[0]))
    return _SCALARS[hint]


def _list_of(inner: Parser) -> Parser:
    def parse(value: Json) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("expected an array")
        if len(value) > MAX_LIST:
            raise ValueError(f"the array is longer than {MAX_LIST}")
        return [inner(entry) for entry in value]

    return parse

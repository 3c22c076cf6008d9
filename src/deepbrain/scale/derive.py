"""From a type hint to its codec, derived once and kept.

    Unsigned subclass         fixed width, little-endian      X | None          Option<X>
    Annotated[U32, COMPACT]   Compact<u32>                    tuple[A, B]       (A, B)
    bool                      one byte, 0 or 1                tuple[()]         ()
    bytes, str                Vec<u8>, String                 tuple[X, ...]     Vec<X>
    FixedBytes subclass       [u8; n]                         dict[K, V]        BTreeMap<K, V>
    Struct                    its fields in order             TaggedUnion       index, then the variant
    enum.Enum                 its value, one byte

`Annotated[…, MaxLen(n)]` bounds strings, sequences and maps. A class of another kind takes part by a
class method `__scale_codec__() -> Codec`; so does any other mark of an `Annotated`.
"""

from collections.abc import Callable
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, overload

from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import FixedBytes
from deepbrain.primitives.units import Unsigned
from deepbrain.scale.codec import COMPACT, Codec, EncodeError, MaxLen
from deepbrain.scale.compact import compact_size, decode_compact, encode_compact
from deepbrain.scale.containers import (
    AnyCodec,
    bytes_codec,
    map_codec,
    option_codec,
    sequence_codec,
    str_codec,
    tuple_codec,
)
from deepbrain.scale.records import (
    checked_int,
    empty_codec,
    fill_record,
    fill_union,
    has_plain_length,
    has_plain_range,
    strict_bool,
    wrong_size,
)
from deepbrain.scale.shape import StructType, fields_of

T = TypeVar("T")

_codecs: Final[dict[Any, AnyCodec]] = {}

_MAP_KEYS: Final = (int, bytes, str)


@overload
def codec_of(hint: type[T]) -> Codec[T]: ...
@overload
def codec_of(hint: Any) -> Codec[Any]: ...
def codec_of(hint: Any) -> Codec[Any]:
    """The codec of a type hint. Cost: a lookup, after the first time.

    Raises: TypeError: the hint has no wire form.
    """
    codec = _codecs.get(hint)
    if codec is None:
        derivation = _Derivation()
        codec = derivation.codec_of(hint)
        # Only finished codecs are published, so another thread never meets half of one.
        _codecs.update(derivation.made)
    return codec


def encode(hint: Any, value: Any) -> bytes:
    """The encoding of `value` as `hint`. Raises: EncodeError: it does not fit."""
    return codec_of(hint).encode(value)


@overload
def decode(hint: type[T], data: bytes) -> T: ...
@overload
def decode(hint: Any, data: bytes) -> Any: ...
def decode(hint: Any, data: bytes) -> Any:
    """The value of `hint` that `data` is the encoding of. Raises: DecodeError."""
    return codec_of(hint).decode(data)


class _Derivation:
    """One call of `codec_of` from outside, with everything it finds on its way."""

    def __init__(self) -> None:
        self.made: dict[Any, AnyCodec] = {}

    def codec_of(self, hint: Any) -> AnyCodec:
        codec = _codecs.get(hint) or self.made.get(hint)
        if codec is None:
            codec = self._derive(hint)
            self.made[hint] = codec
        return codec

    def _derive(self, hint: Any) -> AnyCodec:
        origin = get_origin(hint)
        if origin is Annotated:
            return self._annotated(hint)
        if origin is not None:
            return self._generic(hint, origin, get_args(hint), None)
        if isinstance(hint, type):
            return self._class(hint)
        raise TypeError(f"{hint!r} has no SCALE form")

    def _annotated(self, hint: Any) -> AnyCodec:
        inner, *marks = get_args(hint)
        for mark in marks:
            own: Callable[[], AnyCodec] | None = getattr(mark, "__scale_codec__", None)
            if own is not None:
                return own()
        limit = next((mark.limit for mark in marks if isinstance(mark, MaxLen)), None)
        if COMPACT in marks:
            return _compact(inner)
        if limit is None:
            return self.codec_of(inner)
        if inner is bytes:
            return bytes_codec(limit)
        if inner is str:
            return str_codec(limit)
        return self._generic(inner, get_origin(inner), get_args(inner), limit)

    def _generic(
        self, hint: Any, origin: Any, args: tuple[Any, ...], limit: int | None
    ) -> AnyCodec:
        if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
            return sequence_codec(self.codec_of(args[0]), limit)
        if origin is dict:
            return map_codec(self._map_key(args[0]), self.codec_of(args[1]), limit)
        if limit is not None:
            raise TypeError(f"MaxLen bounds bytes, str, tuple[T, ...] and dict, not {hint!r}")
        if origin is tuple:
            return tuple_codec(tuple(self.codec_of(arg) for arg in args))
        if origin in (Union, UnionType):
            return option_codec(self.codec_of(option_of(hint)))
        raise TypeError(f"{hint!r} has no SCALE form")

    def _map_key(self, hint: Any) -> AnyCodec:
        bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if not (isinstance(bare, type) and issubclass(bare, _MAP_KEYS)):
            raise TypeError(f"the keys of a map are integers or strings, not {hint!r}")
        return self.codec_of(hint)

    def _class(self, hint: type) -> AnyCodec:
        own: Callable[[], AnyCodec] | None = getattr(hint, "__scale_codec__", None)
        if own is not None:
            return own()
        if isinstance(hint, StructType):
            return self._union(hint) if "__variants__" in vars(hint) else self._record(hint)
        return _leaf(hint)

    def _record(self, cls: StructType) -> AnyCodec:
        if "__makes_unions__" in vars(cls):
            raise TypeError(f"{cls.__name__} is no union itself: subclass it")
        codec = self.made[cls] = empty_codec(cls.__name__)
        hints = tuple(field.hint for field in fields_of(cls))
        fill_record(codec, cls, hints, tuple(self.codec_of(hint) for hint in hints))
        return codec

    def _union(self, root: StructType) -> AnyCodec:
        if not root.__variants__:
            raise TypeError(f"{root.__name__} has no variants")
        codec = self.made[root] = empty_codec(root.__name__)
        fill_union(
            codec, {i: (cls, self.codec_of(cls)) for i, cls in sorted(root.__variants__.items())}
        )
        root.__sealed__ = True
        return codec


def option_of(hint: Any) -> Any:
    """The `X` of `X | None`. Raises: TypeError: it is another union."""
    members = [arg for arg in get_args(hint) if arg is not NoneType]
    if len(members) != 1 or len(get_args(hint)) != 2:
        raise TypeError(f"{hint!r}: only `X | None` has a SCALE form; else use a TaggedUnion")
    return members[0]


def _leaf(hint: type) -> AnyCodec:
    if hint is bool:
        return Codec("bool", _encode_bool, _decode_bool, min_encoded_len=1, max_encoded_len=1)
    if hint is NoneType:
        return tuple_codec(())
    if hint is bytes:
        return bytes_codec(None)
    if hint is str:
        return str_codec(None)
    if issubclass(hint, Unsigned) and hint.BITS:
        return _fixed_int(hint)
    if issubclass(hint, FixedBytes) and hint.SIZE:
        return _fixed_bytes(hint)
    if issubclass(hint, Enum):
        return _enumeration(hint)
    raise TypeError(f"{hint!r} has no SCALE form")


def _encode_bool(value: bool, out: bytearray) -> None:
    out.append(1 if value else 0)


def _decode_bool(data: bytes, at: int, depth: int) -> tuple[bool, int]:
    return strict_bool(data[at]), at + 1


def _fixed_int(cls: type[Unsigned]) -> AnyCodec:
    size = cls.BITS >> 3
    make: Callable[[Any, int], Any] = int.__new__ if has_plain_range(cls) else checked_int

    def encode(value: int, out: bytearray) -> None:
        out += value.to_bytes(size, "little")

    def decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        end = at + size
        if end > len(data):
            raise DecodeError(f"the input ends inside {cls.__name__}")
        return make(cls, int.from_bytes(data[at:end], "little")), end

    return Codec(cls.__name__, encode, decode, min_encoded_len=size, max_encoded_len=size)


def _compact(cls: Any) -> AnyCodec:
    if not (isinstance(cls, type) and issubclass(cls, Unsigned) and cls.BITS):
        raise TypeError(f"only unsigned integers are compact, not {cls!r}")
    most = cls.MAX
    make: Callable[[Any, int], Any] = int.__new__ if has_plain_range(cls) else checked_int

    def encode(value: int, out: bytearray) -> None:
        if value > most:
            raise EncodeError(f"{value} is out of the range of {cls.__name__}")
        out += encode_compact(value)

    def decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        value, at = decode_compact(data, at)
        if value > most:
            raise DecodeError(f"a compact integer is out of the range of {cls.__name__}")
        return make(cls, value), at

    return Codec(
        f"Compact[{cls.__name__}]",
        encode,
        decode,
        min_encoded_len=1,
        max_encoded_len=compact_size(most),
    )


def _fixed_bytes(cls: type[FixedBytes]) -> AnyCodec:
    size = cls.SIZE
    make: Callable[[Any, bytes], Any] = bytes.__new__ if has_plain_length(cls) else _call

    def encode(value: bytes, out: bytearray) -> None:
        if len(value) != size:
            raise wrong_size(cls, value)
        out += value

    def decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        end = at + size
        if end > len(data):
            raise DecodeError(f"the input ends inside {cls.__name__}")
        return make(cls, data[at:end]), end

    return Codec(cls.__name__, encode, decode, min_encoded_len=size, max_encoded_len=size)


def _call(cls: Callable[[Any], Any], value: Any) -> Any:
    return cls(value)


def _enumeration(cls: type[Enum]) -> AnyCodec:
    members: list[Enum | None] = [None] * 256
    for member in cls:
        if not (type(member.value) is int and 0 <= member.value <= 255):
            raise TypeError(f"{member}: the value of a member is its wire index, 0 to 255")
        members[member.value] = member

    def encode(value: Enum, out: bytearray) -> None:
        if type(value) is not cls:
            raise EncodeError(f"{value!r} is not a member of {cls.__name__}")
        out.append(value.value)

    def decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        member = members[data[at]]
        if member is None:
            raise DecodeError(f"{data[at]} is not the index of a member of {cls.__name__}")
        return member, at + 1

    return Codec(cls.__name__, encode, decode, min_encoded_len=1, max_encoded_len=1)

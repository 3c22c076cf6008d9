"""Codecs of strings, sequences, options, tuples and maps."""

from collections.abc import Iterable
from typing import Any

from deepbrain.primitives.errors import DecodeError
from deepbrain.scale.codec import MAX_DEPTH, MAX_LEN, Codec, Decode, Encode, EncodeError, too_deep
from deepbrain.scale.compact import compact_size, decode_compact, encode_compact

AnyCodec = Codec[Any]


def bytes_codec(limit: int | None) -> AnyCodec:
    """`Vec<u8>`, at most `limit` bytes."""
    most = MAX_LEN if limit is None else limit

    def encode(value: bytes, out: bytearray) -> None:
        if len(value) > most:
            raise EncodeError(f"{len(value)} bytes where {most} are allowed")
        out += encode_compact(len(value))
        out += value

    def decode(data: bytes, at: int, depth: int) -> tuple[bytes, int]:
        size, at = decode_compact(data, at)
        end = at + size
        if size > most or end > len(data):
            raise DecodeError("a byte string is longer than its bound or than the input")
        return data[at:end], end

    return Codec("bytes", encode, decode, min_encoded_len=1, max_encoded_len=_bounded(limit, 1))


def str_codec(limit: int | None) -> AnyCodec:
    """UTF-8 text, at most `limit` bytes of it."""
    raw = bytes_codec(limit)
    write, read = raw.raw_encode, raw.raw_decode

    def encode(value: str, out: bytearray) -> None:
        write(value.encode(), out)

    def decode(data: bytes, at: int, depth: int) -> tuple[str, int]:
        text, at = read(data, at, depth)
        try:
            return text.decode(), at
        except UnicodeDecodeError as error:
            raise DecodeError("a text is not UTF-8") from error

    return Codec("str", encode, decode, min_encoded_len=1, max_encoded_len=raw.max_encoded_len)


def sequence_codec(item: AnyCodec, limit: int | None) -> AnyCodec:
    """`Vec<T>` as a tuple of any length, at most `limit` items."""
    most = MAX_LEN if limit is None else limit
    smallest = item.min_encoded_len
    if not smallest:
        raise TypeError(f"a sequence of {item.name}, which takes no bytes, cannot be bounded")
    encode_item, decode_item = linked(item)

    def encode(value: tuple[Any, ...], out: bytearray) -> None:
        if len(value) > most:
            raise EncodeError(f"{len(value)} items where {most} are allowed")
        out += encode_compact(len(value))
        for member in value:
            encode_item(member, out)

    def decode(data: bytes, at: int, depth: int) -> tuple[tuple[Any, ...], int]:
        if depth >= MAX_DEPTH:
            raise too_deep()
        count, at = decode_compact(data, at)
        if count > most or count * smallest > len(data) - at:
            raise DecodeError("a sequence is longer than its bound or than the input")
        members: list[Any] = []
        push = members.append
        for _ in range(count):
            member, at = decode_item(data, at, depth + 1)
            push(member)
        return tuple(members), at

    return Codec(
        f"tuple[{item.name}, ...]",
        encode,
        decode,
        min_encoded_len=1,
        max_encoded_len=_bounded(limit, item.max_encoded_len),
    )


def option_codec(item: AnyCodec) -> AnyCodec:
    """`Option<T>` as `T | None`."""
    encode_item, decode_item = linked(item)

    def encode(value: Any, out: bytearray) -> None:
        if value is None:
            out.append(0)
        else:
            out.append(1)
            encode_item(value, out)

    def decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        tag = data[at]
        if tag == 0:
            return None, at + 1
        if depth >= MAX_DEPTH:
            raise too_deep()
        if tag == 1:
            return decode_item(data, at + 1, depth + 1)
        raise DecodeError("an option starts with a byte other than 0 or 1")

    return Codec(
        f"{item.name} | None",
        encode,
        decode,
        min_encoded_len=1,
        max_encoded_len=_plus(1, item.max_encoded_len),
    )


def tuple_codec(items: tuple[AnyCodec, ...]) -> AnyCodec:
    """A tuple of fixed length; `tuple[()]` is the unit."""
    pairs = tuple(linked(item) for item in items)
    encoders = tuple(encode_item for encode_item, _ in pairs)
    decoders = tuple(decode_item for _, decode_item in pairs)

    def encode(value: tuple[Any, ...], out: bytearray) -> None:
        if len(value) != len(encoders):
            raise EncodeError(f"a tuple of {len(value)} where {len(encoders)} belong")
        for encode_item, member in zip(encoders, value, strict=True):
            encode_item(member, out)

    def decode(data: bytes, at: int, depth: int) -> tuple[tuple[Any, ...], int]:
        members = []
        for decode_item in decoders:
            member, at = decode_item(data, at, depth)
            members.append(member)
        return tuple(members), at

    return Codec(
        f"tuple[{', '.join(item.name for item in items) or '()'}]",
        encode,
        decode,
        min_encoded_len=sum(item.min_encoded_len for item in items),
        max_encoded_len=sum_of(item.max_encoded_len for item in items),
    )


def map_codec(key: AnyCodec, value: AnyCodec, limit: int | None) -> AnyCodec:
    """`BTreeMap<K, V>` as a dict; on the wire the keys ascend strictly."""
    most = MAX_LEN if limit is None else limit
    smallest = key.min_encoded_len + value.min_encoded_len
    if not smallest:
        raise TypeError("a map whose entries take no bytes cannot be bounded")
    encode_key, decode_key = linked(key)
    encode_value, decode_value = linked(value)

    def encode(entries: dict[Any, Any], out: bytearray) -> None:
        if len(entries) > most:
            raise EncodeError(f"{len(entries)} entries where {most} are allowed")
        out += encode_compact(len(entries))
        for name in sorted(entries):
            encode_key(name, out)
            encode_value(entries[name], out)

    def decode(data: bytes, at: int, depth: int) -> tuple[dict[Any, Any], int]:
        if depth >= MAX_DEPTH:
            raise too_deep()
        count, at = decode_compact(data, at)
        if count > most or count * smallest > len(data) - at:
            raise DecodeError("a map is longer than its bound or than the input")
        entries: dict[Any, Any] = {}
        last = None
        for _ in range(count):
            name, at = decode_key(data, at, depth + 1)
            if last is not None and not last < name:
                raise DecodeError("the keys of a map do not ascend")
            entries[name], at = decode_value(data, at, depth + 1)
            last = name
        return entries, at

    pair = sum_of((key.max_encoded_len, value.max_encoded_len))
    return Codec(
        f"dict[{key.name}, {value.name}]",
        encode,
        decode,
        min_encoded_len=1,
        max_encoded_len=_bounded(limit, pair),
    )


def linked(codec: AnyCodec) -> tuple[Encode[Any], Decode[Any]]:
    """The two bare functions of `codec`; of one still being built, wrappers that find them later."""
    if codec.raw_encode is not not_built:
        return codec.raw_encode, codec.raw_decode

    def encode(value: Any, out: bytearray) -> None:
        codec.raw_encode(value, out)

    def decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return codec.raw_decode(data, at, depth)

    return encode, decode


def not_built(*_: object) -> Any:
    """Stands in a codec whose hint refers to itself, while that codec is being built."""
    raise TypeError("this codec is still being built")


def sum_of(lengths: Iterable[int | None]) -> int | None:
    """The sum, or None where one of them is unbounded."""
    total = 0
    for length in lengths:
        if length is None:
            return None
        total += length
    return total


def _plus(one: int, other: int | None) -> int | None:
    return None if other is None else one + other


def _bounded(limit: int | None, item_max: int | None) -> int | None:
    if limit is None or item_max is None:
        return None
    return compact_size(limit) + limit * item_max

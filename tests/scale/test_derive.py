"""Round trips of every shape of type, and every way bytes can be wrong."""

import tracemalloc
from enum import Enum
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scale.zoo import ZOO, Account, Circle, Color, Dot, Group, Note, Shape

from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.units import U8, U16, U32, U64, U128, Permill
from deepbrain.scale import (
    COMPACT,
    MAX_DEPTH,
    Codec,
    Compact,
    EncodeError,
    MaxLen,
    Struct,
    TaggedUnion,
    codec_of,
    decode,
    encode,
    encode_compact,
    variants_codec,
)

samples = st.sampled_from(ZOO).flatmap(lambda entry: st.tuples(st.just(entry[0]), entry[1]))
hints = st.sampled_from([hint for hint, _ in ZOO])


def type_tree(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(type_tree(member) for member in value)
    return type(value)


@given(samples)
def test_values_come_back_with_their_types(sample):
    hint, value = sample
    codec = codec_of(hint)
    data = codec.encode(value)
    back = codec.decode(data)
    assert back == value
    assert type_tree(back) == type_tree(value)
    assert codec.min_encoded_len <= len(data)
    assert codec.max_encoded_len is None or len(data) <= codec.max_encoded_len


@given(samples, st.binary(max_size=4), st.binary(min_size=1, max_size=4))
def test_decoding_stops_where_the_value_ends(sample, before, behind):
    hint, value = sample
    codec = codec_of(hint)
    data = codec.encode(value)
    found = codec.decode_at(before + data + behind, len(before))
    assert found == (value, len(before) + len(data))
    with pytest.raises(DecodeError, match="left over"):
        codec.decode(data + behind)


@given(samples, st.data())
def test_a_cut_value_is_refused(sample, data):
    hint, value = sample
    encoded = encode(hint, value)
    if encoded:
        with pytest.raises(DecodeError):
            decode(hint, encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@given(hints, st.binary(max_size=200))
def test_random_bytes_are_refused_or_are_the_only_encoding(hint, data):
    try:
        value = decode(hint, data)
    except DecodeError:
        return
    assert encode(hint, value) == data


@given(samples, st.data())
def test_damaged_bytes_are_refused_or_are_the_only_encoding(sample, data):
    hint, value = sample
    damaged = bytearray(encode(hint, value))
    for _ in range(data.draw(st.integers(1, 3)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        back = decode(hint, bytes(damaged))
    except DecodeError:
        return
    assert encode(hint, back) == damaged


@pytest.mark.parametrize(
    ("hint", "data"),
    [
        (bool, "02"),
        (U8 | None, "0200"),
        (str, "08c328"),
        (str, "0ceda080"),
        (Color, "01"),
        (Shape, "01"),
        (Permill, "41420f00"),
        (Compact[Permill], "06093d00"),
        (Compact[U8], "0104"),
        (Compact[U16], "02000400"),
        (Annotated[bytes, MaxLen(2)], "0c616263"),
        (Annotated[str, MaxLen(2)], "0c616263"),
        (Annotated[tuple[U8, ...], MaxLen(2)], "0c010203"),
        (Annotated[dict[U8, U8], MaxLen(1)], "0800010101"),
        (dict[U8, U8], "0801000001"),
        (dict[U8, U8], "0800010001"),
    ],
)
def test_wrong_bytes_are_refused(hint, data):
    with pytest.raises(DecodeError):
        decode(hint, bytes.fromhex(data))


def test_a_bool_inside_a_run_of_fixed_fields_is_strict():
    class Run(Struct):
        a: U8
        b: bool

    assert Run.decode(b"\x05\x01") == Run(a=U8(5), b=True)
    with pytest.raises(DecodeError):
        Run.decode(b"\x05\x02")


def nested(levels: int) -> bytes:
    """A group in a group in a group …: each level adds a union and a sequence."""
    return b"\xff\x00\x04" * levels + b"\x00" + b"\x00" * levels


def test_depth_is_limited():
    deepest = MAX_DEPTH // 2 - 1
    assert codec_of(Shape).decode(nested(deepest))
    for levels in (deepest + 1, 1000, 100_000):
        with pytest.raises(DecodeError, match="deeper"):
            codec_of(Shape).decode(nested(levels))


@pytest.mark.parametrize("hint", [bytes, str, tuple[U128, ...], tuple[Note, ...], dict[U32, U64]])
def test_a_claimed_length_takes_no_memory(hint):
    data = encode_compact(2**24) + b"\x01" * 100
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(hint, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_lengths_beyond_the_global_bound_are_refused():
    with pytest.raises(DecodeError):
        decode(bytes, encode_compact(2**24 + 1) + bytes(2**24 + 1))


@pytest.mark.parametrize(
    ("hint", "length"),
    [
        (U128, 16),
        (Compact[U32], 5),
        (Compact[U128], 17),
        (bool, 1),
        (Hash | None, 33),
        (Annotated[bytes, MaxLen(64)], 66),
        (Annotated[tuple[U32, ...], MaxLen(63)], 1 + 63 * 4),
        (tuple[U8, Hash], 33),
        (tuple[()], 0),
        (Color, 1),
        (Account, 4 + 1 + 32 + 32 + 4 + 4),
        (bytes, None),
        (Note, None),
        (Shape, None),
    ],
)
def test_the_longest_encoding_is_known_where_there_is_one(hint, length):
    assert codec_of(hint).max_encoded_len == length


def test_the_longest_of_a_union_is_that_of_its_longest_variant():
    class Size(TaggedUnion):
        pass

    class Small(Size, index=0):
        n: U8

    class Large(Size, index=1):
        n: U128

    assert codec_of(Size).max_encoded_len == 17
    assert codec_of(Size).decode(b"\0\x07") == Small(n=U8(7))
    assert codec_of(Size).encode(Large(n=U128(1)))[0] == 1


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (U8, 256),
        (U8, -1),
        (Compact[U8], 256),
        (Compact[U8], -1),
        (Hash, b"short"),
        (Annotated[bytes, MaxLen(2)], b"abc"),
        (Annotated[str, MaxLen(2)], "äö"),
        (Annotated[tuple[U8, ...], MaxLen(1)], (1, 2)),
        (Annotated[dict[U8, U8], MaxLen(0)], {1: 2}),
        (tuple[U8, U8], (1,)),
        (str, "\ud800"),
        (Color, 0),
        (Shape, Color.RED),
        (Circle, Circle(radius=2**32)),
        (Account, Account(nonce=2**32, active=True, id=b"", funds=None, share=1, tag=b"1234")),
    ],
)
def test_values_that_do_not_fit_are_refused(hint, value):
    with pytest.raises(EncodeError):
        encode(hint, value)


class NotAnIndex(Enum):
    A = "a"


@pytest.mark.parametrize(
    "hint",
    [
        int,
        float,
        object,
        list[U8],
        U8 | U16,
        U8 | U16 | None,
        tuple[tuple[()], ...],
        dict[tuple[U8], U8],
        Annotated[U8, MaxLen(3)],
        Annotated[bytes, COMPACT],
        Annotated[U8 | None, MaxLen(3)],
        NotAnIndex,
        TaggedUnion,
        "U8",
    ],
)
def test_hints_without_a_wire_form_are_refused(hint):
    with pytest.raises(TypeError):
        codec_of(hint)


def test_a_codec_is_derived_once():
    assert codec_of(Note) is codec_of(Note)
    assert codec_of(tuple[Note, ...]) is codec_of(tuple[Note, ...])


def test_a_foreign_class_brings_its_own_codec():
    class Reversed(bytes):
        @classmethod
        def __scale_codec__(cls) -> Codec["Reversed"]:
            def write(value, out):
                out += bytes(reversed(value))

            def read(data, at, depth):
                return cls(reversed(data[at : at + 2])), at + 2

            return Codec("Reversed", write, read, min_encoded_len=2, max_encoded_len=2)

    class Holder(Struct):
        word: Reversed

    assert Holder(word=Reversed(b"ab")).encode() == b"ba"
    assert Holder.decode(b"ba").word == b"ab"


def test_a_union_can_be_put_together_by_hand():
    codec = variants_codec("Hand", {3: (Dot, codec_of(Dot)), 9: (Circle, codec_of(Circle))})
    assert codec.decode(b"\x09\x04") == Circle(radius=U32(1))
    assert codec.encode(Dot()) == b"\x03"
    with pytest.raises(EncodeError):
        codec.encode(Group())


def test_a_bytearray_decodes_to_immutable_values():
    value = decode(tuple[bytes, AccountId], bytearray(b"\x04a" + bytes(32)))
    assert type(value[0]) is bytes
    assert type(value[1]) is AccountId

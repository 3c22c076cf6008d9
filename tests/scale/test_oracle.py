"""Against `scalecodec`, an independent implementation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalecodec.base import RuntimeConfigurationObject, ScaleBytes
from scalecodec.type_registry import load_type_registry_preset
from tests.scale.zoo import Circle, Color, Dot, Funds, Group, Shape, funds, unsigned

from deepbrain.primitives.units import U8, U16, U32, U64, U128
from deepbrain.scale import Compact, TypeRegistry, codec_of, decode, encode

config = RuntimeConfigurationObject()
config.update_type_registry(load_type_registry_preset("core"))
config.update_type_registry(
    {
        "types": {
            "OurFunds": {"type": "struct", "type_mapping": [["free", "u128"], ["held", "u128"]]},
            "OurShape": {
                "type": "enum",
                "type_mapping": [
                    *([name, "Null"] for name in ("Dot", "A", "B", "C")),
                    ["Circle", "Compact<u32>"],
                ],
            },
        }
    }
)


def theirs(kind, value):
    return bytes(config.create_scale_object(kind).encode(value).data)


def read_by_them(kind, data):
    found = config.create_scale_object(kind, ScaleBytes(data))
    found.decode(check_remaining=True)
    return found.value


NUMBERS = [
    (cls, f"{form}u{cls.BITS}{end}", compact)
    for cls in (U8, U16, U32, U64, U128)
    for form, end, compact in (("", "", False), ("Compact<", ">", True))
]


@pytest.mark.parametrize(("cls", "kind", "compact"), NUMBERS)
@given(data=st.data())
def test_integers(cls, kind, compact, data):
    value = data.draw(unsigned(cls))
    hint = Compact[cls] if compact else cls
    encoded = encode(hint, value)
    assert encoded == theirs(kind, int(value))
    assert decode(hint, theirs(kind, int(value))) == value


# Their `Vec<T>` reads numbers back as they are; their `Bytes` guesses at text, so hex goes in.
@given(st.lists(unsigned(U32), max_size=80).map(tuple))
def test_sequences(value):
    assert encode(tuple[U32, ...], value) == theirs("Vec<u32>", [int(n) for n in value])
    assert read_by_them("Vec<u32>", encode(tuple[U32, ...], value)) == list(value)


@given(st.binary(max_size=100))
def test_byte_strings(value):
    assert encode(bytes, value) == theirs("Bytes", "0x" + value.hex())


@given(st.text(max_size=40))
def test_texts(value):
    assert read_by_them("Text", encode(str, value)) == value


@given(st.none() | unsigned(U16))
def test_options(value):
    assert encode(U16 | None, value) == theirs("Option<u16>", value)


@given(st.tuples(unsigned(U8), st.booleans(), unsigned(U64)))
def test_tuples(value):
    assert encode(tuple[U8, bool, U64], value) == theirs("(u8, bool, u64)", value)


@given(funds)
def test_records(value):
    assert value.encode() == theirs("OurFunds", {"free": int(value.free), "held": int(value.held)})


@given(unsigned(U32))
def test_variants(radius):
    encoded = codec_of(Shape).encode(Circle(radius=radius))
    assert encoded == theirs("OurShape", {"Circle": int(radius)})
    assert codec_of(Shape).encode(Dot()) == theirs("OurShape", "Dot")


def test_they_can_read_our_type_registry():
    registry = TypeRegistry()
    for hint in (Shape, Funds, Color, dict[U8, str]):
        registry.register(hint)
    types = read_by_them("PortableRegistry", registry.encode())["types"]
    assert [entry["id"] for entry in types] == list(range(len(types)))
    assert types[0]["type"]["path"][-1] == "Shape"
    variants = types[0]["type"]["def"]["variant"]["variants"]
    assert [(v["name"], v["index"]) for v in variants] == [
        ("Dot", 0),
        ("Circle", 4),
        ("Group", 255),
    ]
    assert variants[2]["fields"][1]["typeName"] == "Vec<Shape>"
    assert Group.__doc__ is None

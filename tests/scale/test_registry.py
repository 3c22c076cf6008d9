from typing import Annotated

import pytest
from tests.scale.zoo import Color, Digest, Funds, Note, Shape

from deepbrain.primitives.ids import AccountId, Hash, MachineId, OrderId
from deepbrain.primitives.units import U8, U32, U64, Balance, Seconds
from deepbrain.scale import Compact, MaxLen, Struct, TypeRegistry, codec_of
from deepbrain.scale.definitions import (
    Array,
    BitSequence,
    CompactOf,
    Composite,
    Field,
    Parameter,
    PortableType,
    Primitive,
    PrimitiveKind,
    Sequence,
    Tuple,
    TypeId,
    Variant,
    VariantCase,
)
from deepbrain.scale.registry import type_name


def definition(registry, identity):
    return registry.type_of(identity).definition


def test_what_is_written_can_be_read_back():
    registry = TypeRegistry()
    for hint in (Shape, Note, Funds, Color, dict[U8, Hash], tuple[()]):
        registry.register(hint)
    types = codec_of(tuple[PortableType, ...]).decode(registry.encode())
    assert types == registry.types()
    assert [entry.id for entry in types] == list(range(len(types)))


def test_a_type_gets_its_number_before_its_parts():
    registry = TypeRegistry()
    assert registry.register(Shape) == 0
    group = definition(registry, TypeId(0)).cases[2]
    assert definition(registry, group.fields[1].type) == Sequence(type=TypeId(0))


def test_equal_forms_share_a_number():
    registry = TypeRegistry()
    ids = [registry.register(hint) for hint in (U64, Seconds, OrderId)]
    assert len(set(ids)) == 1
    assert registry.register(tuple[U64, ...]) == registry.register(
        Annotated[tuple[Seconds, ...], MaxLen(4)]
    )
    assert registry.register(bytes) == registry.register(Annotated[bytes, MaxLen(9)])
    assert registry.register(Compact[U64]) == registry.register(Compact[Seconds])
    assert registry.register(U8 | None) == registry.register(U8 | None)
    count = len(registry.types())
    registry.register(Compact[OrderId] | None)
    assert len(registry.types()) == count + 1


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        (bool, PrimitiveKind.BOOL),
        (str, PrimitiveKind.STR),
        (U8, PrimitiveKind.U8),
        (U32, PrimitiveKind.U32),
        (Balance, PrimitiveKind.U128),
    ],
)
def test_primitives(hint, kind):
    registry = TypeRegistry()
    assert definition(registry, registry.register(hint)) == Primitive(kind=kind)


def test_clients_find_accounts_and_hashes_by_name():
    registry = TypeRegistry()
    account = registry.type_of(registry.register(AccountId))
    assert account.path == ("sp_core", "crypto", "AccountId32")
    (field,) = account.definition.fields
    assert (field.name, field.type_name) == (None, "[u8; 32]")
    assert isinstance(definition(registry, field.type), Array)
    assert registry.type_of(registry.register(Hash)).path == ("primitive_types", "H256")
    assert registry.register(MachineId) == field.type
    assert definition(registry, registry.register(Digest)).length == 4


def test_a_record_shows_names_docs_and_rust_like_types():
    registry = TypeRegistry()
    fields = definition(registry, registry.register(Note)).fields
    assert [(field.name, field.type_name) for field in fields] == [
        ("from", "Vec<u8>"),
        ("title", "String"),
        ("price", "Compact<Balance>"),
        ("color", "Option<Color>"),
        ("seen", "Vec<u16>"),
    ]
    assert registry.type_of(registry.register(Color)).docs == ("What a lamp shows.",)
    assert registry.type_of(registry.register(Funds)).docs == ()
    cases = definition(registry, registry.register(Color)).cases
    assert [(case.name, case.index) for case in cases] == [("Red", 0), ("DeepBlue", 7)]


def test_type_names_of_the_rest():
    assert type_name(dict[U8, tuple[bool, str]]) == "BTreeMap<u8, (bool, String)>"
    assert type_name(tuple[()]) == type_name(type(None)) == "()"
    assert type_name(Annotated[bytes, MaxLen(3)]) == "Vec<u8>"


def test_options_results_and_maps_have_their_well_known_form():
    registry = TypeRegistry()
    u8, text = registry.register(U8), registry.register(str)
    option = registry.type_of(registry.option(u8))
    assert (option.path, option.params) == (("Option",), (Parameter(name="T", type=u8),))
    assert [case.name for case in option.definition.cases] == ["None", "Some"]
    result = registry.type_of(registry.result(u8, text))
    assert [(c.name, c.fields[0].type, c.index) for c in result.definition.cases] == [
        ("Ok", u8, 0),
        ("Err", text, 1),
    ]
    assert result.path == ("Result",)
    assert registry.register(dict[U8, str]) == registry.map_of(u8, text)
    assert registry.register(tuple[U8, str]) == registry.tuple_of(u8, text)
    assert definition(registry, registry.bit_sequence(u8, text)) == BitSequence(
        bit_store=u8, bit_order=text
    )
    assert definition(registry, registry.compact(u8)) == CompactOf(type=u8)
    assert definition(registry, registry.tuple_of()) == Tuple(types=())


def test_a_definition_by_hand_may_contain_itself():
    registry = TypeRegistry()

    def body():
        again = registry.define("call", body, path=("x_runtime", "RuntimeCall"))
        field = Field(name="calls", type=registry.sequence(again), type_name="Vec<RuntimeCall>")
        return Variant(cases=(VariantCase(name="Batch", fields=(field,), index=U8(3)),))

    identity = registry.define("call", body, path=("x_runtime", "RuntimeCall"))
    assert identity == 0
    (case,) = definition(registry, identity).cases
    assert definition(registry, case.fields[0].type) == Sequence(type=identity)


def test_a_record_can_serve_as_a_case():
    registry = TypeRegistry()
    case = registry.case(Funds, 7, "Funded")
    assert (case.name, case.index, [field.name for field in case.fields]) == (
        "Funded",
        7,
        ["free", "held"],
    )


def test_a_foreign_class_registers_itself():
    class Era:
        @classmethod
        def __scale_register__(cls, registry):
            return registry.define(cls, Composite(fields=()), path=("sp_runtime", "Era"))

    registry = TypeRegistry()
    assert registry.register(Era) == registry.register(Era) == 0


def test_paths_come_from_the_class_or_from_the_registry():
    class Named(Struct):
        __scale_path__ = ("pallet_x", "types", "Named")

    registry = TypeRegistry(path_of=lambda cls: ("house", cls.__name__))
    assert registry.type_of(registry.register(Named)).path == ("pallet_x", "types", "Named")
    assert registry.type_of(registry.register(Funds)).path == ("house", "Funds")
    assert TypeRegistry().register(Funds) == 0


def test_two_types_of_one_name_are_refused():
    registry = TypeRegistry(path_of=lambda cls: ("same",))
    registry.register(Funds)
    with pytest.raises(TypeError, match="same"):
        registry.register(Note)


def test_an_unfinished_type_is_not_written():
    registry = TypeRegistry()

    def body():
        with pytest.raises(KeyError):
            registry.encode()
        return Composite(fields=())

    registry.define("x", body)
    assert registry.encode()


@pytest.mark.parametrize("hint", [int, list[U8], "U8", U8 | U32])
def test_hints_without_a_wire_form_are_refused(hint):
    with pytest.raises(TypeError):
        TypeRegistry().register(hint)

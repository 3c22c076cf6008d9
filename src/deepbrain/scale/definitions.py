"""The portable type registry of scale-info, as records of our own codec.

A wallet reads these bytes to learn every type of the chain. They are records like any others here,
so what is written can be read back and compared.
"""

from deepbrain.primitives.units import U8, U32
from deepbrain.scale.codec import Compact
from deepbrain.scale.structs import Enumeration, Struct, TaggedUnion


class TypeId(U32):
    """The number of a type within one registry."""

    __slots__ = ()


class PrimitiveKind(Enumeration):
    """scale-info's `TypeDefPrimitive`."""

    BOOL = 0
    CHAR = 1
    STR = 2
    U8 = 3
    U16 = 4
    U32 = 5
    U64 = 6
    U128 = 7
    U256 = 8
    I8 = 9
    I16 = 10
    I32 = 11
    I64 = 12
    I128 = 13
    I256 = 14


class Field(Struct):
    """A field of a composite or of a variant's case. Clients crash where `type_name` is missing."""

    name: str | None = None
    type: Compact[TypeId]
    type_name: str | None
    docs: tuple[str, ...] = ()


class VariantCase(Struct):
    """One case of a variant."""

    name: str
    fields: tuple[Field, ...] = ()
    index: U8
    docs: tuple[str, ...] = ()


class Definition(TaggedUnion):
    """scale-info's `TypeDef`: what a type is made of."""


class Composite(Definition, index=0):
    """A record, or a tuple record where the fields have no names."""

    fields: tuple[Field, ...]


class Variant(Definition, index=1):
    """A choice between cases."""

    cases: tuple[VariantCase, ...]


class Sequence(Definition, index=2):
    """Any number of one type."""

    type: Compact[TypeId]


class Array(Definition, index=3):
    """A fixed number of one type."""

    length: U32
    type: Compact[TypeId]


class Tuple(Definition, index=4):
    """A fixed list of types; the empty one is the unit."""

    types: tuple[Compact[TypeId], ...]


class Primitive(Definition, index=5):
    """A type that is made of nothing else."""

    kind: PrimitiveKind


class CompactOf(Definition, index=6):
    """An unsigned integer in compact form."""

    type: Compact[TypeId]


class BitSequence(Definition, index=7):
    """Bits, packed into words of `bit_store` in the order `bit_order`."""

    bit_store: Compact[TypeId]
    bit_order: Compact[TypeId]


class Parameter(Struct):
    """What a generic type was made with; `None` where the parameter has no type of its own."""

    name: str
    type: Compact[TypeId] | None


class Type(Struct):
    """A type with its name in the Rust world, which clients recognise types by."""

    path: tuple[str, ...] = ()
    params: tuple[Parameter, ...] = ()
    definition: Definition
    docs: tuple[str, ...] = ()


class PortableType(Struct):
    """A type and its number."""

    id: Compact[TypeId]
    type: Type

"""Unions whose cases hold one value without a name, as Rust's tuple variants do.

Clients of the chain read `DispatchError::Module(ModuleError)` as the value itself; a named field
would put a record around it.
"""

from typing import ClassVar

from deepbrain.primitives.units import U8
from deepbrain.scale import StructType, TaggedUnion, fields_of
from deepbrain.scale.definitions import Field, TypeId, Variant, VariantCase
from deepbrain.scale.registry import TypeRegistry, docs_of, type_name


class TupleUnion(TaggedUnion):
    """Derive like a `TaggedUnion`; the fields of its cases have no names on the wire.

    `__wire_name__` is the name of a case where it differs from its class.
    """

    __makes_unions__: ClassVar[bool] = True

    @classmethod
    def __scale_register__(cls, registry: TypeRegistry) -> TypeId:
        return register_tuple_union(cls, registry)


def register_tuple_union(union: StructType, registry: TypeRegistry) -> TypeId:
    """Define a union with nameless fields in the metadata."""

    def case(variant: StructType, index: int) -> VariantCase:
        fields = tuple(
            Field(type=registry.register(field.hint), type_name=type_name(field.hint))
            for field in fields_of(variant)
        )
        name = vars(variant).get("__wire_name__", variant.__name__)
        return VariantCase(name=name, fields=fields, index=U8(index), docs=docs_of(variant))

    def variant() -> Variant:
        return Variant(cases=tuple(case(v, i) for i, v in sorted(union.__variants__.items())))

    return registry.define(union, variant, path=vars(union)["__scale_path__"], docs=docs_of(union))

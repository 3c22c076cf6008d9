"""From type hints to the portable type registry that metadata carries.

A type gets its number at its first visit, before its parts are visited: a type may contain itself.
The same hint, and two hints of the same anonymous form, share one number. Checked integers appear
as the bare integer of their width; what they mean stays visible in the `type_name` of each field.
"""

from collections.abc import Callable, Hashable
from enum import Enum
from inspect import cleandoc
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from deepbrain.primitives.ids import FixedBytes
from deepbrain.primitives.units import U8, U32, Unsigned
from deepbrain.scale.codec import COMPACT
from deepbrain.scale.definitions import (
    Array,
    BitSequence,
    CompactOf,
    Composite,
    Definition,
    Field,
    Parameter,
    PortableType,
    Primitive,
    PrimitiveKind,
    Sequence,
    Tuple,
    Type,
    TypeId,
    Variant,
    VariantCase,
)
from deepbrain.scale.derive import codec_of, option_of
from deepbrain.scale.shape import StructType, fields_of

Path = tuple[str, ...]

_WIDTHS: Final = {
    8: PrimitiveKind.U8,
    16: PrimitiveKind.U16,
    32: PrimitiveKind.U32,
    64: PrimitiveKind.U64,
    128: PrimitiveKind.U128,
}


def default_path(cls: type) -> Path:
    """`deepbrain::<module>::<Class>`."""
    return ("deepbrain", cls.__module__.rpartition(".")[2], cls.__name__)


class TypeRegistry:
    """Collects types. `path_of` names the classes that have no `__scale_path__`.

    A class of a kind unknown here takes part by a class method `__scale_register__(registry)`, which
    returns what `define` gave it.
    """

    def __init__(self, path_of: Callable[[type], Path] = default_path) -> None:
        self._path_of = path_of
        self._ids: dict[Hashable, TypeId] = {}
        self._types: list[Type | None] = []
        self._named: dict[Path, Hashable] = {}

    def register(self, hint: Any) -> TypeId:
        """The number of a type hint. Raises: TypeError: the hint has no wire form."""
        own = getattr(hint, "__scale_register__", None)
        if own is not None:
            identity: TypeId = own(self)
            return identity
        origin = get_origin(hint)
        if origin is Annotated:
            return self._annotated(*get_args(hint))
        if origin is not None:
            return self._generic(hint, origin, get_args(hint))
        if isinstance(hint, type):
            return self._class(hint)
        raise TypeError(f"{hint!r} has no SCALE form")

    def define(
        self,
        key: Hashable,
        definition: Definition | Callable[[], Definition],
        *,
        path: Path = (),
        params: tuple[Parameter, ...] | Callable[[], tuple[Parameter, ...]] = (),
        docs: tuple[str, ...] = (),
    ) -> TypeId:
        """The number of the type known by `key`, which is defined now if it was not before.

        Give `definition` (and `params`) as functions where they register further types, so that the
        type has its number before they ask for it. Raises: TypeError: `path` names another type.
        """
        known = self._ids.get(key)
        if known is not None:
            return known
        if path and not params and self._named.setdefault(path, key) != key:
            raise TypeError(f"two types are called {'::'.join(path)}")
        identity = self._ids[key] = TypeId(len(self._types))
        self._types.append(None)
        self._types[identity] = Type(
            path=path,
            params=params() if callable(params) else params,
            definition=definition() if callable(definition) else definition,
            docs=docs,
        )
        return identity

    def primitive(self, kind: PrimitiveKind) -> TypeId:
        return self.define(("primitive", kind), Primitive(kind=kind))

    def sequence(self, item: TypeId) -> TypeId:
        """`Vec<T>`."""
        return self.define(("sequence", item), Sequence(type=item))

    def array(self, length: int, item: TypeId) -> TypeId:
        """`[T; length]`."""
        return self.define(("array", length, item), Array(length=U32(length), type=item))

    def tuple_of(self, *items: TypeId) -> TypeId:
        """`(A, B, …)`; of nothing, the unit."""
        return self.define(("tuple", items), Tuple(types=items))

    def compact(self, item: TypeId) -> TypeId:
        """`Compact<T>`."""
        return self.define(("compact", item), CompactOf(type=item))

    def bit_sequence(self, store: TypeId, order: TypeId) -> TypeId:
        """`BitVec<store, order>`."""
        return self.define(("bits", store, order), BitSequence(bit_store=store, bit_order=order))

    def option(self, item: TypeId) -> TypeId:
        """`Option<T>`."""
        some = Field(type=item, type_name="T")
        return self.define(
            ("option", item),
            Variant(
                cases=(
                    VariantCase(name="None", index=U8(0)),
                    VariantCase(name="Some", fields=(some,), index=U8(1)),
                )
            ),
            path=("Option",),
            params=(Parameter(name="T", type=item),),
        )

    def result(self, ok: TypeId, error: TypeId) -> TypeId:
        """`Result<T, E>`."""
        cases = tuple(
            VariantCase(name=name, fields=(Field(type=item, type_name=letter),), index=U8(index))
            for index, (name, letter, item) in enumerate((("Ok", "T", ok), ("Err", "E", error)))
        )
        return self.define(
            ("result", ok, error),
            Variant(cases=cases),
            path=("Result",),
            params=(Parameter(name="T", type=ok), Parameter(name="E", type=error)),
        )

    def map_of(self, key: TypeId, value: TypeId) -> TypeId:
        """`BTreeMap<K, V>`."""
        pairs = self.sequence(self.tuple_of(key, value))
        return self.define(
            ("map", key, value),
            Composite(fields=(Field(type=pairs, type_name="Vec<(K, V)>"),)),
            path=("BTreeMap",),
            params=(Parameter(name="K", type=key), Parameter(name="V", type=value)),
        )

    def field(self, name: str | None, hint: Any, docs: tuple[str, ...] = ()) -> Field:
        """A field of a type hint, with the `type_name` that clients insist on."""
        return Field(name=name, type=self.register(hint), type_name=type_name(hint), docs=docs)

    def fields(self, cls: type) -> tuple[Field, ...]:
        """The fields of a record class."""
        return tuple(self.field(field.wire_name, field.hint) for field in fields_of(cls))

    def case(self, cls: type, index: int, name: str | None = None) -> VariantCase:
        """A record class as a case of a variant that is put together by hand."""
        return VariantCase(
            name=name or cls.__name__, fields=self.fields(cls), index=U8(index), docs=docs_of(cls)
        )

    def type_of(self, identity: TypeId) -> Type:
        """Raises: KeyError: unknown, or still being defined."""
        found = self._types[identity] if identity < len(self._types) else None
        if found is None:
            raise KeyError(identity)
        return found

    def types(self) -> tuple[PortableType, ...]:
        """All types by number. Raises: KeyError: one is still being defined."""
        return tuple(
            PortableType(id=TypeId(n), type=self.type_of(TypeId(n)))
            for n in range(len(self._types))
        )

    def encode(self) -> bytes:
        """scale-info's `PortableRegistry`."""
        return codec_of(tuple[PortableType, ...]).encode(self.types())

    def _annotated(self, inner: Any, *marks: Any) -> TypeId:
        for mark in marks:
            own = getattr(mark, "__scale_register__", None)
            if own is not None:
                identity: TypeId = own(self)
                return identity
        item = self.register(inner)
        return self.compact(item) if COMPACT in marks else item

    def _generic(self, hint: Any, origin: Any, args: tuple[Any, ...]) -> TypeId:
        if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
            return self.sequence(self.register(args[0]))
        if origin is tuple:
            return self.tuple_of(*(self.register(arg) for arg in args))
        if origin is dict:
            return self.map_of(self.register(args[0]), self.register(args[1]))
        if origin in (Union, UnionType):
            return self.option(self.register(option_of(hint)))
        raise TypeError(f"{hint!r} has no SCALE form")

    def _class(self, cls: type) -> TypeId:
        if isinstance(cls, StructType):
            return self._record(cls)
        if issubclass(cls, Enum):
            return self._enumeration(cls)
        if issubclass(cls, FixedBytes):
            return self._fixed_bytes(cls)
        if issubclass(cls, Unsigned) and cls.BITS in _WIDTHS:
            return self.primitive(_WIDTHS[cls.BITS])
        if cls is bytes:
            return self.sequence(self.primitive(PrimitiveKind.U8))
        if cls is NoneType:
            return self.tuple_of()
        for known, kind in ((bool, PrimitiveKind.BOOL), (str, PrimitiveKind.STR)):
            if cls is known:
                return self.primitive(kind)
        raise TypeError(f"{cls!r} has no SCALE form")

    def _record(self, cls: StructType) -> TypeId:
        def composite() -> Definition:
            return Composite(fields=self.fields(cls))

        def variant() -> Definition:
            found = sorted(cls.__variants__.items())
            return Variant(cases=tuple(self.case(case, index) for index, case in found))

        is_union = "__variants__" in vars(cls)
        return self._named_class(cls, variant if is_union else composite)

    def _enumeration(self, cls: type[Enum]) -> TypeId:
        members = sorted(cls, key=lambda member: int(member.value))
        cases = tuple(
            VariantCase(name=camel_case(member.name), index=U8(member.value)) for member in members
        )
        return self._named_class(cls, Variant(cases=cases))

    def _fixed_bytes(self, cls: type[FixedBytes]) -> TypeId:
        def array() -> TypeId:
            return self.array(cls.SIZE, self.primitive(PrimitiveKind.U8))

        def composite() -> Definition:
            return Composite(fields=(Field(type=array(), type_name=f"[u8; {cls.SIZE}]"),))

        if "__scale_path__" not in vars(cls):
            return array()
        return self._named_class(cls, composite)

    def _named_class(self, cls: type, definition: Definition | Callable[[], Definition]) -> TypeId:
        path = vars(cls).get("__scale_path__") or self._path_of(cls)
        return self.define(cls, definition, path=path, docs=docs_of(cls))


def type_name(hint: Any) -> str:
    """How Rust would write the hint, roughly: shown by wallets, and required by some."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner = type_name(args[0])
        return f"Compact<{inner}>" if COMPACT in args[1:] else inner
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return f"Vec<{type_name(args[0])}>"
    if origin is tuple or hint is NoneType:
        return f"({', '.join(type_name(arg) for arg in args)})"
    if origin is dict:
        return f"BTreeMap<{type_name(args[0])}, {type_name(args[1])}>"
    if origin in (Union, UnionType):
        return f"Option<{type_name(option_of(hint))}>"
    return _class_name(hint)


def _class_name(cls: type) -> str:
    if cls in (bytes, str):
        return "Vec<u8>" if cls is bytes else "String"
    if issubclass(cls, Unsigned) and cls.__base__ is Unsigned:
        return f"u{cls.BITS}"
    return cls.__name__


def docs_of(cls: type) -> tuple[str, ...]:
    """The lines of the class's own docstring; a docstring it inherits says nothing about it."""
    text: str | None = vars(cls).get("__doc__")
    return tuple(cleandoc(text).split("\n")) if text else ()


def camel_case(name: str) -> str:
    """`DIVISION_BY_ZERO` → `DivisionByZero`, as variants are written on the chain."""
    # deterministic: an ASCII name of our own
    return "".join(part.capitalize() for part in name.split("_")) if name.isupper() else name

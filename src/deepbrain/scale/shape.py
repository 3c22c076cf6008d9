"""The shape of a record class: its fields, and the methods written for them at class creation."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, dataclass_transform, get_type_hints

if sys.version_info >= (3, 14):
    import annotationlib

RESERVED: Final = frozenset({"encode", "decode", "but"})


class StructField:
    """One field of a record: its Python name, its name on the wire, and its type hint."""

    __slots__ = ("hint", "name", "wire_name")

    def __init__(self, name: str, hint: Any) -> None:
        self.name = name
        # `from_` and `class_` dodge Python's keywords; wallets show `from` and `class`.
        self.wire_name = name.rstrip("_") or name
        self.hint = hint

    def __repr__(self) -> str:
        return f"StructField({self.name!r}, {self.hint!r})"


@dataclass_transform(eq_default=True, frozen_default=True, kw_only_default=True)
class StructType(type):
    """The class of record classes: turns annotations into slots and writes `__init__` and kin.

    `index=` is the wire index of a variant (or event, or call) among its siblings.
    """

    __field_names__: tuple[str, ...]
    __wire_index__: int | None
    __union_root__: "StructType | None"
    __variants__: dict[int, "StructType"]
    __sealed__: bool

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        index: int | None = None,
        **kwargs: Any,
    ) -> "StructType":
        inherited = tuple(n for base in bases for n in getattr(base, "__field_names__", ()))
        own = tuple(_field_names(namespace))
        _refuse_bad_names(name, own, inherited)
        defaults = dict(_inherited_defaults(bases))
        defaults |= {n: namespace.pop(n) for n in own if n in namespace}
        namespace["__slots__"] = own
        namespace["__field_names__"] = inherited + own
        namespace["__field_defaults__"] = defaults
        namespace["__wire_index__"] = _checked_index(name, index)
        cls = super().__new__(mcls, name, bases, namespace, **kwargs)
        _write_methods(cls, inherited + own, defaults)
        _join_union(cls, bases)
        return cls

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(name, bases, namespace)


def fields_of(cls: type) -> tuple[StructField, ...]:
    """The fields of a record class in wire order, with their hints resolved.

    Raises: TypeError: `cls` is no `Struct`; NameError: a hint names what does not exist.
    """
    if not isinstance(cls, StructType):
        raise TypeError(f"{cls!r} is not a Struct")
    hints = get_type_hints(cls, localns={cls.__name__: cls}, include_extras=True)
    return tuple(StructField(name, hints[name]) for name in cls.__field_names__)


def _field_names(namespace: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, hint in _annotations(namespace).items()
        if not (name.startswith("__") or _is_class_var(hint))
    ]


def _annotations(namespace: Mapping[str, Any]) -> Mapping[str, Any]:
    """The annotations of a class body, before there is a class to ask."""
    if sys.version_info >= (3, 14) and "__annotations__" not in namespace:
        # From 3.14 on a class body leaves a function that makes them.
        annotate = annotationlib.get_annotate_from_class_namespace(namespace)
        if annotate is None:
            return {}
        forward = annotationlib.Format.FORWARDREF
        return annotationlib.call_annotate_function(annotate, format=forward)
    found: Mapping[str, Any] = namespace.get("__annotations__", {})
    return found


def _is_class_var(hint: Any) -> bool:
    if isinstance(hint, str):
        return hint.removeprefix("typing.").startswith("ClassVar")
    return hint is ClassVar or getattr(hint, "__origin__", None) is ClassVar


def _refuse_bad_names(cls_name: str, own: tuple[str, ...], inherited: tuple[str, ...]) -> None:
    for name in own:
        if name in RESERVED or name in inherited:
            raise TypeError(f"{cls_name}: a field may not be called {name!r}")


def _inherited_defaults(bases: tuple[type, ...]) -> list[tuple[str, Any]]:
    return [item for base in bases for item in getattr(base, "__field_defaults__", {}).items()]


def _checked_index(name: str, index: int | None) -> int | None:
    if index is not None and not 0 <= index <= 255:
        raise TypeError(f"{name}: a wire index is between 0 and 255")
    return index


def _join_union(cls: StructType, bases: tuple[type, ...]) -> None:
    """Make `cls` the root of a tagged union, or enter it as a variant of its root."""
    cls.__union_root__ = None
    if any(base.__dict__.get("__makes_unions__", False) for base in bases):
        cls.__variants__ = {}
        cls.__sealed__ = False
        if cls.__field_names__:
            raise TypeError(f"{cls.__name__}: fields belong to the variants of a tagged union")
        type.__setattr__(cls, "__init__", _refuse_instance)
        return
    roots = [
        base for base in bases if isinstance(base, StructType) and "__variants__" in vars(base)
    ]
    for root in roots:
        _enter_variant(root, cls)


def _refuse_instance(self: Any) -> None:
    raise TypeError(f"{type(self).__name__} is a tagged union: make one of its variants")


def _enter_variant(root: StructType, cls: StructType) -> None:
    index = cls.__wire_index__
    if index is None:
        raise TypeError(f"{cls.__name__} needs `index=`, its wire index in {root.__name__}")
    if root.__sealed__:
        raise TypeError(f"{root.__name__} is in use: {cls.__name__} comes too late")
    if index in root.__variants__:
        taken = root.__variants__[index].__name__
        raise TypeError(f"{root.__name__}: index {index} is taken by {taken}")
    root.__variants__[index] = cls
    cls.__union_root__ = root


def _write_methods(cls: type, names: tuple[str, ...], defaults: Mapping[str, Any]) -> None:
    parameters = ", ".join(f"{n}=default_{n}" if n in defaults else n for n in names)
    arguments = f"self, *, {parameters}" if names else "self"
    values = "".join(f"self.{n}, " for n in names)
    others = "".join(f"other.{n}, " for n in names)
    shown = ", ".join(f"{n}={{self.{n}!r}}" for n in names)
    source = [
        f"def __init__({arguments}):",
        # Two underscores: no field has them, so no parameter hides a setter.
        *(f"    __set_{n}(self, {n})" for n in names),
        "    return None",
        "def __eq__(self, other):",
        "    if type(other) is not type(self):",
        "        return NotImplemented",
        f"    return ({values}) == ({others})",
        "def __hash__(self):",
        f"    return tuple.__hash__((cls_name, {values}))",
        "def __repr__(self):",
        f"    return f'{{type(self).__name__}}({shown})'",
        "def __reduce__(self):",
        f"    return rebuild, (type(self), ({values}))",
    ]
    scope: dict[str, Any] = {"cls_name": cls.__qualname__, "rebuild": rebuild}
    scope |= {f"default_{name}": value for name, value in defaults.items()}
    scope |= {f"__set_{name}": setter(cls, name) for name in names}
    compile_into(f"<record {cls.__qualname__}>", source, scope)
    for method in ("__init__", "__eq__", "__hash__", "__repr__", "__reduce__"):
        function = scope[method]
        function.__qualname__ = f"{cls.__qualname__}.{method}"
        function.__module__ = cls.__module__
        # A class that writes `__eq__` gets `__hash__ = None` from Python; that one is replaced.
        if vars(cls).get(method) is None:
            setattr(cls, method, function)


def setter(cls: type, name: str) -> Callable[[Any, Any], None]:
    """The slot's own setter: records are frozen by `__setattr__`, not by it."""
    write: Callable[[Any, Any], None] = getattr(cls, name).__set__
    return write


def rebuild(cls: type, values: tuple[Any, ...]) -> Any:
    """A record from its values in order, unchecked; for pickling and `but`."""
    record: Any = object.__new__(cls)
    for name, value in zip(cls.__field_names__, values, strict=True):  # type: ignore[attr-defined]
        setter(cls, name)(record, value)
    return record


def compile_into(filename: str, source: list[str], scope: dict[str, Any]) -> None:
    """Run generated definitions. The source is made of field names only, which are identifiers."""
    # deterministic: our own annotations, compiled once
    exec(compile("\n".join(source), filename, "exec"), scope)  # noqa: S102 (generated above)

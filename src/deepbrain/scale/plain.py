"""Values as JSON for people and pages, and back: by the same hints as on the wire.

integer         5             tuple[T, ...]   [5, 6]           Struct          {"field": 5}
str, bool       themselves    bytes           "0x0506"         TaggedUnion     {"Case": {"field": 5}}, "Case"
AccountId       its address   other ids       "0x…"            Enumeration     "CaseName"
T | None        null or T     dict            [[key, value]]
"""

from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from deepbrain.primitives import ss58
from deepbrain.primitives.errors import DecodeError, DeepBrainError, InvalidKey
from deepbrain.primitives.ids import AccountId, FixedBytes
from deepbrain.primitives.units import Unsigned
from deepbrain.scale.codec import MaxLen
from deepbrain.scale.derive import option_of
from deepbrain.scale.registry import camel_case
from deepbrain.scale.shape import StructType, fields_of


class NotPlain(DeepBrainError):
    """JSON that is not what a hint asks for; the text says where."""


def to_plain(value: Any, *, texts: bool = False) -> Any:
    """A value as JSON. With `texts`, integers are text: JavaScript's numbers end at 2⁵³."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, AccountId):
        return ss58.encode(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, int):
        return str(int(value)) if texts else int(value)
    if isinstance(value, Enum):
        return camel_case(value.name)
    if isinstance(type(value), StructType):
        return _struct_to_plain(value, texts)
    if isinstance(value, dict):
        pairs = value.items()
        return [[to_plain(key, texts=texts), to_plain(each, texts=texts)] for key, each in pairs]
    if isinstance(value, tuple):
        return [to_plain(each, texts=texts) for each in value]
    raise TypeError(f"{value!r} has no plain form")


def _struct_to_plain(value: Any, texts: bool) -> Any:
    kind = type(value)
    fields = {
        field.name: to_plain(getattr(value, field.name), texts=texts) for field in fields_of(kind)
    }
    if kind.__wire_index__ is None:
        return fields
    return {kind.__name__: fields} if fields else kind.__name__


def from_plain(hint: Any, value: Any, where: str, *, texts: bool = False) -> Any:
    """JSON as the value of a hint. With `texts`, integers may be written as text, as pages must.

    Raises: NotPlain.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        return _bounded(hint, from_plain(get_args(hint)[0], value, where, texts=texts), where)
    if origin in (Union, UnionType):
        inner = option_of(hint)
        return None if value is None else from_plain(inner, value, where, texts=texts)
    if origin is tuple and isinstance(value, list):
        return _tuple_from_plain(get_args(hint), value, where, texts)
    if isinstance(hint, StructType):
        return _struct_from_plain(hint, value, where, texts)
    if isinstance(hint, type):
        found = _leaf_from_plain(hint, value, where, texts)
        if found is not None or hint is NoneType:
            return found
    raise NotPlain(f"{where} is not a {getattr(hint, '__name__', hint)}")


def _bounded(hint: Any, value: Any, where: str) -> Any:
    for mark in get_args(hint)[1:]:
        if isinstance(mark, MaxLen) and len(value) > mark.limit:
            raise NotPlain(f"{where} is longer than {mark.limit}")
    return value


def _tuple_from_plain(args: tuple[Any, ...], value: list[Any], where: str, texts: bool) -> Any:
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(from_plain(args[0], each, where, texts=texts) for each in value)
    if len(args) != len(value):
        raise NotPlain(f"{where} has {len(args)} entries")
    pairs = zip(args, value, strict=True)
    return tuple(from_plain(arg, each, where, texts=texts) for arg, each in pairs)


def _struct_from_plain(hint: StructType, value: Any, where: str, texts: bool) -> Any:
    if "__variants__" in vars(hint):
        name, inner = _case_of(value, where)
        for case in hint.__variants__.values():
            if case.__name__ == name:
                return _struct_from_plain(case, inner, f"{where}.{name}", texts)
        raise NotPlain(f"{where}: there is no {name} in {hint.__name__}")
    hints = {field.name: field.hint for field in fields_of(hint)}
    if not isinstance(value, dict) or sorted(value) != sorted(hints):
        raise NotPlain(f"{where} has exactly these keys: {', '.join(hints)}")
    return hint(
        **{
            name: from_plain(hints[name], each, f"{where}.{name}", texts=texts)
            for name, each in value.items()
        }
    )


def _case_of(value: Any, where: str) -> tuple[str, Any]:
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and len(value) == 1:
        ((name, inner),) = value.items()
        return name, inner
    raise NotPlain(f"{where} names one case, with its fields")


def _leaf_from_plain(hint: type, value: Any, where: str, texts: bool) -> Any:
    """None: it is no such leaf."""
    if issubclass(hint, Unsigned):
        return _integer_from_plain(hint, value, where, texts)
    if issubclass(hint, Enum):
        return next((case for case in hint if camel_case(case.name) == value), None)
    if hint in (str, bool):
        return value if type(value) is hint else None
    if not (isinstance(value, str) and issubclass(hint, bytes)):
        return None
    try:
        if hint is AccountId:
            return AccountId.from_hex(value) if value.startswith("0x") else ss58.decode(value)
        if issubclass(hint, FixedBytes):
            return hint.from_hex(value)
        return hint(bytes.fromhex(value.removeprefix("0x")))
    except (DecodeError, InvalidKey, ValueError) as error:
        raise NotPlain(f"{where}: {error}") from None


def _integer_from_plain(hint: type[Unsigned], value: Any, where: str, texts: bool) -> Any:
    if texts and isinstance(value, str) and value.isdecimal() and len(value) <= 40:
        value = int(value)
    if type(value) is not int:
        return None
    if not 0 <= value <= hint.MAX:
        raise NotPlain(f"{where} is out of range")
    return hint(value)

"""A call of a pallet: one definition that the client encodes and the node dispatches.

@call(0, reads=4, writes=5)
def place(self, renter: Signed, machine: MachineId, units: U16) -> None:
    "Rent `units` of `machine`."

Rent.place.make(machine=machine, units=U16(1))     a `Call`: a value, typed by the definition
rent.place(renter, machine, U16(1))                on a pallet in a block: the method itself

Arguments travel in the order of the definition, each by the codec of its hint.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from types import MethodType
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    NamedTuple,
    ParamSpec,
    TypeVar,
    get_type_hints,
    overload,
)

from deepbrain.frame.origin import Authority, required_origin
from deepbrain.frame.outer import outer_types
from deepbrain.frame.weight import EXTRINSIC, READ, WRITE, DispatchClass
from deepbrain.primitives.errors import DecodeError
from deepbrain.scale import Codec, StructField, codec_of, decode_compact, encode_compact
from deepbrain.scale.definitions import TypeId
from deepbrain.scale.registry import TypeRegistry

P = ParamSpec("P")
PalletT = TypeVar("PalletT")
OriginT = TypeVar("OriginT")

MAX_NESTING: Final = 8
"""How many calls may lie inside one another."""

MAX_CALLS: Final = 512
"""How many calls may lie side by side in one argument."""

_DEPTH_PER_CALL: Final = 6
"""Of the codec's `MAX_DEPTH`: the arguments of the innermost call need some of it, too."""


class Nested(Enum):
    """An argument that only the table of a whole runtime can decode."""

    CALL = "Call"
    CALLS = "tuple[Call, ...]"


class Call(NamedTuple):
    """A call with its arguments, in the order of the definition."""

    definition: "CallDefinition"
    arguments: tuple[Any, ...]

    @classmethod
    def __scale_register__(cls, registry: TypeRegistry) -> TypeId:
        return outer_types(registry).runtime_call()

    @property
    def name(self) -> str:
        """`Rent.place`."""
        return f"{self.definition.pallet_name}.{self.definition.name}"

    def argument(self, name: str) -> Any:
        """One argument by its parameter's name. Raises: KeyError."""
        return dict(self.named())[name]

    def named(self) -> list[tuple[str, Any]]:
        """The arguments with their parameters' names."""
        fields = self.definition.fields
        return [(field.name, arg) for field, arg in zip(fields, self.arguments, strict=True)]

    @property
    def weight(self) -> int:
        """What it costs at most, in picoseconds, without the extrinsic around it."""
        return self.definition.weight_of(self.arguments)

    def encode(self) -> bytes:
        """Pallet index, call index, arguments. Raises: EncodeError: an argument does not fit."""
        out = bytearray()
        self.encode_into(out)
        return bytes(out)

    def encode_into(self, out: bytearray) -> None:
        """Append the encoding to `out`. Raises: EncodeError: an argument does not fit."""
        definition = self.definition
        out.append(definition.pallet_index)
        out.append(definition.index)
        for codec, argument in zip(definition.codecs, self.arguments, strict=True):
            if codec is Nested.CALL:
                argument.encode_into(out)
            elif codec is Nested.CALLS:
                out += encode_compact(len(argument))
                for nested in argument:
                    nested.encode_into(out)
            else:
                codec.encode_into(argument, out)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={argument!r}" for name, argument in self.named())
        return f"{self.name}({shown})"


_NESTED: Final[Mapping[Any, Nested]] = {Call: Nested.CALL, tuple[Call, ...]: Nested.CALLS}


class CallDefinition:
    """What there is to know of a call: its place, its parameters and what it costs."""

    pallet_name: str
    pallet_index: int

    def __init__(
        self,
        function: Callable[..., None],
        index: int,
        *,
        reads: int,
        writes: int,
        compute: int,
        size: Callable[..., int] | None,
        dispatch_class: DispatchClass,
    ) -> None:
        self.function = function
        self.index = index
        self.name = function.__name__
        self.doc = function.__doc__
        self.reads, self.writes = reads, writes
        self.base_weight = reads * READ + writes * WRITE + compute
        self.size = size
        self.dispatch_class = dispatch_class
        self.fixed_weight = EXTRINSIC + self.base_weight if size is None else None
        """The weight of the whole extrinsic, where it does not depend on the arguments."""

    def define(self, pallet_name: str, pallet_index: int) -> None:
        """Learn the pallet and resolve the hints; called once, at the pallet's creation."""
        self.pallet_name, self.pallet_index = pallet_name, pallet_index
        hints = get_type_hints(self.function, include_extras=True)
        hints.pop("return", None)
        (_, origin), *parameters = hints.items()
        self.origin: str | Authority = required_origin(origin)
        self.fields = tuple(StructField(name, hint) for name, hint in parameters)
        self.codecs: tuple[Codec[Any] | Nested, ...] = tuple(
            _NESTED.get(field.hint) or codec_of(field.hint) for field in self.fields
        )
        """The codec of each argument, or what kind of calls it is."""

    def weight_of(self, arguments: tuple[Any, ...]) -> int:
        """Picoseconds that a call with these arguments costs at most, without its extrinsic."""
        return self.base_weight if self.size is None else self.base_weight + self.size(*arguments)


class PalletCall(Generic[P]):
    """What `@call` makes of a method."""

    def __init__(self, definition: CallDefinition) -> None:
        self.definition = definition

    def make(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """A call with these arguments. Raises: TypeError: one is missing or unknown."""
        names = [field.name for field in self.definition.fields]
        given = dict(zip(names, args, strict=False)) | kwargs
        if len(args) + len(kwargs) != len(names) or any(name not in given for name in names):
            raise TypeError(f"{self.definition.name} takes {', '.join(names) or 'no arguments'}")
        return Call(self.definition, tuple(given[name] for name in names))

    @overload
    def __get__(self, instance: None, owner: type) -> "PalletCall[P]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[..., None]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        return self if instance is None else MethodType(self.definition.function, instance)


def call(
    index: int,
    *,
    reads: int,
    writes: int,
    compute: int = 0,
    size: Callable[..., int] | None = None,
    dispatch_class: DispatchClass = DispatchClass.NORMAL,
) -> Callable[[Callable[Concatenate[PalletT, OriginT, P], None]], PalletCall[P]]:
    """Make a method a call. `index` is its wire index in the pallet, append-only.

    `reads` and `writes` are upper bounds of the distinct keys it touches, beyond the nonce and fee of
    its signer; `compute` is further work in picoseconds; `size`, given the arguments, what depends on
    them.
    """

    def define(function: Callable[Concatenate[PalletT, OriginT, P], None]) -> PalletCall[P]:
        return PalletCall(
            CallDefinition(
                function,
                index,
                reads=reads,
                writes=writes,
                compute=compute,
                size=size,
                dispatch_class=dispatch_class,
            )
        )

    return define


class CallTable:
    """Every call of a runtime, by pallet and index: how calls are decoded."""

    def __init__(self, pallets: Mapping[int, Mapping[int, CallDefinition]]) -> None:
        self._definitions = {
            pallet << 8 | index: definition
            for pallet, calls in sorted(pallets.items())
            for index, definition in sorted(calls.items())
        }

    def decode(self, data: bytes) -> Call:
        """Exactly one call. Raises: DecodeError."""
        value, at = self.decode_at(data, 0)
        if at != len(data):
            raise DecodeError(f"{len(data) - at} bytes are left over after a call")
        return value

    def decode_at(self, data: bytes, at: int, depth: int = 0) -> tuple[Call, int]:
        """The call at `at`, and the place behind it. Raises: DecodeError."""
        if depth > MAX_NESTING * _DEPTH_PER_CALL:
            raise DecodeError(f"calls nest deeper than {MAX_NESTING}")
        if at + 2 > len(data):
            raise DecodeError("the input ends inside a call")
        definition = self._definitions.get(data[at] << 8 | data[at + 1])
        if definition is None:
            raise DecodeError(f"there is no call {data[at + 1]} in pallet {data[at]}")
        at += 2
        arguments: list[Any] = []
        value: Any
        for codec in definition.codecs:
            if codec is Nested.CALL:
                value, at = self.decode_at(data, at, depth + _DEPTH_PER_CALL)
            elif codec is Nested.CALLS:
                value, at = self._decode_calls_at(data, at, depth + _DEPTH_PER_CALL)
            else:
                value, at = codec.decode_at(data, at, depth)
            arguments.append(value)
        return Call(definition, tuple(arguments)), at

    def _decode_calls_at(self, data: bytes, at: int, depth: int) -> tuple[tuple[Call, ...], int]:
        count, at = decode_compact(data, at)
        if count > MAX_CALLS:
            raise DecodeError(f"at most {MAX_CALLS} calls may lie side by side")
        calls = []
        for _ in range(count):
            nested, at = self.decode_at(data, at, depth)
            calls.append(nested)
        return tuple(calls), at

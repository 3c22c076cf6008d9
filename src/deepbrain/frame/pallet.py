"""The class that pallets derive from.

A pallet is one file in a fixed order: docstring, constants, structs, events, errors, storage,
constructor, calls, hooks, `try_state`. Its events and errors are the classes of its module; its
storage and constants are its annotations; its calls are what `@call` marks. Everything is collected
here, at class creation, with the names that the chain shows.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, TypeVar, get_args, get_origin, get_type_hints

from deepbrain.frame.calls import CallDefinition, PalletCall
from deepbrain.frame.context import Context
from deepbrain.frame.errors import PalletError
from deepbrain.frame.journal import Deposited
from deepbrain.frame.storage import Item
from deepbrain.scale import Struct

T = TypeVar("T")


class _ConstantMark:
    """The type of `CONSTANT`."""


CONSTANT: Final = _ConstantMark()

Constant = Annotated[T, CONSTANT]
"""A figure of the chain, shown in the metadata. A chain spec may give it another value, and must
give it one where the pallet does not."""

_ABBREVIATIONS: Final = {"ss58": "SS58"}


class Event(Struct):
    """Something that happened: derive with `index=`, the wire index in the pallet, append-only.

    Events are hints to look, never facts to rely on; the facts are in storage.
    """


class Pallet:
    """Derive with `index=`, the pallet's wire index, and `name=` where the chain calls it otherwise."""

    index: ClassVar[int]
    chain_name: ClassVar[str]
    call_definitions: ClassVar[Mapping[int, CallDefinition]]
    event_types: ClassVar[Mapping[int, type[Event]]]
    error_types: ClassVar[Mapping[int, type[PalletError]]]
    storage: ClassVar[Mapping[str, Item[Any]]]
    """Storage by attribute name."""
    constant_hints: ClassVar[Mapping[str, Any]]
    """Hints of the constants by attribute name."""

    def __init_subclass__(cls, index: int, name: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.index = index
        cls.chain_name = name or cls.__name__
        cls.call_definitions = _calls(cls)
        cls.event_types = _by_index(cls, Event, lambda event: event.__wire_index__)
        cls.error_types = _by_index(cls, PalletError, lambda error: error.index)
        hints = {
            attribute: hint
            for attribute, hint in get_type_hints(cls, include_extras=True).items()
            if attribute not in Pallet.__annotations__
        }
        cls.storage = _items(cls, hints)
        cls.constant_hints = {
            attribute: get_args(hint)[0] for attribute, hint in hints.items() if _is_constant(hint)
        }

    def __init__(self, context: Context) -> None:
        self.context = context
        attributes = self.__dict__
        for attribute, item in self.storage.items():
            attributes[attribute] = item.bind(context.journal)
        attributes.update(context.constants.get(self.chain_name, {}))

    def emit(self, event: Event) -> None:
        """Deposit an event; it is undone with the call that fails."""
        self.context.journal.events.append(Deposited(self.index, event))

    # What a pallet may do around the extrinsics of a block; it must not fail.

    def on_initialize(self) -> int:
        """Before the inherents; gives the picoseconds it took, charged to the block."""
        return 0

    def post_inherents(self) -> int:
        """Before the first signed extrinsic, when the block's time is known; gives picoseconds."""
        return 0

    def on_finalize(self) -> None:
        """After the last extrinsic."""

    def try_state(self) -> Iterator[str]:
        """Yield every broken invariant; a sound chain yields none. Cost: the whole storage."""
        return iter(())


def chain_name(attribute: str) -> str:
    """`orders_of` → `OrdersOf`, as storage and constants are written on the chain."""
    parts = attribute.split("_")
    return "".join(
        _ABBREVIATIONS.get(part, part.capitalize())  # determinism: allow (ASCII, at import)
        for part in parts
    )


def _is_constant(hint: Any) -> bool:
    return get_origin(hint) is Annotated and get_args(hint)[-1] is CONSTANT


def _items(cls: type[Pallet], hints: Mapping[str, Any]) -> dict[str, Item[Any]]:
    items: dict[str, Item[Any]] = {}
    for attribute, hint in hints.items():
        kind = get_origin(hint)
        if not (isinstance(kind, type) and issubclass(kind, Item)):
            continue
        item: Item[Any] = cls.__dict__.get(attribute) or kind()
        item.define(cls.chain_name, chain_name(attribute), get_args(hint))
        setattr(cls, attribute, item)
        items[attribute] = item
    return items


def _calls(cls: type[Pallet]) -> dict[int, CallDefinition]:
    found: dict[int, CallDefinition] = {}
    for member in vars(cls).values():
        if isinstance(member, PalletCall):
            member.definition.define(cls.chain_name, cls.index)
            _enter(found, member.definition.index, member.definition, cls)
    return dict(sorted(found.items()))


def _by_index(cls: type[Pallet], kind: Any, index_of: Any) -> dict[int, Any]:
    """The classes of this kind in the pallet's module, by wire index."""
    found: dict[int, Any] = {}
    for member in vars(sys.modules[cls.__module__]).values():
        is_ours = isinstance(member, type) and member.__module__ == cls.__module__
        if is_ours and issubclass(member, kind):
            _enter(found, index_of(member), member, cls)
    return dict(sorted(found.items()))


def _enter(found: dict[int, Any], index: int | None, member: Any, cls: type[Pallet]) -> None:
    if index is None:
        raise TypeError(f"{member.__name__} needs `index=`, its wire index in {cls.__name__}")
    if index in found:
        raise TypeError(f"{cls.__name__}: index {index} is taken by {found[index]!r}")
    found[index] = member

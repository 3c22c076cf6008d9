"""The types that only a whole runtime has: what a call or an event of *any* pallet is.

Hints such as `Call`, `Lookup` and `EventRecords` register themselves through it, so a pallet can name them
without knowing the others.
"""

from typing import Protocol

from deepbrain.scale.definitions import TypeId
from deepbrain.scale.registry import TypeRegistry


class OuterTypes(Protocol):
    """Where the outer types of a runtime are to be had."""

    def runtime_call(self) -> TypeId:
        """A call of any pallet."""

    def event_records(self) -> TypeId:
        """The events of a block."""

    def multi_address(self) -> TypeId:
        """How an extrinsic names an account."""

    def unchecked_extrinsic(self) -> TypeId:
        """An extrinsic as it travels."""


class OuterRegistry(TypeRegistry):
    """A registry of one runtime; `outer` is set by whoever knows its pallets."""

    outer: OuterTypes


def outer_types(registry: TypeRegistry) -> OuterTypes:
    """Raises: TypeError: the registry is of no runtime."""
    if not isinstance(registry, OuterRegistry):
        raise TypeError("calls and events of a runtime have a type only within its metadata")
    return registry.outer

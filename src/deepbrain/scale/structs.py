"""The classes that records, tagged unions and enumerations are written with.

class Order(Struct):
    renter: AccountId
    units: U16 = U16(1)

class Status(TaggedUnion):
    "Placed → Running → Ended."

class Placed(Status, index=0):
    "Nothing runs yet."

class Running(Status, index=1):
    since: Seconds
"""

from enum import Enum
from typing import Any, ClassVar, Self

from deepbrain.scale.derive import codec_of
from deepbrain.scale.shape import StructType, rebuild


class Struct(metaclass=StructType):
    """A frozen record. Annotations are its fields, in wire order; its arguments are keywords.

    Values are not checked when it is made (type checkers do that), but when it is encoded.
    `__scale_path__` is its path in the metadata; by default the runtime decides.
    """

    __scale_path__: ClassVar[tuple[str, ...]]

    def encode(self) -> bytes:
        """The SCALE encoding: of a variant alone, without the index of its union."""
        return codec_of(type(self)).encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises: DecodeError: `data` is not exactly one encoded value."""
        return codec_of(cls).decode(data)

    def but(self, **changes: Any) -> Self:
        """A copy with some fields changed. Raises: TypeError: there is no such field."""
        cls = type(self)
        values = tuple(changes.pop(name, getattr(self, name)) for name in cls.__field_names__)
        if changes:
            raise TypeError(f"{cls.__name__} has no field {', '.join(changes)}")
        copy: Self = rebuild(cls, values)
        return copy

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: use `but`")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: use `but`")


class TaggedUnion(Struct):
    """A choice between records. A direct subclass is the union; its subclasses are the variants.

    On the wire a variant is its `index=` and then its fields. `match` tells variants apart.
    """

    __makes_unions__: ClassVar[bool] = True


class Enumeration(Enum):
    """A choice between names. The value of a member is its wire index."""

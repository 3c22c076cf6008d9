"""Names of things: fixed-length byte strings and numbered orders."""

from typing import ClassVar, Self

from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.units import U64


class FixedBytes(bytes):
    """A byte string of exactly `SIZE` bytes. Use a subclass, or make one with `size=`."""

    SIZE: ClassVar[int] = 0

    __slots__ = ()

    def __init_subclass__(cls, size: int = 0, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if size:
            cls.SIZE = size

    def __new__(cls, value: bytes = b"") -> Self:
        """Raises: DecodeError: `value` has another length."""
        if len(value) != cls.SIZE:
            raise DecodeError(f"{cls.__name__} has {cls.SIZE} bytes, not {len(value)}")
        return super().__new__(cls, value)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Parse hex, with or without `0x`. Raises: DecodeError."""
        try:
            return cls(bytes.fromhex(text.removeprefix("0x")))
        except ValueError as error:
            raise DecodeError(f"{cls.__name__} is not hex") from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}(0x{self.hex()})"

    def __str__(self) -> str:
        return f"0x{self.hex()}"


class Hash(FixedBytes, size=32):
    """A 32-byte hash."""

    __slots__ = ()

    # The names by which Polkadot clients recognise these two.
    __scale_path__: ClassVar = ("primitive_types", "H256")


class AccountId(FixedBytes, size=32):
    """An account: a public key, or a hash of one."""

    __slots__ = ()

    __scale_path__: ClassVar = ("sp_core", "crypto", "AccountId32")


class MachineId(FixedBytes, size=32):
    """A machine: its ed25519 transport key. The id is the address that is dialled."""

    __slots__ = ()


class OrderId(U64):
    """A rent order. Ids are never reused."""

    __slots__ = ()


class OffenceId(U64):
    """An offence that was reported. Ids are never reused."""

    __slots__ = ()

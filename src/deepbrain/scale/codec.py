"""What a codec is, its limits, and the marks that shape a type hint."""

import struct
from collections.abc import Callable
from typing import Annotated, Final, Generic, TypeVar

from deepbrain.primitives.errors import DecodeError, DeepBrainError

T = TypeVar("T")

MAX_DEPTH: Final = 64
"""How many options, sequences, maps and unions may lie inside one another in decoded input."""

MAX_LEN: Final = 1 << 24
"""Elements (bytes of a string) in one sequence of a hint that has no `MaxLen`."""

Encode = Callable[[T, bytearray], None]
Decode = Callable[[bytes, int, int], tuple[T, int]]


class EncodeError(DeepBrainError, ValueError):
    """A value does not fit its wire type: a bug of whoever made the value, never a result."""


class _CompactMark:
    """The type of `COMPACT`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "COMPACT"


COMPACT: Final = _CompactMark()
"""Marks an unsigned integer as `Compact<T>`: `Annotated[U32, COMPACT]`, or shorter `Compact[U32]`."""

Compact = Annotated[T, COMPACT]


class MaxLen:
    """Bounds a `bytes`, `str` (in UTF-8 bytes), `tuple[T, ...]` or `dict`, by `Annotated`."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        if not 0 <= limit <= MAX_LEN:
            raise TypeError(f"MaxLen is between 0 and {MAX_LEN}")
        self.limit = limit

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MaxLen) and other.limit == self.limit

    def __hash__(self) -> int:
        return self.limit

    def __repr__(self) -> str:
        return f"MaxLen({self.limit})"


class Codec(Generic[T]):
    """How values of one type hint become bytes and come back.

    `raw_encode` and `raw_decode` are the bare functions codecs call on one another: they let
    `IndexError` and `struct.error` out where input is short. Everybody else uses the methods.
    """

    __slots__ = ("max_encoded_len", "min_encoded_len", "name", "raw_decode", "raw_encode")

    def __init__(
        self,
        name: str,
        encode: Encode[T],
        decode: Decode[T],
        *,
        min_encoded_len: int,
        max_encoded_len: int | None,
    ) -> None:
        self.name = name
        self.raw_encode = encode
        self.raw_decode = decode
        self.min_encoded_len = min_encoded_len
        self.max_encoded_len = max_encoded_len

    def encode(self, value: T) -> bytes:
        """Raises: EncodeError: the value does not fit."""
        out = bytearray()
        try:
            self.raw_encode(value, out)
        except (OverflowError, UnicodeEncodeError, struct.error) as error:
            raise self._unfit(error) from error
        return bytes(out)

    def encode_into(self, value: T, out: bytearray) -> None:
        """Append the encoding to `out`. Raises: EncodeError: the value does not fit."""
        try:
            self.raw_encode(value, out)
        except (OverflowError, UnicodeEncodeError, struct.error) as error:
            raise self._unfit(error) from error

    def decode(self, data: bytes) -> T:
        """The one value `data` is the encoding of. Raises: DecodeError: it is not exactly that."""
        if type(data) is not bytes:
            data = bytes(data)  # slices of a bytearray would be bytearrays
        try:
            value, at = self.raw_decode(data, 0, 0)
        except (IndexError, struct.error) as error:
            raise self._cut_short() from error
        if at != len(data):
            raise DecodeError(f"{len(data) - at} bytes are left over after {self.name}")
        return value

    def decode_at(self, data: bytes, at: int = 0, depth: int = 0) -> tuple[T, int]:
        """The value that starts at `at`, and the place behind it.

        `depth` counts the options, sequences, maps and unions around it. Raises: DecodeError.
        """
        try:
            return self.raw_decode(data, at, depth)
        except (IndexError, struct.error) as error:
            raise self._cut_short() from error

    def _unfit(self, error: Exception) -> EncodeError:
        return EncodeError(f"a value does not fit {self.name}: {error}")

    def _cut_short(self) -> DecodeError:
        return DecodeError(f"the input ends inside {self.name}")

    def __repr__(self) -> str:
        return f"Codec({self.name})"


def too_deep() -> DecodeError:
    """What to raise where `depth` has reached `MAX_DEPTH`."""
    return DecodeError(f"the input nests deeper than {MAX_DEPTH} levels")

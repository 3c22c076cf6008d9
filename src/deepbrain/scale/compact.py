"""Compact integers: one, two, four or up to 67 bytes, always the shortest form."""

from typing import Final

from deepbrain.primitives.errors import DecodeError
from deepbrain.scale.codec import EncodeError

_ONE_BYTE: Final = 1 << 6
_TWO_BYTES: Final = 1 << 14
_FOUR_BYTES: Final = 1 << 30
_CEILING: Final = 1 << 536

_SMALL: Final = tuple(bytes((value << 2,)) for value in range(_ONE_BYTE))


def encode_compact(value: int) -> bytes:
    """Raises: EncodeError: `value` is negative or needs more than 67 bytes."""
    if 0 <= value < _ONE_BYTE:
        return _SMALL[value]
    if value < 0 or value >= _CEILING:
        raise EncodeError("a compact integer is between 0 and 2^536 - 1")
    if value < _TWO_BYTES:
        return (value << 2 | 1).to_bytes(2, "little")
    if value < _FOUR_BYTES:
        return (value << 2 | 2).to_bytes(4, "little")
    size = (value.bit_length() + 7) >> 3
    return bytes(((size - 4) << 2 | 3,)) + value.to_bytes(size, "little")


def decode_compact(data: bytes, at: int) -> tuple[int, int]:
    """The integer at `at` and the place behind it. Raises: DecodeError: short or not canonical."""
    if at >= len(data):
        raise DecodeError("the input ends inside a compact integer")
    first = data[at]
    mode = first & 3
    if mode == 0:
        return first >> 2, at + 1
    if mode == 3:
        return _decode_big(data, at + 1, (first >> 2) + 4)
    end = at + 2 * mode
    if end > len(data):
        raise DecodeError("the input ends inside a compact integer")
    value = int.from_bytes(data[at:end], "little") >> 2
    if value < (_ONE_BYTE if mode == 1 else _TWO_BYTES):
        raise DecodeError("a compact integer is not in its shortest form")
    return value, end


def _decode_big(data: bytes, at: int, size: int) -> tuple[int, int]:
    end = at + size
    if end > len(data):
        raise DecodeError("the input ends inside a compact integer")
    value = int.from_bytes(data[at:end], "little")
    if value < _FOUR_BYTES or not data[end - 1]:
        raise DecodeError("a compact integer is not in its shortest form")
    return value, end


def compact_size(value: int) -> int:
    """How many bytes `encode_compact(value)` has."""
    return len(encode_compact(value))

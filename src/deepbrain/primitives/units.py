"""Integers that cannot leave their range, and the quantities of the network made from them.

Arithmetic between a checked integer and an `int` gives the checked type of the left operand (of the
right one where the left is a bare `int`), or raises `ArithmeticFailure`. There is no division but
`//`, and no float anywhere.

Cost: a checked operation is about 0.3 µs against 0.05 µs for a bare `int`; inner loops of codecs use
bare integers and construct the type once.
"""

from typing import ClassVar, Final, NoReturn, Self, SupportsIndex

from deepbrain.primitives.errors import ArithmeticFailure, ArithmeticKind

PLANCK: Final = 10**15
"""Planck per DBC: the token has 15 decimals."""

MICRO_USD: Final = 10**6
"""µUSD per US dollar."""


_new: Final = int.__new__
_add: Final = int.__add__
_sub: Final = int.__sub__
_mul: Final = int.__mul__


def _refuse(number: int) -> NoReturn:
    """Raises: ArithmeticFailure: always; `number` is out of range."""
    raise ArithmeticFailure(ArithmeticKind.UNDERFLOW if number < 0 else ArithmeticKind.OVERFLOW)


class Unsigned(int):
    """An unsigned integer of `BITS` bits. Use one of its subclasses."""

    BITS: ClassVar[int] = 0
    MAX: ClassVar[int] = 0

    __slots__ = ()

    def __init_subclass__(cls, bits: int = 0, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if bits:
            cls.BITS = bits
            cls.MAX = (1 << bits) - 1

    def __new__(cls, value: SupportsIndex = 0) -> Self:
        number = _new(cls, value)
        return number if 0 <= number <= cls.MAX else _refuse(number)

    # Written out, not by way of `__new__`: these run a dozen times an extrinsic.

    def __add__(self, other: int, /) -> Self:
        number = _add(self, other)
        return _new(type(self), number) if 0 <= number <= self.MAX else _refuse(number)

    __radd__ = __add__

    def __sub__(self, other: int, /) -> Self:
        number = _sub(self, other)
        return _new(type(self), number) if 0 <= number <= self.MAX else _refuse(number)

    def __rsub__(self, other: int, /) -> Self:
        number = _sub(other, self)
        return _new(type(self), number) if 0 <= number <= self.MAX else _refuse(number)

    def __mul__(self, other: int, /) -> Self:
        number = _mul(self, other)
        return _new(type(self), number) if 0 <= number <= self.MAX else _refuse(number)

    __rmul__ = __mul__

    def __floordiv__(self, other: int, /) -> Self:
        if not other:
            raise ArithmeticFailure(ArithmeticKind.DIVISION_BY_ZERO)
        return type(self)(int.__floordiv__(self, other))

    def __mod__(self, other: int, /) -> Self:
        if not other:
            raise ArithmeticFailure(ArithmeticKind.DIVISION_BY_ZERO)
        return type(self)(int.__mod__(self, other))

    def saturating_sub(self, other: int) -> Self:
        """`self - other`, or zero where that would be negative."""
        return type(self)(max(0, int.__sub__(self, other)))


class U8(Unsigned, bits=8):
    __slots__ = ()


class U16(Unsigned, bits=16):
    __slots__ = ()


class U32(Unsigned, bits=32):
    __slots__ = ()


class U64(Unsigned, bits=64):
    __slots__ = ()


class U128(Unsigned, bits=128):
    __slots__ = ()


class Balance(U128):
    """An amount of DBC, always in planck."""

    __slots__ = ()


class BlockNumber(U32):
    """Position of a block in the chain; genesis is 0."""

    __slots__ = ()


class Nonce(U32):
    """How many extrinsics an account has had included."""

    __slots__ = ()


class MicroUsd(U64):
    """An amount of US dollars × 10⁶."""

    __slots__ = ()


class Moment(U64):
    """Calendar time: milliseconds since the Unix epoch, as the block says."""

    __slots__ = ()


class Seconds(U64):
    """Service time or a span of it, in seconds. It stands still while the chain is halted."""

    __slots__ = ()


class Permill(U32):
    """Parts per million; at most 1,000,000."""

    __slots__ = ()

    ONE: ClassVar[int] = 1_000_000
    MAX: ClassVar[int] = ONE

    def of(self, amount: Balance) -> Balance:
        """This share of `amount`, rounded down to the planck."""
        return Balance(int(amount) * int(self) // self.ONE)

"""Amounts and spans as people write them. Money is never a float: digits in, digits out."""

import re
from typing import Final

import click

from deepbrain.primitives.units import MICRO_USD, PLANCK, Balance, MicroUsd, Seconds

_SPANS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_SIZE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([KkMmGgTt])(?:i?B)?")
_DECIMAL: Final = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,15}))?")


def parse_span(text: str) -> Seconds:
    """`90`, `90s`, `10m`, `1h30m`, `2d`. Raises: ValueError."""
    plain = text.strip().lower()
    if plain.isascii() and plain.isdigit() and len(plain) <= 9:
        return Seconds(int(plain))
    parts = _SPAN.findall(plain)
    if not parts or "".join(number + unit for number, unit in parts) != plain:
        raise ValueError(f"{text!r} is no span of time; write 90s, 10m, 1h30m or 2d")
    return Seconds(sum(int(number) * _SPANS[unit] for number, unit in parts))


def span(seconds: int) -> str:
    """`3661` as `1h01m01s`: the two or three largest parts, nothing rounded away below an hour."""
    days, rest = divmod(int(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m" + (f"{rest:02}s" if rest else "")
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _scaled(text: str, unit: int, what: str) -> int:
    plain = text.strip().replace(",", "").removeprefix("$")
    found = _DECIMAL.fullmatch(plain)
    if found is None:
        raise ValueError(f"{text!r} is no amount of {what}; write 12 or 0.05")
    whole, part = found[1], found[2] or ""
    digits = len(str(unit)) - 1
    if len(part.rstrip("0")) > digits:
        raise ValueError(f"{text!r} is finer than {what} can be divided: {digits} decimals")
    return int(whole) * unit + int(part[:digits].ljust(digits, "0") or "0")


def parse_dbc(text: str) -> Balance:
    """`12.5` DBC in planck. Raises: ValueError."""
    return Balance(_scaled(text, PLANCK, "DBC"))


def parse_usd(text: str) -> MicroUsd:
    """`0.02` dollars in µUSD. Raises: ValueError."""
    return MicroUsd(_scaled(text, MICRO_USD, "dollars"))


def _decimal(amount: int, unit: int, least: int) -> str:
    whole, part = divmod(int(amount), unit)
    digits = str(part).rjust(len(str(unit)) - 1, "0").rstrip("0").ljust(least, "0")
    return f"{whole:,}.{digits}" if digits else f"{whole:,}"


def dbc(amount: int) -> str:
    """Planck as DBC, to the last unit."""
    return f"{_decimal(amount, PLANCK, 2)} DBC"


def about(amount: int) -> str:
    """Planck as DBC with four decimals at most (more where it is small): for tables."""
    whole, part = divmod(int(amount), PLANCK)
    if whole or not part:
        return f"{whole:,}.{str(part).rjust(15, '0')[:4].rstrip('0').ljust(2, '0')}"
    digits = str(part).rjust(15, "0")
    first = len(digits) - len(digits.lstrip("0"))
    return f"0.{digits[: max(4, first + 3)].rstrip('0').ljust(2, '0')}"


def usd(amount: int) -> str:
    """µUSD as dollars, to the last unit."""
    return f"${_decimal(amount, MICRO_USD, 2)}"


def size(count: int) -> str:
    """Bytes with a binary unit, to one decimal."""
    if count < 1024:
        return f"{count} B"
    tenths, unit = count * 10 // 1024, 0
    while tenths >= 10_240:
        tenths, unit = tenths // 1024, unit + 1
    return f"{tenths // 10}.{tenths % 10} {('KiB', 'MiB', 'GiB', 'TiB', 'PiB')[min(unit, 4)]}"


def parse_size(text: str) -> int:
    """`200G`, `1.5T`, `512M`: binary units, whether or not `iB` follows. Raises: ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; write 512M, 200G or 1.5T")
    unit: int = 1024 ** (1 + "KMGT".index(found[2].upper()))
    return _scaled(found[1], 1000, "sizes") * unit // 1000


class Size(click.ParamType[int]):
    """Bytes."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Span(click.ParamType[Seconds]):
    """A span of time that is not zero."""

    name = "span"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Seconds:
        if isinstance(value, Seconds):
            return value
        try:
            seconds = parse_span(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not seconds:
            self.fail("the span is zero", param, ctx)
        return seconds


class Dbc(click.ParamType[Balance]):
    name = "dbc"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Balance:
        if isinstance(value, Balance):
            return value
        try:
            return parse_dbc(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Usd(click.ParamType[MicroUsd]):
    name = "usd"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> MicroUsd:
        if isinstance(value, MicroUsd):
            return value
        try:
            return parse_usd(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SPAN: Final = Span()
DBC: Final = Dbc()
USD: Final = Usd()
SIZE: Final = Size()

"""JSON as it travels: parsed strictly and within bounds, written compactly.

Only what the protocol uses is read: objects without duplicate names, arrays, strings, integers of
at most 40 digits, booleans and null. A number with a fraction or an exponent is refused, and so are
`NaN` and `Infinity`, which Python's parser would take.
"""

import json
from typing import Final, NoReturn, TypeAlias, Union

from deepbrain.primitives.errors import DecodeError

Json: TypeAlias = Union[bool, int, str, list["Json"], dict[str, "Json"], None]  # noqa: UP007  (recursive)

MAX_DIGITS: Final = 40
"""A u128 has 39 digits."""


class RawJson(str):
    """Text that already is JSON (a header or metadata kept encoded); written as it stands."""

    __slots__ = ()


def parse(text: str | bytes) -> Json:
    """Read one JSON document. Raises: DecodeError."""
    try:
        value: Json = _DECODER.decode(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise DecodeError("the request is nested too deeply") from None
    except ValueError as error:
        raise DecodeError(f"the request is not JSON: {error}") from None
    return value


def write(value: Json) -> str:
    """Compact JSON text, ASCII only."""
    return value if isinstance(value, RawJson) else _ENCODER.encode(value)


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    return int(text)


def _refused(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:MAX_DIGITS]} is not an integer")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return value


_DECODER: Final = json.JSONDecoder(
    parse_int=_integer, parse_float=_refused, parse_constant=_refused, object_pairs_hook=_object
)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False)

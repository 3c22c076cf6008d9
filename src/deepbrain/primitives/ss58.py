"""Addresses as people see them: base58 of network prefix, account and checksum.

Source: the SS58 address format of Substrate.
"""

from hashlib import blake2b
from typing import Final

from deepbrain.primitives.errors import InvalidKey
from deepbrain.primitives.ids import AccountId

PREFIX: Final = 42
"""The prefix of this network: addresses start with `5`."""

MAX_PREFIX: Final = (1 << 14) - 1

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES: Final = {letter: value for value, letter in enumerate(_ALPHABET)}
_CHECKSUM_BYTES: Final = 2
_MAX_LETTERS: Final = 50  # base58 of the longest address we know: 2 + 32 + 2 bytes
_RESERVED: Final = (46, 47)


def encode(account: AccountId, prefix: int = PREFIX) -> str:
    """The address of `account`. Raises: InvalidKey: no network can have this prefix."""
    body = _prefix_bytes(prefix) + account
    return _to_base58(body + _checksum(body))


def decode(text: str, prefix: int | None = PREFIX) -> AccountId:
    """The account of an address; `prefix=None` takes one of any network.

    Raises: InvalidKey: the address is mistyped, or belongs to another network.
    """
    account, found = decode_any(text)
    if prefix is not None and found != prefix:
        raise InvalidKey(
            f"the address {text} is written for network {found}; "
            f"use the form for network {prefix}, which starts differently"
        )
    return account


def decode_any(text: str) -> tuple[AccountId, int]:
    """The account and the network prefix of an address. Raises: InvalidKey: it is mistyped."""
    data = _from_base58(text)
    size = 2 if data and data[0] & 0x40 else 1
    if len(data) != size + AccountId.SIZE + _CHECKSUM_BYTES:
        raise InvalidKey("an address has about 48 letters: check for a missing or extra one")
    body, check = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if _checksum(body) != check:
        raise InvalidKey("the address is mistyped: its checksum does not match")
    return AccountId(body[size:]), _read_prefix(body, size)


def _prefix_bytes(prefix: int) -> bytes:
    if not 0 <= prefix <= MAX_PREFIX or prefix in _RESERVED:
        raise InvalidKey(f"no network has the address prefix {prefix}")
    if prefix < 64:
        return bytes((prefix,))
    return bytes(((prefix & 0xFC) >> 2 | 0x40, prefix >> 8 | (prefix & 3) << 6))


def _read_prefix(body: bytes, size: int) -> int:
    prefix = body[0]
    if size == 2:
        prefix = (body[0] & 0x3F) << 2 | body[1] >> 6 | (body[1] & 0x3F) << 8
    # Also refuses a small prefix in its two-byte form: an address has one spelling.
    if _prefix_bytes(prefix) != body[:size]:
        raise InvalidKey("the address has an impossible network prefix")
    return prefix


def _checksum(body: bytes) -> bytes:
    return blake2b(b"SS58PRE" + body, digest_size=64).digest()[:_CHECKSUM_BYTES]


def _to_base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    letters = []
    while number:
        number, value = divmod(number, 58)
        letters.append(_ALPHABET[value])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return _ALPHABET[0] * zeros + "".join(reversed(letters))


def _from_base58(text: str) -> bytes:
    if len(text) > _MAX_LETTERS:
        raise InvalidKey("an address has about 48 letters: this is much longer")
    number = 0
    for letter in text:
        value = _VALUES.get(letter)
        if value is None:
            raise InvalidKey(f"an address never contains {letter!r}")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip(_ALPHABET[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) >> 3, "big")

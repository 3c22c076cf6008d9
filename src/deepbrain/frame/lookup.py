"""Accounts as wallets name them in calls: a `MultiAddress`, of which only account ids are understood.

def transfer_keep_alive(self, who: Signed, dest: Lookup, …)     `dest` is an `AccountId`
"""

from typing import Annotated, Final

from deepbrain.frame.outer import outer_types
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import AccountId
from deepbrain.scale import Codec
from deepbrain.scale.definitions import TypeId
from deepbrain.scale.registry import TypeRegistry

_ID: Final = 0
_LENGTH: Final = 1 + AccountId.SIZE


class _LookupMark:
    """The wire form of `Lookup`."""

    def __scale_codec__(self) -> Codec[AccountId]:
        return Codec("Lookup", _write, _read, min_encoded_len=_LENGTH, max_encoded_len=_LENGTH)

    def __scale_register__(self, registry: TypeRegistry) -> TypeId:
        return outer_types(registry).multi_address()


LOOKUP: Final = _LookupMark()

Lookup = Annotated[AccountId, LOOKUP]


def _write(value: AccountId, out: bytearray) -> None:
    out.append(_ID)
    out += value


def _read(data: bytes, at: int, depth: int) -> tuple[AccountId, int]:
    end = at + _LENGTH
    if end > len(data):
        raise DecodeError("the input ends inside an address")
    if data[at] != _ID:
        raise DecodeError("an account is named by something other than an account id")
    return AccountId(data[at + 1 : end]), end

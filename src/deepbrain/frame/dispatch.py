"""From a call to its effect, or to the reason why it has none.

A call runs on a layer of the journal of its own: a declared failure undoes all of it. Whatever else
is raised is a bug, and passes through: the proposer drops such an extrinsic, and a node that meets one
in a block stops.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from deepbrain.frame.calls import Call
from deepbrain.frame.errors import BadOrigin, PalletError, TokenError, TokenFailure
from deepbrain.frame.journal import Journal
from deepbrain.frame.origin import Origin, check_origin
from deepbrain.frame.pallet import Pallet
from deepbrain.frame.wire import TupleUnion
from deepbrain.primitives.errors import ArithmeticFailure
from deepbrain.primitives.ids import FixedBytes
from deepbrain.primitives.units import U8
from deepbrain.scale import Enumeration, Struct


class ErrorIndex(FixedBytes, size=4):
    """The index of a pallet's error, and three zeros that Substrate has room for."""

    __slots__ = ()


class ModuleError(Struct):
    """An error that a pallet declares."""

    __scale_path__ = ("sp_runtime", "ModuleError")

    index: U8
    error: ErrorIndex


class ArithmeticReason(Enumeration):
    """How an integer left its range."""

    __scale_path__ = ("sp_arithmetic", "ArithmeticError")

    UNDERFLOW = 0
    OVERFLOW = 1
    DIVISION_BY_ZERO = 2


class DispatchError(TupleUnion):
    """Why a call failed, as Substrate writes it."""

    __scale_path__ = ("sp_runtime", "DispatchError")


class Other(DispatchError, index=0): ...


class CannotLookup(DispatchError, index=1): ...


class BadOriginError(DispatchError, index=2):
    __wire_name__ = "BadOrigin"


class Module(DispatchError, index=3):
    value: ModuleError


class ConsumerRemaining(DispatchError, index=4): ...


class NoProviders(DispatchError, index=5): ...


class TooManyConsumers(DispatchError, index=6): ...


class Token(DispatchError, index=7):
    value: TokenError


class Arithmetic(DispatchError, index=8):
    value: ArithmeticReason


Failure: TypeAlias = PalletError | TokenFailure | ArithmeticFailure | BadOrigin
"""What a call may raise as a result."""

FAILURES = (PalletError, TokenFailure, ArithmeticFailure, BadOrigin)


def dispatch(
    pallets: Mapping[int, Pallet], call: Call, origin: Origin, journal: Journal
) -> Failure | None:
    """Make the call; gives the reason if it failed, and then nothing else has happened."""
    definition = call.definition
    mark = journal.mark()
    try:
        check_origin(definition.origin, origin)
        definition.function(pallets[definition.pallet_index], origin, *call.arguments)
    except FAILURES as failure:
        journal.rollback(mark)
        return failure
    return None


def wire_error(failure: Failure, errors: Mapping[type[PalletError], int]) -> DispatchError:
    """A failure as wallets read it; `errors` tells the pallet of each declared error."""
    match failure:
        case PalletError():
            kind = type(failure)
            index = ErrorIndex(bytes((kind.index, 0, 0, 0)))
            return Module(value=ModuleError(index=U8(errors[kind]), error=index))
        case TokenFailure(kind=token):
            return Token(value=token)
        case ArithmeticFailure(kind=arithmetic):
            return Arithmetic(value=ArithmeticReason(arithmetic.value))
        case BadOrigin():
            return BadOriginError()


def read_error(
    error: DispatchError, errors: Mapping[int, Mapping[int, type[PalletError]]]
) -> type[PalletError] | DispatchError:
    """The declared error behind `error`, or `error` itself where it is none, or unknown here."""
    if not isinstance(error, Module):
        return error
    found: Any = errors.get(error.value.index, {}).get(error.value.error[0])
    return found or error

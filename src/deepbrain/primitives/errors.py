"""Everything that can go wrong on purpose.

    DeepBrainError
    ├── DecodeError            bytes from outside that are not what they claim to be
    ├── EncodeError            a value that does not fit its wire type     (scale)
    ├── ArithmeticFailure      an integer left its range (a result on the chain, never a crash)
    ├── InvalidKey             a phrase, key, address or signature that is malformed
    ├── PalletError            a declared reason why a call failed         (frame.pallet)
    ├── InvalidTransaction     why an extrinsic may not enter a block      (runtime.checks)
    ├── StoreError             the disk or the database said no            (state)
    ├── RpcError               the node answered with an error             (client)
    ├── NetError               the other side of a stream misbehaved       (net)
    ├── SandboxError           a tenant could not be made, run or removed  (sandbox)
    └── UserError              one sentence for a person: what is wrong and what to do (cli)

Rooms above derive their own classes from these; nothing else is ever turned into a result.
"""

from enum import Enum


class DeepBrainError(Exception):
    """Base of every error that is expected during normal operation."""


class DecodeError(DeepBrainError):
    """Bytes from outside are malformed, too long, too deep, or not in their only valid form."""


class ArithmeticKind(Enum):
    """Substrate's `sp_arithmetic::ArithmeticError`, by its wire index."""

    UNDERFLOW = 0
    OVERFLOW = 1
    DIVISION_BY_ZERO = 2


class ArithmeticFailure(DeepBrainError):
    """A checked integer left its range. The dispatcher turns it into `DispatchError::Arithmetic`."""

    def __init__(self, kind: ArithmeticKind) -> None:
        # deterministic: a text for people
        super().__init__(kind.name.lower().replace("_", " "))
        self.kind = kind


class InvalidKey(DeepBrainError):
    """A phrase, seed, key, address, keystore or signature is malformed or does not match."""

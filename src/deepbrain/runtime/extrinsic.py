"""Extrinsics, version 4: a call, who signs for it, and for how long.

    Compact(length) ‖ 84 ‖ 00 account ‖ scheme signature ‖ era ‖ Compact nonce ‖ Compact tip ‖ mode ‖ call
    Compact(length) ‖ 04 ‖ call                                        made by the block itself

What is signed: call ‖ era, nonce, tip, mode ‖ spec version ‖ transaction version ‖ genesis hash ‖ hash
of the era's birth ‖ 00; its BLAKE2b-256 where that is longer than 256 bytes.
"""

from typing import Final, NamedTuple

from deepbrain.frame.calls import Call, CallTable
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.keys import Keypair, RecoverableSignature, Scheme, Signature
from deepbrain.primitives.units import Balance, Nonce
from deepbrain.runtime.era import IMMORTAL, Era
from deepbrain.scale import decode_compact, encode_compact

MAX_EXTRINSIC: Final = 128 * 1024
"""Bytes."""

_BARE: Final = 0x04
_SIGNED: Final = 0x84
_HASHED_ABOVE: Final = 256
_NO_METADATA_HASH: Final = b"\0"
_SIGNATURES: Final[dict[int, type[Signature | RecoverableSignature]]] = {
    Scheme.ED25519.value: Signature,
    Scheme.SR25519.value: Signature,
    Scheme.ECDSA.value: RecoverableSignature,
}


class Signed(NamedTuple):
    """Who signs, and what the signature covers beside the call."""

    signer: AccountId
    scheme: Scheme
    signature: Signature | RecoverableSignature
    era: Era
    nonce: Nonce
    tip: Balance
    extra: bytes
    """Era, nonce, tip and mode as they were encoded."""


class Extrinsic(NamedTuple):
    """A decoded extrinsic. `raw` is all of it, its length in front; `hash` is that of `raw`."""

    raw: bytes
    hash: Hash
    call: Call
    call_at: int
    """Where in `raw` the call starts."""
    signed: Signed | None


class Signing(NamedTuple):
    """What a signature binds an extrinsic to."""

    spec_version: int
    transaction_version: int
    genesis: Hash

    def payload(self, call: bytes, extra: bytes, birth: Hash) -> bytes:
        """The bytes to sign; `birth` is the hash of the era's birth, or of block 0."""
        payload = b"".join(
            (
                call,
                extra,
                self.spec_version.to_bytes(4, "little"),
                self.transaction_version.to_bytes(4, "little"),
                self.genesis,
                birth,
                _NO_METADATA_HASH,
            )
        )
        return payload if len(payload) <= _HASHED_ABOVE else blake2_256(payload)


def sign(
    call: Call,
    keypair: Keypair,
    signing: Signing,
    *,
    nonce: int,
    tip: int = 0,
    era: Era = IMMORTAL,
    birth: Hash | None = None,
) -> bytes:
    """A signed extrinsic. A mortal `era` needs `birth`, the hash of the block it was born in."""
    if birth is None:
        if not era.is_immortal:
            raise TypeError("a mortal extrinsic needs the hash of its birth block")
        birth = signing.genesis
    encoded, extra = call.encode(), extra_of(era, nonce, tip)
    signature = keypair.sign(signing.payload(encoded, extra, birth))
    return assemble(keypair.public, keypair.scheme, signature, extra, encoded)


def extra_of(era: Era, nonce: int, tip: int) -> bytes:
    """What stands between signature and call."""
    return era.encode() + encode_compact(nonce) + encode_compact(tip) + b"\0"


def assemble(
    signer: AccountId, scheme: Scheme, signature: bytes, extra: bytes, call: bytes
) -> bytes:
    """A signed extrinsic from its parts."""
    body = b"".join((bytes((_SIGNED, 0)), signer, bytes((scheme.value,)), signature, extra, call))
    return encode_compact(len(body)) + body


def inherent(call: Call) -> bytes:
    """An extrinsic that the block itself makes."""
    body = bytes((_BARE,)) + call.encode()
    return encode_compact(len(body)) + body


def decode_extrinsic(raw: bytes, calls: CallTable) -> Extrinsic:
    """Raises: DecodeError: `raw` is not exactly one extrinsic of this runtime, or too long."""
    if len(raw) > MAX_EXTRINSIC:
        raise DecodeError(f"an extrinsic has at most {MAX_EXTRINSIC} bytes")
    length, at = decode_compact(raw, 0)
    if length != len(raw) - at or not length:
        raise DecodeError("the length of an extrinsic is not what it says")
    signed, at = _signed_at(raw, at + 1, raw[at])
    call, end = calls.decode_at(raw, at)
    if end != len(raw):
        raise DecodeError(f"{len(raw) - end} bytes are left over after the call")
    return Extrinsic(raw, blake2_256(raw), call, at, signed)


def _signed_at(raw: bytes, at: int, version: int) -> tuple[Signed | None, int]:
    """Address, signature and extensions of a signed extrinsic, and where its call starts."""
    if version == _BARE:
        return None, at
    if version != _SIGNED:
        raise DecodeError("only version 4 of extrinsics is understood")
    signature_at = at + 34
    if signature_at > len(raw):
        raise DecodeError("the input ends inside a signature")
    if raw[at]:
        raise DecodeError("the signer is named by something other than an account id")
    kind = _SIGNATURES.get(raw[at + 33])
    if kind is None:
        raise DecodeError("the signature is neither ed25519, sr25519 nor ecdsa")
    extra_at = signature_at + kind.SIZE
    if extra_at > len(raw):
        raise DecodeError("the input ends inside a signature")
    era, place = Era.decode_at(raw, extra_at)
    nonce, place = decode_compact(raw, place)
    tip, place = decode_compact(raw, place)
    if nonce > Nonce.MAX or tip > Balance.MAX:
        raise DecodeError("a nonce or tip is out of range")
    if raw[place : place + 1] != b"\0":
        raise DecodeError("a metadata hash cannot be checked here: sign without one")
    signed = Signed(
        AccountId(raw[at + 1 : at + 33]),
        Scheme(raw[at + 33]),
        kind(raw[signature_at:extra_at]),
        era,
        Nonce(nonce),
        Balance(tip),
        raw[extra_at : place + 1],
    )
    return signed, place + 1

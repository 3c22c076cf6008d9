"""The frames between a relay and the endpoints that use it: iroh's relay protocol, version 2.

Each WebSocket message is one frame: a type, then its fields. The client proves its key first:

    Challenge(16 bytes)            → ← Auth(key, signature)          → Confirms, or Denies(reason)
    Send(to, datagrams)            ← → Received(from, datagrams)     → Gone(key)
    Ping(8 bytes)                  ↔   Pong(the same 8 bytes)        → Status(1 byte)

What lies in the datagrams is QUIC, encrypted end to end; a relay reads the destination and no more.
Source: `iroh-relay/src/protos` of iroh (handshake.rs, relay.rs, common.rs).
"""

from typing import Final

import blake3

from deepbrain.net.transport import TransportKey
from deepbrain.primitives.keys import Scheme, Signature, verify

SUBPROTOCOL: Final = "iroh-relay-v2"
PATH: Final = "/relay"

CHALLENGE: Final = 0
AUTH: Final = 1
CONFIRMS: Final = 2
DENIES: Final = 3
SEND: Final = 4
"""To whom, ECN, one datagram."""
SEND_BATCH: Final = 5
"""To whom, ECN, the size of a datagram, datagrams."""
RECEIVED: Final = 6
RECEIVED_BATCH: Final = 7
GONE: Final = 8
PING: Final = 9
PONG: Final = 10
STATUS: Final = 13

SAME_KEY: Final = 1
"""Status: another endpoint connected with the same key; this connection hears no more."""
RATE_LIMITED: Final = 2

KEY: Final = TransportKey.SIZE
CHALLENGE_BYTES: Final = 16
PING_BYTES: Final = 8
MAX_FRAME: Final = 1 + (1 << 16)
"""Bytes of one frame, its type included."""

_PURPOSE: Final = "iroh-relay handshake v1 challenge signature"
_AUTH_BYTES: Final = 1 + KEY + 1 + Signature.SIZE
_SHORTEST: Final = {SEND: 1 + KEY + 1 + 1, SEND_BATCH: 1 + KEY + 1 + 2 + 1}
"""A datagram of no bytes is none."""


def challenge(secret: bytes) -> bytes:
    return bytes((CHALLENGE,)) + secret


def confirms() -> bytes:
    return bytes((CONFIRMS,))


def denies(reason: str) -> bytes:
    """`reason` has at most 127 bytes."""
    text = reason.encode()[:127]
    return bytes((DENIES, len(text))) + text


def proven_key(frame: bytes, secret: bytes) -> TransportKey | None:
    """Whose Auth frame this is, in answer to the challenge `secret`; None: it proves nothing."""
    if len(frame) != _AUTH_BYTES or frame[0] != AUTH or frame[1 + KEY] != Signature.SIZE:
        return None
    key, signature = frame[1 : 1 + KEY], frame[2 + KEY :]
    # A hash in place of the challenge itself: no relay gets a signature of bytes of its choice.
    message = blake3.blake3(secret, derive_key_context=_PURPOSE).digest()
    return TransportKey(key) if verify(Scheme.ED25519, key, signature, message) else None


def destination(frame: bytes) -> bytes | None:
    """To whom a Send or SendBatch goes; None: it is none, or too short for one."""
    shortest = _SHORTEST.get(frame[0])
    return None if shortest is None or len(frame) < shortest else frame[1 : 1 + KEY]


def received(sent: bytes, sender: bytes) -> bytes:
    """What the destination gets of a Send or SendBatch."""
    return b"".join((bytes((sent[0] + RECEIVED - SEND,)), sender, sent[1 + KEY :]))


def gone(key: bytes) -> bytes:
    return bytes((GONE,)) + key


def ping(payload: bytes) -> bytes:
    return bytes((PING,)) + payload


def pong(payload: bytes) -> bytes:
    return bytes((PONG,)) + payload


def status(code: int) -> bytes:
    return bytes((STATUS, code))

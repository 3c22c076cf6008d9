"""How much of a relay each may use."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

_KIB: Final = 1 << 10
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


class Standing(Enum):
    """Who somebody is to the chain this relay's node follows."""

    STRANGER = "stranger"
    """Nobody: a key that any process can make."""
    LISTED = "listed"
    """A bonded machine without an order."""
    RENTING = "renting"
    """A machine with an order, or the renter of one, by its access proof."""
    OWN = "own"
    """The relay's own rendezvous."""


@dataclass(frozen=True, slots=True)
class Rate:
    """An allowance for the bytes that one sends."""

    per_second: int
    burst: int
    per_day: int
    """Beyond it, `TRICKLE` a second is left: enough to say goodbye."""


TRICKLE: Final = 8 * _KIB
DAY_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """Bounds of one relay. Times in seconds."""

    connections: int = 4096
    per_address: int = 256
    """Connections of one address: many machines may sit behind one router."""
    unproven: int = 256
    """Connections whose key is not proven yet, in all."""
    unproven_per_address: int = 32
    per_key: int = 2
    """A client whose network changed may be back before its old connection is known to be dead."""
    handshake_seconds: float = 5.0
    ping_seconds: float = 15.0
    silence_seconds: float = 50.0
    queue_bytes: int = 1 * _MIB
    """What waits for a reader; datagrams above it are dropped, as routers do."""
    stalled_seconds: float = 15.0
    """A reader that takes nothing for so long is cut."""
    rates: dict[Standing, Rate] = field(
        default_factory=lambda: {
            Standing.STRANGER: Rate(64 * _KIB, 512 * _KIB, 32 * _MIB),
            Standing.LISTED: Rate(256 * _KIB, 1 * _MIB, 512 * _MIB),
            Standing.RENTING: Rate(32 * _MIB, 8 * _MIB, 256 * _GIB),
            Standing.OWN: Rate(32 * _MIB, 8 * _MIB, 1024 * _GIB),
        }
    )
    strangers_of_address: Rate = Rate(256 * _KIB, 2 * _MIB, 256 * _MIB)
    """All strangers of one address together: keys cost nothing."""
    remembered: int = 16_384
    """Keys and addresses whose use is remembered; the least recent is forgotten."""

"""What can go wrong between two machines.

NetError
├── Unreachable        nobody with that key answered at any of the addresses in time
├── ConnectionLost     the connection ended, by either side or by silence
│   └── ConnectionClosed   the other side closed it because it was done
├── StreamReset        the other side gave up on this stream
├── StreamEnded        the stream ended in the middle of something
├── MalformedMessage   a frame is too long, or is not the message it should be
└── Refused            the other side understood, and said no in one sentence

Every text is one sentence that may be shown to a person.
"""

from enum import Enum

from deepbrain.primitives.errors import DeepBrainError


class NetError(DeepBrainError):
    """The network or the other side of a stream let us down."""


class Unreachable(NetError):
    """Nobody with that key answered at any of the addresses in time."""


class ConnectionLost(NetError):
    """The connection ended."""


class ConnectionClosed(ConnectionLost):
    """The other side closed the connection because it was done with it."""


class StreamReset(NetError):
    """The other side gave up on this stream, or stopped reading it."""


class StreamEnded(NetError):
    """The stream ended in the middle of something."""


class MalformedMessage(NetError):
    """A frame is too long, or is not the message it should be."""


class RefusalCode(Enum):
    """Why a request was refused, by its wire index. Append only."""

    MALFORMED = 0
    """The request is not one, or breaks a bound."""
    DENIED = 1
    """The access proof does not hold here, or its scopes do not cover the request."""
    UNKNOWN_ORDER = 2
    """The order is not (or no longer, or not yet) on this machine."""
    LIMIT = 3
    """A bound per order or per machine is reached; it passes."""
    NOT_NOW = 4
    """The order's stage does not allow it."""
    MISMATCH = 5
    """What was handed over does not match its hash."""
    FAILED = 6
    """The machine tried and could not."""


class Refused(NetError):
    """The other side understood, and said no. The text is its sentence."""

    def __init__(self, code: RefusalCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code

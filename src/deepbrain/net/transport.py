"""What the rest of the product sees of the network: endpoints, connections, streams.

Implementations: `endpoint.IrohEndpoint` (QUIC, both ends proven by their keys) and
`fake.FakeEndpoint` (in memory). One conformance suite runs on both.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from deepbrain.net.stream import Stream
from deepbrain.primitives.ids import FixedBytes

ALPN: Final = b"dbc/1"
"""The protocol both ends must name in the handshake."""

DIAL_SECONDS: Final = 5.0
"""How long a dial may take before the machine counts as unreachable."""

CLOSED_CLEANLY: Final = 0
CLOSED_REFUSED: Final = 1
CLOSED_BROKEN: Final = 2
"""Codes of `Connection.close`."""


class TransportKey(FixedBytes, size=32):
    """The ed25519 public key at one end of a connection: a `MachineId`, or a renter's session."""

    __slots__ = ()


class Connection(Protocol):
    """An encrypted connection; `remote` is proven by the handshake."""

    @property
    def remote(self) -> TransportKey: ...

    @property
    def remote_address(self) -> str:
        """Where the packets come from, for logs; empty when unknown."""
        ...

    async def open(self) -> Stream:
        """A new stream. Waits while the other side allows no more. Raises: ConnectionLost."""
        ...

    async def accept(self) -> Stream:
        """The next stream the other side opened. Raises: ConnectionLost."""
        ...

    def allow_streams(self, count: int) -> None:
        """How many streams the other side may have open at once. Cannot take back what is given."""
        ...

    def close(self, code: int = CLOSED_CLEANLY, reason: str = "") -> None:
        """Close at once: what is still under way is lost. Idempotent."""
        ...

    async def wait_closed(self) -> str:
        """Why it ended, once it did."""
        ...


class Incoming(Protocol):
    """Somebody knocks; nothing is spent on them yet."""

    @property
    def remote_address(self) -> str: ...

    async def complete(self, timeout: float) -> Connection:
        """Do the handshake. Raises: Unreachable: not done within `timeout` seconds, or broken."""
        ...

    async def refuse(self) -> None: ...


class Endpoint(Protocol):
    """One socket pair and one key. At most one endpoint per key may live at a time."""

    @property
    def key(self) -> TransportKey: ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound sockets as `ip:port`, unspecified ones included."""
        ...

    async def dial(
        self, peer: bytes, addresses: Sequence[str], timeout: float = DIAL_SECONDS
    ) -> Connection:
        """Connect to whoever holds the key `peer` at one of `addresses` (`ip:port`).

        Raises: Unreachable: nobody there, another key there, or not within `timeout` seconds.
        """
        ...

    async def accept(self) -> Incoming | None:
        """The next one who knocks; None when the endpoint is closed."""
        ...

    async def close(self) -> None:
        """Close every connection and the sockets. Idempotent."""
        ...

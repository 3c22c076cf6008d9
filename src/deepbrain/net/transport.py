"""What the rest of the product sees of the network: endpoints, connections, streams.

Implementations: `endpoint.IrohEndpoint` (QUIC, both ends proven by their keys) and
`fake.FakeEndpoint` (in memory). One conformance suite runs on both.
"""

from collections.abc import Iterable, Sequence
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


def is_relay(address: str) -> bool:
    """Whether an address is a relay's URL."""
    return address.startswith(("http://", "https://"))


def host_of(address: str) -> str:
    """The IP of an `ip:port`, without brackets; empty for an empty one."""
    return address.rpartition(":")[0].strip("[]")


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

    @property
    def direct_address(self) -> str:
        """`ip:port` of the other side where packets go straight to it; empty while a relay is between."""
        ...

    @property
    def round_trip(self) -> float:
        """Seconds to the other side and back, as measured lately; 0 while unknown."""
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

    async def prove_address(self) -> bool:
        """Whether it has shown that it receives at its address.

        If not, it is asked to (QUIC's retry, which keeps nothing here) and knocks again: this one is
        over. Through a relay nobody needs to: no packet is answered to a forged address there.
        """
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
        self,
        peer: bytes,
        addresses: Sequence[str],
        timeout: float = DIAL_SECONDS,
        *,
        protocol: bytes = ALPN,
    ) -> Connection:
        """Connect to whoever holds the key `peer` at one of `addresses`: `ip:port`, or the URL of a
        relay that knows it. All are tried at once, and the first way that works is taken; what began
        over a relay moves to a direct path where there is one.

        Raises: Unreachable: nobody there, another key there, or not within `timeout` seconds.
        """
        ...

    async def use_relays(self, urls: Iterable[str], token: str = "") -> None:
        """Show `token` to these relays when they are used first; at least be able to use them."""
        ...

    async def note_external(self, address: str) -> None:
        """Others see us at `address` (`ip:port`): peers reached through a relay are told to try it."""
        ...

    async def accept(self) -> Incoming | None:
        """The next one who knocks; None when the endpoint is closed."""
        ...

    async def close(self) -> None:
        """Close every connection and the sockets. Idempotent."""
        ...

"""The rendezvous: a node tells where a packet of ours came from, and whether a machine answers.

    Look                       → Seen(address)
    Knock(machine, addresses)  → Shown(verdicts), or Unwilling(reason)

Each is one frame and its answer on a stream of its own, over a connection with the protocol
`dbc-rendezvous/1`. Where the node has it is told by its relay: `GET <relay>/rendezvous`.

A machine keeps such a connection to each relay it is listed with: that keeps it attached there, and
gives it the address that its NAT shows to the world. Two endpoints that both know theirs reach each
other through a relay and then move to a direct path by themselves, which iroh does.
"""

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

from deepbrain.net.errors import MalformedMessage, NetError, RefusalCode, Refused, Unreachable
from deepbrain.net.frames import framed, read_frame
from deepbrain.net.transport import (
    DIAL_SECONDS,
    Connection,
    Endpoint,
    TransportKey,
    host_of,
)
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import MachineId
from deepbrain.scale import MaxLen, TaggedUnion, codec_of

ALPN_RENDEZVOUS: Final = b"dbc-rendezvous/1"
MAX_ASK: Final = 512
MAX_SAY: Final = 512
MAX_PAGE: Final = 4096
"""Bytes of the page that tells where a rendezvous is."""
ANSWER_SECONDS: Final = 6.0
PAGE_SECONDS: Final = 4.0

Where = Annotated[str, MaxLen(64)]
"""`ip:port`."""


class Ask(TaggedUnion):
    """A question to a rendezvous."""


class Look(Ask, index=0):
    """Where do I come from?"""


class Knock(Ask, index=1):
    """Does this machine answer at these addresses? Only those with the asker's own IP are tried."""

    machine: MachineId
    addresses: Annotated[tuple[Where, ...], MaxLen(4)]


class Verdict(Enum):
    """Append only."""

    ANSWERS = 0
    SILENT = 1
    NOT_ASKED = 2
    """It has another IP than the asker."""


class Say(TaggedUnion):
    """An answer of a rendezvous."""


class Seen(Say, index=0):
    address: Where
    """Empty where only the relay connects us."""


class Shown(Say, index=1):
    verdicts: Annotated[tuple[Verdict, ...], MaxLen(4)]


class Unwilling(Say, index=2):
    reason: Annotated[str, MaxLen(128)]


_ASK: Final = codec_of(Ask)
_SAY: Final = codec_of(Say)
S = TypeVar("S", bound=Say)


def parse_ask(body: bytes) -> Ask:
    """Raises: MalformedMessage: it is none."""
    return _parsed(_ASK, body)  # type: ignore[no-any-return]


def say_bytes(said: Say) -> bytes:
    return framed(_SAY.encode(said))


@dataclass(frozen=True, slots=True)
class Relay:
    """A public node's relay and its rendezvous."""

    url: str
    key: TransportKey
    """Of the rendezvous."""
    port: int
    """UDP, at the host of the URL."""

    def addresses(self) -> tuple[str, ...]:
        """How the rendezvous is dialled: directly where the URL's host is an IP, and by the relay."""
        host = urlsplit(self.url).hostname or ""
        direct = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        return (direct, self.url) if _is_address(direct) else (self.url,)


async def find(url: str) -> Relay:
    """The relay at `http://host:port`. Raises: Unreachable: nobody there, or no relay."""
    try:
        async with asyncio.timeout(PAGE_SECONDS):
            fields: Any = json.loads(await _page(url))
        return Relay(url, TransportKey.from_hex(fields["key"]), int(fields["port"]) & 0xFFFF)
    except (OSError, ValueError, KeyError, TypeError, DecodeError) as error:
        raise Unreachable(f"no relay answers at {url}") from error


async def _page(url: str) -> bytes:
    """`GET <url>/rendezvous`, in all within the caller's time: whoever is asked may be hostile.

    Raises: OSError, ValueError: there is no such page.
    """
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    reader, writer = await asyncio.open_connection(
        host, parts.port or (443 if secure else 80), ssl=secure or None, limit=MAX_PAGE
    )
    try:
        request = f"GET /rendezvous HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        answer = bytearray()
        while len(answer) < MAX_PAGE and (part := await reader.read(MAX_PAGE)):
            answer += part
    finally:
        writer.transport.abort()
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        raise ValueError("the page is not there")
    return body


@asynccontextmanager
async def visiting(
    endpoint: Endpoint, relay: Relay, timeout: float = DIAL_SECONDS
) -> AsyncIterator[Connection]:
    """A connection to a relay's rendezvous. Raises: Unreachable."""
    connection = await endpoint.dial(
        relay.key, relay.addresses(), timeout, protocol=ALPN_RENDEZVOUS
    )
    try:
        yield connection
    finally:
        connection.close()


async def look(connection: Connection) -> str:
    """Our address as the rendezvous sees it; empty where only the relay connects us. Raises: NetError."""
    address = (await _ask(connection, Look(), Seen)).address
    if address and not _is_address(address):
        raise MalformedMessage("the rendezvous answered something else than was asked")
    return address


async def knock(
    connection: Connection, machine: MachineId, addresses: Sequence[str]
) -> tuple[Verdict, ...]:
    """Whether the machine answers the rendezvous at each address. Raises: Refused; NetError."""
    asked = Knock(machine=machine, addresses=tuple(addresses[:4]))
    verdicts = (await _ask(connection, asked, Shown)).verdicts
    if len(verdicts) != len(asked.addresses):
        raise MalformedMessage("the rendezvous answered something else than was asked")
    return verdicts


def _is_address(text: str) -> bool:
    """Whether it is `ip:port`."""
    port = text.rpartition(":")[2]
    try:
        ipaddress.ip_address(host_of(text))
    except ValueError:
        return False
    return port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16


async def _ask(connection: Connection, ask: Ask, kind: type[S]) -> S:
    try:
        async with asyncio.timeout(ANSWER_SECONDS), await connection.open() as stream:
            await stream.write(framed(_ASK.encode(ask)))
            said = _parsed(_SAY, await read_frame(stream, MAX_SAY))
    except TimeoutError as error:
        raise NetError("the rendezvous does not answer") from error
    if isinstance(said, Unwilling):
        raise Refused(RefusalCode.LIMIT, said.reason)
    if not isinstance(said, kind):
        raise MalformedMessage("the rendezvous answered something else than was asked")
    return said


def _parsed(codec: Any, body: bytes) -> Any:
    try:
        return codec.decode(body)
    except DecodeError as error:
        raise MalformedMessage(f"the message is malformed: {error}") from error

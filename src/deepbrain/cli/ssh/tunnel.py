"""A connection to a port inside an order: one command there, `dial` of the tenant tool.

Nothing is dialled on the machine's own network, so it works in every network mode.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, Final, Protocol

from deepbrain.cli.ssh.execs import Execs
from deepbrain.net.errors import MalformedMessage, NetError, StreamEnded
from deepbrain.net.records import ERR
from deepbrain.net.session import ExecStream, Session
from deepbrain.sandbox.sandbox import TOOL, Mode

DIALED: Final = b"+"
MAX_FRAME: Final = 64 << 10
"""Bytes of a frame, as the tool cuts them."""

DELIVERY_SECONDS: Final = 10.0
"""How long a service may take to read what was sent before its other side was closed."""

_LENGTH: Final = 4
_MAX_ERROR: Final = 1024
_CHUNK: Final = 64 << 10


class Source(Protocol):
    async def read(self, n: int, /) -> bytes: ...


class Sink(Protocol):
    def write(self, data: bytes, /) -> None: ...

    async def drain(self) -> None: ...

    def write_eof(self) -> None: ...


class Tunnel:
    """See `dial`."""

    def __init__(self, command: ExecStream) -> None:
        self._command = command
        self._pending = bytearray()
        self._left = 0  # bytes of the frame that has begun
        self._ended = False
        self._errors = b""

    async def connected(self) -> None:
        """Raises: NetError: nothing answers there."""
        while not self._pending:
            await self._fill()
        if self._pending[:1] != DIALED:
            raise MalformedMessage("the machine sent something that is no connection")
        del self._pending[:1]

    async def read(self) -> bytes:
        """Some bytes; none once the other side has said all. Raises: NetError: it was cut."""
        while not self._ended:
            if self._left and self._pending:
                piece = bytes(self._pending[: self._left])
                del self._pending[: len(piece)]
                self._left -= len(piece)
                return piece
            if not self._left and len(self._pending) >= _LENGTH:
                self._begin_frame()
            else:
                await self._fill()
        return b""

    async def write(self, data: bytes) -> None:
        await self._command.write(data)

    async def write_eof(self) -> None:
        await self._command.write_eof()

    async def wait_delivered(self) -> None:
        """Until the other side has been given all, once both directions have ended. Raises: NetError."""
        await self._command.wait()

    def _begin_frame(self) -> None:
        self._left = int.from_bytes(self._pending[:_LENGTH], "little")
        del self._pending[:_LENGTH]
        self._ended = not self._left
        if self._left > MAX_FRAME:
            raise MalformedMessage("the machine sent something that is no connection")

    async def _fill(self) -> None:
        piece = await self._command.read()
        if piece is None:
            raise StreamEnded(_sentence(self._errors) or "the connection inside the order was cut")
        stream, data = piece
        if stream == ERR:
            self._errors = (self._errors + data)[:_MAX_ERROR]
        else:
            self._pending += data


def ensure_own_ports(session: Session) -> None:
    """Raises: NetError: the order shares its loopback with the machine and everybody on it."""
    if session.greeting.mode == Mode.PROCESS.value:
        raise NetError(
            "this machine runs orders as plain processes, whose ports are the machine's own; "
            "they are not forwarded"
        )


@contextlib.asynccontextmanager
async def dial(execs: Execs, address: str) -> AsyncIterator[Tunnel]:
    """Connect to a port on the order's own loopback, or to the path of a socket there.

    Raises: NetError: nothing answers there, or the machine does not keep its ports apart.
    """
    ensure_own_ports(execs.session)
    async with execs.run([TOOL, "dial", address]) as command:
        tunnel = Tunnel(command)
        await tunnel.connected()
        yield tunnel


async def splice(
    tunnel: Tunnel, source: Source, sink: Sink, closed: Awaitable[object] | None = None
) -> None:
    """Carry bytes both ways, the end of each apart, until both have ended.

    Once `closed`, or when the sink breaks, nobody is there to be told anything: what came before is still
    delivered, for `DELIVERY_SECONDS` at most. Raises: NetError, OSError: either side broke off.
    """
    gone = asyncio.Event()
    both = asyncio.ensure_future(_both_ways(tunnel, source, sink, gone))
    ends: set[asyncio.Future[Any]] = {both, asyncio.ensure_future(gone.wait())}
    if closed is not None:
        ends.add(asyncio.ensure_future(closed))
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({both}, timeout=DELIVERY_SECONDS)
        if both.done():
            both.result()
    finally:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def _both_ways(tunnel: Tunnel, source: Source, sink: Sink, gone: asyncio.Event) -> None:
    ways = [
        asyncio.ensure_future(way) for way in (_send(tunnel, source), _receive(tunnel, sink, gone))
    ]
    try:
        await asyncio.gather(*ways)
        await tunnel.wait_delivered()
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _send(tunnel: Tunnel, source: Source) -> None:
    while data := await source.read(_CHUNK):
        await tunnel.write(data)
    await tunnel.write_eof()


async def _receive(tunnel: Tunnel, sink: Sink, gone: asyncio.Event) -> None:
    """Read on where the sink is gone: a service that cannot write would not read either."""
    while data := await tunnel.read():
        with _noting(gone):
            if not gone.is_set():
                sink.write(data)
                await sink.drain()
    with _noting(gone):
        sink.write_eof()


@contextlib.contextmanager
def _noting(gone: asyncio.Event) -> Iterator[None]:
    try:
        yield
    except OSError:
        gone.set()


def _sentence(errors: bytes) -> str:
    """What the tool said, which came from a stranger's machine."""
    lines = errors.decode(errors="replace").strip().splitlines()
    last = lines[-1].removeprefix("dbc: ") if lines else ""
    return "".join(char if char.isprintable() else "�" for char in last)

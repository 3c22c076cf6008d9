"""The network in memory, for tests: same promises, same back-pressure, faults on demand."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from ipaddress import IPv4Network
from typing import Final

from deepbrain.net.errors import (
    ConnectionClosed,
    ConnectionLost,
    NetError,
    StreamReset,
    Unreachable,
)
from deepbrain.net.stream import Stream
from deepbrain.net.transport import ALPN, CLOSED_CLEANLY, DIAL_SECONDS, TransportKey

WINDOW: Final = 1 << 20
"""Bytes under way in one direction of a stream before its writer waits."""

FIRST_STREAMS: Final = 100
"""Streams a new connection may have open, as in QUIC's defaults."""


class FakeNetwork:
    """Who listens where. Machines on one `FakeNetwork` can dial each other."""

    def __init__(self) -> None:
        self._listening: dict[str, FakeEndpoint] = {}
        self._hosts = IPv4Network("10.0.0.0/8").hosts()
        self.round_trip = 0.0
        """Seconds that new connections say a round trip takes; nothing takes longer for it."""
        self.is_relayed = False
        """Whether new connections say that a relay is between."""

    async def bind(self, seed: bytes) -> "FakeEndpoint":
        """An endpoint on a host of its own, whose key follows from `seed` (it is not an ed25519 key)."""
        endpoint = FakeEndpoint(self, seed, f"{next(self._hosts)}:4177")
        self._listening[endpoint.addresses[0]] = endpoint
        return endpoint

    def find(self, peer: bytes, addresses: Sequence[str]) -> "FakeEndpoint | None":
        found = (self._listening.get(address) for address in addresses)
        return next((one for one in found if one is not None and one.key == peer), None)

    def remove(self, endpoint: "FakeEndpoint") -> None:
        self._listening.pop(endpoint.addresses[0], None)


class FakeEndpoint:
    def __init__(self, network: FakeNetwork, seed: bytes, address: str) -> None:
        self.network = network
        self._key = TransportKey(sha256(seed).digest())
        self._address = address
        self._knocks: asyncio.Queue[FakeIncoming | None] = asyncio.Queue()
        self._closed = False
        self.connections: list[FakeConnection] = []
        """Every connection this end has, for tests that cut them."""

    @property
    def key(self) -> TransportKey:
        return self._key

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self._address,)

    async def dial(
        self,
        peer: bytes,
        addresses: Sequence[str],
        timeout: float = DIAL_SECONDS,
        *,
        protocol: bytes = ALPN,
    ) -> "FakeConnection":
        target = self.network.find(peer, addresses)
        if target is None:
            raise Unreachable("no answer from " + (", ".join(addresses) or "anywhere"))
        knock = FakeIncoming(self, target)
        target._knocks.put_nowait(knock)
        try:
            async with asyncio.timeout(timeout):
                connection = await knock.answered
        except TimeoutError as error:
            raise Unreachable("no answer from " + ", ".join(addresses)) from error
        connection.allow_streams(0)
        return connection

    async def use_relays(self, urls: Iterable[str], token: str = "") -> None:
        """There are none in memory."""

    async def note_external(self, address: str) -> None:
        """Everybody is seen as they are."""

    async def accept(self) -> "FakeIncoming | None":
        return None if self._closed else await self._knocks.get()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.network.remove(self)
            self._knocks.put_nowait(None)
            for connection in self.connections:
                connection.close()


class FakeIncoming:
    def __init__(self, dialler: FakeEndpoint, target: FakeEndpoint) -> None:
        self._dialler = dialler
        self._target = target
        self.answered: asyncio.Future[FakeConnection] = asyncio.get_running_loop().create_future()

    @property
    def remote_address(self) -> str:
        return self._dialler.addresses[0]

    async def complete(self, timeout: float) -> "FakeConnection":
        if self.answered.done():
            raise Unreachable("the handshake was not completed")
        near, far = _connected(self._dialler, self._target)
        self.answered.set_result(near)
        return far

    async def prove_address(self) -> bool:
        return True

    async def refuse(self) -> None:
        if not self.answered.done():
            self.answered.set_exception(Unreachable("the machine refuses connections now"))


class FakeConnection:
    """One side of a connection; `peer` is the other."""

    def __init__(self, remote: FakeEndpoint) -> None:
        self._remote = remote.key
        self._remote_address = remote.addresses[0]
        self._arrived: asyncio.Queue[Stream | None] = asyncio.Queue()
        self._may_open = FIRST_STREAMS
        self._live = 0
        self._freed = asyncio.Event()
        self._closed = asyncio.Event()
        self._reason = ""
        self._clean = False
        self._pipes: list[_Pipe] = []
        self.peer: FakeConnection
        self.round_trip = remote.network.round_trip
        self.is_relayed = remote.network.is_relayed

    @property
    def remote(self) -> TransportKey:
        return self._remote

    @property
    def remote_address(self) -> str:
        return self._remote_address

    @property
    def direct_address(self) -> str:
        return "" if self.is_relayed else self._remote_address

    async def open(self) -> Stream:
        while self._live >= self._may_open and not self._closed.is_set():
            self._freed.clear()
            await self._freed.wait()
        self._ensure_open()
        self._live += 1
        out, back = _Pipe(), _Pipe()
        ends = _Ends(self)
        out.on_end, back.on_end = ends.one, ends.one
        self._pipes += (out, back)
        self.peer._arrived.put_nowait(Stream(FakeStream(back, out)))
        return Stream(FakeStream(out, back))

    async def accept(self) -> Stream:
        self._ensure_open()
        stream = await self._arrived.get()
        if stream is None:
            self._arrived.put_nowait(None)
            raise self._lost()
        return stream

    def allow_streams(self, count: int) -> None:
        self.peer._may_open = max(count, self.peer._may_open)  # never taken back, as in QUIC
        self.peer._freed.set()

    def close(self, code: int = CLOSED_CLEANLY, reason: str = "") -> None:
        self._end(f"closed with code {code}: {reason}")
        self.peer._end(f"closed with code {code}: {reason}", clean=code == CLOSED_CLEANLY)

    async def wait_closed(self) -> str:
        await self._closed.wait()
        return self._reason

    def stream_ended(self) -> None:
        self._live -= 1
        self._freed.set()

    def _end(self, reason: str, *, clean: bool = False) -> None:
        if self._closed.is_set():
            return
        self._reason = reason
        self._clean = clean
        self._closed.set()
        self._freed.set()
        self._arrived.put_nowait(None)
        for pipe in self._pipes:
            pipe.fail(self._lost())

    def _ensure_open(self) -> None:
        if self._closed.is_set():
            raise self._lost()

    def _lost(self) -> ConnectionLost:
        if self._clean:
            return ConnectionClosed("the other side closed the connection")
        return ConnectionLost(f"the connection was lost ({self._reason})")


class _Ends:
    """Counts a stream's two directions; both ended gives its place back."""

    def __init__(self, connection: FakeConnection) -> None:
        self._connection = connection
        self._left = 2

    def one(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._connection.stream_ended()


class FakeStream:
    """The raw halves of one side of a stream."""

    def __init__(self, outgoing: "_Pipe", incoming: "_Pipe") -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    async def read(self, limit: int) -> bytes:
        return await self._incoming.read(limit)

    async def write(self, data: bytes) -> None:
        await self._outgoing.write(data)

    async def finish(self) -> None:
        self._outgoing.finish()

    async def reset(self, code: int) -> None:
        self._outgoing.fail(StreamReset("the other side gave up on the stream"))

    async def stop(self, code: int) -> None:
        self._incoming.fail(StreamReset("the other side gave up on the stream"))


class _Pipe:
    """One direction of a stream."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._finished = False
        self._failure: NetError | None = None
        self._changed = asyncio.Event()
        self._ended = False
        self.on_end: Callable[[], None] = lambda: None

    async def read(self, limit: int) -> bytes:
        while True:
            if self._failure is not None:
                raise self._failure
            if self._chunks:
                return self._take(limit)
            if self._finished:
                self._end()
                return b""
            await self._wait()

    async def write(self, data: bytes) -> None:
        while self._failure is None and self._size >= WINDOW:
            await self._wait()
        if self._failure is not None:
            raise self._failure
        if data:
            self._chunks.append(bytes(data))
            self._size += len(data)
            self._changed.set()

    def finish(self) -> None:
        self._finished = True
        self._changed.set()

    def fail(self, failure: NetError) -> None:
        if self._failure is None:
            self._failure = failure
            self._changed.set()
            self._end()

    async def _wait(self) -> None:
        # Reader and writer never wait at once: one waits for bytes, the other for room.
        self._changed.clear()
        await self._changed.wait()

    def _take(self, limit: int) -> bytes:
        chunk = self._chunks.popleft()
        if len(chunk) > limit:
            self._chunks.appendleft(chunk[limit:])
            chunk = chunk[:limit]
        self._size -= len(chunk)
        self._changed.set()
        return chunk

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.on_end()


def _connected(
    dialler: FakeEndpoint, target: FakeEndpoint
) -> tuple[FakeConnection, FakeConnection]:
    near, far = FakeConnection(target), FakeConnection(dialler)
    near.peer, far.peer = far, near
    dialler.connections.append(near)
    target.connections.append(far)
    return near, far

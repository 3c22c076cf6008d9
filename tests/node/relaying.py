"""A relay in this process, and clients of it that we write ourselves so that they can misbehave."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import blake3
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from deepbrain.net.messages import Access
from deepbrain.net.transport import TransportKey
from deepbrain.node.relay import wire
from deepbrain.node.relay.limits import RelayLimits, Standing
from deepbrain.node.relay.server import RelayConfig, RelayServer
from deepbrain.primitives.keys import Keypair, Scheme


class People:
    """Who is who, as a test says."""

    def __init__(self) -> None:
        self.standings: dict[bytes, Standing] = {}
        self.proofs: set[bytes] = set()
        self.everybody: Standing | None = None

    async def machines(self, keys: Sequence[TransportKey]) -> list[Standing]:
        return [self.everybody or self.standings.get(key, Standing.STRANGER) for key in keys]

    async def holds(self, key: TransportKey, access: Access) -> bool:
        return key in self.proofs


@asynccontextmanager
async def relay(people: People | None = None, **limits: Any) -> AsyncIterator[RelayServer]:
    config = RelayConfig(
        host="127.0.0.1", port=0, chain="", data=None, limits=RelayLimits(**limits)
    )
    server = RelayServer(config, people or People())
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def url(server: RelayServer) -> str:
    return f"http://127.0.0.1:{server.port}"


class Client:
    """One attached client, frame by frame."""

    def __init__(self, socket: ClientConnection, pair: Keypair) -> None:
        self.socket = socket
        self.pair = pair

    @property
    def key(self) -> bytes:
        return bytes(self.pair.public)

    async def send(self, to: bytes, data: bytes) -> None:
        await self.socket.send(bytes((wire.SEND,)) + to + b"\0" + data)

    async def next(self, *kinds: int) -> bytes:
        """The next frame of one of these kinds; pings and status are answered and skipped."""
        while True:
            frame = await self.socket.recv()
            assert isinstance(frame, bytes)
            if frame[0] in kinds:
                return frame
            if frame[0] == wire.PING:
                await self.socket.send(wire.pong(frame[1:]))

    async def data(self) -> tuple[bytes, bytes]:
        """From whom the next datagram is, and the datagram."""
        frame = await self.next(wire.RECEIVED)
        return frame[1:33], frame[34:]


def new_pair() -> Keypair:
    return Keypair.from_seed(os.urandom(32), Scheme.ED25519)


def auth(pair: Keypair, challenge: bytes, key: bytes | None = None) -> bytes:
    message = blake3.blake3(challenge, derive_key_context=wire._PURPOSE).digest()
    signature = bytes(pair.sign(message))
    return bytes((wire.AUTH,)) + (key or bytes(pair.public)) + bytes((64,)) + signature


@asynccontextmanager
async def knocking(
    server: RelayServer, **options: Any
) -> AsyncIterator[tuple[ClientConnection, bytes]]:
    """A WebSocket to the relay, and its challenge."""
    address = f"ws://127.0.0.1:{server.port}{wire.PATH}"
    async with connect(
        address,
        subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
        compression=None,
        max_size=1 << 20,
        close_timeout=0.3,
        **options,
    ) as socket_:
        challenge = await socket_.recv()
        assert isinstance(challenge, bytes)
        assert challenge[0] == wire.CHALLENGE
        yield socket_, challenge[1:]


@asynccontextmanager
async def attached(
    server: RelayServer, pair: Keypair | None = None, **options: Any
) -> AsyncIterator[Client]:
    pair = pair or new_pair()
    async with knocking(server, **options) as (socket_, challenge):
        await socket_.send(auth(pair, challenge))
        assert await socket_.recv() == wire.confirms()
        yield Client(socket_, pair)


async def attach_raw(server: RelayServer, pair: Keypair) -> socket.socket:
    """A client on a bare socket that nobody reads, attached to the relay."""
    loop = asyncio.get_running_loop()
    bare = socket.socket()
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bare.setblocking(False)
    await loop.sock_connect(bare, ("127.0.0.1", server.port))
    request = (
        f"GET {wire.PATH} HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {wire.SUBPROTOCOL}\r\n\r\n"
    )
    await loop.sock_sendall(bare, request.encode())
    got = b""
    while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < 2 + 17:
        got += await loop.sock_recv(bare, 4096)
    challenge = got.partition(b"\r\n\r\n")[2][3:19]
    frame = auth(pair, challenge)
    masked = bytes((0x82, 0x80 | len(frame))) + bytes(4) + frame  # a mask of zeros changes nothing
    await loop.sock_sendall(bare, masked)
    await loop.sock_recv(bare, 3)
    return bare

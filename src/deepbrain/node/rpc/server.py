"""JSON-RPC over HTTP POST and WebSocket on one port, and the page that signs with a wallet.

Limits, all of them on what a stranger can make us hold: connections in all, seconds without a whole
request, bytes of a frame, calls in a batch, bytes of an answer, subscriptions of a connection, and
what waits for a slow reader. Requests of one connection are answered one after another, so a client
cannot queue more work than it reads.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import resource
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, WSMsgType, web

from deepbrain.node.errors import NodeError
from deepbrain.node.page import HEADERS, page_files
from deepbrain.node.rpc.dispatch import Table
from deepbrain.node.rpc.subscriptions import Backlog, Outbox, Peer, Subscriptions

log = logging.getLogger(__name__)

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the RPC port."""

    connections: int = 2048
    """In all, and never more than half of what the process may open."""
    request_bytes: int = 8 * 1024 * 1024
    body_seconds: float = 10.0
    """A request whose body is not here by then is cut."""
    idle_seconds: float = 60.0
    """An HTTP connection without a whole request header for so long is cut."""
    heartbeat_seconds: float = 30.0
    """WebSocket pings; a peer that does not answer is cut."""


@dataclass(frozen=True, slots=True)
class Bind:
    """Where the port is open, and which web pages may use it besides those of this machine."""

    host: str = "127.0.0.1"
    port: int = 9944
    origins: tuple[str, ...] = ()

    @property
    def loopback(self) -> bool:
        return _is_loopback(self.host)


class RpcServer:
    """Serves one `Table`. Unsafe methods are answered only to loopback peers of a loopback port."""

    def __init__(self, table: Table, bind: Bind, limits: Limits | None = None) -> None:
        self._table = table
        self._bind = bind
        self._limits = limits or Limits()
        self._pages = page_files()
        self._http = web.Server(
            self._serve,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=self._limits.idle_seconds,
            lingering_time=1.0,
        )
        self._listener: asyncio.Server | None = None
        self._sockets: set[web.WebSocketResponse] = set()
        self._backlog = Backlog()
        # A port that takes more than the process has descriptors for takes none at all.
        self._most = min(
            self._limits.connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        )

    @property
    def port(self) -> int:
        """The port really bound (0 in `Bind` lets the system choose)."""
        if self._listener is None:
            return self._bind.port
        return int(self._listener.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Raises: NodeError: the port cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._accept, self._bind.host, self._bind.port, backlog=128
            )
        except OSError as error:
            raise NodeError(
                f"The RPC port {self._bind.host}:{self._bind.port} cannot be opened "
                f"({os.strerror(error.errno or 0)}); stop what uses it or pass another --rpc-port."
            ) from error

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._listener is not None:
            self._listener.close()
        closing = [socket.close(code=WSCloseCode.GOING_AWAY) for socket in tuple(self._sockets)]
        await asyncio.gather(*closing, return_exceptions=True)
        await self._http.shutdown(timeout=2.0)

    def _accept(self) -> asyncio.Protocol:
        if len(self._http.connections) >= self._most:
            return _Refusal()
        return self._http()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is not None and not self._allows(origin):
            return web.Response(status=403, text="this web page may not use the node\n")
        if request.method == "GET" and _wants_websocket(request):
            return await self._serve_socket(request)
        if request.method == "GET" and (page := self._pages.get(request.path)) is not None:
            return web.Response(body=page.body, content_type=page.content_type, headers=HEADERS)
        response = await self._serve_http(request)
        if origin is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Headers"] = "content-type"
        return response

    async def _serve_http(self, request: web.BaseRequest) -> web.Response:
        if request.method == "OPTIONS":
            return web.Response(status=204)
        if request.method != "POST":
            return web.Response(status=405, text="JSON-RPC by POST or WebSocket only\n")
        if request.content_type != "application/json":
            return web.Response(status=415, text="Content-Type must be application/json\n")
        body = await self._read(request)
        if body is None:
            return web.Response(status=413, text="the request is too big\n")
        answer = await self._table.answer(body, self._peer(request, None))
        return web.Response(text=answer or "", content_type="application/json")

    async def _read(self, request: web.BaseRequest) -> bytes | None:
        """The body, or None when it is longer than the limit. Cut when it does not come."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > self._limits.request_bytes:
                        return None
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        return bytes(body)

    async def _serve_socket(self, request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse(
            max_msg_size=self._limits.request_bytes,
            heartbeat=self._limits.heartbeat_seconds,
            compress=False,
        )
        await socket.prepare(request)
        outbox = Outbox(lambda: _cut(request), self._backlog)
        subscriptions = Subscriptions(outbox)
        writer = asyncio.create_task(_write(socket, outbox))
        self._sockets.add(socket)
        try:
            await self._read_frames(socket, outbox, self._peer(request, subscriptions))
        finally:
            self._sockets.discard(socket)
            subscriptions.close()
            outbox.close()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
        return socket

    async def _read_frames(self, socket: web.WebSocketResponse, outbox: Outbox, peer: Peer) -> None:
        async for message in socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            answer = await self._table.answer(message.data, peer)
            if answer is not None:
                await outbox.put(answer)
            if peer.subscriptions is not None:
                peer.subscriptions.answered()

    def _peer(self, request: web.BaseRequest, subscriptions: Subscriptions | None) -> Peer:
        local = self._bind.loopback and _is_loopback(request.remote or "")
        return Peer(local, subscriptions)

    def _allows(self, origin: str) -> bool:
        if origin in self._bind.origins:
            return True
        try:
            return urlsplit(origin).hostname in LOOPBACK_NAMES
        except ValueError:
            return False


class _Refusal(asyncio.Protocol):
    """Closes a connection that would be one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def _write(socket: web.WebSocketResponse, outbox: Outbox) -> None:
    """Send what the outbox holds until the connection is gone."""
    while True:
        frame = await outbox.next()
        try:
            await socket.send_str(frame)
        except ConnectionError:
            return


def _cut(request: web.BaseRequest) -> None:
    log.info("cutting the connection of a subscriber that does not read")
    if request.transport is not None:
        request.transport.abort()


def _wants_websocket(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

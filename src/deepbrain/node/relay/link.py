"""One connection to a relay: HTTP, the upgrade to WebSocket, the proof of a key, then frames.

WebSocket is `websockets`' protocol without its I/O: so reading can be paused (by which TCP slows the
sender down) and what waits to be written is counted, at a few kilobytes a connection.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from deepbrain.net.transport import TransportKey
from deepbrain.node.relay import wire
from deepbrain.node.relay.hub import Hub, group_of
from deepbrain.node.relay.meter import Meter

log = logging.getLogger(__name__)
_quiet = logging.getLogger(f"{__name__}.websocket")
_quiet.setLevel(logging.ERROR)

MAX_TOKEN: Final = 1024
"""Characters of an access token."""
MAX_PAUSE: Final = 10.0
"""The longest a connection is not read from at once, in seconds."""
_BEARER: Final = "Bearer "

Page = Callable[[str, str], tuple[HTTPStatus, str]]
"""`(path, peer's host)` → what a plain GET is answered."""


class Link(asyncio.Protocol):
    def __init__(self, hub: Hub, page: Page) -> None:
        self._hub = hub
        self._page = page
        self._socket = ServerProtocol(
            extensions=None,
            subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
            select_subprotocol=_version_2,
            max_size=wire.MAX_FRAME,
            logger=_quiet,
        )
        self._secret = b""
        self._transport: asyncio.Transport | None = None
        self._host = ""
        self.key: TransportKey | None = None
        self.group = ""
        self.token = ""
        self.opened_at = self.heard_at = asyncio.get_running_loop().time()
        self.stalled_since: float | None = None
        self.peers: set[bytes] = set()
        self.meter: Meter | None = None
        self._told_to_slow_down = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._host = str(peer[0]) if peer else ""
        self.group = group_of(self._host)
        if not self._hub.admits(self.group):
            transport.abort()
            return
        self._hub.enter(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._hub.leave(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self.heard_at = asyncio.get_running_loop().time()
        self._socket.receive_data(data)
        for event in self._socket.events_received():
            if isinstance(event, Request):
                self._answer(event)
            elif isinstance(event, Frame):
                self._take(event)
        self._flush()
        if self._socket.close_expected() and self._transport is not None:
            self._transport.close()
        wait = self._hub.charge(self, len(data))
        if wait > 0:
            self._pause(min(wait, MAX_PAUSE))

    def eof_received(self) -> None:
        self._socket.receive_eof()
        self._flush()

    def pause_writing(self) -> None:
        self.stalled_since = asyncio.get_running_loop().time()

    def resume_writing(self) -> None:
        self.stalled_since = None

    # What the hub calls.

    def deliver(self, frame: bytes) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing() or self._socket.state is not State.OPEN:
            return False
        if transport.get_write_buffer_size() + len(frame) > self._hub.limits.queue_bytes:
            return False
        self._socket.send_binary(frame)
        self._flush()
        return True

    def cut(self, reason: str) -> None:
        log.debug("cut %s: %s", self._host, reason)
        if self._transport is not None:
            self._transport.abort()

    # The steps.

    def _answer(self, request: Request) -> None:
        """The one HTTP request of a connection."""
        if request.path.partition("?")[0] != wire.PATH:
            status, text = self._page(request.path, self._host)
            self._socket.send_response(self._socket.reject(status, text))
            return
        response = self._socket.accept(request)
        if self._socket.subprotocol is None:
            response = self._socket.reject(
                HTTPStatus.BAD_REQUEST, f"this relay speaks {wire.SUBPROTOCOL} only\n"
            )
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._socket.send_response(response)
            return
        self.token = _token(request.headers)
        self._socket.send_response(response)
        self._secret = os.urandom(wire.CHALLENGE_BYTES)
        self._socket.send_binary(wire.challenge(self._secret))

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
            return  # the protocol itself answers
        data = bytes(frame.data)
        if frame.opcode is not Opcode.BINARY or not frame.fin or not data:
            self._socket.fail(CloseCode.UNSUPPORTED_DATA, "one frame is one binary message")
        elif self.key is None:
            self._prove(data)
        elif data[0] in (wire.SEND, wire.SEND_BATCH):
            self._hub.forward(self, data)
        elif data[0] == wire.PING and len(data) == 1 + wire.PING_BYTES:
            self.deliver(wire.pong(data[1:]))
        elif data[0] != wire.PONG or len(data) != 1 + wire.PING_BYTES:
            self._socket.fail(CloseCode.PROTOCOL_ERROR, "unknown frame")

    def _prove(self, frame: bytes) -> None:
        key = wire.proven_key(frame, self._secret)
        if key is None:
            self._socket.send_binary(wire.denies("the signature is not this key's"))
            self._socket.fail(CloseCode.POLICY_VIOLATION, "no key was proven")
            return
        self._socket.send_binary(wire.confirms())
        self._flush()
        self._hub.attach(self, key)

    def _pause(self, seconds: float) -> None:
        if self._transport is None or not self._transport.is_reading():
            return
        if not self._told_to_slow_down:
            self._told_to_slow_down = True
            self.deliver(wire.status(wire.RATE_LIMITED))
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._read_on)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self.heard_at = asyncio.get_running_loop().time()
            self._transport.resume_reading()

    def _flush(self) -> None:
        transport = self._transport
        pieces = self._socket.data_to_send()
        if transport is None or transport.is_closing():
            return
        for piece in pieces:
            if piece:
                transport.write(piece)
            else:  # the protocol's sign for the end
                transport.close()
                return


def _version_2(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Raises nothing: without version 2 the upgrade has no subprotocol, and the client leaves."""
    wanted = Subprotocol(wire.SUBPROTOCOL)
    return wanted if wanted in offered else None


def _token(headers: Headers) -> str:
    found = headers.get_all("Authorization")
    if len(found) != 1 or not found[0].startswith(_BEARER):
        return ""
    return found[0].removeprefix(_BEARER)[:MAX_TOKEN]

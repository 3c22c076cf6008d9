"""CometBFT's connections: frames in, answers out, in order.

A frame is a length (unsigned varint) and a message. CometBFT opens four connections and does not say
which is which, so all are served alike: one request at a time each, whatever the others do. Every
request is followed by a `flush`, which has a fixed answer.
"""

import asyncio
import contextlib
import logging
import os
import socket as sockets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final, Protocol

from google.protobuf.message import DecodeError as BadMessage

from deepbrain.node.comet.abci_pb2 import Request, Response
from deepbrain.node.errors import NodeError

log = logging.getLogger(__name__)

MAX_FRAME: Final = 32 << 20
"""Above what a block or a chunk of a snapshot can have."""

FLUSH: Final = Request(flush={}).SerializeToString()
FLUSHED: Final = b"\x02" + Response(flush={}).SerializeToString()


class Application(Protocol):
    """Answers requests."""

    def at_once(self, request: Request) -> Response | None:
        """The answer to what needs no waiting; None to all else."""

    async def answer(self, request: Request) -> Response:
        """The answer. Raises: anything: CometBFT is not answered, and the connection ends."""


@contextlib.asynccontextmanager
async def serving(path: Path, application: Application) -> AsyncIterator[None]:
    """Answer whoever connects to a socket at `path`. Raises: NodeError: it cannot be made."""
    connections: set[_Connection] = set()
    loop = asyncio.get_running_loop()
    listener = _listen(path)
    server = await loop.create_unix_server(
        lambda: _Connection(application, connections), sock=listener
    )
    try:
        yield
    finally:
        server.close()
        for connection in tuple(connections):
            connection.close()
        await asyncio.gather(
            *(one.task for one in connections if one.task is not None), return_exceptions=True
        )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - an asynchronous function has no pathlib


def _listen(path: Path) -> sockets.socket:
    """A socket that only its owner can open; the path may be longer than an address can be."""
    listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise NodeError(f"{path} cannot be opened: {error.strerror}.") from error
    return listener


class _Connection(asyncio.Protocol):
    """One of CometBFT's connections."""

    def __init__(self, application: Application, all_of_them: "set[_Connection]") -> None:
        self._application = application
        self._all = all_of_them
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self.task: asyncio.Task[None] | None = None
        """The request that is being answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._all.add(self)
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self._transport = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self.task is None:
            self._go_on()

    def _go_on(self) -> None:
        """Answer what is here, up to the first request that takes time."""
        answers = bytearray()
        try:
            for frame in take_frames(self._received):
                if frame == FLUSH:
                    answers += FLUSHED
                    continue
                request = Request.FromString(frame)
                answer = self._application.at_once(request)
                if answer is None:
                    self.task = asyncio.create_task(self._answer(request))
                    break
                answers += framed(answer)
        except (BadMessage, ValueError) as error:
            log.error("CometBFT sent what is no request: %s", error)
            self.close()
            return
        if answers and self._transport is not None:
            self._transport.write(bytes(answers))

    async def _answer(self, request: Request) -> None:
        try:
            answer = await self._application.answer(request)
        except asyncio.CancelledError:
            raise
        # Why is told where it happened; CometBFT ends when a connection does.
        except Exception:
            log.debug("a request was not answered", exc_info=True)
            self.close()
            return
        finally:
            self.task = None
        if self._transport is not None:
            self._transport.write(framed(answer))
            self._go_on()


def take_frames(received: bytearray) -> Iterator[bytes]:
    """The whole frames at the front of a buffer, each taken out of it as it is given.

    Raises: ValueError: a frame is longer than `MAX_FRAME`.
    """
    while True:
        size = shift = at = 0
        more = True
        while more and at < len(received):
            byte = received[at]
            size |= (byte & 0x7F) << shift
            at, shift, more = at + 1, shift + 7, byte >= 0x80
            if shift > 35:
                raise ValueError("the length of a frame does not end")
        if size > MAX_FRAME:
            raise ValueError(f"a frame has at most {MAX_FRAME} bytes, not {size}")
        if more or len(received) < at + size:
            return
        frame = bytes(received[at : at + size])
        del received[: at + size]
        yield frame


def framed(message: Response) -> bytes:
    """A message with its length before it."""
    data = message.SerializeToString()
    size, front = len(data), bytearray()
    while size >= 0x80:
        front.append(size & 0x7F | 0x80)
        size >>= 7
    front.append(size)
    return bytes(front) + data

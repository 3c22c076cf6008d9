"""The renter's side of bulk transfers: as many connections as the path deserves.

What is asked of a machine nearby goes over the connection there is. On a long path a transfer begins as a
striped stream on that connection, and once it turns out to be large, further connections join in. None
of them goes through a relay: several would take more than a renter's share of it.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Final

from deepbrain.net.errors import NetError, RefusalCode, Refused
from deepbrain.net.frames import begun, expect_reply, request_bytes
from deepbrain.net.messages import Done, Lane, Request, StreamName, Stripe
from deepbrain.net.stream import Stream
from deepbrain.net.striped import Striped
from deepbrain.net.transport import CLOSED_BROKEN, CLOSED_CLEANLY, Connection
from deepbrain.primitives.errors import DeepBrainError

LANES: Final = 8
"""Connections of one transfer at most."""

FAR_SECONDS: Final = 0.02
"""A round trip from which on a transfer is striped: below it one connection is fast, and losses mend
quickly."""

LARGE_BYTES: Final = 512 << 10
"""What has to pass before further connections are made for the rest."""

DIRECT_SECONDS: Final = 3.0
"""How long a further connection may take to leave the relay that it began over."""

_LOOK_SECONDS: Final = 0.1

OpenLane = Callable[[], Awaitable[Connection]]
"""One more connection to the same machine, whose proof it has accepted. Raises: NetError."""


class Lanes:
    """The striped streams of one session."""

    def __init__(self, open_lane: OpenLane) -> None:
        self._open_lane = open_lane
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unknown = False
        """The machine's agent is older than striped streams."""

    def __len__(self) -> int:
        """Connections beside the session's own."""
        return len(self._connections)

    def deserves(self, connection: Connection) -> bool:
        """Whether bulk over this connection may profit from others beside it.

        Over a relay that is not known: it may move to a direct path at any moment.
        """
        return not self._unknown and (not connection.direct_address or _is_far(connection))

    async def ask(self, connection: Connection, first: Stream, request: Request) -> Stream | None:
        """Ask for bulk over `first`, a new stream of `connection`, and over what joins it later.

        None: the machine does not take it so; ask in the ordinary way. Raises: NetError.
        """
        name = StreamName(os.urandom(StreamName.SIZE))
        try:
            await _joined(first, Stripe(name=name))
        except Refused as refusal:
            self._unknown = refusal.code is RefusalCode.MALFORMED
            await first.close()
            return None
        except BaseException:
            await first.reset()
            raise
        striped = Striped()
        self._keep(self._carry(striped, first))
        self._keep(self._widen(connection, striped, name))
        return await begun(Stream(striped), request)

    def close(self, code: int = CLOSED_CLEANLY, reason: str = "") -> None:
        """Close all connections beside the session's own, and end what they carry. Idempotent."""
        for task in self._tasks:
            task.cancel()
        self.cut(code, reason)

    def cut(self, code: int = CLOSED_BROKEN, reason: str = "") -> None:
        """Close all connections beside the session's own."""
        for connection in tuple(self._connections):
            connection.close(code, reason)

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, striped: Striped, stream: Stream) -> None:
        """What goes wrong is raised where the striped stream is used."""
        with contextlib.suppress(NetError):
            async with stream:
                await striped.carry(stream)

    async def _widen(self, connection: Connection, striped: Striped, name: StreamName) -> None:
        """Open the further connections once they are worth it."""
        while striped.moved < LARGE_BYTES or not _is_far(connection):
            if striped.is_over:
                return
            await asyncio.sleep(_LOOK_SECONDS)
        for _ in range(LANES - 1):
            self._keep(self._add_lane(striped, name))

    async def _add_lane(self, striped: Striped, name: StreamName) -> None:
        """Carry what one more connection can; it goes on without it when there is none."""
        with contextlib.suppress(DeepBrainError, OSError):
            connection = await self._open_lane()
            self._connections.add(connection)
            try:
                if await _becomes_direct(connection) and not striped.is_over:
                    stream = await connection.open()
                    async with stream:
                        await _joined(stream, Lane(name=name))
                        await striped.carry(stream)
            finally:
                self._connections.discard(connection)
                connection.close()


def _is_far(connection: Connection) -> bool:
    return bool(connection.direct_address) and connection.round_trip >= FAR_SECONDS


async def _becomes_direct(connection: Connection) -> bool:
    loop = asyncio.get_running_loop()
    until = loop.time() + DIRECT_SECONDS
    while not connection.direct_address and loop.time() < until:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(_LOOK_SECONDS)
    return bool(connection.direct_address)


async def _joined(stream: Stream, request: Request) -> None:
    """Raises: Refused; NetError."""
    await stream.write(request_bytes(request))
    await expect_reply(stream, Done)

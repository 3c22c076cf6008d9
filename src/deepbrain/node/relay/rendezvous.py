"""The node's side of the rendezvous: tells whoever asks where it comes from, and whether it answers.

It is an endpoint like any other, at the relay's port number in UDP and attached to the relay itself, so
whoever cannot send UDP reaches it too. A connection to it costs little and keeps its dialler attached to
the relay: that is how a machine behind NAT stays reachable.
"""

import asyncio
import contextlib
import logging
import os
from collections import Counter
from typing import Final

from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.errors import MalformedMessage, NetError, Unreachable
from deepbrain.net.frames import read_frame
from deepbrain.net.rendezvous import (
    MAX_ASK,
    Knock,
    Look,
    Say,
    Seen,
    Shown,
    Unwilling,
    Verdict,
    parse_ask,
    say_bytes,
)
from deepbrain.net.stream import Stream
from deepbrain.net.transport import (
    CLOSED_BROKEN,
    CLOSED_REFUSED,
    Connection,
    Endpoint,
    Incoming,
    host_of,
)
from deepbrain.node.relay.hub import group_of

log = logging.getLogger(__name__)

CONNECTIONS: Final = 4096
PER_ADDRESS: Final = 256
HANDSHAKES: Final = 128
"""Connections at once whose handshake is not done."""
HANDSHAKE_SECONDS: Final = 5.0
ASK_SECONDS: Final = 5.0
STREAMS: Final = 2
"""Questions at once on one connection."""
IDLE_SECONDS: Final = 60.0
"""A connection that asks nothing for so long is closed."""
LEAST_PAUSE_SECONDS: Final = 0.2
"""Questions of one connection are answered no faster."""
KNOCK_SECONDS: Final = 3.0
KNOCKS: Final = 8
"""Machines that are knocked at, at once."""
KNOCK_PAUSE_SECONDS: Final = 5.0
"""How often one address may have machines knocked at."""


class Rendezvous:
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connections = 0
        self._handshakes = 0
        self._groups: Counter[str] = Counter()
        self._knocks = asyncio.Semaphore(KNOCKS)
        self._knocked: dict[str, float] = {}

    @property
    def connections(self) -> int:
        return self._connections

    async def run(self) -> None:
        """Serve until the endpoint is closed."""
        async with asyncio.TaskGroup() as group:
            while (incoming := await self._endpoint.accept()) is not None:
                if self._handshakes >= HANDSHAKES or self._connections >= CONNECTIONS:
                    await incoming.refuse()
                else:
                    self._handshakes += 1
                    group.create_task(self._receive(incoming))

    async def _receive(self, incoming: Incoming) -> None:
        """One connection from knock to end. Whatever it does, it ends alone."""
        try:
            try:
                connection = await incoming.complete(HANDSHAKE_SECONDS)
            finally:
                self._handshakes -= 1
            await self._serve(connection)
        except NetError:
            return
        except Exception:
            log.exception("a connection from %s ended by a fault", incoming.remote_address)

    async def _serve(self, connection: Connection) -> None:
        """Raises: NetError: it has ended."""
        group = group_of(host_of(connection.direct_address)) or "by relay"
        if self._groups[group] >= PER_ADDRESS and group != "by relay":
            connection.close(CLOSED_REFUSED, "too many connections from this address")
            return
        self._connections += 1
        self._groups[group] += 1
        connection.allow_streams(STREAMS)
        try:
            while True:
                async with asyncio.timeout(IDLE_SECONDS):
                    stream = await connection.accept()
                await self._answer(connection, stream)
                await asyncio.sleep(LEAST_PAUSE_SECONDS)
        except (MalformedMessage, TimeoutError):
            connection.close(CLOSED_BROKEN, "this is no question for a rendezvous")
        finally:
            self._connections -= 1
            self._groups[group] -= 1
            if not self._groups[group]:
                del self._groups[group]

    async def _answer(self, connection: Connection, stream: Stream) -> None:
        async with stream, asyncio.timeout(ASK_SECONDS + KNOCK_SECONDS):
            async with asyncio.timeout(ASK_SECONDS):
                ask = parse_ask(await read_frame(stream, MAX_ASK))
            address = connection.direct_address
            if isinstance(ask, Look):
                said: Say = Seen(address=address)
            elif isinstance(ask, Knock):
                said = await self._knock(ask, host_of(address))
            else:
                raise MalformedMessage("this is no question")
            await stream.write(say_bytes(said))

    async def _knock(self, ask: Knock, host: str) -> Say:
        """Dial the machine as a renter would, at those of its addresses that are the asker's own: a
        relay must not be made to send packets to third parties.
        """
        now = asyncio.get_running_loop().time()
        group = group_of(host)
        self._knocked = {
            who: when for who, when in self._knocked.items() if now - when < KNOCK_PAUSE_SECONDS
        }
        if not host:
            return Unwilling(reason="only who sends UDP can be knocked at")
        if group in self._knocked or self._knocks.locked():
            return Unwilling(reason="this was asked just now; ask again in a few seconds")
        self._knocked[group] = now
        async with self._knocks:
            verdicts = await asyncio.gather(
                *(self._verdict(ask, address, host) for address in ask.addresses)
            )
        return Shown(verdicts=tuple(verdicts))

    async def _verdict(self, ask: Knock, address: str, host: str) -> Verdict:
        if host_of(address) != host:
            return Verdict.NOT_ASKED
        # A fresh endpoint: this one has paths to the machine already, through its NAT.
        dialler = await IrohEndpoint.bind(os.urandom(32))
        try:
            connection = await dialler.dial(ask.machine, [address], KNOCK_SECONDS)
            connection.close()
        except Unreachable:
            return Verdict.SILENT
        finally:
            with contextlib.suppress(NetError):
                await dialler.close()
        return Verdict.ANSWERS

"""The door of a machine: who may come in, and how much of it.

Nobody gets anything for nothing: before its proof is checked a connection has 5 s, one stream and
4 KiB, and only 64 such connections exist at once, few of them from one address (`doorstep.py`). Behind
it an order has 4 connections, 8 more that carry lanes of bulk and nothing else, 64 streams and 100 requests
a second. A connection ends when its proof runs out. Nothing is buffered without bound: a slow reader stalls its own stream and nothing else.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from deepbrain.net.errors import (
    ConnectionClosed,
    MalformedMessage,
    NetError,
    RefusalCode,
    Refused,
)
from deepbrain.net.frames import read_request, reply_bytes
from deepbrain.net.messages import (
    Again,
    Begin,
    CopyIn,
    CopyOut,
    Lane,
    PutBlob,
    Request,
    Resumed,
    Stripe,
)
from deepbrain.net.stream import Stream
from deepbrain.net.transport import CLOSED_BROKEN, CLOSED_REFUSED, Connection, Endpoint, Incoming
from deepbrain.primitives.units import U64
from deepbrain.provider.admission import Admission, Turned, Visit, refuse
from deepbrain.provider.book import Book
from deepbrain.provider.doorstep import Doorstep
from deepbrain.provider.enduring import Enduring
from deepbrain.provider.metrics import Tally
from deepbrain.provider.pace import Pace
from deepbrain.provider.stripes import Stripes
from deepbrain.sandbox.sandbox import SandboxError

log = logging.getLogger(__name__)

UNPROVEN_SECONDS: Final = 5.0
CONNECTIONS_PER_ORDER: Final = 4
LANES_PER_ORDER: Final = 8
"""Connections that carry lanes of bulk, beside those."""
STREAMS_PER_ORDER: Final = 64
LINGER_SECONDS: Final = 1.0
"""How long a refused connection stays open, so that the refusal arrives; it keeps its place so long."""
REQUEST_SECONDS: Final = 10.0
"""How long a new stream may take to say what it is for."""

Serve = Callable[[Visit, Request, Stream], Awaitable[None]]
"""Answer one request: `requests.Service.serve`."""


class Gate:
    def __init__(
        self,
        endpoint: Endpoint,
        admission: Admission,
        book: Book,
        serve: Serve,
        enduring: Enduring | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally or Tally()
        self._endpoint = endpoint
        self._admission = admission
        self._book = book
        self._serve = serve
        self._doorstep = Doorstep()
        self._visits: dict[int, list[Visit]] = {}
        self._enduring = enduring or Enduring()
        self._stripes = Stripes()
        self._group: asyncio.TaskGroup | None = None
        self._paces: dict[int, Pace] = {}
        self._open: set[Stream] = set()

    @property
    def unproven(self) -> int:
        """Connections whose proof was not checked yet."""
        return self._doorstep.count

    @property
    def visits(self) -> int:
        """Connections of renters now."""
        return sum(len(visits) for visits in self._visits.values())

    def passed(self) -> tuple[int, int]:
        """Bytes received and sent over the streams that are open now."""
        return (
            sum(stream.received_bytes for stream in self._open),
            sum(stream.sent_bytes for stream in self._open),
        )

    async def run(self) -> None:
        """Serve until the endpoint is closed."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            while (incoming := await self._endpoint.accept()) is not None:
                address = incoming.remote_address
                if not self._doorstep.has_room(address):
                    self._tally.refused += 1
                    await incoming.refuse()
                elif not self._doorstep.is_crowded or await incoming.prove_address():
                    self._doorstep.take(address)
                    group.create_task(self._receive(incoming))

    async def _receive(self, incoming: Incoming) -> None:
        """One connection from knock to end. Whatever it does, it ends alone."""
        connection: Connection | None = None
        visit: Visit | None = None
        try:
            try:
                async with asyncio.timeout(UNPROVEN_SECONDS):
                    connection = await incoming.complete(UNPROVEN_SECONDS)
                    visit = await self._admission.admit(connection)
            except Turned as turned:
                await self._turn_away(incoming, connection, turned)
                return
            finally:
                self._doorstep.leave(incoming.remote_address)
            await self._welcome(visit)
        except (NetError, TimeoutError):
            self._tally.refused += visit is None
            _close(connection, CLOSED_BROKEN)
        except Exception:
            # A fault of ours, met by one stranger, must not close the door for all others.
            log.exception("a connection from %s ended by a fault", incoming.remote_address)
            _close(connection, CLOSED_BROKEN)

    async def _turn_away(
        self, incoming: Incoming, connection: Connection | None, turned: Turned
    ) -> None:
        """Tell why; whoever does not take it in within a second does not hear it."""
        self._tally.refused += 1
        log.info(
            "refused %s: %s", incoming.remote_address, turned.refusal, extra={"event": "refused"}
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await refuse(turned.stream, turned.refusal)
                if connection is not None:
                    await connection.wait_closed()
        _close(connection, CLOSED_REFUSED)

    async def _welcome(self, visit: Visit) -> None:
        """Serve an authenticated connection until it ends; what is under way then is cancelled, but
        for lasting streams, which are kept for a while unless the renter closed it by itself.
        """
        visits = self._visits.setdefault(visit.order, [])
        self._paces.setdefault(visit.order, Pace())
        self._make_place(visits, visit.is_lane)
        visits.append(visit)
        self._tally.connections += 1
        log.info(
            "order %s: from %s", visit.order, visit.connection.remote_address,
            extra={"event": "connected"},
        )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._close_at_expiry(visit))
                await self._accept_streams(visit, group)
        except* ConnectionClosed:
            self._enduring.done_with(visit)
        except* NetError:
            visit.connection.close(CLOSED_BROKEN)
        finally:
            visit.next_stream.cancel()
            self._leave(visit)

    def _make_place(self, visits: list[Visit], for_lane: bool) -> None:
        """The fifth connection takes the place of an idle one (it may be dead), else of the oldest:
        the newest is the one somebody is waiting at. Those for lanes have places of their own.
        """
        alike = [visit for visit in visits if visit.is_lane == for_lane]
        if len(alike) >= (LANES_PER_ORDER if for_lane else CONNECTIONS_PER_ORDER):
            idle = next((visit for visit in alike if not visit.streams), alike[0])
            visits.remove(idle)
            idle.connection.close(CLOSED_REFUSED, "a newer connection took its place")

    async def _accept_streams(self, visit: Visit, group: asyncio.TaskGroup) -> None:
        """Raises: NetError: the connection has ended."""
        while True:
            stream = await visit.next_stream
            visit.next_stream = asyncio.create_task(visit.connection.accept())
            visit.streams += 1
            self._open.add(stream)
            group.create_task(self._handle(visit, stream))

    async def _handle(self, visit: Visit, stream: Stream) -> None:
        """A stream of a connection: a request, or the carrier of one that outlives it."""
        try:
            await self._answer_or_refuse(visit, stream, self._answer)
        finally:
            visit.streams -= 1
            self._open.discard(stream)
            self._tally.received_bytes += stream.received_bytes
            self._tally.sent_bytes += stream.sent_bytes

    async def _answer_or_refuse(
        self, visit: Visit, stream: Stream, answer: Callable[[Visit, Stream], Awaitable[None]]
    ) -> None:
        try:
            await answer(visit, stream)
        except Refused as refusal:
            await refuse(stream, refusal)
        except MalformedMessage as error:
            await refuse(stream, Refused(RefusalCode.MALFORMED, str(error)))
        except SandboxError as error:
            await refuse(stream, Refused(RefusalCode.FAILED, str(error)))
        except (NetError, TimeoutError):
            await stream.reset()
        except asyncio.CancelledError:
            await stream.reset()  # what is incomplete must not look complete
            raise
        except Exception:
            log.exception("order %s: a request ended by a fault", visit.order)
            await stream.reset(1)
        finally:
            await stream.close()

    async def _answer(self, visit: Visit, stream: Stream) -> None:
        if sum(one.streams for one in self._visits.get(visit.order, ())) > STREAMS_PER_ORDER:
            raise Refused(RefusalCode.LIMIT, f"order {visit.order} has too many streams open")
        request = await _request(stream)
        if (pace := self._paces.get(visit.order)) is not None:
            await pace.turn()
        match request:
            case Begin(name=name):
                lasting = self._enduring.begin(visit, name)
                self._outlive(self._answer_or_refuse(visit, Stream(lasting), self._answer_lasting))
                await self._enduring.carry(visit, name, stream, 0)
            case Again(name=name, received=received):
                lasting = self._enduring.find(visit, name)
                await stream.write(reply_bytes(Resumed(received=U64(lasting.received))))
                await self._enduring.carry(visit, name, stream, int(received))
            case Stripe(name=name):
                striped = self._stripes.begin(visit, name)
                self._outlive(self._answer_or_refuse(visit, Stream(striped), self._answer_bulk))
                await self._stripes.carry(visit, name, stream)
            case Lane(name=name):
                self._stripes.find(visit, name)
                await self._stripes.carry(visit, name, stream)
            case _:
                await self._serve(visit, request, stream)

    async def _answer_bulk(self, visit: Visit, stream: Stream) -> None:
        """A request whose bytes travel over several connections, for as long as one of them is left."""
        request = await _request(stream)
        if not isinstance(request, PutBlob | CopyOut | CopyIn):
            raise MalformedMessage("only bulk goes over several connections")
        await self._serve(visit, request, stream)

    async def _answer_lasting(self, visit: Visit, stream: Stream) -> None:
        """A request that goes on when its connection breaks; it cannot be one for another such."""
        await self._serve(visit, await _request(stream), stream)

    def _outlive(self, answering: Coroutine[Any, Any, None]) -> None:
        """Run a task that ends with the gate, not with a connection."""
        if self._group is None:
            raise AssertionError("connections come while the gate runs")
        self._group.create_task(answering)

    async def _close_at_expiry(self, visit: Visit) -> None:
        while self._book.block < visit.proof.last_block:
            await self._book.wait_change()
        visit.connection.close(CLOSED_REFUSED, "the access proof has expired; connect again")

    def _leave(self, visit: Visit) -> None:
        visits = self._visits.get(visit.order, [])
        if visit in visits:
            visits.remove(visit)
        if not visits:
            self._visits.pop(visit.order, None)
            self._paces.pop(visit.order, None)
        log.info("order %s: gone", visit.order, extra={"event": "disconnected"})


async def _request(stream: Stream) -> Request:
    async with asyncio.timeout(REQUEST_SECONDS):
        return await read_request(stream)


def _close(connection: Connection | None, code: int) -> None:
    if connection is not None:
        connection.close(code)

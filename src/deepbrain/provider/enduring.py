"""Streams of renters that outlive their connections, for a while.

A command of `dbc exec` goes on when its renter's network breaks. It is kept for `KEEP_SECONDS`, with
bounded output waiting, for the renter to come back by another connection; a renter that closes the
connection is done with all that was begun over it.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from deepbrain.net.errors import ConnectionLost, RefusalCode, Refused, StreamReset
from deepbrain.net.lasting import Lasting
from deepbrain.net.messages import StreamName
from deepbrain.net.stream import Stream
from deepbrain.net.transport import TransportKey
from deepbrain.provider.admission import Visit

KEEP_SECONDS: Final = 120.0
LASTING_PER_ORDER: Final = 32
CROWDED: Final = 12
"""From so many of an order on, a new stream ends the one that nobody has carried for longest: a renter
who was killed often must not be kept out by what nobody will come back to.
"""


@dataclass(eq=False, slots=True)
class _Kept:
    lasting: Lasting
    session: TransportKey
    """Whoever began it, and nobody else of the order, may come back to it."""
    visit: Visit
    """Whose connection carries it, or did last."""
    carriers: int = 0
    detached_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


class Enduring:
    """The lasting streams of one machine."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, StreamName], _Kept] = {}

    def of_order(self, order: int) -> int:
        """How many there are, attached or not."""
        return sum(1 for number, _ in self._kept if number == order)

    def begin(self, visit: Visit, name: StreamName) -> Lasting:
        """Raises: Refused: the name is taken, or there are too many."""
        if (visit.order, name) in self._kept:
            raise Refused(RefusalCode.MALFORMED, "a stream of this name exists; choose another")
        if self.of_order(visit.order) >= CROWDED:
            self._make_place(visit.order)
        if self.of_order(visit.order) >= LASTING_PER_ORDER:
            raise Refused(
                RefusalCode.LIMIT, f"order {visit.order} has too many lasting streams; end one"
            )
        kept = _Kept(Lasting(), visit.connection.remote, visit)
        self._kept[visit.order, name] = kept
        return kept.lasting

    def find(self, visit: Visit, name: StreamName) -> Lasting:
        """Raises: Refused: it is not here, or not any more."""
        kept = self._kept.get((visit.order, name))
        if kept is None or kept.session != visit.connection.remote:
            raise Refused(RefusalCode.NOT_NOW, "the machine does not have this stream any more")
        return kept.lasting

    async def carry(self, visit: Visit, name: StreamName, stream: Stream, received: int) -> None:
        """Raises: NetError: the carrier broke; the stream is kept."""
        kept = self._kept[visit.order, name]
        if kept.timer is not None:
            kept.timer.cancel()
            kept.timer = None
        kept.visit = visit
        kept.carriers += 1
        try:
            await kept.lasting.carry(stream, received)
        except StreamReset as error:
            # The renter itself gave up on the carrier; its connection may well be alive.
            self._end(visit.order, name, error)
            raise
        finally:
            kept.carriers -= 1
            if kept.lasting.is_over:
                self._kept.pop((visit.order, name), None)
            elif not kept.carriers:
                loop = asyncio.get_running_loop()
                kept.detached_at = loop.time()
                kept.timer = loop.call_later(KEEP_SECONDS, self._expire, visit.order, name)

    def done_with(self, visit: Visit) -> None:
        """The renter closed this connection: what it carried last is ended."""
        for (order, name), kept in tuple(self._kept.items()):
            if kept.visit is visit:
                self._end(order, name, StreamReset("the renter closed the connection"))

    def close(self) -> None:
        """End them all."""
        for order, name in tuple(self._kept):
            self._end(order, name, StreamReset("the machine's agent ends"))

    def _make_place(self, order: int) -> None:
        """End the stream of the order that nobody has carried for longest, if there is one."""
        detached = [
            (kept.detached_at, name)
            for (number, name), kept in self._kept.items()
            if number == order and kept.timer is not None
        ]
        if detached:
            reason = ConnectionLost("a newer stream took its place")
            self._end(order, min(detached)[1], reason)

    def _expire(self, order: int, name: StreamName) -> None:
        self._end(order, name, ConnectionLost("nobody came back to the stream"))

    def _end(self, order: int, name: StreamName, reason: ConnectionLost | StreamReset) -> None:
        kept = self._kept.pop((order, name), None)
        if kept is not None:
            if kept.timer is not None:
                kept.timer.cancel()
            kept.lasting.fail(reason)

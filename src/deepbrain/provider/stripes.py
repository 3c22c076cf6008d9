"""Bulk that travels over several connections of one renter, at the machine's side.

A hostile renter gains nothing by it: few such streams an order, each of bounded memory (`striped.py`),
and each lane counts as the stream it is. Only what was begun with a proof for it is answered, and only
the same session key may join.
"""

from dataclasses import dataclass
from typing import Final

from deepbrain.net.errors import RefusalCode, Refused, StreamEnded
from deepbrain.net.frames import reply_bytes
from deepbrain.net.messages import Done, StreamName
from deepbrain.net.stream import Stream
from deepbrain.net.striped import Striped
from deepbrain.net.transport import TransportKey
from deepbrain.provider.admission import Visit

STRIPED_PER_ORDER: Final = 2
LANES_PER_STREAM: Final = 8


@dataclass(frozen=True, slots=True)
class _Begun:
    striped: Striped
    session: TransportKey
    """Whoever began it, and nobody else of the order, may add lanes."""


class Stripes:
    """The striped streams of one machine."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, StreamName], _Begun] = {}

    def of_order(self, order: int) -> int:
        return sum(1 for number, _ in self._begun if number == order)

    def begin(self, visit: Visit, name: StreamName) -> Striped:
        """Raises: Refused: the name is taken, or there are too many; then one connection must do."""
        if (visit.order, name) in self._begun:
            raise Refused(RefusalCode.LIMIT, "a stream of this name exists; choose another")
        if self.of_order(visit.order) >= STRIPED_PER_ORDER:
            raise Refused(
                RefusalCode.LIMIT, f"order {visit.order} has too many striped streams; end one"
            )
        begun = _Begun(Striped(), visit.connection.remote)
        self._begun[visit.order, name] = begun
        return begun.striped

    def find(self, visit: Visit, name: StreamName) -> Striped:
        """Raises: Refused: it is not here, or has all the lanes it may have."""
        begun = self._begun.get((visit.order, name))
        if begun is None or begun.session != visit.connection.remote:
            raise Refused(RefusalCode.NOT_NOW, "the machine does not have this stream")
        if begun.striped.lanes >= LANES_PER_STREAM:
            raise Refused(RefusalCode.LIMIT, f"a stream has {LANES_PER_STREAM} lanes at most")
        return begun.striped

    async def carry(self, visit: Visit, name: StreamName, stream: Stream) -> None:
        """Say that it is taken, and be a lane of it.

        Raises: NetError: the lane is lost, or the whole has failed.
        """
        striped = self._begun[visit.order, name].striped
        try:
            await stream.write(reply_bytes(Done()))
            await striped.carry(stream)
        finally:
            if not striped.lanes and not striped.is_over:
                striped.fail(StreamEnded("the first lane of the stream was lost"))
            if striped.is_over:
                self._begun.pop((visit.order, name), None)

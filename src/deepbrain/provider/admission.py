"""Before a proof is checked: who a visitor is, at a price the visitor cannot raise.

A visit begins with one stream that carries Hello and then Access, in 4 KiB together; a second stream
before the proof is accepted ends the connection, so nobody unproven makes this machine hold more than
the transport's window of one stream.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from deepbrain.net.access import Circumstances, ensure_signed, ensure_usable
from deepbrain.net.errors import MalformedMessage, NetError, RefusalCode, Refused
from deepbrain.net.frames import parse_request, read_frame, reply_bytes
from deepbrain.net.messages import (
    MAX_FRAME_UNPROVEN,
    Access,
    AccessProof,
    Granted,
    Greeting,
    Hello,
    Refusal,
    Scope,
)
from deepbrain.net.stream import Stream
from deepbrain.net.transport import Connection
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.units import BlockNumber
from deepbrain.provider.book import Book, Renting
from deepbrain.provider.status import fitting

REFUSAL_SECONDS: Final = 2.0
"""How long somebody may take to hear that it is refused."""

ORDER_WAIT_SECONDS: Final = 3.0
"""How long a proof for an order that is not known yet waits: a renter may be a block ahead of us."""


@dataclass(eq=False, slots=True)
class Visit:
    """A connection whose proof holds."""

    connection: Connection
    proof: AccessProof
    next_stream: "asyncio.Task[Stream]"
    """The accept that was under way while the proof was checked."""
    streams: int = 0

    @property
    def order(self) -> int:
        return int(self.proof.order)

    @property
    def is_lane(self) -> bool:
        """Whether it may do nothing but carry pieces of what was begun over another."""
        return int(self.proof.scopes) == int(Scope.LANE.value)


@dataclass(frozen=True, slots=True)
class Admission:
    machine: MachineId
    book: Book
    greeting: Callable[[], Awaitable[Greeting]]

    async def admit(self, connection: Connection) -> Visit:
        """Greet a visitor, check its proof and say that it is accepted. The caller bounds the time.

        Raises: Turned: refused, with the stream to say so; NetError: it broke a rule or went away.
        """
        stream = await connection.accept()
        more = asyncio.create_task(connection.accept())
        check = asyncio.create_task(self._greet_and_check(connection, stream))
        try:
            await asyncio.wait((more, check), return_when=asyncio.FIRST_COMPLETED)
            if not check.done():
                raise MalformedMessage("one stream is all there is before the proof")
            proof = check.result()
            # Only now: as soon as the visitor reads this it may open streams, before we have ended ours.
            await _grant(stream, proof)
            return Visit(connection, proof, more)
        except BaseException:
            more.cancel()
            check.cancel()
            await asyncio.wait((more, check))
            raise

    async def _greet_and_check(self, connection: Connection, stream: Stream) -> AccessProof:
        hello = await read_frame(stream, MAX_FRAME_UNPROVEN)
        if not isinstance(parse_request(hello), Hello):
            raise MalformedMessage("a visit begins with Hello")
        await stream.write(reply_bytes(await self.greeting()))
        access = parse_request(await read_frame(stream, MAX_FRAME_UNPROVEN - len(hello)))
        if not isinstance(access, Access):
            raise MalformedMessage("after Hello comes Access")
        try:
            await self._check(connection, access)
        except Refused as refusal:
            raise Turned(refusal, stream) from None
        return access.proof

    async def _check(self, connection: Connection, access: Access) -> None:
        renting = await self._await_order(int(access.proof.order))
        here = Circumstances(
            genesis=renting.genesis,
            machine=self.machine,
            remote=connection.remote,
            block=BlockNumber(self.book.block),
            blocks_per_day=self.book.blocks_per_day,
        )
        ensure_usable(access.proof, here)
        ensure_signed(access, renting.renter)

    async def _await_order(self, order: int) -> Renting:
        """Raises: Refused: the order is not on this machine, now or within a few seconds."""
        try:
            async with asyncio.timeout(ORDER_WAIT_SECONDS):
                while (renting := self.book.renting(order)) is None:
                    await self.book.wait_change()
                return renting
        except TimeoutError:
            raise Refused(
                RefusalCode.UNKNOWN_ORDER, f"order {order} is not known on this machine"
            ) from None


class Turned(NetError):
    """A visitor is turned away, and may hear why."""

    def __init__(self, refusal: Refused, stream: Stream) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.stream = stream


async def _grant(stream: Stream, proof: AccessProof) -> None:
    await stream.write(reply_bytes(Granted(scopes=proof.scopes, last_block=proof.last_block)))
    await stream.close()


async def refuse(stream: Stream, refusal: Refused) -> None:
    """Tell why, as far as the other side still listens, and end the stream."""
    reply = Refusal(code=refusal.code, reason=fitting(str(refusal)))
    try:
        async with asyncio.timeout(REFUSAL_SECONDS):
            await stream.write(reply_bytes(reply))
    except (NetError, TimeoutError):
        await stream.reset()
    await stream.close()

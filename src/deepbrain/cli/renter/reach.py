"""How a renter reaches the machine that runs an order: one session, opened again when it breaks."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from deepbrain.cli.renter.market import short
from deepbrain.cli.renter.relays import ways_for_renters
from deepbrain.net.access import Grant
from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.errors import NetError, Unreachable
from deepbrain.net.session import Session, Way
from deepbrain.net.transport import Endpoint, is_relay
from deepbrain.pallets.machines import Machines
from deepbrain.primitives.ids import MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import BlockNumber

if TYPE_CHECKING:
    from deepbrain.client import Client

T = TypeVar("T")

PROOF_BLOCKS: Final = 3600
"""How far ahead an access proof reaches: far enough to forget about, within any chain's 24 hours."""


@contextlib.asynccontextmanager
async def fresh_endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint with a key of its own: a proof is bound to it, and it dies with this process."""
    endpoint = await IrohEndpoint.bind(os.urandom(32))
    try:
        yield endpoint
    finally:
        await endpoint.close()


@contextlib.asynccontextmanager
async def closing(pieces: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """End a stream of the session when the block ends, and not when its object is collected."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


@dataclass(slots=True)
class Reach:
    """The way to one order's machine."""

    client: "Client"
    endpoint: Endpoint
    pair: Keypair
    order: OrderId
    machine: MachineId
    _session: Session | None = field(default=None, init=False)
    _learning: "asyncio.Task[None] | None" = field(default=None, init=False)

    async def session(self) -> Session:
        """The open session, or a new one with a new proof.

        Raises: Unreachable, Refused, NetError; RpcError, NodeUnreachable.
        """
        if self._session is None:
            self._session = await self._open()
        return self._session

    def lost(self) -> None:
        """The session is not to be used again."""
        if self._session is not None:
            self._session.close()
            self._session = None

    async def _open(self) -> Session:
        way = await self._way()
        session = await Session.open(
            self.endpoint, way.addresses, way.grant, self.pair, again=self._way
        )
        relays = [address for address in way.addresses if is_relay(address)]
        if relays and self._learning is None and not session.is_direct:
            self._learning = asyncio.create_task(_learn_own_address(self.endpoint, relays))
        return session

    async def _way(self) -> Way:
        """Where the machine is now, and a proof for the time to come."""
        machine = await self.client.at().get(Machines.machines, self.machine)
        if machine is None:
            raise Unreachable(f"machine {short(self.machine)} has left the network")
        head = await self.client.head()
        grant = Grant(
            genesis=self.client.genesis_hash,
            machine=self.machine,
            order=self.order,
            last_block=BlockNumber(int(head.number) + PROOF_BLOCKS),
        )
        return Way(await ways_for_renters(self.client, machine.address), grant)


async def _learn_own_address(endpoint: Endpoint, relays: Sequence[str]) -> None:
    """Ask the relays where our packets come from: told that, the machine tries to reach us directly,
    and a connection over a relay moves to a direct path where there is one.
    """
    from deepbrain.net import rendezvous

    for url in relays:
        with contextlib.suppress(NetError):
            async with rendezvous.visiting(endpoint, await rendezvous.find(url)) as visit:
                if address := await rendezvous.look(visit):
                    await endpoint.note_external(address)
                    return

"""How a renter reaches the machine that runs an order: one session, opened again when it breaks."""

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from deepbrain.cli.market import dial_addresses, short
from deepbrain.net.access import Grant
from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.errors import Unreachable
from deepbrain.net.session import Session
from deepbrain.net.transport import Endpoint
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
        addresses = dial_addresses(machine.address)
        return await Session.open(self.endpoint, addresses, grant, self.pair)

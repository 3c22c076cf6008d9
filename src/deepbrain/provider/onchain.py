"""The chain over a node: snapshots at the newest final block, and the machine's declarations."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Final

from deepbrain.client import Client, WrongChain
from deepbrain.client.reads import At
from deepbrain.frame.calls import Call
from deepbrain.pallets import rent
from deepbrain.pallets.machines import Machine, Machines
from deepbrain.pallets.rent import Ended, Placed, Rent, Running
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import AccountId, Hash, MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import U8, BlockNumber
from deepbrain.provider.chain import (
    MOST_BLOCKS_PER_DAY,
    ChainUnavailable,
    Closing,
    Desired,
    Known,
    Order,
    OrderPhase,
    Unknown,
)

log = logging.getLogger(__name__)

DAY_MS: Final = 24 * 3600 * 1000
SNAPSHOT_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 5.0
RECONNECT_SECONDS: Final = 1.0
DECLARE_SECONDS: Final = 60.0
DECLARE_BLOCKS: Final = 32
"""How long a declaration may wait for a block; later ones are made anew from what the chain shows."""


class OnChain:
    """A `Chain` over one node's address. The node may come and go."""

    def __init__(
        self, url: str, machine: MachineId, controller: Keypair, genesis: Hash | None = None
    ) -> None:
        self._url = url
        self._machine = machine
        self._controller = controller
        self._genesis = genesis
        self._client: Client | None = None
        self._blocks_per_day = MOST_BLOCKS_PER_DAY
        self._connecting = asyncio.Lock()

    async def snapshot(self) -> Desired:
        try:
            async with asyncio.timeout(SNAPSHOT_SECONDS):
                return await self._read(await self._connected())
        except WrongChain as error:
            await self.disconnect()
            return Unknown(str(error))
        except TimeoutError:
            return Unknown(f"{self._url} takes too long to answer")
        except (DeepBrainError, OSError) as error:
            return Unknown(str(error))

    async def holds(self, *blocks: tuple[int, Hash]) -> bool:
        try:
            async with asyncio.timeout(SNAPSHOT_SECONDS):
                client = await self._connected()
                found = await client.block_hashes([BlockNumber(number) for number, _ in blocks])
                return found == [wanted for _, wanted in blocks]
        except TimeoutError as error:
            raise ChainUnavailable(f"{self._url} takes too long to answer") from error
        except (DeepBrainError, OSError) as error:
            raise ChainUnavailable(str(error)) from error

    async def start(self, order: int) -> None:
        await self._declare(Rent.start.make(order=OrderId(order)))

    async def close(self, order: int, closing: Closing, exit_code: int | None) -> None:
        reports = closing is Closing.EXITED and exit_code is not None
        code = U8(exit_code & 0xFF) if reports and exit_code is not None else None
        await self._declare(Rent.close.make(order=OrderId(order), exit_code=code))

    async def pause(self) -> None:
        await self._declare(Machines.pause.make(machine=self._machine))

    async def resume(self) -> None:
        await self._declare(Machines.resume.make(machine=self._machine))

    async def accept(self, stash: AccountId) -> bool:
        ours = self._controller.public
        if stash == ours:
            return True
        try:
            async with asyncio.timeout(SNAPSHOT_SECONDS):
                at = (await self._connected()).at()
                acting = await at.get(Machines.controller_of, stash)
                asked = await at.get(Machines.proposed, stash)
        except TimeoutError as error:
            raise ChainUnavailable(f"{self._url} takes too long to answer") from error
        except (DeepBrainError, OSError) as error:
            raise ChainUnavailable(str(error)) from error
        if acting != ours and asked == ours:
            await self._declare(Machines.accept_stash.make(stash=stash))
            return True
        return acting == ours

    async def relays(self) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(SNAPSHOT_SECONDS):
                return await (await self._connected()).relays()
        except TimeoutError as error:
            raise ChainUnavailable(f"{self._url} takes too long to answer") from error
        except (DeepBrainError, OSError) as error:
            raise ChainUnavailable(str(error)) from error

    async def announce(self, relays: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(SNAPSHOT_SECONDS):
                at = (await self._connected()).at()
                machine = await at.get(Machines.machines, self._machine)
        except TimeoutError as error:
            raise ChainUnavailable(f"{self._url} takes too long to answer") from error
        except (DeepBrainError, OSError) as error:
            raise ChainUnavailable(str(error)) from error
        if machine is None:
            raise ChainUnavailable("the machine is not on the chain yet")
        if machine.address.relays != tuple(relays):
            address = machine.address.but(relays=tuple(relays))
            await self._declare(Machines.set_address.make(machine=self._machine, address=address))

    async def changes(self) -> AsyncIterator[None]:
        while True:
            try:
                client = await self._connected()
                async for _ in client.heads(finalized=True):
                    yield
            except (DeepBrainError, OSError) as error:
                log.debug("the node cannot be followed: %s", error)
            yield
            await asyncio.sleep(RECONNECT_SECONDS)

    async def disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None:
                client = await Client.connect(
                    self._url, genesis=self._genesis, seconds=CONNECT_SECONDS
                )
                try:
                    self._blocks_per_day = await blocks_per_day(client)
                except BaseException:
                    await client.close()
                    raise
                self._client, self._genesis = client, client.genesis_hash
            return self._client

    async def _declare(self, call: Call) -> None:
        try:
            async with asyncio.timeout(DECLARE_SECONDS):
                client = await self._connected()
                await client.submit(call, self._controller, wait="finalized", life=DECLARE_BLOCKS)
        except TimeoutError as error:
            raise ChainUnavailable(f"{self._url} takes too long to answer") from error
        except (DeepBrainError, OSError) as error:
            raise ChainUnavailable(str(error)) from error

    async def _read(self, client: Client) -> Known:
        block = await client.finalized()
        at = client.at(block.hash)
        service_ms = await at.get(Timestamp.service_ms)
        numbers = [pair[1] async for pair, _ in at.entries(Rent.orders_on, self._machine)]
        found = await at.get_many(Rent.orders, numbers)
        orders = zip(numbers, found, strict=True)
        machine = await at.get(Machines.machines, self._machine)
        earned = await at.get(Rent.earnings, self._machine)
        return Known(
            genesis=client.genesis_hash,
            block=int(block.number),
            block_hash=block.hash,
            service=int(service_ms) // 1000,
            orders={int(number): order_of(number, order) for number, order in orders if order},
            owners=await self._owners(at, machine),
            offer=None if machine is None else int(machine.offer_version),
            paused=machine is not None and machine.paused,
            unit_seconds=0 if earned is None else int(earned.unit_seconds),
            blocks_per_day=self._blocks_per_day,
        )

    async def _owners(self, at: At, machine: Machine | None) -> frozenset[AccountId]:
        if machine is None:
            return frozenset()
        controller = await at.get(Machines.controller_of, machine.stash)
        return frozenset(account for account in (machine.stash, controller) if account is not None)


async def blocks_per_day(client: Client) -> int:
    """By the chain's own figures."""
    half_interval_ms = int(await client.constant(Timestamp, "minimum_period"))
    return DAY_MS // max(2 * half_interval_ms, 1000)


def order_of(number: OrderId, found: rent.Order) -> Order:
    """The chain's order in the words of the agent."""
    start_by, ends_at, phase = 0, None, OrderPhase.ENDED
    match found.status:
        case Placed(start_by=window):
            start_by, phase = int(window), OrderPhase.PLACED
        case Running(since=since):
            ends_at, phase = int(since) + found.term(), OrderPhase.RUNNING
        case Ended():
            phase = OrderPhase.ENDED
    return Order(
        id=int(number),
        renter=found.renter,
        units=int(found.units),
        manifest_hash=found.manifest_hash,
        phase=phase,
        seconds=found.term(),
        start_by=start_by,
        ends_at=ends_at,
    )


@contextlib.asynccontextmanager
async def on_chain(
    url: str, machine: MachineId, controller: Keypair, genesis: Hash | None
) -> AsyncIterator[OnChain]:
    """An `OnChain` that is disconnected at the end."""
    chain = OnChain(url, machine, controller, genesis)
    try:
        yield chain
    finally:
        await chain.disconnect()

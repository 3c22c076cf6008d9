"""A chain in memory, for tests: orders are placed by hand, blocks are made by hand."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.provider.chain import (
    ChainUnavailable,
    Closing,
    Desired,
    Known,
    Order,
    OrderPhase,
    Unknown,
)

DEFAULT_GENESIS = Hash(b"\x07" * 32)

BLOCKS_PER_DAY = 5000


class FakeChain:
    def __init__(self, genesis: Hash = DEFAULT_GENESIS) -> None:
        self.genesis = genesis
        self.block = 1
        self.service = 1000
        self.orders: dict[int, Order] = {}
        self.fork = 0
        """Another number is another chain from the same genesis."""
        self.silent = False
        """While set, the node does not answer."""
        self.declared: list[tuple[str, int]] = []
        """Every declaration that was accepted, in order."""
        self.closings: dict[int, tuple[Closing, int | None]] = {}
        self.offer = 0
        self.paused = False
        self.named_relays: tuple[str, ...] = ()
        self.announced: tuple[str, ...] = ()
        self._changed = asyncio.Event()

    async def snapshot(self) -> Desired:
        if self.silent:
            return Unknown("the node does not answer")
        return Known(
            genesis=self.genesis,
            block=self.block,
            service=self.service,
            orders=dict(self.orders),
            block_hash=self.hash_of(self.block),
            blocks_per_day=BLOCKS_PER_DAY,
            offer=self.offer,
            paused=self.paused,
        )

    def hash_of(self, block: int) -> Hash:
        return Hash(bytes([self.fork]) * 24 + block.to_bytes(8, "big"))

    async def holds(self, *blocks: tuple[int, Hash]) -> bool:
        return all(n <= self.block and self.hash_of(n) == found for n, found in blocks)

    async def start(self, order: int) -> None:
        self._ensure(order, OrderPhase.PLACED)
        placed = self.orders[order]
        self.declared.append(("start", order))
        ends_at = self.service + placed.seconds
        self.orders[order] = replace(placed, phase=OrderPhase.RUNNING, ends_at=ends_at)
        self.make_block()

    async def close(self, order: int, closing: Closing, exit_code: int | None) -> None:
        self._ensure(order, OrderPhase.PLACED, OrderPhase.RUNNING)
        self.declared.append(("close", order))
        self.closings[order] = (closing, exit_code)
        self.end(order)

    async def pause(self) -> None:
        self.edit(paused=True)

    async def resume(self) -> None:
        self.edit(paused=False)

    async def relays(self) -> tuple[str, ...]:
        return self.named_relays

    async def announce(self, relays: Sequence[str]) -> None:
        if self.silent:
            raise ChainUnavailable("the node does not answer")
        self.announced = tuple(relays)

    async def accept(self, stash: AccountId) -> bool:
        return True

    def edit(self, *, paused: bool) -> None:
        """As pausing and resuming by anybody do."""
        if self.silent:
            raise ChainUnavailable("the node does not answer")
        self.paused, self.offer = paused, self.offer + 1
        self.make_block()

    async def changes(self) -> AsyncIterator[None]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            yield

    async def disconnect(self) -> None:
        self.silent = True

    def place(
        self, order: int, renter: AccountId, manifest_hash: Hash, *, seconds: int = 60
    ) -> None:
        self.orders[order] = Order(
            id=order,
            renter=renter,
            units=1,
            manifest_hash=manifest_hash,
            phase=OrderPhase.PLACED,
            seconds=seconds,
            start_by=self.service + 600,
        )
        self.make_block()

    def end(self, order: int) -> None:
        """As a close by anybody does."""
        self.orders[order] = replace(self.orders[order], phase=OrderPhase.ENDED)
        self.make_block()

    def prune(self, order: int) -> None:
        """As the chain does a day after the end."""
        del self.orders[order]
        self.make_block()

    def make_block(self, seconds: int = 1) -> None:
        self.block += 1
        self.service += seconds
        self._changed.set()

    def _ensure(self, order: int, *phases: OrderPhase) -> None:
        shown = self.orders.get(order)
        if self.silent or shown is None or shown.phase not in phases:
            raise ChainUnavailable("the chain does not accept it")

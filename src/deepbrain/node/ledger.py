"""Chain and pool together, as an engine drives them.

Blocks run on one executor thread; the pool and everything that clients hear run on the event loop. One
call at a time: an engine awaits each before the next.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from deepbrain.node.chain import Chain, Executed, Head, InherentData, Order
from deepbrain.node.pool import Pool
from deepbrain.node.snapshots import Rows
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import Moment

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_CANDIDATES: Final = 4096
"""More than a block's weight has room for."""


class NodeLedger:
    """An engine's `Ledger`."""

    def __init__(self, chain: Chain, pool: Pool) -> None:
        self._chain = chain
        self._pool = pool
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="chain")
        self._spent = 0.0
        self.block_seconds = 0.0
        """What the last block took here: to run, vote on and write it."""

    @property
    def head(self) -> Head:
        return self._chain.head

    @property
    def earliest(self) -> Moment:
        return self._chain.earliest

    @property
    def waiting(self) -> int:
        return self._pool.ready

    async def propose(self, data: InherentData) -> tuple[bytes, ...]:
        candidates = self._pool.candidates(MAX_CANDIDATES)
        proposal = await self._run(lambda: self._chain.propose(data, candidates, self._pool))
        for bad in proposal.bad:
            self._pool.remove(blake2_256(bad))
        return proposal.extrinsics

    async def accepts(self, data: InherentData, extrinsics: Sequence[bytes]) -> bool:
        order = self._order(data, extrinsics)
        return await self._run(lambda: self._chain.accepts(order, self._pool))

    async def execute(self, data: InherentData, extrinsics: Sequence[bytes]) -> Executed:
        order = self._order(data, extrinsics)
        return await self._run(lambda: self._chain.execute(order, self._pool))

    async def finalize(self, data: InherentData, extrinsics: Sequence[bytes]) -> Head:
        order = self._order(data, extrinsics)
        notice = await self._run(lambda: self._chain.finalize(order, self._pool))
        self.block_seconds, self._spent = self._spent, 0.0
        self._pool.on_block(notice.head.number, notice.head.hash, notice.extrinsics)
        if notice.upgraded:
            await self._pool.revalidate()
        self._chain.publish(notice)
        return notice.head

    async def join(self, number: int, root: Hash, rows: Rows) -> Head:
        notice = await self._run(lambda: self._chain.join(number, root, rows))
        self._spent = 0.0
        self._pool.on_block(notice.head.number, notice.head.hash, ())
        await self._pool.revalidate()
        self._chain.publish(notice)
        return notice.head

    def close(self) -> None:
        """Wait until the block that is being written is written."""
        self._executor.shutdown(wait=True)

    def _order(self, data: InherentData, extrinsics: Sequence[bytes]) -> Order:
        return Order(self._chain.head.hash, data, tuple(extrinsics))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._timed, work)

    def _timed(self, work: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            return work()
        finally:
            self._spent += time.monotonic() - began

"""The engine of one node: blocks are sealed in process, and final when they are committed.

A block is sealed when extrinsics arrive, at least `min_gap` after the last one so that a burst shares
a block, and at every `interval` whatever there is: the clocks of the chain run on blocks. Under load
the gap grows to a few times what a block takes: larger blocks cost less an extrinsic, and what arrives
meanwhile needs the processor too.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from deepbrain.frame.consensus import ConsensusAddress
from deepbrain.node.chain import InherentData
from deepbrain.node.engine import Ledger, Traffic
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import Moment

MIN_GAP: Final = 0.05
REST: Final = 4
"""The gap under load, in times of what the last block took."""


def calendar() -> Moment:
    """This machine's wall clock."""
    return Moment(time.time_ns() // 10**6)


class SoloEngine:
    """Seals blocks as `author`. Times are in seconds."""

    name = "solo"
    live = True
    address: ConsensusAddress | None = None
    traffic = Traffic()

    def __init__(
        self,
        ledger: Ledger,
        author: AccountId,
        *,
        interval: float,
        min_gap: float = MIN_GAP,
        clock: Callable[[], Moment] = calendar,
    ) -> None:
        self._ledger = ledger
        self._author = author
        self._interval = interval
        self._min_gap = min(min_gap, interval)
        self._clock = clock
        self._arrived = asyncio.Event()

    def announce(self, extrinsics: Sequence[bytes]) -> None:
        if self._ledger.waiting:
            self._arrived.set()

    async def run(self) -> None:
        while True:
            started = time.monotonic()
            waiting = self._ledger.waiting
            taken = await self.seal()
            gap = max(self._min_gap, min(REST * (time.monotonic() - started), self._interval))
            if 0 < taken < waiting:  # more than one block could hold: go on
                self._arrived.set()
                gap = self._min_gap
            await self._turn(started, gap)

    async def seal(self) -> int:
        """Make one block of what the pool has; gives how many extrinsics it took."""
        self._arrived.clear()
        # A clock that was set back must not stop the chain: its time goes on by the least step.
        data = InherentData(max(self._clock(), self._ledger.earliest), self._author)
        extrinsics = await self._ledger.propose(data)
        await self._ledger.finalize(data, extrinsics)
        return len(extrinsics)

    async def _turn(self, started: float, gap: float) -> None:
        """Wait for the interval to pass, or for extrinsics and the gap after the last block."""
        left = started + self._interval - time.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                await self._arrived.wait()
        except TimeoutError:
            return
        rest = started + gap - time.monotonic()
        ahead = (int(self._ledger.earliest) - int(self._clock())) / 1000
        await asyncio.sleep(max(rest, min(ahead, self._interval), 0.0))

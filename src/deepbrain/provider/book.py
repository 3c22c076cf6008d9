"""What the agent knows right now, shared by its loop and its gate. Nothing here outlives the process.

Statuses are kept as the newest one per order: a slow follower skips what came between, and never
makes anything queue up.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from deepbrain.net.messages import OrderStatus, Stage
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.provider.chain import MOST_BLOCKS_PER_DAY, Desired, Known, OrderPhase, Unknown
from deepbrain.provider.record import RecordDamaged, Records


@dataclass(frozen=True, slots=True)
class Renting:
    """Who rents an order, and what the manifest must hash to."""

    renter: AccountId
    genesis: Hash
    manifest_hash: Hash


class Book:
    def __init__(self, records: Records, genesis: Hash | None) -> None:
        self._records = records
        self._genesis = genesis
        self._desired: Desired = Unknown("the chain was not read yet")
        self._statuses: dict[int, OrderStatus] = {}
        self._changed = asyncio.Event()
        self._hint = asyncio.Event()
        self._block = 0
        self._blocks_per_day = MOST_BLOCKS_PER_DAY

    @property
    def desired(self) -> Desired:
        return self._desired

    @property
    def genesis(self) -> Hash:
        """The chain this machine serves; all zero while none was ever seen."""
        return self._genesis or Hash(bytes(32))

    @property
    def block(self) -> int:
        """The newest block ever read; what the age of access proofs is measured by."""
        return self._block

    @property
    def blocks_per_day(self) -> int:
        """How many blocks ahead an access proof may reach."""
        return self._blocks_per_day

    def note_desired(self, desired: Desired) -> None:
        self._desired = desired
        if isinstance(desired, Known):
            self._genesis = self._genesis or desired.genesis
            if desired.genesis == self._genesis:
                self._block = max(self._block, desired.block)
                self._blocks_per_day = desired.blocks_per_day
        self._wake()

    def renting(self, order: int) -> Renting | None:
        """By the chain where it can be read, else by the order's own record: we serve on."""
        desired = self._desired
        if isinstance(desired, Known) and desired.genesis == self.genesis:
            shown = desired.orders.get(order)
            if shown is not None:
                return Renting(shown.renter, desired.genesis, shown.manifest_hash)
        try:
            record = self._records.files(order).record()
        except RecordDamaged:
            return None
        return Renting(record.renter, record.genesis, record.manifest_hash)

    def hint(self) -> None:
        """Something changed here; the loop should look at once."""
        self._hint.set()

    async def wait_hint(self) -> None:
        await self._hint.wait()
        self._hint.clear()

    def status(self, order: int) -> OrderStatus | None:
        return self._statuses.get(order)

    def publish(self, status: OrderStatus) -> None:
        if self._statuses.get(int(status.order)) != status:
            self._statuses[int(status.order)] = status
            self._wake()

    def forget(self, order: int) -> None:
        """The order is destroyed: followers hear it once more, then no more."""
        if self._statuses.pop(order, None) is not None:
            self._wake()

    async def wait_change(self) -> None:
        """The next change of anything."""
        await self._changed.wait()

    async def follow(self, order: int) -> AsyncIterator[OrderStatus]:
        """The newest status, then each newer one, until the order is destroyed.

        Ends at once, without any, when the order is not here and will not be.
        """
        shown: OrderStatus | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(order)
            if status is not None and status != shown:
                shown = status
                yield status
                continue  # it may have changed while the follower was slow
            if status is None and shown is not None:
                yield shown.but(stage=Stage.DESTROYED, detail="")
                return
            if status is None and not self._is_expected(order):
                return
            await changed.wait()

    def _is_expected(self, order: int) -> bool:
        """Whether an order without a status is going to have one."""
        shown = self._desired.orders.get(order) if isinstance(self._desired, Known) else None
        is_open = shown is not None and shown.phase is not OrderPhase.ENDED
        return is_open or (self._records.files(order).path / "order.json").exists()

    def _wake(self) -> None:
        # Whoever waits holds the old event, so nobody misses a change or sees it twice.
        self._changed.set()
        self._changed = asyncio.Event()

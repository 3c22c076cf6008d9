"""A machine whose disk is too full pauses itself, and resumes when there is room again.

What a person paused stays paused: the agent remembers the version of the offer that its own pause made,
and resumes at exactly that one. Every edit of the terms raises the version, another pause too; another
address does not.
"""

import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from deepbrain.provider.actual import Tenant
from deepbrain.provider.chain import Chain, Known, OrderPhase
from deepbrain.provider.disk import RESERVE, DiskBudget, DiskState
from deepbrain.provider.identity import Capacity
from deepbrain.provider.record import replace_file

log = logging.getLogger(__name__)

MARK: Final = "paused.json"


class DiskGuard:
    """Watches the disk of one machine. `data` is the agent's own directory, `disk` where tenants lie."""

    def __init__(self, data: Path, disk: Path, capacity: Capacity) -> None:
        self._mark = data / MARK
        self._disk = disk
        self._units = capacity.units
        self._budget = DiskBudget.of(capacity)
        self._remembered = self._read_mark()
        self.state = self._budget.look(disk)

    def look(self) -> DiskState:
        """Raises: OSError."""
        self.state = self._budget.look(self._disk)
        return self.state

    def room_units(self, tenants: Iterable[Tenant]) -> int:
        """How many more units have room, beside those that were promised and are not allocated yet."""
        free = (self.state.free - RESERVE) // self._budget.unit_bytes
        promised = sum(tenant.record.units for tenant in tenants if tenant.state is None)
        return max(free - promised, 0)

    async def act(self, chain: Chain, known: Known) -> bool:
        """Pause or resume the machine where that is due; whether the chain was changed.

        Raises: ChainUnavailable: later, then.
        """
        if known.offer is None:
            return False
        if known.paused:
            return await self._resume(chain, known)
        if self.state.has_room or not self.free_units(known):
            return False
        log.warning(
            "the disk has %s MiB free, one more unit needs %s MiB: no new orders until there is room",
            self.state.free >> 20, self.state.needed >> 20, extra={"event": "disk-full"},
        )  # fmt: skip
        self._remember(known.offer + 1)
        await chain.pause()
        return True

    async def _resume(self, chain: Chain, known: Known) -> bool:
        if known.offer != self._remembered or not self.state.has_ample_room:
            return False
        log.info("the disk has room again: new orders are taken", extra={"event": "disk-room"})
        await chain.resume()
        return True

    def free_units(self, known: Known) -> int:
        """Units that no open order has taken."""
        opened = (order for order in known.orders.values() if order.phase is not OrderPhase.ENDED)
        return max(self._units - sum(order.units for order in opened), 0)

    def _remember(self, offer: int) -> None:
        self._remembered = offer
        with suppress(OSError):  # the disk is full: after a restart a person has to resume
            replace_file(self._mark, json.dumps({"offer": offer}).encode())

    def _read_mark(self) -> int | None:
        try:
            offer = json.loads(self._mark.read_bytes())["offer"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return offer if isinstance(offer, int) else None

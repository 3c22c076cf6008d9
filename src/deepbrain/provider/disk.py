"""Whether the disk holds what is promised to tenants: new orders are refused before it is full.

A tenant's volume is allocated in full when it is prepared, so what is free is free. Too little for one
more unit, and the machine takes no new orders: it pauses itself, and resumes when there is room again.
Whatever has started goes on.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepbrain.provider.identity import Capacity

RESERVE: Final = 1 << 30
"""Bytes of disk that no tenant and no upload may take: records and logs need some."""

RESUME_PERCENT: Final = 20
"""How much more room than was missing there has to be before orders are taken again."""


@dataclass(frozen=True, slots=True)
class DiskState:
    """What was found, in bytes."""

    free: int
    needed: int
    """For one more unit, and the reserve."""

    @property
    def has_room(self) -> bool:
        return self.free >= self.needed

    @property
    def has_ample_room(self) -> bool:
        """Enough to take orders again, having taken none."""
        return self.free >= self.needed + self.needed * RESUME_PERCENT // 100


@dataclass(frozen=True, slots=True)
class DiskBudget:
    """Bytes that one unit gets."""

    unit_bytes: int

    @classmethod
    def of(cls, capacity: Capacity) -> "DiskBudget":
        return cls((capacity.disk_bytes + capacity.log_bytes) // capacity.units)

    def look(self, data: Path) -> DiskState:
        """Raises: OSError: the file system does not answer."""
        status = os.statvfs(data)
        return DiskState(status.f_bavail * status.f_frsize, self.unit_bytes + RESERVE)

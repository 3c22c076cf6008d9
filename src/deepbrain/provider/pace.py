"""How fast one order may ask: what is asked faster waits, and only those who asked it."""

import asyncio
from typing import Final

REQUESTS_PER_SECOND: Final = 100
BURST: Final = 100
"""Requests that are answered at once after a pause."""


class Pace:
    def __init__(self) -> None:
        self._due = 0.0
        """When the next request would come, if they came evenly."""

    async def turn(self) -> None:
        """Wait for one's turn."""
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now - BURST / REQUESTS_PER_SECOND) + 1 / REQUESTS_PER_SECOND
        if self._due > now:
            await asyncio.sleep(self._due - now)

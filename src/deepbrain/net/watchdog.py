"""End a process whose event loop stands still, and say where it stood.

A lock that two threads of the transport's wheel wait for, or a call that never returns, would leave a
process that neither serves nor ends: nobody would start it anew. This does not ask Python whether it may:
the threads' frames go to standard error and the process ends with code 1, whoever holds which lock.
"""

import asyncio
import contextlib
import faulthandler
from collections.abc import AsyncIterator
from typing import Final

STILL_SECONDS: Final = 20.0
"""How long the loop may stand still. A process that was stopped (SIGSTOP) for longer ends when it goes on."""

_BEATS: Final = 8
"""Signs of life in that time."""


@contextlib.asynccontextmanager
async def watchdog(seconds: float = STILL_SECONDS) -> AsyncIterator[None]:
    """Meanwhile the process ends when this loop does not run for `seconds`; one at a time in a process."""
    beating = asyncio.create_task(_beat(seconds), name="watchdog")
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.wait([beating])
        faulthandler.cancel_dump_traceback_later()


async def _beat(seconds: float) -> None:
    while True:
        faulthandler.dump_traceback_later(seconds, exit=True)
        await asyncio.sleep(seconds / _BEATS)

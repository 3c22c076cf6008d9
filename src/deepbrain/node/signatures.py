"""Checking signatures: three quarters of what an extrinsic costs.

Both libraries hold the interpreter's lock, so threads would not help: where there are cores to spare,
worker processes check chunks of 64, which leaves about 3 µs a signature in the node. Workers start
with the first large batch, and end with the node whatever ends it.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Final, NamedTuple, Protocol

from deepbrain.primitives.keys import Scheme, verify

log = logging.getLogger(__name__)

CHUNK: Final = 64
INLINE_BELOW: Final = 16
"""So few are checked in place: asking a worker would take longer."""
MAX_WORKERS: Final = 4


class Check(NamedTuple):
    """One signature to check; plain bytes, cheap to send to a worker."""

    scheme: int
    public: bytes
    signature: bytes
    message: bytes


class Signatures(Protocol):
    """Checks many signatures."""

    async def verify(self, checks: Sequence[Check]) -> list[bool]:
        """One answer per check, in order."""

    def close(self) -> None: ...


class InlineSignatures:
    """Checks in the calling thread, giving the event loop a turn after each chunk."""

    async def verify(self, checks: Sequence[Check]) -> list[bool]:
        answers: list[bool] = []
        for start in range(0, len(checks), CHUNK):
            if start:
                await asyncio.sleep(0)
            answers += verify_chunk(checks[start : start + CHUNK])
        return answers

    def close(self) -> None: ...


class ProcessSignatures:
    """Checks in worker processes, started when first needed."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    async def verify(self, checks: Sequence[Check]) -> list[bool]:
        if len(checks) < INLINE_BELOW:
            return verify_chunk(checks)
        chunks = [list(checks[start : start + CHUNK]) for start in range(0, len(checks), CHUNK)]
        try:
            parts = await self._spread(chunks)
        except BrokenProcessPool:
            log.warning("a process that checks signatures died; starting another")
            self._pool = None
            parts = [verify_chunk(chunk) for chunk in chunks]
        return [answer for part in parts for answer in part]

    async def _spread(self, chunks: list[list[Check]]) -> list[list[bool]]:
        pool, loop = self._started(), asyncio.get_running_loop()
        work = [loop.run_in_executor(pool, verify_chunk, chunk) for chunk in chunks]
        return await asyncio.gather(*work)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=get_context("spawn"), initializer=_begin_worker
            )
        return self._pool


def signatures_for(cores: int) -> Signatures:
    """Worker processes on all cores but one, at most `MAX_WORKERS`; in place on a single core."""
    workers = min(cores - 1, MAX_WORKERS)
    return ProcessSignatures(workers) if workers > 0 else InlineSignatures()


def verify_chunk(checks: Sequence[Check]) -> list[bool]:
    return [verify(Scheme(scheme), *rest) for scheme, *rest in checks]


def _begin_worker() -> None:
    """The node decides when a worker ends, and its death does too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""What an attack costs the others: another renter's keystrokes, and what the machine grows to."""

import asyncio
import logging
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.hostile.machine import ALICE, Facts, Target

from deepbrain.net.session import ExecStream, Session

log = logging.getLogger(__name__)

MOST_RSS = 384 << 20
"""Bytes of memory that the agent may have under any of the attacks here."""
MOST_ECHO = 0.020
"""Seconds from a neighbour's keystroke to its echo, in the median, under any of the attacks here."""
MOST_SLOWER = 8
"""Where this machine is busy with other things, so many times the median of a moment before may be more."""
_IDLE_ECHOES = 25


@dataclass
class Toll:
    before: Facts
    idle: float
    """Median of the echoes just before the attack, in seconds."""
    echoes: list[float] = field(default_factory=list)
    seen: list[Facts] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.echoes)

    @property
    def p99(self) -> float:
        return sorted(self.echoes)[len(self.echoes) * 99 // 100]

    @property
    def most_rss(self) -> int:
        return max(facts.rss for facts in self.seen)

    @property
    def most_unproven(self) -> int:
        return max(facts.unproven for facts in self.seen)

    def __str__(self) -> str:
        return (
            f"echo {self.idle * 1e3:.1f} ms before, median {self.median * 1e3:.1f} ms, p99 {self.p99 * 1e3:.1f} ms of "
            f"{len(self.echoes)}; memory {self.before.rss >> 20} -> {self.most_rss >> 20} MiB; "
            f"descriptors {self.before.fds} -> {max(f.fds for f in self.seen)}; "
            f"tasks {self.before.tasks} -> {max(f.tasks for f in self.seen)}; "
            f"unproven {self.most_unproven}; {self.said}"
        )

    def ensure_bearable(self, name: str) -> None:
        """Raises: AssertionError: another renter, or the machine, pays more than was stated."""
        log.info("%s: %s", name, self)  # shown with a failure, and by `make hostile`
        assert len(self.echoes) >= 20, "the neighbour typed all the while"
        assert self.median <= max(MOST_ECHO, MOST_SLOWER * self.idle)
        assert self.most_rss <= MOST_RSS


@asynccontextmanager
async def neighbour(target: Target) -> AsyncIterator[Session]:
    """Another renter, with a job of hers on the same machine."""
    _, session = await target.running("sleep", "600", who=ALICE)
    try:
        yield session
    finally:
        session.close()


async def under(
    target: Target, session: Session, program: str, *arguments: object, order: int = 0
) -> Toll:
    """Carry an attack out, while the neighbour types and the machine is watched."""
    async with await session.exec(["cat"], tty=True) as command:
        idle = [await _echo(command) for _ in range(_IDLE_ECHOES)]
        toll = Toll(await target.facts(), statistics.median(idle))
        typing = asyncio.create_task(_type(command, toll))
        watching = asyncio.create_task(_watch(target, toll))
        try:
            toll.said = await target.attack(program, *arguments, order=order)
        finally:
            typing.cancel()
            watching.cancel()
            await asyncio.wait((typing, watching))
        for task in (typing, watching):
            if not task.cancelled():
                task.result()
    return toll


async def _type(command: ExecStream, toll: Toll) -> None:
    while True:
        toll.echoes.append(await _echo(command))
        await asyncio.sleep(0.02)


async def _echo(command: ExecStream) -> float:
    began = time.perf_counter()
    await command.write(b"k")
    await command.read()
    return time.perf_counter() - began


async def _watch(target: Target, toll: Toll) -> None:
    while True:
        toll.seen.append(await target.facts())
        await asyncio.sleep(0.2)

"""A whole network on this machine: a node and providers as supervised children.

    <dir>/{lock, ready, node/, provider-1/, …, logs/, children.json}

One supervisor at a time holds `lock`; `ready` is its record while everything serves. Errors: a child
that dies is started again; what a killed supervisor left running is ended before the next one starts.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepbrain.cli.failure import UserError
from deepbrain.cli.home import home, private_directory, read_json
from deepbrain.cli.supervise import Child, Post, Program, last_line

READY_SECONDS: Final = 60.0
DOWN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of a network."""

    path: Path

    @classmethod
    def chosen(cls, path: Path | None) -> "Place":
        return cls(path.absolute() if path is not None else home() / "network")

    @property
    def record(self) -> Path:
        return self.path / "ready.json"

    @property
    def log(self) -> Path:
        return self.path / "logs" / "network.log"

    def provider(self, number: int) -> Path:
        return self.path / f"provider-{number}"

    def command(self, action: str) -> str:
        """`dbc network <action>`, as one has to type it for this network."""
        elsewhere = self.path != home() / "network"
        return f"dbc network {action}" + (f" --dir {shlex.quote(str(self.path))}" * elsewhere)

    @property
    def post(self) -> Post:
        return Post(self.path)

    def supervisor(self) -> int | None:
        """The process that supervises it; `None` when nobody does."""
        return self.post.holder()

    def ready(self) -> dict[str, Any] | None:
        """What is running, once all of it serves; `None` before, and when nothing runs."""
        return read_json(self.record) if self.supervisor() is not None else None


@contextlib.contextmanager
def supervising(place: Place) -> Iterator[None]:
    """Be the only supervisor of `place`. Raises: UserError: there is one already."""
    private_directory(place.path)
    otherwise = (
        f"a network runs in {place.path} already; see `{place.command('status')}`, "
        f"or stop it with `{place.command('down')}`"
    )
    with place.post.held(otherwise):
        try:
            yield
        finally:
            place.record.unlink(missing_ok=True)


@dataclass(slots=True)
class Network:
    """The children of one supervisor."""

    place: Place
    children: list[Child] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, program: Program) -> Child:
        child = Child(program, self._remember)
        self.children.append(child)
        self._tasks.append(asyncio.create_task(child.keep()))
        return child

    async def first_failure(self) -> None:
        """Return never, unless a child does not stay up. Raises: UserError: which, and why."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def during(self, work: Awaitable[None]) -> None:
        """Do `work` while the children run. Raises: whatever it raises, or a child's failure."""
        task = asyncio.ensure_future(work)
        failure = asyncio.create_task(self.first_failure())
        try:
            done, _ = await asyncio.wait({task, failure}, return_when=asyncio.FIRST_COMPLETED)
            for finished in done:
                finished.result()
        finally:
            for pending in (task, failure):
                pending.cancel()
            await asyncio.gather(task, failure, return_exceptions=True)

    async def stop(self) -> None:
        """End the children, last started first: a provider may still need its node."""
        for child in reversed(self.children):
            await child.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _remember(self) -> None:
        self.place.post.remember(self.children)


def node_program(place: Place, port: int, relay: int) -> Program:
    return Program(
        "the node",
        (
            *(sys.executable, "-m", "deepbrain.node", "--spec", "dev"),
            *("--data", str(place.path / "node"), "--rpc-port", str(port)),
            *("--relay", str(relay), "--relay-host", "127.0.0.1"),
        ),
        place.path / "logs" / "node.log",
    )


async def detach(place: Place, argv: list[str], seconds: float) -> dict[str, Any]:
    """Start a supervisor in a session of its own, and wait until its network serves.

    Raises: UserError: it ended, or is not ready in time (then it is ended).
    """
    if place.supervisor() is not None:
        raise UserError(
            f"a network runs in {place.path} already; `{place.command('down')}` stops it"
        )
    private_directory(place.log.parent)
    with place.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    ended = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(seconds):
            while (record := place.ready()) is None:
                if ended.done():
                    raise UserError(_last_words(place))
                await asyncio.sleep(0.05)
            return record
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            await ended
        if isinstance(error, TimeoutError):
            raise UserError(
                f"the network was not ready within {seconds:.0f} s; see {place.log}"
            ) from None
        raise


def _last_words(place: Place) -> str:
    words = last_line(place.log).removeprefix("dbc: ")
    return words or f"the network did not start; see {place.log}"


async def bring_down(place: Place, report: Callable[[str], None]) -> bool:
    """End the supervisor and everything of it; whether there was one. Raises: UserError."""
    pid = place.supervisor()
    if pid is None:
        place.post.end_leftovers()
        return False
    if pid == 0:
        raise UserError(f"the network in {place.path} is just starting or ending; try again")
    os.kill(pid, signal.SIGTERM)
    report("stopping")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DOWN_SECONDS
    while place.supervisor() is not None:
        if loop.time() > deadline:
            raise UserError(f"process {pid} does not end; look into {place.log}, or kill it")
        await asyncio.sleep(0.05)
    return True

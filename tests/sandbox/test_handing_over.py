"""Descriptors that the host is given stay what they are until it has taken them."""

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from deepbrain.sandbox.host import SessionFds
from deepbrain.sandbox.sandbox import Mode, ModeReport
from deepbrain.sandbox.session import open_session
from deepbrain.sandbox.tenants import LocalSandbox


class SlowHost:
    """Looks at its descriptors in a thread, after whoever asked has left."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.found: list[bool] = []

    async def exec(self, *arguments: Any) -> None:
        self.begun.set()
        await asyncio.to_thread(self._look, arguments[-1])

    def _look(self, fds: SessionFds) -> None:
        time.sleep(0.3)
        for fd in fds.all():
            try:
                os.fstat(fd)
                self.found.append(True)
            except OSError:
                self.found.append(False)


def open_pipes() -> set[str]:
    """By their own numbers: what earlier tests dropped may be closed at any moment."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(path.readlink()))
    return {name for name in found if name.startswith("pipe:")}


async def closed_but(before: set[str]) -> None:
    """Until no pipe is open that was not open before."""
    async with asyncio.timeout(5):
        while not open_pipes() <= before:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_a_command_that_is_given_up_while_it_starts(tmp_path: Path) -> None:
    """Else the numbers may be another order's files by the time the host passes them on."""
    host = SlowHost()
    sandbox = LocalSandbox(tmp_path, host, ModeReport(Mode.PROCESS, (), "test"))  # type: ignore[arg-type]
    before = open_pipes()
    starting = asyncio.create_task(sandbox.exec(7, ("sh",)))
    await host.begun.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert host.found == [True] * 5
    assert open_pipes() <= before


async def test_a_command_that_is_given_up_twice_while_it_starts(tmp_path: Path) -> None:
    """The second time while it is being taken back."""
    host = SlowHost()
    sandbox = LocalSandbox(tmp_path, host, ModeReport(Mode.PROCESS, (), "test"))  # type: ignore[arg-type]
    before = open_pipes()
    starting = asyncio.create_task(sandbox.exec(7, ("sh",)))
    await host.begun.wait()
    for _ in range(2):
        starting.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await starting
    await closed_but(before)
    assert host.found == [True] * 5


@pytest.mark.parametrize("turns", range(1, 5))
async def test_a_session_whose_closing_is_cancelled_is_closed(turns: int) -> None:
    """A renter's stream breaks: the session closes; then her connection does: the task is cancelled."""
    before = open_pipes()
    session, fds = open_session(tty=False, cols=80, rows=24, on_end=lambda: None)
    closing = asyncio.create_task(session.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    for fd in fds.all():
        os.close(fd)  # as the host does once everything that was started is dead
    await closed_but(before)

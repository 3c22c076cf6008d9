"""Descriptors that the host is given stay what they are until it has taken them."""

import asyncio
import gc
import os
import time
from pathlib import Path
from typing import Any

import pytest

from deepbrain.sandbox.host import SessionFds
from deepbrain.sandbox.sandbox import Mode, ModeReport
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


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_command_that_is_given_up_while_it_starts(tmp_path: Path) -> None:
    """Else the numbers may be another order's files by the time the host passes them on."""
    host = SlowHost()
    sandbox = LocalSandbox(tmp_path, host, ModeReport(Mode.PROCESS, (), "test"))  # type: ignore[arg-type]
    gc.collect()  # what earlier tests dropped may be closed at any moment
    before = open_descriptors()
    starting = asyncio.create_task(sandbox.exec(7, ("sh",)))
    await host.begun.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert host.found == [True] * 5
    assert open_descriptors() == before

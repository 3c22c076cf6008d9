"""The CometBFT process: started, kept running, listened to.

It ends, with status 0, when one of its connections to the node does, and is started again. After a
consensus failure it stays, with its height standing still: only its log tells, so that is read. What
it says of errors goes into our log, the same thing once a minute.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from deepbrain.node.children import end
from deepbrain.node.comet.complaints import Complaint, read_complaint
from deepbrain.node.errors import NodeError

log = logging.getLogger("cometbft")

PR_SET_PDEATHSIG: Final = 1
STOP_SECONDS: Final = 10.0
QUICK_SECONDS: Final = 20.0
MAX_FAILURES: Final = 4
MAX_SAID: Final = 1000
SAME_AGAIN: Final = 60.0
"""Seconds after which the same message is worth saying again."""
MAX_LINE: Final = 1 << 20
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0)


_libc = ctypes.CDLL(None)


def _end_with(parent: int) -> Callable[[], None]:
    """What ties a child to us, also one that has not connected yet and would go on trying for ever."""

    def tie() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie


class CometProcess:
    """`keep`, until it is cancelled; then `stop`. `prepare` is called before each start."""

    def __init__(
        self,
        program: Path,
        home: Path,
        *,
        prepare: Callable[[], None],
        height: Callable[[], int],
    ) -> None:
        self._program = program
        self._home = home
        self._prepare = prepare
        self._height = height
        self._process: asyncio.subprocess.Process | None = None
        self._said: dict[str, float] = {}
        self._last = Complaint("")
        """The last complaint that says why it cannot go on."""
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def keep(self) -> None:
        """Run it, and again whenever it has ended.

        Raises: NodeError: it cannot go on: it fails at one height again and again, or for good.
        """
        failures, stands_at = 0, -1
        while True:
            began = time.monotonic()
            code = await self._run_once()
            self.restarts += 1
            height, last = self._height(), self._last
            # One that others killed has not failed, and one that ends with 0 was told to end, or lost us.
            quick = time.monotonic() - began < QUICK_SECONDS
            failed = last.lost or code > 0 or (code == 0 and quick)
            failures = failures + 1 if failed and height == stands_at else 0
            stands_at = height
            if last.hopeless or failures >= MAX_FAILURES:
                reason = last.reason or f"it ends with {code} at once"
                raise NodeError(f"CometBFT cannot go on at block {height}: {reason}.")
            self._last = last._replace(lost=False)
            log.warning("ended with %d at block %d; it is started again", code, height)
            await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])

    async def _run_once(self) -> int:
        self._prepare()
        process = self._process = await asyncio.create_subprocess_exec(
            *(str(self._program), "start", "--home", "."),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._home,
            limit=MAX_LINE,
            # Ctrl-C reaches the whole terminal; the node decides who ends when.
            start_new_session=True,
            preexec_fn=_end_with(os.getpid()),
        )
        assert process.stdout is not None
        await self._listen(process.stdout)
        return await process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after `STOP_SECONDS`."""
        await end(self._process, STOP_SECONDS)

    async def _listen(self, lines: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await lines.readline()
            except ValueError:  # longer than `MAX_LINE`: the rest of it comes next
                continue
            if not line:
                return
            self._hear(line.decode(errors="replace").strip())

    def _hear(self, line: str) -> None:
        complaint = read_complaint(line)
        if complaint.reason and not (self._last.hopeless and self._last.lost):
            self._last = complaint
        now = time.monotonic()
        kind = complaint.text[:80]
        if complaint.text and now - self._said.get(kind, -SAME_AGAIN) >= SAME_AGAIN:
            if len(self._said) > MAX_SAID:
                self._said.clear()
            self._said[kind] = now
            log.log(complaint.level, "%s", complaint.text)
        if complaint.lost and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

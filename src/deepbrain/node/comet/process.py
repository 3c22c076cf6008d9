"""The CometBFT process: started, kept running, listened to.

It ends, with status 0, when one of its connections to the node does, and is started again. After a
consensus failure it stays, with its height standing still: only its log tells, so that is read. What
it says of errors goes into our log, the same thing once a minute.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from deepbrain.node.errors import NodeError

log = logging.getLogger("cometbft")

STOP_SECONDS: Final = 10.0
QUICK_SECONDS: Final = 20.0
MAX_QUICK_ENDS: Final = 6
SAME_AGAIN: Final = 60.0
"""Seconds after which the same message is worth saying again."""
MAX_LINE: Final = 1 << 20
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0)

FAILURE: Final = "CONSENSUS FAILURE!!!"
_FATAL: Final = {
    "AppHash": (
        "the network has another state than this node: it meets another version of the rules, or a "
        "damaged disk. Remove the data directory and sync again; if that does not help, upgrade"
    ),
    "found signature from the same key": (
        "another node signs with this validator's key, or did a moment ago. Two at a time would be "
        "slashed: stop the other one, and start this one when it has been silent for a minute"
    ),
    "address already in use": "its port is taken: choose another with --p2p",
}
"""What ends it again and again, and what is to be said of it."""


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
        self._reason = ""
        """The last that it said of why it cannot go on."""
        self._lost = False
        """Whether it has lost consensus, and was ended for that."""
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def keep(self) -> None:
        """Run it, and again whenever it has ended.

        Raises: NodeError: it does not stay up: it ends at once, at one height, again and again.
        """
        failures, stands_at = 0, -1
        while True:
            began = time.monotonic()
            code = await self._run_once()
            self.restarts += 1
            height = self._height()
            # One that others killed has not failed.
            failed = self._lost or (code >= 0 and time.monotonic() - began < QUICK_SECONDS)
            self._lost = False
            failures = failures + 1 if failed and height == stands_at else 0
            stands_at = height
            if failures >= MAX_QUICK_ENDS:
                reason = self._reason or f"it ends with {code} at once"
                raise NodeError(f"CometBFT cannot go on at block {height}: {reason}.")
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
        )
        assert process.stdout is not None
        await self._listen(process.stdout)
        return await process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after `STOP_SECONDS`."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()

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
        message, level = _parsed(line)
        if not message:
            return
        for sign, meaning in _FATAL.items():
            if sign in message:
                self._reason = meaning
        if FAILURE in message:
            self._reason = self._reason or f"it has lost consensus ({message[:300]})"
            log.error("%s", message[:2000])
            self._lost = True
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            return
        now = time.monotonic()
        kind = message[:80]
        if now - self._said.get(kind, -SAME_AGAIN) >= SAME_AGAIN:
            if len(self._said) > 1000:
                self._said.clear()
            self._said[kind] = now
            log.log(level, "%s", message[:2000])


def _parsed(line: str) -> tuple[str, int]:
    """Message with its facts, and our log level, of a line of its log; other lines are as they are."""
    try:
        entry: dict[str, Any] = json.loads(line)
        message, level = str(entry.pop("_msg")), entry.pop("level", "error")
    except (ValueError, KeyError, TypeError, AttributeError):
        return line, logging.WARNING
    entry.pop("ts", None)
    facts = " ".join(f"{name}={value}" for name, value in sorted(entry.items()) if name != "stack")
    return f"{message} {facts}".strip(), logging.WARNING if level == "error" else logging.INFO

"""The relay as a child of its node: a process of its own, so that a busy relay delays no block.

It is started again when it ends; it ends when its node does, of whatever, because its standard input does.
"""

import asyncio
import contextlib
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepbrain.node.children import end
from deepbrain.node.errors import NodeError

log = logging.getLogger(__name__)

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 5.0
_PAUSES: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
_READY: Final = re.compile(rb"ready port=(\d+)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayChoice:
    """Whether and how a node serves a relay, and which relays it names to others."""

    port: int | None = None
    """None: it serves none; 0 lets the system choose."""
    host: str = "0.0.0.0"  # noqa: S104 - it is there to be reached
    urls: tuple[str, ...] = ()
    """Relays that this node tells machines of, its own public URL included where it has one."""


class RelayChild:
    """`start`, then `stop`, each once."""

    def __init__(self, choice: RelayChoice, chain: str, data: Path | None) -> None:
        self._choice = choice
        self._chain = chain
        self._data = data
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.port: int | None = None
        """The port it has; None before its start."""

    def start(self) -> None:
        """Returns at once: no block waits for the relay. What goes wrong stands in the log."""
        if self._choice.port is not None:
            self._keeping = asyncio.create_task(self._keep(self._choice.port), name="relay")

    async def stop(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await end(self._process, STOP_SECONDS)

    async def _keep(self, port: int) -> None:
        """Start it, and again whenever it has ended; for ever."""
        failures = 0
        while True:
            try:
                process = await self._spawn(self.port or port)
                failures = 0
                code = await process.wait()
                log.warning("the relay ended with %s; it is started again", code)
            except (NodeError, OSError) as error:
                log.warning("%s", error)
                failures += 1
            await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])

    async def _spawn(self, port: int) -> asyncio.subprocess.Process:
        """Raises: NodeError: it does not start; one sentence."""
        data = () if self._data is None else ("--data", str(self._data))
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deepbrain.node.relay", "--leashed", "--chain", self._chain),
            *("--host", self._choice.host, "--port", str(port), *data),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        line = b""
        with contextlib.suppress(TimeoutError):
            assert process.stdout is not None
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        ready = _READY.fullmatch(line)
        if ready is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise NodeError("The relay does not start; its reason stands above.")
        self.port = int(ready[1])
        return process

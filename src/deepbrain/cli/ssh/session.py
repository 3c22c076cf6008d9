"""One session of an SSH connection, as what arrives on it and what can be said.

asyncssh's own streams would serve SFTP from this machine's files.
"""

import asyncio
import signal
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import asyncssh

HIGH_WATER: Final = 1 << 20
"""Bytes of input kept before `ssh` is told to wait."""


@dataclass(frozen=True, slots=True)
class Resized:
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Signalled:
    number: int


Event = bytes | Resized | Signalled
"""What comes in, in its order. Empty bytes are the end of the input."""


class SshSession(asyncssh.SSHServerSession[bytes]):
    """Started with a shell, a command or SFTP; `serve` is its life from there."""

    def __init__(self, serve: Callable[["SshSession"], Coroutine[Any, Any, None]]) -> None:
        self._serve = serve
        self._events: deque[Event] = deque()
        self._buffered = 0
        self._filled = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()
        """Set once `ssh` has closed it, or went away."""
        self.command = ""
        self.is_sftp = False

    # -- what the command is to know

    @property
    def terminal(self) -> str | None:
        """Its type, such as `xterm`; None where no terminal was asked for."""
        return self._channel.get_terminal_type()

    @property
    def size(self) -> tuple[int, int]:
        columns, rows, _, _ = self._channel.get_terminal_size()
        return min(columns or 80, 0xFFFF), min(rows or 24, 0xFFFF)

    @property
    def variables(self) -> dict[str, str]:
        return dict(self._channel.get_environment())

    # -- both directions

    async def next(self) -> Event:
        """What comes next; safe to cancel."""
        while not self._events:
            self._filled.clear()
            await self._filled.wait()
        event = self._events.popleft()
        if isinstance(event, bytes):
            self._buffered -= len(event)
            if self._buffered < HIGH_WATER and not self.gone.is_set():
                self._channel.resume_reading()
        return event

    async def write(self, data: bytes, *, is_error: bool = False) -> None:
        """Waits while `ssh` does not read. Raises: OSError: it went away."""
        self._channel.write(data, asyncssh.EXTENDED_DATA_STDERR if is_error else None)
        await self._writable.wait()

    def tell(self, sentence: str) -> None:
        """Say something of ours, on standard error."""
        if not self.gone.is_set():
            ending = "\n" if self.terminal is None else "\r\n"
            line = f"dbc: {sentence}{ending}".encode()
            self._channel.write(line, asyncssh.EXTENDED_DATA_STDERR)

    def exit(self, code: int) -> None:
        if not self.gone.is_set():
            self._channel.exit(code)

    # -- asyncssh's calls

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        self.command = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        self.is_sftp = subsystem == "sftp"
        return self.is_sftp

    def session_started(self) -> None:
        self._task = asyncio.create_task(self._serve(self))

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._put(data)
        self._buffered += len(data)
        if self._buffered >= HIGH_WATER:
            self._channel.pause_reading()

    def eof_received(self) -> bool:
        self._put(b"")
        return True  # the other direction stays open

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        self._put(Resized(min(width, 0xFFFF), min(height, 0xFFFF)))

    def signal_received(self, signal: str) -> None:
        number = _number(signal)
        if number is not None:
            self._put(Signalled(number))

    def break_received(self, msec: int) -> bool:
        self._put(Signalled(signal.SIGINT))
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        self._writable.set()

    def _put(self, event: Event) -> None:
        self._events.append(event)
        self._filled.set()


def _number(name: str) -> int | None:
    """A signal's number from its name in the protocol, such as `TERM`; real-time ones have none."""
    found = signal.Signals.__members__.get(f"SIG{name}")
    return None if found is None or found > signal.SIGSYS else int(found)

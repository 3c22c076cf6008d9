"""Child processes that are kept running, and ended in order, also by whoever comes after us.

Errors: a child that ends is started again after 0.5, 1, 2 … 10 s; one that ends by itself
`MAX_QUICK_ENDS` times within `QUICK_SECONDS` each stops the whole, with the last line it wrote. One
that was killed has not failed: it is started again as often as that happens.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from deepbrain.cli.failure import UserError
from deepbrain.cli.home import read_json, write_json

MAX_QUICK_ENDS: Final = 4
QUICK_SECONDS: Final = 10.0
STOP_SECONDS: Final = 20.0
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 10.0
_MAX_LOG_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and where its output goes."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Child:
    """A program that is kept running until `stop`."""

    program: Program
    on_change: Callable[[], None]
    pid: int | None = None
    restarts: int = 0
    _process: asyncio.subprocess.Process | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep(self) -> None:
        """Run until stopped. Raises: UserError: it does not stay up."""
        delay, quick = _FIRST_DELAY, 0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            failed = code >= 0 and time.monotonic() - began < QUICK_SECONDS
            quick = quick + 1 if failed else 0
            if quick >= MAX_QUICK_ENDS:
                raise UserError(f"{self.program.name} does not stay up: {self.last_line(code)}")
            delay = min(2 * delay, _LONGEST_DELAY) if quick else _FIRST_DELAY
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            self.restarts += 1

    async def _run_once(self) -> int:
        with _open_log(self.program.log) as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(os.environ) | dict(self.program.env),
                # Ctrl-C reaches the whole terminal; who ends when is decided here alone.
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.on_change()
        try:
            return await self._process.wait()
        finally:
            self.pid = None
            self.on_change()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after `STOP_SECONDS`."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
                return
            process.kill()
            await process.wait()

    def last_line(self, code: int) -> str:
        """The last thing it said, or how it ended."""
        line = last_line(self.program.log)
        return line or f"it ended with {code}, see {self.program.log}"


def last_line(log: Path) -> str:
    """The last line that is not empty among the last 4 KiB of a file; empty without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _MAX_LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    return open(path, "ab", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@dataclass(frozen=True, slots=True)
class Trace:
    """A process as it is remembered over our own death: a pid alone may be somebody else's by now."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Trace | None":
        started = _start_time(pid)
        return None if started is None else cls(pid, started)

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self.started


def _start_time(pid: int) -> int | None:
    """Clock ticks after boot at which a process began; `None` when there is none, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the name in brackets, which may hold anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def end(traces: Sequence[Trace], seconds: float = STOP_SECONDS) -> None:
    """End processes that somebody before us left: SIGTERM, and SIGKILL after `seconds`."""
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        for trace in traces:
            if trace.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(trace.pid, number)
        while any(trace.alive for trace in traces) and time.monotonic() < deadline:
            time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Post:
    """A directory with at most one supervisor, and what the last one would leave if it were killed."""

    path: Path

    @property
    def _lock(self) -> Path:
        return self.path / "lock"

    @property
    def _children(self) -> Path:
        return self.path / "children.json"

    def holder(self) -> int | None:
        """The process that holds it, 0 while it is just starting or ending; `None`: nobody does."""
        try:
            with self._lock.open("r") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = file.read().strip()
                    return int(text) if text.isdigit() else 0
        except FileNotFoundError:
            pass
        return None

    @contextlib.contextmanager
    def held(self, otherwise: str) -> Iterator[None]:
        """Hold it, having ended what a killed supervisor left.

        Raises: UserError: somebody else does; the text is `otherwise`.
        """
        with self._lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(otherwise) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            self.end_leftovers()
            try:
                yield
            finally:
                file.truncate(0)

    def remember(self, children: Iterable[Child]) -> None:
        """Write down which processes are ours now."""
        traces = [Trace.of(child.pid) for child in children if child.pid is not None]
        write_json(
            self._children,
            {"children": [[trace.pid, trace.started] for trace in traces if trace is not None]},
        )

    def end_leftovers(self) -> None:
        """End the children of a supervisor that was killed."""
        remembered = read_json(self._children) or {}
        end([Trace(pid, started) for pid, started in reversed(remembered.get("children", []))])

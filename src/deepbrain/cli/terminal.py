"""Standard streams joined to a command that runs elsewhere."""

import asyncio
import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from deepbrain.net.errors import NetError

if TYPE_CHECKING:
    from deepbrain.net.session import ExecStream

OUT: Final = 1
ERR: Final = 2
_CHUNK: Final = 32 << 10


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a closed terminal, end the block in order, so that what it began over there
    ends at once, and does not wait for us to come back. Raises: SystemExit: 128 and the signal.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    told: list[int] = []

    def end(number: int) -> None:
        told.append(number)
        if task is not None:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        yield
    except asyncio.CancelledError:
        if told:
            raise SystemExit(128 + told[0]) from None
        raise
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)


def write_out(stream: int, data: bytes) -> None:
    """Pass a piece of a job's output on, unchanged, to the stream of the same name."""
    target = sys.stderr.buffer if stream == ERR else sys.stdout.buffer
    target.write(data)
    target.flush()


async def join(command: "ExecStream", *, interactive: bool, is_tty: bool) -> int:
    """Standard input to the command, its output to ours, until it ends; its exit code.

    With `is_tty` our terminal is raw meanwhile, and its size follows. Raises: NetError: it was lost.
    """
    with _raw_terminal() if is_tty else contextlib.nullcontext():
        tasks = []
        if interactive:
            tasks.append(asyncio.create_task(_feed(command)))
        else:
            # It may have ended already; reading tells how.
            with contextlib.suppress(NetError):
                await command.write_eof()
        if is_tty:
            tasks.append(asyncio.create_task(_follow_size(command)))
        try:
            while (piece := await command.read()) is not None:
                write_out(*piece)
            return await command.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _feed(command: "ExecStream") -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue(4)
    _read_stdin_into(pieces)
    while piece := await pieces.get():
        await command.write(piece)
    await command.write_eof()


def _read_stdin_into(pieces: asyncio.Queue[bytes]) -> None:
    """From a thread: a terminal set to non-blocking would stay so for the shell we came from."""
    loop = asyncio.get_running_loop()

    def pump() -> None:
        # The loop may end while we wait for a key; the thread is a daemon and simply stops then.
        with contextlib.suppress(RuntimeError, OSError):
            while True:
                piece = os.read(0, _CHUNK)
                asyncio.run_coroutine_threadsafe(pieces.put(piece), loop).result()
                if not piece:
                    return

    threading.Thread(target=pump, name="stdin", daemon=True).start()


async def _follow_size(command: "ExecStream") -> None:
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while True:
            await changed.wait()
            changed.clear()
            await command.resize(*size())
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


def size() -> tuple[int, int]:
    """Columns and rows of our terminal, whatever COLUMNS and LINES say: they may be of another one."""
    for descriptor in range(3):
        try:
            found = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if found.columns and found.lines:
            return found.columns, found.lines
    return 80, 24


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # and not by flushing: what was typed ahead counts
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def is_terminal() -> bool:
    """Whether a person can be asked something."""
    return sys.stdin.isatty() and sys.stderr.isatty()

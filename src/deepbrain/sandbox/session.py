"""The agent's end of an exec session: pipes or a pseudo-terminal, the leash, the exit code."""

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from deepbrain.sandbox.host import SessionFds

CHUNK: Final = 256 * 1024
_QUEUE_CHUNKS: Final = 8
_PIPE_BYTES: Final = 1 << 20
"""A pipe of the usual 64 KiB halves the speed of a copy: each side waits for the other too often."""
_LOST: Final = 255


_finishing: Final[set["asyncio.Task[None]"]] = set()
"""The event loop alone would not keep them."""


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for something that goes on even when whoever waits is cancelled."""
    task = asyncio.create_task(work)
    _finishing.add(task)
    task.add_done_callback(_finishing.discard)
    await asyncio.shield(task)


class _Reader:
    """One descriptor, read on demand: what nobody reads stays with the writer, who then waits."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """Some bytes; none at the end. A terminal whose other side is gone is at its end too."""
        while self._fd >= 0:
            try:
                return os.read(self._fd, CHUNK)
            except BlockingIOError:
                await self._readable()
            except OSError:
                return b""
        return b""

    async def _readable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_reader(self._fd, _resolve, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class PipeSession:
    """See `sandbox.ExecSession`. Made by `open_session`, which also makes what the host gets."""

    def __init__(
        self,
        *,
        stdin: int,
        streams: dict[int, int],
        leash: int,
        status: int,
        tty: bool,
        on_end: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stdin = stdin
        self._leash = leash
        self._tty = tty
        self._on_end = on_end
        for fd in (stdin, leash):
            os.set_blocking(fd, False)
        self._readers = {stream: _Reader(fd) for stream, fd in streams.items()}
        self._status = _Reader(status)
        self._output: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(_QUEUE_CHUNKS)
        self._pumps = [
            asyncio.create_task(self._pump(stream, reader))
            for stream, reader in self._readers.items()
        ]
        self._open_streams = len(self._pumps)
        self._code = asyncio.create_task(self._watch_status())

    async def _pump(self, stream: int, reader: _Reader) -> None:
        while data := await reader.read():
            await self._output.put((stream, data))
        self._open_streams -= 1
        if not self._open_streams:
            await self._output.put(None)

    async def _watch_status(self) -> int:
        text = b""
        while b"\n" not in text and (data := await self._status.read()):
            text += data
        self._on_end()
        with suppress(ValueError):
            return int(text)
        return _LOST

    async def read(self) -> tuple[int, bytes] | None:
        item = await self._output.get()
        if item is None:
            self._output.put_nowait(None)  # every later read ends, too
        return item

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._stdin >= 0:
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:
                await self._writable()
            except OSError:
                self._close_stdin()

    async def _writable(self) -> None:
        ready = self._loop.create_future()
        fd = self._stdin
        self._loop.add_writer(fd, _resolve, ready)
        try:
            await asyncio.wait({ready, self._code}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._loop.remove_writer(fd)
        if self._code.done():
            self._close_stdin()

    async def write_eof(self) -> None:
        if self._tty:
            await self.write(b"\x04")
        else:
            self._close_stdin()

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            self._loop.remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1

    async def resize(self, cols: int, rows: int) -> None:
        if self._tty and self._stdin >= 0:
            set_size(self._stdin, cols, rows)

    async def signal(self, number: int) -> None:
        if self._leash >= 0:
            # The tool at the other end is gone, or does not read: nobody is left to be told.
            with suppress(BrokenPipeError, BlockingIOError):
                os.write(self._leash, bytes((number,)))

    async def wait(self) -> int:
        return await asyncio.shield(self._code)

    async def close(self) -> None:
        """Cut the leash; wait until all that was started is dead. Whoever waits may be cancelled: the
        descriptors are closed all the same.
        """
        await to_its_end(self._close())

    async def _close(self) -> None:
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1
        self._close_stdin()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for reader in self._readers.values():
            reader.close()
        await self._code
        self._status.close()
        if not self._output.full():
            self._output.put_nowait(None)


def set_size(terminal: int, cols: int, rows: int) -> None:
    size = struct.pack("HHHH", min(rows, 0xFFFF), min(cols, 0xFFFF), 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)


def open_session(
    *, tty: bool, cols: int, rows: int, on_end: Callable[[], None]
) -> tuple[PipeSession, SessionFds]:
    """A session and the descriptors to hand to the host; the caller closes those after handing over."""
    leash_read, leash = os.pipe()
    status, status_write = os.pipe()
    if tty:
        master, slave = os.openpty()
        set_size(master, cols, rows)
        stdin, streams = os.dup(master), {1: master}
        given = (slave, os.dup(slave), os.dup(slave))
    else:
        stdin_read, stdin = os.pipe()
        out, out_write = os.pipe()
        err, err_write = os.pipe()
        for pipe in (stdin, out):
            with suppress(OSError):  # this user has used up what pipes may hold
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        streams = {1: out, 2: err}
        given = (stdin_read, out_write, err_write)
    session = PipeSession(
        stdin=stdin, streams=streams, leash=leash, status=status, tty=tty, on_end=on_end
    )
    return session, SessionFds(*given, leash_read, status_write)

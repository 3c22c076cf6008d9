"""A command on a terminal of its own, driven as a person would."""

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Self

from tests.e2e.network import Network


class Terminal:
    """`dbc`, or another command, with this terminal as its controlling one."""

    def __init__(
        self,
        net: Network,
        *args: str,
        columns: int = 100,
        rows: int = 30,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._master, slave = os.openpty()
        self.resize(columns, rows)
        enter = net.variant.enter() if command is None else None

        def own() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if enter is not None:
                enter()

        self.process = subprocess.Popen(
            command or net.command(*args),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=net.base,
            env={**(env or net.env), "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=own,
        )
        os.close(slave)
        self.seen = ""
        self._read_to = 0

    def expect(self, text: str, seconds: float = 20) -> str:
        """What came up to and with `text`, from where the last `expect` ended."""
        deadline = time.monotonic() + seconds
        while (at := self.seen.find(text, self._read_to)) < 0:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} never came; the terminal shows: {self.seen}")
        found = self.seen[self._read_to : at + len(text)]
        self._read_to = at + len(text)
        return found

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self, seconds: float = 30) -> int:
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(deadline - time.monotonic(), 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs. Idempotent."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _read(self, seconds: float) -> bool:
        if seconds <= 0 or not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

"""What Ctrl-C and other signals mean while an order is being followed.

on a terminal     first INT asks: stop, detach or go on; a second one stops
without one       INT and TERM stop and settle
always            HUP detaches, TERM stops
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from enum import Enum
from typing import Any, Final, TypeVar

from deepbrain.cli.terminal import is_terminal

T = TypeVar("T")

_QUESTION: Final = "\ndbc: [s]top the job and settle, [d]etach and let it run, or Enter to go on? "


class Wish(Enum):
    """What the person, or whoever sent a signal, wants."""

    STOP = "stop"
    DETACH = "detach"


class Interrupted(Exception):
    """Raised in place of a result when a wish came first."""

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish.value)
        self.wish = wish


class Interrupts:
    """Turns signals into wishes. Only inside `listening`."""

    def __init__(self, *, interactive: bool | None = None) -> None:
        self._interactive = is_terminal() if interactive is None else interactive
        self._wishes: asyncio.Queue[Wish] = asyncio.Queue()
        self._asking = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["Interrupts"]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._on_interrupt)
        loop.add_signal_handler(signal.SIGTERM, self.wish, Wish.STOP)
        loop.add_signal_handler(signal.SIGHUP, self.wish, Wish.DETACH)
        try:
            yield self
        finally:
            self._stop_asking()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def wish(self, wish: Wish) -> None:
        self._wishes.put_nowait(wish)

    async def next(self) -> Wish:
        return await self._wishes.get()

    async def unless(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises: Interrupted: a wish came first; `work` is then cancelled."""
        task, wish = asyncio.ensure_future(work), asyncio.ensure_future(self.next())
        try:
            await asyncio.wait({task, wish}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Interrupted(wish.result())
        finally:
            for pending in (task, wish):
                pending.cancel()
            await asyncio.gather(task, wish, return_exceptions=True)

    def _on_interrupt(self) -> None:
        if not self._interactive or self._asking:
            self._stop_asking()
            self.wish(Wish.STOP)
            return
        self._asking = True
        _print(_QUESTION)
        # Not in a thread: one that waits for a key would keep the process from ending.
        asyncio.get_running_loop().add_reader(0, self._on_answer)

    def _on_answer(self) -> None:
        answer = os.read(0, 1024).decode("utf-8", "replace").strip().lower()[:1]
        self._stop_asking()
        if answer == "s":
            self.wish(Wish.STOP)
        elif answer == "d":
            self.wish(Wish.DETACH)

    def _stop_asking(self) -> None:
        if self._asking:
            self._asking = False
            asyncio.get_running_loop().remove_reader(0)


def _print(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()

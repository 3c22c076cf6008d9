"""The commands that one process has running in an order: bounded, and queued beyond the bound."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from deepbrain.net.errors import RefusalCode, Refused
from deepbrain.net.messages import Env
from deepbrain.net.session import ExecStream, Session

PLACES: Final = 12
"""Of the 16 an order may have: the rest is for `dbc exec`, `dbc cp` and others beside us."""

RETRY_SECONDS: Final = 0.25
"""How long a command waits before it asks again where others hold the order's last places."""


class Execs:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._places = asyncio.Semaphore(PLACES)

    @property
    def session(self) -> Session:
        return self._session

    @contextlib.asynccontextmanager
    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Env = (),
        tty: bool = False,
        cols: int = 80,
        rows: int = 24,
        on_wait: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[ExecStream]:
        """A command, once there is a place for it; it is killed when the block ends before it does.

        `on_wait` is called once where there is no place yet. Raises: NetError.
        """
        if self._places.locked():
            on_wait()
        async with self._places:
            starting = self._start(argv, env, tty, cols, rows, on_wait)
            async with await starting as command:
                yield command

    async def _start(
        self,
        argv: Sequence[str],
        env: Env,
        tty: bool,
        cols: int,
        rows: int,
        on_wait: Callable[[], None],
    ) -> ExecStream:
        while True:
            try:
                return await self._session.exec(argv, env=env, tty=tty, cols=cols, rows=rows)
            except Refused as refusal:
                if refusal.code is not RefusalCode.LIMIT:
                    raise
            on_wait()
            on_wait = _told
            await asyncio.sleep(RETRY_SECONDS)


def _told() -> None:
    """Whoever waits was told already."""

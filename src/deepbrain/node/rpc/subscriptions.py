"""Subscriptions of one connection, and the bounded queue through which everything leaves it.

A reader that does not keep up is dropped, never waited for: notifications are pushed, and when the
queue is full the connection is closed. Answers wait for room instead, so a client that only asks
slows itself down. Where all queues together hold too much, no single one may hold more than its share.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from deepbrain.node.rpc.errors import METHOD_NOT_FOUND, TOO_MANY_SUBSCRIPTIONS, RpcFault
from deepbrain.node.rpc.wire import Json, write

T = TypeVar("T")

MAX_SUBSCRIPTIONS: Final = 128
MAX_QUEUED_FRAMES: Final = 1024
MAX_QUEUED_BYTES: Final = 4 * 1024 * 1024

MAX_BACKLOG: Final = 128 * 1024 * 1024
"""What all connections together may have waiting, in bytes, before each is held to `FAIR_BYTES`."""
FAIR_BYTES: Final = 32 * 1024

Cancel = Callable[[], None]
"""Ends a subscription at its source."""


class Backlog:
    """How many bytes wait in all the outboxes that share it."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Outbox:
    """Frames on their way to one client, bounded in number and bytes."""

    def __init__(self, cut: Callable[[], None], backlog: Backlog | None = None) -> None:
        self._cut = cut
        self._backlog = backlog or Backlog()
        self._frames: deque[str] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._overrun = False
        self._closed = False

    def push(self, frame: str) -> None:
        """Queue a notification, or cut the connection when its reader is too far behind."""
        if self._is_full(frame):
            self.overrun()
        else:
            self._append(frame)

    async def put(self, frame: str) -> None:
        """Queue an answer once there is room. A frame larger than the bound waits for an empty queue."""
        while self._frames and self._is_full(frame):
            self._changed.clear()
            await self._changed.wait()
        self._append(frame)

    async def room(self) -> None:
        """Until it is nearly empty: for sources that can wait, and need not be cut."""
        while len(self._frames) > MAX_QUEUED_FRAMES // 4 or self._bytes > MAX_QUEUED_BYTES // 4:
            self._changed.clear()
            await self._changed.wait()

    async def next(self) -> str:
        """The next frame, once there is one."""
        while not self._frames:
            self._changed.clear()
            await self._changed.wait()
        frame = self._frames.popleft()
        self._count(-len(frame))
        self._changed.set()
        return frame

    def close(self) -> None:
        """Let go of what nobody will read any more, and take nothing more."""
        self._closed = True
        self._frames.clear()
        self._count(-self._bytes)

    def overrun(self) -> None:
        """Cut the connection, once: its writer hangs in a full socket and would never notice."""
        if not self._overrun:
            self._overrun = True
            self._cut()

    def _is_full(self, frame: str) -> bool:
        size = self._bytes + len(frame)
        most = MAX_QUEUED_BYTES if self._backlog.bytes < MAX_BACKLOG else FAIR_BYTES
        return len(self._frames) >= MAX_QUEUED_FRAMES or size > most

    def _append(self, frame: str) -> None:
        if not self._closed:
            self._frames.append(frame)
            self._count(len(frame))
            self._changed.set()

    def _count(self, change: int) -> None:
        self._bytes += change
        self._backlog.bytes += change


class Sink:
    """Where the source of one subscription sends its values.

    Values sent before the client has its subscription id are kept until `open()`: every client
    expects the id first and the current value right after it.
    """

    def __init__(
        self, outbox: Outbox, notification: str, name: str, forget: Callable[[], None]
    ) -> None:
        self.name = name
        self.end = forget
        """Say that nothing more will be sent: the subscription is over, and counts no longer."""
        self._outbox = outbox
        self._head = (
            f'{{"jsonrpc":"2.0","method":"{notification}",'
            f'"params":{{"subscription":"{name}","result":'
        )
        self._early: list[str] | None = []
        self._opened = asyncio.Event()

    def send(self, value: Json) -> None:
        frame = f"{self._head}{write(value)}}}}}"
        if self._early is None:
            self._outbox.push(frame)
        elif len(self._early) < MAX_QUEUED_FRAMES:
            self._early.append(frame)
        else:
            self._outbox.overrun()

    async def room(self) -> None:
        """Until the client has taken most of what was sent to it."""
        await self._opened.wait()
        await self._outbox.room()

    def open(self) -> None:
        early, self._early = self._early or [], None
        self._opened.set()
        for frame in early:
            self._outbox.push(frame)


class Subscriptions:
    """The open subscriptions of one connection.

    What ends a subscription may be the object behind it: `find` and `count` know it by its class.
    """

    def __init__(self, outbox: Outbox, limit: int = MAX_SUBSCRIPTIONS) -> None:
        self._outbox = outbox
        self._limit = limit
        self._count = 0
        self._open: dict[str, Cancel] = {}
        self._after: list[Callable[[], None]] = []

    def sink(self, notification: str) -> Sink:
        """A new sink under a name that is unique within the connection. Raises: RpcFault."""
        name = self._new_name()

        def forget() -> None:
            self._open.pop(name, None)

        return Sink(self._outbox, notification, name, forget)

    def hold(self, cancel: Cancel) -> str:
        """Keep something that sends nothing, until it is cancelled. Raises: RpcFault."""
        name = self._new_name()
        self._open[name] = cancel
        return name

    def _new_name(self) -> str:
        if len(self._open) >= self._limit:
            raise RpcFault(
                TOO_MANY_SUBSCRIPTIONS,
                "Too many subscriptions on the connection",
                f"Exceeded max limit of {self._limit}",
            )
        self._count += 1
        return f"s{self._count:08x}"

    def add(self, sink: Sink, cancel: Cancel) -> None:
        self._open[sink.name] = cancel
        self.after(sink.open)

    def after(self, work: Callable[[], None]) -> None:
        """Do something once the answer to the request at hand is on its way."""
        self._after.append(work)

    def answered(self) -> None:
        """The answer is on its way: do what waited for that."""
        waiting, self._after = self._after, []
        for work in waiting:
            work()

    def find(self, name: str, kind: type[T]) -> T | None:
        """The object of this class behind an open subscription."""
        found = self._open.get(name)
        return found if isinstance(found, kind) else None

    def count(self, kind: type) -> int:
        """How many open subscriptions have such an object behind them."""
        return sum(isinstance(cancel, kind) for cancel in self._open.values())

    def cancel(self, name: str) -> bool:
        """Whether a subscription of that name was open."""
        found = self._open.pop(name, None)
        if found is None:
            return False
        found()
        return True

    def close(self) -> None:
        for name in tuple(self._open):
            self.cancel(name)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks: whether over loopback, and its subscriptions (None over HTTP)."""

    local: bool
    subscriptions: Subscriptions | None = None

    def lasting(self) -> Subscriptions:
        """Its subscriptions. Raises: RpcFault: over HTTP nothing outlives an answer."""
        if self.subscriptions is None:
            raise RpcFault(
                METHOD_NOT_FOUND, "Subscriptions are not available over HTTP; use WebSocket"
            )
        return self.subscriptions

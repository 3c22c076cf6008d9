"""Subscriptions of one connection, and the bounded queue through which everything leaves it.

A reader that does not keep up is dropped, never waited for: notifications are pushed, and when the
queue is full the connection is closed. Answers wait for room instead, so a client that only asks
slows itself down.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from deepbrain.node.rpc.errors import TOO_MANY_SUBSCRIPTIONS, RpcFault
from deepbrain.node.rpc.wire import Json, write

MAX_SUBSCRIPTIONS: Final = 128
MAX_QUEUED_FRAMES: Final = 1024
MAX_QUEUED_BYTES: Final = 4 * 1024 * 1024


class Outbox:
    """Frames on their way to one client, bounded in number and bytes."""

    def __init__(self, cut: Callable[[], None]) -> None:
        self._cut = cut
        self._frames: deque[str] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._overrun = False

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

    async def next(self) -> str:
        """The next frame, once there is one."""
        while not self._frames:
            self._changed.clear()
            await self._changed.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        self._changed.set()
        return frame

    def overrun(self) -> None:
        """Cut the connection, once: its writer hangs in a full socket and would never notice."""
        if not self._overrun:
            self._overrun = True
            self._cut()

    def _is_full(self, frame: str) -> bool:
        return len(self._frames) >= MAX_QUEUED_FRAMES or self._bytes + len(frame) > MAX_QUEUED_BYTES

    def _append(self, frame: str) -> None:
        self._frames.append(frame)
        self._bytes += len(frame)
        self._changed.set()


class Sink:
    """Where the source of one subscription sends its values.

    Values sent before the client has its subscription id are kept until `open()`: every client
    expects the id first and the current value right after it.
    """

    def __init__(self, outbox: Outbox, notification: str, name: str) -> None:
        self.name = name
        self._outbox = outbox
        self._head = (
            f'{{"jsonrpc":"2.0","method":"{notification}",'
            f'"params":{{"subscription":"{name}","result":'
        )
        self._early: list[str] | None = []

    def send(self, value: Json) -> None:
        frame = f"{self._head}{write(value)}}}}}"
        if self._early is None:
            self._outbox.push(frame)
        elif len(self._early) < MAX_QUEUED_FRAMES:
            self._early.append(frame)
        else:
            self._outbox.overrun()

    def open(self) -> None:
        early, self._early = self._early or [], None
        for frame in early:
            self._outbox.push(frame)


class Subscriptions:
    """The open subscriptions of one connection."""

    def __init__(self, outbox: Outbox, limit: int = MAX_SUBSCRIPTIONS) -> None:
        self._outbox = outbox
        self._limit = limit
        self._count = 0
        self._open: dict[str, tuple[Sink, Callable[[], None]]] = {}
        self._waiting: list[Sink] = []

    def sink(self, notification: str) -> Sink:
        """A new sink under a name that is unique within the connection. Raises: RpcFault."""
        if len(self._open) >= self._limit:
            raise RpcFault(
                TOO_MANY_SUBSCRIPTIONS,
                "Too many subscriptions on the connection",
                f"Exceeded max limit of {self._limit}",
            )
        self._count += 1
        return Sink(self._outbox, notification, f"s{self._count:08x}")

    def add(self, sink: Sink, cancel: Callable[[], None]) -> None:
        self._open[sink.name] = (sink, cancel)
        self._waiting.append(sink)

    def open_waiting(self) -> None:
        """Let those start whose id has just been answered."""
        for sink in self._waiting:
            sink.open()
        self._waiting.clear()

    def cancel(self, name: str) -> bool:
        """Whether a subscription of that name was open."""
        found = self._open.pop(name, None)
        if found is None:
            return False
        found[1]()
        return True

    def close(self) -> None:
        for name in tuple(self._open):
            self.cancel(name)

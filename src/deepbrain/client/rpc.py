"""JSON-RPC over one WebSocket that mends itself.

Errors: a broken connection is made again with delays of 0.1, 0.2, 0.4 … 5 s for as long as somebody
waits. Requests in flight fail with `ConnectionLost` and are repeated only where the caller said that
this is harmless. Subscriptions end with `ConnectionLost`; their owner opens new ones.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidURI, WebSocketException

from deepbrain.client.errors import (
    INVALID_TRANSACTION,
    ConnectionLost,
    InvalidExtrinsic,
    NodeUnreachable,
    RpcError,
)
from deepbrain.primitives.errors import DecodeError, DeepBrainError

MAX_FRAME_BYTES: Final = 32 << 20
MAX_QUEUED_NOTICES: Final = 4096
REQUEST_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 10.0
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 1.0

_POOL_REFUSALS: Final = range(INVALID_TRANSACTION, INVALID_TRANSACTION + 10)

Greeting = Callable[["Rpc"], Awaitable[None]]


@dataclass(slots=True)
class Subscription:
    """Notifications of one subscription, in order, up to `MAX_QUEUED_NOTICES` waiting."""

    _rpc: "Rpc"
    _unsubscribe: str
    _queue: asyncio.Queue[Any] = field(
        default_factory=lambda: asyncio.Queue(MAX_QUEUED_NOTICES), init=False
    )
    name: str | None = field(default=None, init=False)
    lost: bool = field(default=False, init=False)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Raises: ConnectionLost: it broke, or its reader fell too far behind."""
        if self.lost and self._queue.empty():
            raise ConnectionLost
        notice = await self._queue.get()
        if notice is _LOST:
            raise ConnectionLost
        return notice

    def push(self, notice: Any) -> None:
        if self.lost:
            return
        if self._queue.qsize() >= MAX_QUEUED_NOTICES - 1:
            notice = _LOST
        self.lost = notice is _LOST
        self._queue.put_nowait(notice)

    def lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._queue.put_nowait(_LOST)

    async def close(self) -> None:
        """Tell the node; a connection that is gone needs no telling."""
        if self.name is None:
            return
        self._rpc.forget(self.name)
        if not self.lost:
            with contextlib.suppress(DeepBrainError):
                await self._rpc.call(self._unsubscribe, self.name, repeat=False, seconds=2.0)


@dataclass(slots=True)
class _Pending:
    answer: asyncio.Future[Any]
    subscription: Subscription | None = None


_LOST: Final = object()


class Rpc:
    """A connection. Make it with `Rpc.open`, use it as a context manager or `close` it."""

    def __init__(self, url: str, greet: Greeting | None) -> None:
        self.url = url
        self._greet = greet
        self._socket: ClientConnection | None = None
        self._ready = asyncio.Event()
        self._wanted = asyncio.Event()
        self._pending: dict[int, _Pending] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._ids = itertools.count(1)
        self._waiting = 0
        self._fatal: DeepBrainError | None = None
        self._trouble = "no answer"
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, url: str, greet: Greeting | None = None, *, seconds: float = CONNECT_SECONDS
    ) -> Self:
        """Connect, and run `greet` on every new connection before anybody else may use it.

        Raises: NodeUnreachable: not within `seconds`. Whatever `greet` raises.
        """
        rpc = cls(url, greet)
        rpc._keeper = asyncio.create_task(rpc._keep())
        try:
            await rpc._wait_ready(asyncio.get_running_loop().time() + seconds)
        except BaseException:
            await rpc.close()
            raise
        return rpc

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection; requests in flight fail with `ConnectionLost`. Idempotent."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._drop()

    async def call(
        self, method: str, *params: Any, repeat: bool = True, seconds: float = REQUEST_SECONDS
    ) -> Any:
        """One request. With `repeat` a broken connection is made again and the request repeated.

        Raises: RpcError, NodeUnreachable, ConnectionLost.
        """
        (outcome,) = await self.batch([(method, params)], repeat=repeat, seconds=seconds)
        if isinstance(outcome, RpcError):
            raise outcome
        return outcome

    async def batch(
        self,
        calls: Sequence[tuple[str, Sequence[Any]]],
        *,
        repeat: bool = True,
        seconds: float = REQUEST_SECONDS,
    ) -> list[Any]:
        """Several requests in one frame; an outcome is the result, or the `RpcError`, of each.

        Raises: NodeUnreachable, ConnectionLost.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            await self._wait_ready(deadline)
            try:
                return await self._exchange(calls, deadline)
            except ConnectionLost:
                if not repeat:
                    raise

    async def greeting_call(self, method: str, *params: Any) -> Any:
        """`call` for use inside `greet`: on the new connection, before it is ready."""
        deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
        (outcome,) = await self._exchange([(method, params)], deadline)
        if isinstance(outcome, RpcError):
            raise outcome
        return outcome

    @contextlib.asynccontextmanager
    async def subscribe(
        self, method: str, *params: Any, unsubscribe: str, seconds: float = REQUEST_SECONDS
    ) -> AsyncIterator[Subscription]:
        """Raises: RpcError, NodeUnreachable, ConnectionLost."""
        subscription = Subscription(self, unsubscribe)
        deadline = asyncio.get_running_loop().time() + seconds
        await self._wait_ready(deadline)
        (outcome,) = await self._exchange([(method, params)], deadline, subscription)
        if isinstance(outcome, RpcError):
            raise outcome
        try:
            yield subscription
        finally:
            await subscription.close()

    def forget(self, name: str) -> None:
        self._subscriptions.pop(name, None)

    async def _exchange(
        self,
        calls: Sequence[tuple[str, Sequence[Any]]],
        deadline: float,
        subscription: Subscription | None = None,
    ) -> list[Any]:
        socket = self._socket
        if socket is None:
            raise ConnectionLost
        loop = asyncio.get_running_loop()
        requests: list[dict[str, Any]] = []
        answers: dict[int, asyncio.Future[Any]] = {}
        for method, params in calls:
            number = next(self._ids)
            answers[number] = loop.create_future()
            self._pending[number] = _Pending(answers[number], subscription)
            requests.append(
                {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
            )
        frame = json.dumps(requests if len(requests) > 1 else requests[0], separators=(",", ":"))
        try:
            async with asyncio.timeout_at(deadline):
                await socket.send(frame)
                return [await answer for answer in answers.values()]
        except TimeoutError:
            raise NodeUnreachable(self.url, f"{calls[0][0]} was not answered in time") from None
        except (WebSocketException, OSError):
            if self._socket is socket:
                # The reader hears of it only when it runs, and a caller that tries again at once would
                # not let it.
                self._ready.clear()
            raise ConnectionLost from None
        finally:
            for number, answer in answers.items():
                self._pending.pop(number, None)
                _discard(answer)

    async def _wait_ready(self, deadline: float) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                while not self._ready.is_set():
                    if self._fatal is not None:
                        raise self._fatal
                    if self._keeper is None or self._keeper.done():
                        raise ConnectionLost
                    self._wanted.set()
                    await self._ready.wait()
        except TimeoutError:
            raise NodeUnreachable(self.url, self._trouble) from None
        finally:
            self._waiting -= 1
        if self._fatal is not None:
            raise self._fatal

    async def _keep(self) -> None:
        delay = _FIRST_DELAY
        while self._fatal is None:
            if not self._waiting:
                self._wanted.clear()  # else who waits has said so already, and will not say it again
            try:
                await self._serve_once()
                delay = _FIRST_DELAY
            except (InvalidURI, ValueError):
                self._stop(NodeUnreachable(self.url, "the URL is not ws://host:port"))
            except (OSError, TimeoutError, WebSocketException) as error:
                self._trouble = _reason(error)
            except (ConnectionLost, NodeUnreachable):
                self._trouble = "the connection breaks"
            except DeepBrainError as error:
                self._stop(error)
            self._drop()
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)
            if self._fatal is None:
                # An idle client does not knock for ever at a node that is gone.
                await self._wanted.wait()

    async def _serve_once(self) -> None:
        """One connection from its opening to its end."""
        local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
        async with connect(
            self.url,
            max_size=MAX_FRAME_BYTES,
            open_timeout=CONNECT_SECONDS,
            close_timeout=1.0,
            compression=None,
            proxy=None if local else True,
        ) as socket:
            self._socket = socket
            reader = asyncio.create_task(self._read(socket))
            try:
                if self._greet is not None:
                    await self._greet(self)
                self._ready.set()
                await reader
            except ConnectionLost:
                await reader  # it knows why
                raise
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for frame in socket:
                self._take(frame)
        finally:
            self._drop()

    def _take(self, frame: str | bytes) -> None:
        try:
            document = json.loads(frame)
        except (ValueError, RecursionError):
            raise DecodeError(f"what answers at {self.url} is not a DeepBrain node") from None
        for message in document if isinstance(document, list) else [document]:
            if isinstance(message, dict):
                self._dispatch(message)

    def _dispatch(self, message: dict[str, Any]) -> None:
        number = message.get("id")
        if isinstance(number, int):
            self._settle(number, message)
            return
        params = message.get("params")
        if isinstance(params, dict):
            subscription = self._subscriptions.get(str(params.get("subscription")))
            if subscription is not None:
                subscription.push(params.get("result"))
        elif "error" in message:
            # An error without an id answers a frame the node could not read: all of them, then.
            for pending in self._pending.copy():
                self._settle(pending, message)

    def _settle(self, number: int, message: dict[str, Any]) -> None:
        pending = self._pending.pop(number, None)
        if pending is None or pending.answer.done():
            return
        if "error" in message:
            pending.answer.set_result(_error_of(message["error"]))
            return
        result = message.get("result")
        if pending.subscription is not None:
            # Here and not in the waiting task: the first notification may be the next frame.
            pending.subscription.name = str(result)
            self._subscriptions[str(result)] = pending.subscription
        pending.answer.set_result(result)

    def _stop(self, error: DeepBrainError) -> None:
        self._fatal = error
        self._ready.set()

    def _drop(self) -> None:
        """The connection is gone: everybody who waits for something of it is told."""
        self._socket = None
        if self._fatal is None:
            self._ready.clear()
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(ConnectionLost())
        self._pending.clear()
        for subscription in self._subscriptions.values():
            subscription.lose()
        self._subscriptions.clear()


def _error_of(error: Any) -> RpcError:
    if not isinstance(error, dict):
        return RpcError(0, "an error without a reason")
    code, message = error.get("code"), str(error.get("message"))
    number = code if isinstance(code, int) else 0
    kind = InvalidExtrinsic if number in _POOL_REFUSALS else RpcError
    return kind(number, message, error.get("data"))


def _discard(answer: asyncio.Future[Any]) -> None:
    """Nobody will look at this answer any more: an exception in it is not to be reported."""
    if answer.done() and not answer.cancelled():
        answer.exception()
    else:
        answer.cancel()


def _reason(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or "connection failed"
    return "it does not speak WebSocket"

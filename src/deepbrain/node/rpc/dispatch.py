"""One table from wire name to typed function, and the JSON-RPC 2.0 rules around it.

A run of neighbouring calls of one method inside a batch goes to the method's `many` function where
it has one: a hundred extrinsics in a batch cost one look at the state and one write.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, TypeAlias

from deepbrain.node.rpc.errors import (
    BATCH_TOO_LARGE,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    RESPONSE_TOO_BIG,
    RpcFault,
    method_not_found,
)
from deepbrain.node.rpc.params import Params
from deepbrain.node.rpc.subscriptions import Cancel, Peer, Sink
from deepbrain.node.rpc.wire import Json, parse, write
from deepbrain.primitives.errors import DecodeError

log = logging.getLogger(__name__)

MAX_BATCH: Final = 1000
MAX_RUN: Final = 100
MAX_RESPONSE: Final = 16 * 1024 * 1024

Answer: TypeAlias = Json | Awaitable[Json]
Outcome: TypeAlias = Json | RpcFault


@dataclass(frozen=True, slots=True)
class Method:
    """A wire name, its aliases, and the function behind it; a `peer` parameter tells it who asks.

    `many` takes the argument lists of several calls and returns one outcome for each, in order.
    `unsafe` methods are answered only to loopback.
    """

    name: str
    function: Callable[..., Answer]
    aliases: tuple[str, ...] = ()
    unsafe: bool = False
    many: Callable[[Sequence[list[Any]]], Awaitable[list[Outcome]]] | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """A subscription: `function(*params)` gives what starts it on a sink and returns its end.

    To the end of a `quiet` one the answer is null, whether it was open or not.
    """

    name: str
    unsubscribe: str
    notification: str
    function: Callable[..., "Starter | Awaitable[Starter]"]
    aliases: tuple[str, ...] = ()
    unsubscribe_aliases: tuple[str, ...] = ()
    quiet: bool = False


Starter = Callable[[Sink], Cancel]


@dataclass(frozen=True, slots=True)
class Request:
    """A well-formed call. `identity` is the id as JSON text; None marks a notification."""

    method: str
    params: Json
    identity: str | None


@dataclass(slots=True)
class Entry:
    """One wire name in the table."""

    call: Callable[[Peer, list[Any]], Answer]
    params: Params
    unsafe: bool = False
    many: Callable[[Sequence[list[Any]]], Awaitable[list[Outcome]]] | None = None


@dataclass(slots=True)
class Table:
    """Wire names and what answers them."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def add(self, methods: Iterable[Method | Stream]) -> None:
        for method in methods:
            if isinstance(method, Method):
                self._add_method(method)
            else:
                self._add_stream(method)

    def names(self) -> list[str]:
        return sorted(self.entries)

    async def answer(self, text: str | bytes, peer: Peer) -> str | None:
        """The JSON text that answers one frame; None when it held only notifications."""
        try:
            document = parse(text)
        except DecodeError as error:
            return _failure("null", RpcFault(PARSE_ERROR, "Parse error", str(error)))
        if isinstance(document, list):
            return await self._answer_batch(document, peer)
        request = _request_of(document)
        if isinstance(request, str):
            return request
        (outcome,) = await self._run([request], peer)
        return _response(request, outcome)

    async def _answer_batch(self, documents: list[Json], peer: Peer) -> str | None:
        if not documents:
            return _failure("null", RpcFault(INVALID_REQUEST, "Invalid Request"))
        if len(documents) > MAX_BATCH:
            return _failure(
                "null",
                RpcFault(
                    BATCH_TOO_LARGE, "The batch request was too large", f"at most {MAX_BATCH}"
                ),
            )
        answers: list[str] = []
        total = 0
        for run in _runs(documents):
            parts = await self._answer_run(run, peer)
            answers += parts
            total += sum(map(len, parts))
            if total > MAX_RESPONSE:
                fault = RpcFault(RESPONSE_TOO_BIG, "The batch response was too large")
                return _failure("null", fault)
        return f"[{','.join(answers)}]" if answers else None

    async def _answer_run(self, run: list[Request | str], peer: Peer) -> list[str]:
        requests = [member for member in run if isinstance(member, Request)]
        if not requests:
            return [member for member in run if isinstance(member, str)]
        outcomes = await self._run(requests, peer)
        parts = map(_response, requests, outcomes)
        return [part for part in parts if part is not None]

    async def _run(self, requests: list[Request], peer: Peer) -> list[Outcome]:
        """The outcomes of calls of one and the same method."""
        entry = self.entries.get(requests[0].method)
        if entry is None:
            return [method_not_found()] * len(requests)
        if entry.unsafe and not peer.local:
            refusal = RpcFault(METHOD_NOT_FOUND, "RPC call is unsafe to be called externally")
            return [refusal] * len(requests)
        if entry.many is None or len(requests) == 1:
            return [await self._call(entry, request, peer) for request in requests]
        bound = [_bound(entry, request) for request in requests]
        try:
            found = await entry.many([args for args in bound if isinstance(args, list)])
        except Exception:
            log.exception("a bug in %s", requests[0].method)
            return [RpcFault(INTERNAL_ERROR, "Internal error")] * len(requests)
        outcomes = iter(found)
        return [next(outcomes) if isinstance(args, list) else args for args in bound]

    async def _call(self, entry: Entry, request: Request, peer: Peer) -> Outcome:
        try:
            result = entry.call(peer, entry.params.bind(request.params))
            return await result if inspect.isawaitable(result) else result
        except RpcFault as fault:
            return fault
        # A bug in one answer must not cost the client its connection and its subscriptions.
        except Exception:
            log.exception("a bug in %s", request.method)
            return RpcFault(INTERNAL_ERROR, "Internal error")

    def _add_method(self, method: Method) -> None:
        params = Params(method.function)

        def call(peer: Peer, args: list[Any]) -> Answer:
            return method.function(peer, *args) if params.wants_peer else method.function(*args)

        entry = Entry(call, params, method.unsafe, method.many)
        self._register(entry, method.name, *method.aliases)

    def _add_stream(self, stream: Stream) -> None:
        params = Params(stream.function)

        async def subscribe(peer: Peer, args: list[Any]) -> Json:
            subscriptions = peer.lasting()
            sink = subscriptions.sink(stream.notification)
            starter = stream.function(*((peer, *args) if params.wants_peer else args))
            start = await starter if inspect.isawaitable(starter) else starter
            subscriptions.add(sink, start(sink))
            return sink.name

        def unsubscribe(peer: Peer, args: list[Any]) -> Json:
            was_open = peer.lasting().cancel(args[0])
            return None if stream.quiet else was_open

        self._register(Entry(subscribe, params), stream.name, *stream.aliases)
        self._register(
            Entry(unsubscribe, Params(_unsubscribe)),
            stream.unsubscribe,
            *stream.unsubscribe_aliases,
        )

    def _register(self, entry: Entry, *names: str) -> None:
        for name in names:
            if name in self.entries:
                raise ValueError(f"the RPC method {name} is registered twice")
            self.entries[name] = entry


def _unsubscribe(subscription: str) -> None:
    """The signature of every method that ends a subscription."""


def _request_of(document: Json) -> Request | str:
    """A well-formed request, or the answer to one that is not."""
    if not isinstance(document, dict):
        return _failure("null", RpcFault(INVALID_REQUEST, "Invalid Request"))
    identity = document.get("id")
    if not (identity is None or isinstance(identity, str | int)) or isinstance(identity, bool):
        return _failure("null", RpcFault(INVALID_REQUEST, "Invalid Request", "id"))
    text = str(identity) if isinstance(identity, int) else write(identity)
    method = document.get("method")
    if document.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return _failure(text, RpcFault(INVALID_REQUEST, "Invalid Request"))
    return Request(method, document.get("params"), text if "id" in document else None)


def _runs(documents: list[Json]) -> Iterator[list[Request | str]]:
    """Neighbouring calls of one method, at most `MAX_RUN` at once."""
    for _, group in groupby(map(_request_of, documents), _run_key):
        members = list(group)
        for start in range(0, len(members), MAX_RUN):
            yield members[start : start + MAX_RUN]


def _run_key(request: Request | str) -> str | None:
    return request.method if isinstance(request, Request) else None


def _bound(entry: Entry, request: Request) -> list[Any] | RpcFault:
    try:
        return entry.params.bind(request.params)
    except RpcFault as fault:
        return fault


def _response(request: Request, outcome: Outcome) -> str | None:
    if request.identity is None:
        return None
    if isinstance(outcome, RpcFault):
        return _failure(request.identity, outcome)
    text = write(outcome)
    if len(text) > MAX_RESPONSE:
        return _failure(request.identity, RpcFault(RESPONSE_TOO_BIG, "Response is too big"))
    return f'{{"jsonrpc":"2.0","id":{request.identity},"result":{text}}}'


def _failure(identity: str, fault: RpcFault) -> str:
    return f'{{"jsonrpc":"2.0","id":{identity},"error":{fault.encode()}}}'

"""`author_`: handing extrinsics in, and hearing what becomes of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from deepbrain.node.pool import Banned, Pool, Status
from deepbrain.node.queue import NotQueued, Refusal
from deepbrain.node.rpc.dispatch import Method, Outcome, Starter, Stream
from deepbrain.node.rpc.errors import (
    ALREADY_IMPORTED,
    BAD_FORMAT,
    IMMEDIATELY_DROPPED,
    INVALID_TRANSACTION,
    TEMPORARILY_BANNED,
    TOO_LOW_PRIORITY,
    RpcFault,
)
from deepbrain.node.rpc.subscriptions import Cancel, Sink
from deepbrain.node.rpc.wire import Json, RawJson
from deepbrain.primitives.errors import DecodeError, DeepBrainError
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.runtime.errors import InvalidTransaction


class AuthorRpc:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def methods(self) -> Iterator[Method | Stream]:
        yield Method("author_submitExtrinsic", self.submit, many=self.submit_many)
        yield Stream(
            "author_submitAndWatchExtrinsic",
            "author_unwatchExtrinsic",
            "author_extrinsicUpdate",
            self.watch,
        )
        yield Method("author_pendingExtrinsics", self.pending)
        yield Method("author_removeExtrinsic", self.remove, unsafe=True)

    async def submit(self, extrinsic: bytes) -> Json:
        """The hash of an extrinsic that is now in the pool."""
        (outcome,) = await self.submit_many([[extrinsic]])
        if isinstance(outcome, RpcFault):
            raise outcome
        return outcome

    async def submit_many(self, calls: Sequence[list[Any]]) -> list[Outcome]:
        """As `submit`, for many at once; in their order."""
        extrinsics: list[bytes] = [extrinsic for (extrinsic,) in calls]
        outcomes = await self._pool.submit(extrinsics)
        return [
            RawJson(f'"{outcome}"') if isinstance(outcome, Hash) else fault_of(outcome, extrinsic)
            for extrinsic, outcome in zip(extrinsics, outcomes, strict=True)
        ]

    async def watch(self, extrinsic: bytes) -> Starter:
        """Submit, and follow every status until the last."""
        return await self.follow(extrinsic, lambda status: status)

    async def follow(self, extrinsic: bytes, tell: Callable[[Status], Json]) -> Starter:
        """As `watch`, with each status told as `tell` has it."""
        relay = _Relay(tell)
        (outcome,) = await self._pool.submit([extrinsic], relay)
        if not isinstance(outcome, Hash):
            raise fault_of(outcome, extrinsic)
        digest = outcome

        def start(sink: Sink) -> Cancel:
            relay.attach(sink)
            return lambda: self._pool.unwatch(digest, relay)

        return start

    def pending(self) -> Json:
        return ["0x" + extrinsic.hex() for extrinsic in self._pool.pending()]

    def remove(self, extrinsics: list[Hash]) -> Json:
        """Take extrinsics out of the pool and ban them; the hashes of those that were there."""
        return [str(digest) for digest in extrinsics if self._pool.remove(digest)]


class _Relay:
    """Keeps statuses until there is a sink for them."""

    def __init__(self, tell: Callable[[Status], Json]) -> None:
        self._tell = tell
        self._early: list[Status] = []
        self._sink: Sink | None = None

    def __call__(self, status: Status) -> None:
        if self._sink is None:
            self._early.append(status)
        else:
            self._sink.send(self._tell(status))

    def attach(self, sink: Sink) -> None:
        self._sink = sink
        for status in self._early:
            sink.send(self._tell(status))


def fault_of(refusal: DeepBrainError, extrinsic: bytes) -> RpcFault:
    """Why the pool refused, in the codes and texts that clients know."""
    match refusal:
        case InvalidTransaction():
            return RpcFault(INVALID_TRANSACTION, "Invalid Transaction", str(refusal))
        case DecodeError():
            return RpcFault(BAD_FORMAT, f"Extrinsic has invalid format: {refusal}")
        case Banned():
            return RpcFault(TEMPORARILY_BANNED, "Transaction is temporarily banned", str(refusal))
        case NotQueued(refusal=Refusal.ALREADY_HERE):
            data = str(blake2_256(extrinsic))
            return RpcFault(ALREADY_IMPORTED, "Transaction Already Imported", data)
        case NotQueued(refusal=Refusal.UNDERPRICED):
            return RpcFault(
                TOO_LOW_PRIORITY,
                f"Priority is too low: at least 110 % of {refusal.against} is needed",
                "The transaction has too low priority to replace another transaction already in "
                "the pool.",
            )
        case NotQueued():
            return RpcFault(IMMEDIATELY_DROPPED, "Immediately Dropped", str(refusal))
    raise refusal

"""`transaction_v1_`: have an extrinsic brought into a block, without hearing what becomes of it.

An extrinsic is handed to the pool at once, and again after each block for as long as the pool has no
room for it. One that can never enter is silently left alone, as the interface wants it.
"""

import asyncio
from collections.abc import Iterator
from typing import Final

from deepbrain.node.chain import Chain, Notice
from deepbrain.node.pool import DROPPED, Pool, Status
from deepbrain.node.queue import NotQueued
from deepbrain.node.rpc.dispatch import Method
from deepbrain.node.rpc.errors import invalid_params
from deepbrain.node.rpc.subscriptions import Peer
from deepbrain.node.rpc.wire import Json
from deepbrain.primitives.ids import Hash

MAX_BROADCASTS: Final = 16
"""At once, of one connection."""


class TransactionRpc:
    def __init__(self, chain: Chain, pool: Pool) -> None:
        self._chain = chain
        self._pool = pool

    def methods(self) -> Iterator[Method]:
        yield Method("transaction_v1_broadcast", self.broadcast)
        yield Method("transaction_v1_stop", self.stop)

    async def broadcast(self, peer: Peer, transaction: bytes) -> Json:
        """What names the operation, or null when there are too many of this connection."""
        subscriptions = peer.lasting()
        if subscriptions.count(Broadcast) >= MAX_BROADCASTS:
            return None
        broadcast = Broadcast(self._chain, self._pool, transaction)
        name = subscriptions.hold(broadcast)
        await broadcast.submit()
        return name

    def stop(self, peer: Peer, operation: str) -> Json:
        subscriptions = peer.lasting()
        if subscriptions.find(operation, Broadcast) is None:
            raise invalid_params("there is no such operation")
        subscriptions.cancel(operation)
        return None


class Broadcast:
    """One extrinsic on its way. Calling it ends it; what is in the pool stays there."""

    def __init__(self, chain: Chain, pool: Pool, extrinsic: bytes) -> None:
        self._pool = pool
        self._extrinsic = extrinsic
        self._hash: Hash | None = None
        self._again = False
        self._over = False
        self._trying: asyncio.Task[None] | None = None
        self._unsubscribe = chain.subscribe(self._on_block)

    async def submit(self) -> None:
        """Hand it to the pool, and see whether to do so again."""
        self._again = False
        (outcome,) = await self._pool.submit([self._extrinsic], self._on_status)
        if isinstance(outcome, Hash):
            self._hash = outcome
        else:
            self._again = isinstance(outcome, NotQueued)
        if self._over:
            self._unwatch()

    def __call__(self) -> None:
        self._over = True
        self._unsubscribe()
        self._unwatch()

    def _unwatch(self) -> None:
        if self._hash is not None:
            self._pool.unwatch(self._hash, self._on_status)

    def _on_status(self, status: Status) -> None:
        self._again = status == DROPPED

    def _on_block(self, notice: Notice) -> None:
        if self._again and (self._trying is None or self._trying.done()):
            self._trying = asyncio.create_task(self.submit())

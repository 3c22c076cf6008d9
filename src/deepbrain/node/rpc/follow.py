"""One `chainHead_v1_follow`: the blocks it has announced and pinned, and its operations.

    initialized ─► newBlock ─► bestBlockChanged ─► finalized ─► newBlock …            until stop

A block is final when it is committed, so the three events of a block come together, and every block is
announced. A client that lets too many blocks stay pinned, or one for too long, is stopped: what is
pinned can be read, and the node keeps states for so many blocks only.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from deepbrain.node.chain import Chain, Notice
from deepbrain.node.errors import UnknownBlock
from deepbrain.node.rpc.errors import (
    DUPLICATE_HASHES,
    NO_RUNTIME,
    NOT_PINNED,
    NOT_WAITING,
    RpcFault,
)
from deepbrain.node.rpc.params import StorageQuery
from deepbrain.node.rpc.storage_pages import read_page
from deepbrain.node.rpc.subscriptions import Sink
from deepbrain.node.rpc.wire import Json
from deepbrain.pallets.system import RuntimeVersion
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import Hash
from deepbrain.runtime.apis import UnknownApi
from deepbrain.state.errors import UnknownState

log = logging.getLogger(__name__)

RECENT: Final = 16
"""Blocks that `initialized` names, for those who come back after a broken connection."""
MAX_PINNED: Final = 512
MAX_PINNED_AGE: Final = 1024
"""Blocks; far fewer than those whose state is kept."""
MAX_OPERATIONS: Final = 16
"""Under way at once; each storage item is one."""

Event = dict[str, Json]
Answer = Callable[[], None]


@dataclass(slots=True)
class _Operation:
    """Something asked for and not answered yet. `queries` are left of a storage query that waits."""

    at: Hash
    places: int
    waiting: bool = False
    queries: Sequence[StorageQuery] = ()


class Follow:
    """Calling it ends it."""

    def __init__(self, chain: Chain, sink: Sink, with_runtime: bool) -> None:
        self._chain = chain
        self._sink = sink
        self.with_runtime = with_runtime
        self._pinned: dict[Hash, int] = {}
        """Number by hash, oldest first."""
        self._announced = 0
        """The number of the last block that the client has heard of."""
        self._operations: dict[str, _Operation] = {}
        self._count = 0
        self._asked: dict[str, Answer] = {}
        """What is still to be answered, by operation: a client that lets us wait, and drops and begins
        operations meanwhile, must not make it grow.
        """
        self._more = asyncio.Event()
        self._answering = asyncio.create_task(self._answer_in_turn())
        self._unsubscribe = self._begin()

    def _begin(self) -> Callable[[], None]:
        head = self._chain.head
        self._announced = head.number
        for number in range(max(0, head.number - RECENT + 1), head.number + 1):
            found = self._chain.hash_of(number)
            if found is not None:
                self._pinned[found] = number
        event: Event = {
            "event": "initialized",
            "finalizedBlockHashes": [str(each) for each in self._pinned],
        }
        if self.with_runtime:
            event["finalizedBlockRuntime"] = self._runtime(head.hash)
        self._sink.send(event)
        return self._chain.subscribe(self._on_block)

    def __call__(self) -> None:
        self._unsubscribe()
        self._answering.cancel()
        self._pinned.clear()
        self._operations.clear()
        self._asked.clear()

    def _on_block(self, notice: Notice) -> None:
        number, name = notice.head.number, str(notice.head.hash)
        if number <= self._announced:  # it was the head already when this began
            return
        if number > self._announced + 1:  # the node has joined by a snapshot: nothing leads there
            self.stop()
            return
        self._announced = number
        oldest = next(iter(self._pinned.values()), number)
        if len(self._pinned) >= MAX_PINNED or number - oldest > MAX_PINNED_AGE:
            self.stop()
            return
        self._pinned[notice.head.hash] = number
        new: Event = {
            "event": "newBlock",
            "blockHash": name,
            "parentBlockHash": str(notice.head.header.parent_hash),
        }
        if self.with_runtime:
            new["newRuntime"] = self._runtime(notice.head.hash) if notice.upgraded else None
        self._sink.send(new)
        self._sink.send({"event": "bestBlockChanged", "bestBlockHash": name})
        self._sink.send(
            {"event": "finalized", "finalizedBlockHashes": [name], "prunedBlockHashes": []}
        )

    def stop(self) -> None:
        """End it from this side: the client has to follow anew."""
        self()
        self._sink.send({"event": "stop"})
        self._sink.end()

    # Pins.

    def ensure_pinned(self, block: Hash) -> None:
        """Raises: RpcFault: the client does not hold this block."""
        if block not in self._pinned:
            raise RpcFault(NOT_PINNED, "Invalid block hash", f"{block} is not pinned")

    def unpin(self, blocks: Sequence[Hash]) -> None:
        """All of them or none. Raises: RpcFault."""
        if len(dict.fromkeys(blocks)) != len(blocks):
            raise RpcFault(DUPLICATE_HASHES, "Received duplicate hashes")
        for block in blocks:
            self.ensure_pinned(block)
        for block in blocks:
            del self._pinned[block]

    # Operations: what is asked for, and how it is answered, one after another, as fast as the client
    # takes the answers.

    def begin(self, at: Hash, places: int = 1) -> tuple[str, int] | None:
        """The name of a new operation, and how many of the places it got; None: there is no room.

        Raises: RpcFault: the block is not pinned.
        """
        self.ensure_pinned(at)
        free = MAX_OPERATIONS - sum(each.places for each in self._operations.values())
        if free <= 0:
            return None
        given = min(places, free)
        self._count += 1
        name = f"o{self._count:08x}"
        self._operations[name] = _Operation(at, max(given, 1))  # also where nothing is asked for
        return name, given

    def ask(self, name: str, answer: Answer) -> None:
        """Have an operation answered whose name the client knows by now."""
        if name in self._operations:
            self._asked[name] = answer
            self._more.set()

    async def _answer_in_turn(self) -> None:
        while True:
            await self._more.wait()
            await self._sink.room()
            name = next(iter(self._asked), None)
            if name is None:
                self._more.clear()
                continue
            answer = self._asked.pop(name)
            try:
                answer()
            # A bug in one answer must not leave the client waiting for it.
            except Exception:
                log.exception("a bug in an answer of chainHead_v1")
                self.stop()

    def ensure_runtime(self) -> None:
        """Raises: RpcFault: this one follows without the runtime."""
        if not self.with_runtime:
            raise RpcFault(
                NO_RUNTIME, "The runtime updates flag must be set", "withRuntime is false"
            )

    def answer_body(self, name: str) -> None:
        operation = self._operations.pop(name, None)
        if operation is None:
            return
        block = self._chain.block(operation.at)
        if block is None:
            self._tell(name, "operationInaccessible")
        else:
            extrinsics: list[Json] = ["0x" + each.hex() for each in block.extrinsics]
            self._tell(name, "operationBodyDone", value=extrinsics)

    def answer_call(self, name: str, function: str, arguments: bytes) -> None:
        operation = self._operations.pop(name, None)
        if operation is None:
            return
        try:
            output = self._chain.call(function, arguments, operation.at)
        except (UnknownApi, DecodeError) as error:
            self._tell(name, "operationError", error=str(error))
        except (UnknownBlock, UnknownState):
            self._tell(name, "operationInaccessible")
        else:
            self._tell(name, "operationCallDone", output="0x" + output.hex())

    def answer_storage(self, name: str, queries: Sequence[StorageQuery]) -> None:
        """Send a page; where there is more, wait for `resume`."""
        operation = self._operations.get(name)
        if operation is None:
            return
        try:
            with self._chain.snapshot(operation.at) as state:
                items, left = read_page(state, queries)
        except (UnknownBlock, UnknownState):
            del self._operations[name]
            self._tell(name, "operationInaccessible")
            return
        if items:
            self._tell(name, "operationStorageItems", items=list(items))
        if left:
            operation.waiting, operation.queries = True, left
            self._tell(name, "operationWaitingForContinue")
        else:
            del self._operations[name]
            self._tell(name, "operationStorageDone")

    def resume(self, name: str) -> Answer | None:
        """What sends the next page of an operation that waits. Raises: RpcFault: it does not wait."""
        operation = self._operations.get(name)
        if operation is None:
            return None
        if not operation.waiting:
            raise RpcFault(NOT_WAITING, "Wait for continue event was not generated")
        operation.waiting, queries = False, operation.queries
        return lambda: self.answer_storage(name, queries)

    def drop(self, name: str) -> None:
        """Forget an operation; nothing more is sent of it."""
        self._operations.pop(name, None)
        self._asked.pop(name, None)

    def _tell(self, name: str, event: str, **more: Json) -> None:
        self._sink.send({"event": event, "operationId": name, **more})

    def _runtime(self, block: Hash) -> Json:
        version = self._chain.executive(self._chain.spec_version(block)).runtime.version
        return {"type": "valid", "spec": _spec_json(version)}


def _spec_json(version: RuntimeVersion) -> Json:
    return {
        "specName": version.spec_name,
        "implName": version.impl_name,
        "specVersion": version.spec_version,
        "implVersion": version.impl_version,
        "transactionVersion": version.transaction_version,
        "apis": {"0x" + api.hex(): number for api, number in version.apis},
    }

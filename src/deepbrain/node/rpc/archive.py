"""`archive_v1_`: reading any block that is kept."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Final

from deepbrain.node.chain import Chain
from deepbrain.node.errors import UnknownBlock
from deepbrain.node.rpc.dispatch import Method, Starter, Stream
from deepbrain.node.rpc.errors import SERVER_BUSY, RpcFault
from deepbrain.node.rpc.params import StorageQuery
from deepbrain.node.rpc.storage_pages import read_page
from deepbrain.node.rpc.subscriptions import Peer, Sink
from deepbrain.node.rpc.wire import Json
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import Hash
from deepbrain.runtime.apis import UnknownApi
from deepbrain.state.errors import UnknownState

log = logging.getLogger(__name__)

MAX_READS: Final = 4
"""Storage reads under way at once, of one connection."""


class ArchiveRpc:
    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def methods(self) -> Iterator[Method | Stream]:
        yield Method("archive_v1_finalizedHeight", self.finalized_height)
        yield Method("archive_v1_genesisHash", self.genesis_hash)
        yield Method("archive_v1_hashByHeight", self.hash_by_height)
        yield Method("archive_v1_header", self.header)
        yield Method("archive_v1_body", self.body)
        yield Method("archive_v1_call", self.call)
        yield Stream(
            "archive_v1_storage",
            "archive_v1_stopStorage",
            "archive_v1_storageEvent",
            self.storage,
            quiet=True,
        )

    def finalized_height(self) -> Json:
        return self._chain.head.number

    def genesis_hash(self) -> Json:
        return str(self._chain.genesis_hash)

    def hash_by_height(self, height: int) -> Json:
        found = self._chain.hash_of(height)
        return [] if found is None else [str(found)]

    def header(self, block: Hash) -> Json:
        found = self._chain.header(block)
        return None if found is None else "0x" + found.encode().hex()

    def body(self, block: Hash) -> Json:
        found = self._chain.block(block)
        return None if found is None else ["0x" + each.hex() for each in found.extrinsics]

    def call(self, block: Hash, function: str, call_parameters: bytes) -> Json:
        try:
            value = self._chain.call(function, call_parameters, block)
        except UnknownBlock:
            return None
        except (UnknownApi, UnknownState, DecodeError) as error:
            return {"success": False, "error": str(error)}
        return {"success": True, "value": "0x" + value.hex()}

    def storage(
        self,
        peer: Peer,
        block: Hash,
        items: list[StorageQuery],
        child_trie: bytes | None = None,
    ) -> Starter:
        """This chain has no child tries: nothing is found in one."""
        if peer.lasting().count(_Read) >= MAX_READS:
            raise RpcFault(SERVER_BUSY, "Too many storage reads", f"at most {MAX_READS} at once")

        def start(sink: Sink) -> _Read:
            return _Read(self._chain, sink, block, items if child_trie is None else ())

        return start


class _Read:
    """A storage read that goes as fast as the client takes it. Calling it ends it."""

    def __init__(
        self, chain: Chain, sink: Sink, block: Hash, queries: Sequence[StorageQuery]
    ) -> None:
        self._chain, self._sink, self._block = chain, sink, block
        self._reading = asyncio.create_task(self._read(queries))

    def __call__(self) -> None:
        self._reading.cancel()

    async def _read(self, queries: Sequence[StorageQuery]) -> None:
        last: dict[str, Json] = {"event": "storageDone"}
        try:
            await self._send(queries)
        except (UnknownBlock, UnknownState) as error:
            last = {"event": "storageError", "error": str(error)}
        # A bug in one read must not leave the client waiting for its end.
        except Exception:
            log.exception("a bug in archive_v1_storage")
            last = {"event": "storageError", "error": "Internal error"}
        await self._sink.room()
        self._sink.send(last)
        self._sink.end()

    async def _send(self, queries: Sequence[StorageQuery]) -> None:
        while queries:
            with self._chain.snapshot(self._block) as state:
                items, queries = read_page(state, queries)
            for item in items:
                await self._sink.room()
                self._sink.send({"event": "storage", **item})

"""`chainHead_v1_`: following the chain, and reading the blocks that are pinned while one does."""

from collections.abc import Iterator
from typing import Final

from deepbrain.node.chain import Chain
from deepbrain.node.rpc.dispatch import Method, Starter, Stream
from deepbrain.node.rpc.errors import TOO_MANY_FOLLOWS, RpcFault
from deepbrain.node.rpc.follow import Answer, Follow
from deepbrain.node.rpc.params import Hashes, StorageQuery
from deepbrain.node.rpc.subscriptions import Peer, Sink
from deepbrain.node.rpc.wire import Json
from deepbrain.primitives.ids import Hash

MAX_FOLLOWS: Final = 4
"""At once, of one connection."""

LIMIT_REACHED: Final[Json] = {"result": "limitReached"}
"""There is no room for the operation, or no such subscription."""


class ChainHeadRpc:
    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def methods(self) -> Iterator[Method | Stream]:
        yield Stream(
            "chainHead_v1_follow",
            "chainHead_v1_unfollow",
            "chainHead_v1_followEvent",
            self.follow,
            quiet=True,
        )
        yield Method("chainHead_v1_header", self.header)
        yield Method("chainHead_v1_body", self.body)
        yield Method("chainHead_v1_call", self.call)
        yield Method("chainHead_v1_storage", self.storage)
        yield Method("chainHead_v1_continue", self.resume)
        yield Method("chainHead_v1_stopOperation", self.stop_operation)
        yield Method("chainHead_v1_unpin", self.unpin)

    def follow(self, peer: Peer, with_runtime: bool) -> Starter:
        if peer.lasting().count(Follow) >= MAX_FOLLOWS:
            raise RpcFault(
                TOO_MANY_FOLLOWS,
                "Maximum number of chainHead_follow has been reached",
                f"at most {MAX_FOLLOWS} of one connection",
            )

        def start(sink: Sink) -> Follow:
            return Follow(self._chain, sink, with_runtime)

        return start

    def header(self, peer: Peer, follow_subscription: str, block: Hash) -> Json:
        follow = _alive(peer, follow_subscription)
        if follow is None:
            return None
        follow.ensure_pinned(block)
        header = self._chain.header(block)
        return None if header is None else "0x" + header.encode().hex()

    def body(self, peer: Peer, follow_subscription: str, block: Hash) -> Json:
        follow = _alive(peer, follow_subscription)
        begun = None if follow is None else follow.begin(block)
        if follow is None or begun is None:
            return LIMIT_REACHED
        name, _ = begun
        return _started(peer, follow, name, lambda: follow.answer_body(name))

    def call(
        self,
        peer: Peer,
        follow_subscription: str,
        block: Hash,
        function: str,
        call_parameters: bytes,
    ) -> Json:
        follow = _alive(peer, follow_subscription)
        if follow is None:
            return LIMIT_REACHED
        follow.ensure_runtime()
        begun = follow.begin(block)
        if begun is None:
            return LIMIT_REACHED
        name, _ = begun
        return _started(
            peer, follow, name, lambda: follow.answer_call(name, function, call_parameters)
        )

    def storage(
        self,
        peer: Peer,
        follow_subscription: str,
        block: Hash,
        items: list[StorageQuery],
        child_trie: bytes | None = None,
    ) -> Json:
        """This chain has no child tries: nothing is found in one."""
        follow = _alive(peer, follow_subscription)
        begun = None if follow is None else follow.begin(block, len(items))
        if follow is None or begun is None:
            return LIMIT_REACHED
        name, given = begun
        queries = items[:given] if child_trie is None else []
        started = _started(peer, follow, name, lambda: follow.answer_storage(name, queries))
        return {**started, "discardedItems": len(items) - given}

    def resume(self, peer: Peer, follow_subscription: str, operation: str) -> Json:
        follow = _alive(peer, follow_subscription)
        go_on = None if follow is None else follow.resume(operation)
        if follow is not None and go_on is not None:
            peer.lasting().after(lambda: follow.ask(operation, go_on))
        return None

    def stop_operation(self, peer: Peer, follow_subscription: str, operation: str) -> Json:
        follow = _alive(peer, follow_subscription)
        if follow is not None:
            follow.drop(operation)
        return None

    def unpin(self, peer: Peer, follow_subscription: str, hash_or_hashes: Hashes) -> Json:
        follow = _alive(peer, follow_subscription)
        if follow is not None:
            follow.unpin(hash_or_hashes.hashes)
        return None


def _alive(peer: Peer, follow_subscription: str) -> Follow | None:
    """The subscription, if it is the peer's own and goes on. Raises: RpcFault: over HTTP."""
    return peer.lasting().find(follow_subscription, Follow)


def _started(peer: Peer, follow: Follow, name: str, answer: Answer) -> dict[str, Json]:
    """The answer to a request for an operation; its events come after it."""
    peer.lasting().after(lambda: follow.ask(name, answer))
    return {"result": "started", "operationId": name}

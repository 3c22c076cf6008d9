"""`chain_`: blocks, headers and their hashes. What is committed is final, so both heads are one."""

from collections.abc import Iterator
from typing import Final

from deepbrain.frame.header import DigestItem, Header
from deepbrain.node.chain import Chain, Notice
from deepbrain.node.rpc.dispatch import Method, Starter, Stream
from deepbrain.node.rpc.params import BlockQuery
from deepbrain.node.rpc.subscriptions import Cancel, Sink
from deepbrain.node.rpc.wire import Json, RawJson, write
from deepbrain.primitives.ids import Hash
from deepbrain.scale import codec_of

_ITEM: Final = codec_of(DigestItem)


class ChainRpc:
    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._head_json: tuple[Hash, RawJson] | None = None

    def methods(self) -> Iterator[Method | Stream]:
        yield Method("chain_getHeader", self.header)
        yield Method("chain_getBlock", self.block)
        yield Method("chain_getBlockHash", self.block_hash, aliases=("chain_getHead",))
        yield Method(
            "chain_getFinalizedHead", self.finalized_head, aliases=("chain_getFinalisedHead",)
        )
        yield Stream(
            "chain_subscribeNewHeads",
            "chain_unsubscribeNewHeads",
            "chain_newHead",
            self.heads,
            aliases=("chain_subscribeNewHead", "subscribe_newHead"),
            unsubscribe_aliases=("chain_unsubscribeNewHead", "unsubscribe_newHead"),
        )
        yield Stream(
            "chain_subscribeFinalizedHeads",
            "chain_unsubscribeFinalizedHeads",
            "chain_finalizedHead",
            self.heads,
            aliases=("chain_subscribeFinalisedHeads",),
            unsubscribe_aliases=("chain_unsubscribeFinalisedHeads",),
        )
        yield Stream(
            "chain_subscribeAllHeads", "chain_unsubscribeAllHeads", "chain_allHead", self.heads
        )

    def header(self, at: Hash | None = None) -> Json:
        head = self._chain.head
        if at is None or at == head.hash:
            return self._head_text(head.hash, head.header)
        header = self._chain.header(at)
        return None if header is None else header_json(header)

    def block(self, at: Hash | None = None) -> Json:
        block = self._chain.block(self._chain.head.hash if at is None else at)
        if block is None:
            return None
        extrinsics: list[Json] = ["0x" + extrinsic.hex() for extrinsic in block.extrinsics]
        body: dict[str, Json] = {"header": header_json(block.header), "extrinsics": extrinsics}
        return {"block": body, "justifications": None}

    def block_hash(self, number: BlockQuery | None = None) -> Json:
        if number is None:
            return str(self._chain.head.hash)
        found = [self._hash_text(wanted) for wanted in number.numbers]
        return list(found) if number.several else found[0]

    def finalized_head(self) -> Json:
        return str(self._chain.head.hash)

    def heads(self) -> Starter:
        return self._start_heads

    def _start_heads(self, sink: Sink) -> Cancel:
        head = self._chain.head

        def on_block(notice: Notice) -> None:
            if notice.head.number > head.number:  # else it was the head already when this began
                sink.send(self._head_text(notice.head.hash, notice.head.header))

        sink.send(self._head_text(head.hash, head.header))
        return self._chain.subscribe(on_block)

    def _head_text(self, digest: Hash, header: Header) -> RawJson:
        """The head's header as text, made once for all who ask."""
        if self._head_json is None or self._head_json[0] != digest:
            self._head_json = (digest, RawJson(write(header_json(header))))
        return self._head_json[1]

    def _hash_text(self, number: int) -> str | None:
        found = self._chain.hash_of(number)
        return None if found is None else str(found)


def header_json(header: Header) -> dict[str, Json]:
    """A header as Substrate writes it in JSON."""
    return {
        "parentHash": str(header.parent_hash),
        "number": hex(header.number),
        "stateRoot": str(header.state_root),
        "extrinsicsRoot": str(header.extrinsics_root),
        "digest": {"logs": ["0x" + _ITEM.encode(item).hex() for item in header.digest.logs]},
    }

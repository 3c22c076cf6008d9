"""Every block of a chain once more, from its header and body alone, and what then is not as it says.

    source ─ blocks ─► a chain of our own from block 0 ─► header as executed = header as stored?
                       its events                      ─► minted, burned, slashed = what the state says?

Nothing is believed but the chain spec: no hash, no root, no receipt of the source.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, Protocol

from deepbrain.frame.context import Context
from deepbrain.frame.header import Header, author_of
from deepbrain.frame.journal import Journal
from deepbrain.node.chain import Chain, Executed, InherentData, Order
from deepbrain.node.errors import NodeError
from deepbrain.node.node import load_spec
from deepbrain.pallets.balances import Balances, Burned, BurnedHeld, DustLost, Minted
from deepbrain.pallets.offences import Offences, Outcome, Slashed
from deepbrain.pallets.system import NO_HASH, System
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import BlockNumber
from deepbrain.runtime.chainspec import ChainSpec
from deepbrain.runtime.errors import InvalidBlock
from deepbrain.runtime.genesis import genesis_header, genesis_state, genesis_version
from deepbrain.runtime.runtime import runtime_of, version_for
from deepbrain.scale import codec_of
from deepbrain.state.overlay import EmptyState
from deepbrain.state.store import Reader, Store
from deepbrain.state.trie import compute_root, ordered_root

BATCH: Final = 32
"""Blocks that are got at once."""
BODIES: Final = 8
"""Bodies that are on their way from a node at once: one has some megabytes at most."""
ENGINE: Final = "replay"

NO_BLOCKS: Final = "The node answers with what are no blocks: is it one of this software?"

Ask = Callable[[Sequence[tuple[str, Sequence[object]]]], Awaitable[list[Any]]]
"""Some requests to a node, and an answer to each."""

_BODY: Final = codec_of(tuple[bytes, ...])
_EVENTS: Final = System.events.key_of()


@dataclass(frozen=True, slots=True)
class RawBlock:
    """A block as its source has it. None: it does not."""

    header: bytes | None
    body: tuple[bytes, ...] | None
    name: Hash | None
    """The hash by which the source finds it."""
    events: bytes | None = None
    """What the source says that happened in it, where it says so."""


class Source(Protocol):
    """Where blocks come from."""

    @property
    def genesis(self) -> Hash: ...

    @property
    def head(self) -> int: ...

    async def blocks(self, first: int, count: int) -> list[RawBlock]:
        """So many blocks from `first` on."""

    async def differs(self, state: Reader) -> str | None:
        """What of the source's state at its head is not as `state`, in words; None: nothing."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first block that is not what it says; the words are for a person."""

    number: int
    what: str
    """`header`, `parent`, `number`, `author`, `execution`, `state_root`, …: for a program."""
    stored: str
    found: str

    def __str__(self) -> str:
        return f"block {self.number}: {self.what} is {self.stored}, and should be {self.found}"


@dataclass(slots=True)
class Totals:
    """Planck that events tell of; block 0, which has none, counts by its state."""

    minted: int = 0
    burned: int = 0
    slashed: int = 0


async def replay(source: Source, spec: ChainSpec, store: Store) -> AsyncIterator[int | Difference]:
    """Execute every block into an empty store; gives each number that was right, or what was wrong.

    After a difference there is no more. Raises: NodeError: blocks are missing, or this software lacks
    a version of the rules. Cost: that of executing the blocks, signatures included.
    """
    chain = Chain(store, spec, ENGINE)
    if chain.genesis_hash != source.genesis:
        raise NodeError(
            f"The spec {spec.id} makes the chain {chain.genesis_hash}, and these blocks are of "
            f"{source.genesis}: name the right one with --spec, or take the release whose rules made it."
        )
    totals = Totals()
    with chain.snapshot() as state:
        totals.minted = int(_balances(state).issued.get())
    (origin,) = await source.blocks(0, 1)
    own = chain.head.header.encode()
    if origin.header != own:
        stored = "missing" if origin.header is None else f"0x{origin.header.hex()}"
        yield Difference(0, "header", stored, f"0x{own.hex()}")
        return
    yield 0
    for first in range(1, source.head + 1, BATCH):
        count = min(BATCH, source.head + 1 - first)
        for number, raw in enumerate(await source.blocks(first, count), first):
            wrong = _replay_one(chain, raw, number) or _count(chain, totals)
            if wrong is not None:
                yield wrong
                return
            yield number
    with chain.snapshot() as state:
        wrong = _at_the_end(chain, state, totals)
        if wrong is None and (words := await source.differs(state)) is not None:
            wrong = Difference(chain.head.number, "state", words, "as executed")
    if wrong is not None:
        yield wrong


def _replay_one(chain: Chain, raw: RawBlock, number: int) -> Difference | None:
    """Execute a block and make it the head, if it is what it says."""
    if raw.header is None or raw.body is None:
        raise NodeError(
            f"Block {number} is not kept there: a node that joined by a snapshot has none from before "
            "it. Replay needs one that executed every block."
        )
    try:
        header = Header.decode(raw.header)
    except DecodeError as error:
        return Difference(number, "header", f"malformed: {error}", "a header")
    head = chain.head
    if header.number != number:
        return Difference(number, "number", str(header.number), str(number))
    if header.parent_hash != head.hash:
        return Difference(number, "parent", str(header.parent_hash), str(head.hash))
    if (root := ordered_root(raw.body)) != header.extrinsics_root:
        return Difference(number, "extrinsics_root", str(header.extrinsics_root), str(root))
    author = author_of(header.digest)
    if author is None:
        return Difference(number, "author", "missing", "in the digest")
    with chain.snapshot() as state:
        # Raises where this software lacks the rules: that is no fault of the block.
        executive = chain.executive(version_for(state, number))
    try:
        context = executive.context_of(BlockNumber(number), head.hash, author, raw.body)
    except (InvalidBlock, DecodeError) as error:
        return Difference(number, "execution", f"impossible: {error}", "possible")
    # Made anew: were those in the body others, the root of the extrinsics would be another.
    inherents = executive.inherents(context)
    data = InherentData(context.moment, context.author, context.report)
    order = Order(head.hash, data, raw.body[len(inherents) :])
    try:
        executed = chain.execute(order, ())
    except NodeError as error:
        return Difference(number, "execution", f"impossible: {error}", "possible")
    wrong = _compare(header, raw, executed)
    if wrong is None:
        chain.finalize(order, ())
    return wrong


def _compare(stored: Header, raw: RawBlock, executed: Executed) -> Difference | None:
    found, number = executed.header, int(executed.header.number)
    for what in ("state_root", "extrinsics_root", "digest"):
        one, other = getattr(stored, what), getattr(found, what)
        if one != other:
            return Difference(number, what, str(one), str(other))
    # Also a header that decodes to the same, but is written in another way.
    name = found.hash()
    if raw.header != found.encode() or raw.name != name:
        return Difference(number, "hash", str(raw.name), str(name))
    events = executed.outcome.changes.get(_EVENTS)
    if raw.events is not None and raw.events != events:
        return Difference(number, "events", f"0x{raw.events.hex()}", f"0x{(events or b'').hex()}")
    return None


def _count(chain: Chain, totals: Totals) -> Difference | None:
    """Add up the head's events, and compare with what its state says."""
    with chain.snapshot() as state:
        records = state.get(_EVENTS) or b"\0"
        runtime = chain.executive(chain.spec_version()).runtime
        for record in runtime.events.decode(records):
            match record.event:
                case Minted(amount=amount):
                    totals.minted += int(amount)
                case Burned(amount=amount) | BurnedHeld(amount=amount) | DustLost(amount=amount):
                    totals.burned += int(amount)
                case Slashed(amount=amount):
                    totals.slashed += int(amount)
        balances = _balances(state)
        for what, said, found in (
            ("issued", balances.issued.get(), totals.minted),
            ("burned", balances.burned.get(), totals.burned),
            ("total_issuance", balances.total_issuance.get(), totals.minted - totals.burned),
        ):
            if said != found:
                return Difference(chain.head.number, what, str(int(said)), str(found))
    return None


def _at_the_end(chain: Chain, state: Reader, totals: Totals) -> Difference | None:
    """What is added up once: all accounts, all slashes, and every invariant of every pallet."""
    number = chain.head.number
    journal = Journal(state)
    context = Context.outside(journal)
    total = sum(int(info.data.total()) for _, info in System(context).everybody())
    if total != totals.minted - totals.burned:
        return Difference(number, "accounts", str(total), str(totals.minted - totals.burned))
    slashed = sum(
        int(each.amount)
        for _, value in state.iterate(Offences.offences.prefix)
        if (each := Offences.offences.decode(value)) is not None and each.outcome is Outcome.SLASHED
    )
    if slashed != totals.slashed:
        return Difference(number, "slashed", str(slashed), str(totals.slashed))
    runtime = chain.executive(chain.spec_version()).runtime
    for broken in runtime.at(state, NO_HASH).try_state():
        return Difference(number, "invariant", broken, "whole")
    return None


def _balances(state: Reader) -> Balances:
    context = Context.outside(Journal(state))
    return Balances(context, accounts=System(context))


class RpcBlocks:
    """The blocks of a node that runs, in batches; `head` is the one when this began."""

    def __init__(self, ask: Ask, genesis: Hash, head: int) -> None:
        self._ask = ask
        self.genesis = genesis
        self.head = head

    async def blocks(self, first: int, count: int) -> list[RawBlock]:
        numbers = range(first, first + count)
        names = await self._ask([("archive_v1_hashByHeight", (number,)) for number in numbers])
        hashes = [_one(name) for name in names]
        known = [f"0x{digest.hex()}" for digest in hashes if digest is not None]
        if len(known) < count:
            return [RawBlock(None, None, None)] * count
        headers = await self._ask([("archive_v1_header", (name,)) for name in known])
        bodies: list[Any] = []
        for at in range(0, count, BODIES):
            # Each in a frame of its own: a frame with all of them might be longer than frames may be.
            asked = (self._ask([("archive_v1_body", (name,))]) for name in known[at : at + BODIES])
            bodies += [body for (body,) in await asyncio.gather(*asked)]
        return [
            RawBlock(_bytes(header), _body(body), digest)
            for header, body, digest in zip(headers, bodies, hashes, strict=True)
        ]

    async def differs(self, state: Reader) -> str | None:
        """Nothing: the root of the head's header says all of its state."""
        return None


def _one(names: object) -> Hash | None:
    """The hash in a list of one. Raises: NodeError: it is no such answer."""
    if names == []:
        return None
    found = _bytes(names[0]) if isinstance(names, list) and len(names) == 1 else None
    if found is None or len(found) != Hash.SIZE:
        raise NodeError(NO_BLOCKS)
    return Hash(found)


def _body(answer: object) -> tuple[bytes, ...] | None:
    if answer is None:
        return None
    if not isinstance(answer, list):
        raise NodeError(NO_BLOCKS)
    found = [_bytes(each) for each in answer]
    return tuple(each for each in found if each is not None)


def _bytes(answer: object) -> bytes | None:
    if answer is None:
        return None
    try:
        if isinstance(answer, str) and answer.startswith("0x"):
            return bytes.fromhex(answer[2:])
    except ValueError:
        pass
    raise NodeError(NO_BLOCKS)


class StoredBlocks:
    """The blocks in the store of a node that is stopped, as they lie there."""

    def __init__(self, store: Store) -> None:
        """Raises: NodeError: the store is empty, or has no chain."""
        number, genesis = store.number, store.table_get("meta", b"genesis")
        if number is None or genesis is None:
            raise NodeError("There is no chain in this directory.")
        self._store = store
        self.head = number
        self.genesis = Hash(genesis)

    async def blocks(self, first: int, count: int) -> list[RawBlock]:
        return [self._block(number) for number in range(first, first + count)]

    def _block(self, number: int) -> RawBlock:
        key = number.to_bytes(4, "big")
        header = self._store.table_get("headers", key)
        body = self._store.table_get("blocks", key)
        if header is None or body is None:
            return RawBlock(header, None, None)
        try:
            digest = Header.decode(header).hash()
            found = self._store.table_get("hashes", digest)
            return RawBlock(
                header,
                _BODY.decode(body),
                digest if found == key else None,
                self._store.table_get("receipts", key),
            )
        except DecodeError:
            return RawBlock(header, (), None)

    async def differs(self, state: Reader) -> str | None:
        with self._store.snapshot() as theirs:
            mine = state.iterate(b"")
            for entry in theirs.iterate(b""):
                if (own := next(mine, None)) != entry:
                    key = entry[0] if own is None else min(entry[0], own[0])
                    return f"another at the key 0x{key.hex()}"
            if (own := next(mine, None)) is not None:
                return f"another at the key 0x{own[0].hex()}"
        return None


def spec_for(genesis: Hash) -> ChainSpec | None:
    """The spec of ours that makes a chain; None: it is none of ours. Cost: some milliseconds each."""
    for name in sorted(
        each.name.removesuffix(".json") for each in (files("deepbrain.runtime") / "specs").iterdir()
    ):
        spec = load_spec(name)
        if _genesis_of(spec) == genesis:
            return spec
    return None


def _genesis_of(spec: ChainSpec) -> Hash:
    state = genesis_state(runtime_of(spec, genesis_version(spec)))
    return genesis_header(compute_root(EmptyState(), state).root).hash()

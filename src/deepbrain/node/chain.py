"""The chain as this node keeps it: executing blocks, writing them, reading any of them.

    propose ─┐
             ├─► executed (remembered) ─► finalize: one transaction ─► head, notice
    execute ─┘

`propose`, `accepts` and `finalize` are called by one thread at a time, the executor thread; everything
else by any. A block that is proposed and then finalised runs once: what came of it is remembered by
its context and extrinsics.

Tables of the store:  headers  number → header          blocks    number → extrinsics
                      hashes   block hash → number      receipts  number → events
                      meta     genesis, engine, joined (the block of the snapshot this began with)
"""

import gc
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from deepbrain.frame.consensus import (
    NOTHING_TO_REPORT,
    CommitReport,
    ConsensusAddress,
    ValidatorUpdate,
)
from deepbrain.frame.header import Header
from deepbrain.node.errors import NodeError, UnknownBlock
from deepbrain.node.snapshots import Rows, entries_of, examine
from deepbrain.pallets.system import System
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.units import BlockNumber, Moment
from deepbrain.runtime import apis
from deepbrain.runtime.chainspec import BadChainSpec, ChainSpec
from deepbrain.runtime.errors import InvalidBlock, UnknownRuntime
from deepbrain.runtime.executive import BlockContext, BlockOutcome, Executive
from deepbrain.runtime.extrinsic import Extrinsic
from deepbrain.runtime.genesis import genesis_header, genesis_state, genesis_version
from deepbrain.runtime.runtime import runtime_of, version_for
from deepbrain.scale import codec_of
from deepbrain.state.overlay import EmptyState, ReadCache
from deepbrain.state.store import Commit, Reader, Snapshot, Store
from deepbrain.state.trie import RootUpdate, compute_root

log = logging.getLogger(__name__)

REMEMBERED: Final = 4
"""Executed blocks that wait to be finalised."""
REMEMBERED_VERSIONS: Final = 1024
REMEMBERED_ANSWERS: Final = 16
"""Runtime calls whose answer is the same at every block of a version, and long."""
LONG: Final = 1024
"""Bytes. What is short is made in no time, and strangers choose how many such questions there are."""

_BODY: Final = codec_of(tuple[bytes, ...])
_EVENTS_KEY: Final = System.events.key_of()


@dataclass(frozen=True, slots=True)
class Head:
    """The last block."""

    number: int
    hash: Hash
    header: Header


@dataclass(frozen=True, slots=True)
class Block:
    """A header and its extrinsics, inherents included."""

    header: Header
    extrinsics: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """A block was committed. `changes` may name keys whose value is as before."""

    head: Head
    extrinsics: tuple[bytes, ...]
    changes: Mapping[bytes, bytes | None]
    upgraded: bool
    weight: int = 0
    """Picoseconds of the reference CPU."""


Listener = Callable[[Notice], None]


@dataclass(frozen=True, slots=True)
class InherentData:
    """What an engine says of a block beside its extrinsics: when, by whom, and who misbehaved."""

    moment: Moment
    author: AccountId
    report: CommitReport = NOTHING_TO_REPORT


@dataclass(frozen=True, slots=True)
class Order:
    """What an engine decides of a block: what it follows, and all that is in it."""

    parent: Hash
    data: InherentData
    extrinsics: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Executed:
    """What came of a block, ready to be written."""

    header: Header
    outcome: BlockOutcome
    root: RootUpdate


@dataclass(frozen=True, slots=True)
class Proposed:
    """Extrinsics that run, and those that must leave the pool."""

    extrinsics: tuple[bytes, ...]
    bad: tuple[bytes, ...]


class Chain:
    """One chain in one store. `spec` makes block 0 of an empty store."""

    def __init__(self, store: Store, spec: ChainSpec, engine: str) -> None:
        """Raises: NodeError: the store holds another chain, or another engine's, or none can begin
        with this spec.
        """
        self.spec = spec
        self._store = store
        self._executives: dict[int, Executive] = {}
        self._executed: OrderedDict[Order, Executed] = OrderedDict()
        self._versions: OrderedDict[Hash, int] = OrderedDict()
        self._constant_answers: dict[tuple[int, str, bytes], bytes] = {}
        self._listeners: dict[int, Listener] = {}
        self._subscribed = 0
        try:
            self.genesis_version = genesis_version(spec)
            """The version of the rules that makes block 0."""
            self.genesis_hash = self._open(engine)
        except BadChainSpec as error:
            raise NodeError(f"The chain spec {spec.id} cannot be used: {error}.") from error
        self.spec = replace(spec, balances=(), raw=None)  # block 0 has them now
        self._joined = int.from_bytes(self._store.table_get("meta", b"joined") or b"", "big")
        self.head = self._stored_head()

    # Those who make blocks, as the engine knows them.

    def author_of(self, address: ConsensusAddress) -> AccountId:
        """Whose key votes by that address; nobody's, where it is of no validator."""
        with self.snapshot() as state:
            return self._next_executive(state, self.head).author_of(state, address)

    def validators(self) -> tuple[ValidatorUpdate, ...]:
        """The validators after the head, as the engine was told them."""
        with self.snapshot() as state:
            held = self._next_executive(state, self.head).validators(state)
        return tuple(ValidatorUpdate(one.key, one.power) for one in held)

    # Making blocks: the executor thread only.

    @property
    def earliest(self) -> Moment:
        """The earliest calendar time that the next block may have."""
        with self._store.snapshot() as state:
            return self.executive(version_for(state, state.number)).earliest(state)

    def propose(
        self,
        data: InherentData,
        candidates: Sequence[bytes | Extrinsic],
        verified: Container[Hash],
    ) -> Proposed:
        """Run candidates on top of the head, keep those that fit and run.

        Raises: InvalidBlock: the moment is too early. NodeError: this software is too old.
        """
        parent = self.head
        with _collector_resting(), self._store.snapshot() as state:
            reader = ReadCache(state)
            made = self._next_executive(reader, parent).propose(
                reader, _context(parent, data), candidates, verified
            )
            order = Order(parent.hash, data, made.extrinsics)
            self._remember(order, _close(state, parent, made.outcome))
        return Proposed(made.extrinsics, made.bad)

    def accepts(self, order: Order, verified: Container[Hash]) -> bool:
        """Whether the block may follow the head. Raises: NodeError: this software is too old."""
        try:
            self._execute(order, verified)
        except InvalidBlock as error:
            log.warning("refusing a block: %s", error)
            return False
        except NodeError:
            raise
        # A call with a bug must not stop those who vote on the block: they vote against it.
        except Exception:
            log.exception("refusing a block that meets a bug")
            return False
        return True

    def execute(self, order: Order, verified: Container[Hash]) -> Executed:
        """What comes of a block that is final; nothing is written.

        Raises: NodeError: it cannot be executed here.
        """
        try:
            return self._execute(order, verified)
        except InvalidBlock as error:
            raise NodeError(f"A final block breaks the rules of this software: {error}.") from error
        except NodeError:
            raise
        except Exception:
            log.critical("a bug in block %d: %s", self.head.number + 1, _hexes(order.extrinsics))
            raise

    def finalize(self, order: Order, verified: Container[Hash]) -> Notice:
        """Make the block the head, in one transaction.

        Raises: NodeError: it cannot be executed here. StoreError: it cannot be written.
        """
        executed = self.execute(order, verified)
        header, outcome = executed.header, executed.outcome
        number = _key(header.number)
        digest = header.hash()
        self._store.commit(
            Commit(
                number=int(header.number),
                root=executed.root.root,
                changes=outcome.changes,
                branches=executed.root.branches,
                before=executed.root.before,
                tables={
                    "headers": {number: header.encode()},
                    "blocks": {number: _BODY.encode(outcome.extrinsics)},
                    "hashes": {digest: number},
                    "receipts": {number: outcome.changes.get(_EVENTS_KEY)},
                },
            )
        )
        self._executed.clear()
        self.head = Head(int(header.number), digest, header)
        return Notice(
            self.head, outcome.extrinsics, outcome.changes, outcome.upgraded, outcome.weight
        )

    @property
    def is_fresh(self) -> bool:
        """Whether this node has made no block: it stands at block 0, or at the snapshot it began with."""
        return self.head.number in (0, self._joined)

    def join(self, number: int, root: Hash, rows: Rows) -> Notice:
        """Go on from block `number` of this chain, without those before it, in one transaction.

        `root`: the state root after it, which somebody trusted vouches for. `rows`: see `snapshots`;
        they are read twice. Raises: BadSnapshot: they are not what they should be, and all is as it
        was. NodeError: this node has blocks. StoreError.
        """
        if not self.is_fresh or not 0 < number <= BlockNumber.MAX:
            raise NodeError("Only a node without blocks can begin with a snapshot.")
        found = examine(rows(), number, root, self.genesis_hash)
        name, digest = _key(number), found.header.hash()
        headers = {_key(each): header for each, header in found.headers.items()}
        tables: dict[str, dict[bytes, bytes | None]] = {
            table: dict(self._store.table_iterate(table, limit=16, prefix=prefix))
            for table, prefix in (
                ("meta", b""),
                ("headers", _key(0)),
                ("blocks", _key(0)),
                ("hashes", self.genesis_hash),
            )
        }
        tables["meta"][b"joined"] = name
        tables["headers"].update(headers)
        tables["hashes"].update({blake2_256(header): each for each, header in headers.items()})
        tables["receipts"] = {name: found.events}
        self._store.replace(number, root, entries_of(rows()), tables)
        self._executed.clear()
        self._joined = number
        self.head = Head(number, digest, found.header)
        return Notice(self.head, (), _Everything(self._store, number), upgraded=True)

    @property
    def oldest_block(self) -> int:
        """The first block after block 0 that this node has whole."""
        return self._joined + 1

    def _execute(self, order: Order, verified: Container[Hash]) -> Executed:
        known = self._executed.get(order)
        if known is not None:
            return known
        parent = self.head
        if order.parent != parent.hash:
            raise InvalidBlock("it does not follow the head")
        with _collector_resting(), self._store.snapshot() as state:
            reader = ReadCache(state)
            executive = self._next_executive(reader, parent)
            context = _context(parent, order.data)
            body = [*executive.inherents(context), *order.extrinsics]
            try:
                outcome = executive.apply_block(reader, context, body, verified)
            except DecodeError as error:
                raise InvalidBlock(f"an extrinsic is malformed: {error}") from error
            return self._remember(order, _close(state, parent, outcome))

    def _remember(self, order: Order, executed: Executed) -> Executed:
        self._executed[order] = executed
        while len(self._executed) > REMEMBERED:
            self._executed.popitem(last=False)
        return executed

    def _next_executive(self, reader: Reader, parent: Head) -> Executive:
        return self.executive(version_for(reader, parent.number + 1))

    # Reading: any thread.

    def executive(self, spec_version: int) -> Executive:
        """The rules of a version. Raises: NodeError: this software does not have them."""
        known = self._executives.get(spec_version)
        if known is None:
            try:
                known = Executive(runtime_of(self.spec, spec_version), self.genesis_hash)
            except UnknownRuntime as error:
                raise NodeError(f"The node stops before the next block: {error}.") from error
            self._executives[spec_version] = known
        return known

    def snapshot(self, at: Hash | None = None) -> Snapshot:
        """The state after a block, the head by default. Close it within a second.

        Raises: UnknownBlock, UnknownState.
        """
        return self._store.snapshot(None if at is None else self.number_of(at))

    def number_of(self, block: Hash) -> int:
        """Raises: UnknownBlock."""
        head = self.head
        if block == head.hash:
            return head.number
        found = self._store.table_get("hashes", block)
        if found is None:
            raise UnknownBlock(f"this node has no block {block}")
        return int.from_bytes(found, "big")

    def hash_of(self, number: int) -> Hash | None:
        """The hash of a block by its number; None above the head."""
        header = self._header(number)
        return None if header is None else header.hash()

    def header(self, block: Hash) -> Header | None:
        """None where there is no such block."""
        try:
            return self._header(self.number_of(block))
        except UnknownBlock:
            return None

    def block(self, block: Hash) -> Block | None:
        """None where there is no such block."""
        header = self.header(block)
        body = None if header is None else self._store.table_get("blocks", _key(header.number))
        return None if header is None or body is None else Block(header, _BODY.decode(body))

    def events(self, number: int) -> bytes | None:
        """The encoded events of a block, also where its state is no longer kept."""
        return self._store.table_get("receipts", _key(number))

    def spec_version(self, at: Hash | None = None) -> int:
        """The version of the rules that made a block. Raises: UnknownBlock, UnknownState."""
        block = self.head.hash if at is None else at
        known = self._versions.get(block)
        if known is None:
            with self.snapshot(block) as state:
                known = self._versions[block] = version_for(state, state.number)
            while len(self._versions) > REMEMBERED_VERSIONS:
                self._versions.popitem(last=False)
        return known

    def call(self, name: str, arguments: bytes, at: Hash | None = None) -> bytes:
        """A runtime API at a block. Raises: UnknownBlock, UnknownState, UnknownApi, DecodeError."""
        block = self.head.hash if at is None else at
        spec_version = self.spec_version(block)
        question = (spec_version, name, arguments)
        known = self._constant_answers.get(question)
        if known is not None:
            return known
        with self.snapshot(block) as state:
            answer = apis.call(self.executive(spec_version), state, block, name, arguments)
        is_long = name.startswith("Metadata_") and len(answer) > LONG
        if is_long and len(self._constant_answers) < REMEMBERED_ANSWERS:
            self._constant_answers[question] = answer
        return answer

    # Who wants to hear of blocks: the event loop only.

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Hear of every block from now on; call what is returned to hear no more."""
        self._subscribed += 1
        ticket = self._subscribed
        self._listeners[ticket] = listener

        def cancel() -> None:
            self._listeners.pop(ticket, None)

        return cancel

    def publish(self, notice: Notice) -> None:
        """Tell everybody of a block."""
        for listener in tuple(self._listeners.values()):
            try:
                listener(notice)
            # A bug of one who listens, and whom a stranger made listen, must not stop the chain.
            except Exception:
                log.exception("a listener to block %d meets a bug", notice.head.number)

    # Opening.

    def _open(self, engine: str) -> Hash:
        """Make block 0, or see that the store is of this chain and engine; gives its hash."""
        fingerprint = _fingerprint(self.spec)
        if self._store.number is None:
            state = genesis_state(runtime_of(self.spec, self.genesis_version))
            self._store.commit(_genesis_commit(state, fingerprint, engine))
        if self._store.table_get("meta", b"spec") != fingerprint:
            raise NodeError(
                f"The data directory holds another chain than {self.spec.id}: "
                "choose another --data directory, or the spec it was made with."
            )
        theirs = (self._store.table_get("meta", b"engine") or b"").decode()
        if theirs != engine:
            raise NodeError(
                f"The data directory belongs to the {theirs} engine and this node runs {engine}: "
                "choose another --data directory."
            )
        return Hash(self._store.table_get("meta", b"genesis") or b"")

    def _stored_head(self) -> Head:
        number = self._store.number
        header = None if number is None else self._header(number)
        if number is None or header is None:
            raise NodeError("The data directory is damaged: restore it from a backup.")
        return Head(number, header.hash(), header)

    def _header(self, number: int) -> Header | None:
        if number > BlockNumber.MAX:
            return None
        data = self._store.table_get("headers", _key(number))
        return None if data is None else Header.decode(data)


class _Everything(Mapping[bytes, bytes | None]):
    """A whole state as the changes of a block: every key may have changed."""

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._number = number

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: bytes) -> bytes | None:
        with self._store.snapshot(self._number) as state:
            return state.get(key)

    def __iter__(self) -> Iterator[bytes]:
        with self._store.snapshot(self._number) as state:
            return iter([key for key, _ in state.iterate(b"")])

    def __len__(self) -> int:
        return sum(1 for _ in self)


@contextmanager
def _collector_resting() -> Iterator[None]:
    """No garbage collection: a block makes 60 objects an extrinsic, and lets go of nearly all."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _context(parent: Head, data: InherentData) -> BlockContext:
    return BlockContext(
        number=BlockNumber(parent.number + 1),
        parent_hash=parent.hash,
        moment=data.moment,
        author=data.author,
        report=data.report,
    )


def _close(state: Snapshot, parent: Head, outcome: BlockOutcome) -> Executed:
    """Root and header of an executed block."""
    root = compute_root(state, outcome.changes)
    header = Header(
        parent_hash=parent.hash,
        number=BlockNumber(parent.number + 1),
        state_root=root.root,
        extrinsics_root=outcome.extrinsics_root,
        digest=outcome.digest,
    )
    return Executed(header, outcome, root)


def _genesis_commit(state: Mapping[bytes, bytes], fingerprint: Hash, engine: str) -> Commit:
    root = compute_root(EmptyState(), state)
    header = genesis_header(root.root)
    digest, number = header.hash(), _key(0)
    return Commit(
        number=0,
        root=root.root,
        changes=state,
        branches=root.branches,
        tables={
            "headers": {number: header.encode()},
            "blocks": {number: _BODY.encode(())},
            "hashes": {digest: number},
            "meta": {b"genesis": digest, b"spec": fingerprint, b"engine": engine.encode()},
        },
    )


def _fingerprint(spec: ChainSpec) -> Hash:
    """What tells one chain from another, whatever version of this software made its block 0."""
    facts = [
        spec.id,
        int(spec.target_interval),
        spec.constants,
        [[who.hex(), str(amount)] for who, amount in spec.balances],
        [[one.stash.hex(), one.key.hex(), str(one.stake)] for one in spec.validators],
        None if spec.root is None else spec.root.hex(),
        None if spec.source is None else spec.source.hex(),
        int(spec.micro_usd_per_dbc),
        None if spec.raw is None else compute_root(EmptyState(), spec.raw).root.hex(),
    ]
    return blake2_256(json.dumps(facts, sort_keys=True).encode())


def _hexes(extrinsics: Sequence[bytes]) -> str:
    return " ".join(extrinsic.hex() for extrinsic in extrinsics)


def _key(number: int) -> bytes:
    return number.to_bytes(4, "big")

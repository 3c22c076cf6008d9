"""The pool: extrinsics that wait for a block, under whatever engine orders them.

An extrinsic is checked in order of cost (size, strict decoding, era, nonce window, fee, signature), and
its signature once: the pool is the set of verified hashes that a block is built with. Everything here
runs on the event loop; only signatures may be checked elsewhere, and what comes back is taken in the
order in which it arrived.

    submitted → future ⇄ ready → inBlock → finalized
                   └──────┴────→ usurped | dropped | invalid
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from deepbrain.node.journal import PoolJournal
from deepbrain.node.queue import Bounds, NotQueued, Pooled, Queue, Refusal
from deepbrain.node.rpc.wire import Json
from deepbrain.node.signatures import Check, Signatures
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.runtime.extrinsic import Extrinsic

log = logging.getLogger(__name__)

BAN_SECONDS: Final = 30 * 60
MAX_BANNED: Final = 8192

Status = Json
Watcher = Callable[[Status], None]

READY: Final = "ready"
FUTURE: Final = "future"
DROPPED: Final = "dropped"
INVALID: Final = "invalid"


class Banned(DeepBrainError):
    """The extrinsic was found bad not long ago."""

    def __init__(self) -> None:
        super().__init__("the extrinsic is banned for half an hour, since it was found bad")


class Examined(NamedTuple):
    """What an extrinsic that may be valid says of itself; only its signature is still open."""

    sender: AccountId
    nonce: int
    state_nonce: int
    priority: int
    expires: int
    check: Check
    decoded: Extrinsic | None = None


class Examiner(Protocol):
    """The runtime as the pool sees it, at the head."""

    @property
    def number(self) -> int:
        """The head's block number."""

    def examine(self, extrinsics: Sequence[bytes]) -> list[Examined | DeepBrainError]:
        """Everything but the signature, for each, in order: or why it may not enter."""

    def nonce_of(self, account: AccountId) -> int:
        """The account's nonce at the head."""

    def bad_signature(self) -> DeepBrainError:
        """What to say of a wrong signature."""

    def stale(self) -> DeepBrainError:
        """What to say of a nonce that has been used."""

    def sender_of(self, extrinsic: bytes) -> tuple[AccountId, int] | None:
        """Signer and nonce of an extrinsic of a block; None for an inherent."""


class Pool:
    """Takes extrinsics in, hands them to blocks, and tells watchers what became of them."""

    def __init__(
        self,
        examiner: Examiner,
        signatures: Signatures,
        *,
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._examiner = examiner
        self._signatures = signatures
        self._queue = Queue(bounds)
        self._clock = clock
        self._arrivals = asyncio.Lock()
        self._banned: dict[Hash, float] = {}
        self._watchers: dict[Hash, list[Watcher]] = {}
        self._own: set[Hash] = set()
        self._journal: PoolJournal | None = None
        self.on_admitted: Callable[[Sequence[bytes]], None] = lambda extrinsics: None
        """Called with what is new in the pool."""

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, digest: object) -> bool:
        """Whether the extrinsic of that hash is here, and its signature therefore known as good."""
        return digest in self._queue

    @property
    def ready(self) -> int:
        """How many could enter the next block."""
        return self._queue.ready

    @property
    def future(self) -> int:
        """How many wait for a nonce."""
        return self._queue.future

    def pending(self) -> list[bytes]:
        """All extrinsics, oldest first."""
        return [entry.extrinsic for entry in self._queue.entries()]

    def own(self) -> list[bytes]:
        """Those that were submitted to this node and are not final."""
        entries = self._queue.entries()
        return [entry.extrinsic for entry in entries if entry.hash in self._own]

    @property
    def own_count(self) -> int:
        """How many of those there are."""
        return len(self._own)

    def candidates(self, limit: int) -> list[bytes | Extrinsic]:
        """At most `limit` extrinsics for the next block, best first."""
        return [entry.decoded or entry.extrinsic for entry in self._queue.candidates(limit)]

    def next_nonce(self, account: AccountId) -> int:
        """The nonce that the account's next extrinsic should have, the pool's counted."""
        return self._queue.next_nonce(account, self._examiner.nonce_of(account))

    async def restore(self, journal: PoolJournal) -> None:
        """Take in what an earlier run of this node left unfinished, and go on in its journal."""
        found = journal.load()
        outcomes = await self.submit(found)
        self._journal = journal
        journal.compact()
        kept = sum(isinstance(outcome, Hash) for outcome in outcomes)
        if found:
            log.info("took %d of %d unfinished extrinsics back into the pool", kept, len(found))

    async def submit(
        self, extrinsics: Sequence[bytes], watcher: Watcher | None = None
    ) -> list[Hash | DeepBrainError]:
        """Take extrinsics of our own in: their hashes, or why not. `watcher` sees every status.

        They are announced again and again, and kept on disk, until they are final.
        Errors: InvalidTransaction, DecodeError, Banned, NotQueued.
        """
        outcomes = await self._take(extrinsics, watcher)
        admitted = _admitted(extrinsics, outcomes)
        self._own |= {one for one in outcomes if isinstance(one, Hash) and one in self._queue}
        if admitted:
            if self._journal is not None:
                self._journal.append(admitted)
            self.on_admitted(admitted)
        return outcomes

    async def receive(self, extrinsics: Sequence[bytes]) -> list[Hash | DeepBrainError]:
        """As `submit`, for what other nodes sent: whose own they are sees to them."""
        outcomes = await self._take(extrinsics, None)
        admitted = _admitted(extrinsics, outcomes)
        if admitted:
            self.on_admitted(admitted)
        return outcomes

    async def _take(
        self, extrinsics: Sequence[bytes], watcher: Watcher | None
    ) -> list[Hash | DeepBrainError]:
        hashes = [blake2_256(extrinsic) for extrinsic in extrinsics]
        outcomes: list[Hash | DeepBrainError | None] = [self._known(one) for one in hashes]
        fresh = [at for at, outcome in enumerate(outcomes) if outcome is None]
        head = self._examiner.number
        answers = self._examiner.examine([extrinsics[at] for at in fresh])
        examined: list[tuple[int, Examined]] = []
        for at, answer in zip(fresh, answers, strict=True):
            if isinstance(answer, Examined):
                examined.append((at, answer))
            else:
                outcomes[at] = answer
        checks = [answer.check for _, answer in examined]
        checking = asyncio.create_task(self._signatures.verify(checks))
        async with self._arrivals:
            good = await checking
            for (at, answer), valid in zip(examined, good, strict=True):
                outcomes[at] = self._admit(hashes[at], extrinsics[at], answer, valid, head, watcher)
        return [outcome for outcome in outcomes if outcome is not None]

    def unwatch(self, digest: Hash, watcher: Watcher) -> None:
        """Tell `watcher` no more."""
        watchers = self._watchers.get(digest, [])
        if watcher in watchers:
            watchers.remove(watcher)

    def remove(self, digest: Hash, *, ban: bool = True) -> bool:
        """Take an extrinsic out as bad: `invalid` to its watchers."""
        entry = self._queue.remove(digest)
        if ban:
            self._ban(digest)
        if entry is not None:
            self._end(entry, INVALID)
        return entry is not None

    def on_block(self, number: int, block: Hash, extrinsics: Iterable[bytes]) -> None:
        """A block is final: what it holds is done, what it made stale or late is over."""
        promoted: list[Pooled] = []
        for extrinsic in extrinsics:
            promoted += self._include(extrinsic, block)
        for entry in self._queue.expire(number):
            self._end(entry, INVALID)
        for entry in promoted:
            self._tell(entry.hash, READY)

    async def revalidate(self) -> None:
        """After an upgrade: put everything through the new rules, signatures included."""
        entries = list(self._queue.entries())
        answers = self._examiner.examine([entry.extrinsic for entry in entries])
        good = await self._signatures.verify(
            [answer.check for answer in answers if isinstance(answer, Examined)]
        )
        valid = iter(good)
        for entry, answer in zip(entries, answers, strict=True):
            if not isinstance(answer, Examined) or not next(valid):
                self.remove(entry.hash, ban=False)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def _known(self, digest: Hash) -> DeepBrainError | None:
        if digest in self._queue:
            return NotQueued(Refusal.ALREADY_HERE)
        until = self._banned.get(digest)
        if until is None:
            return None
        if until > self._clock():
            return Banned()
        del self._banned[digest]
        return None

    def _admit(
        self,
        digest: Hash,
        extrinsic: bytes,
        examined: Examined,
        valid: bool,
        head: int,
        watcher: Watcher | None,
    ) -> Hash | DeepBrainError:
        if not valid:
            self._ban(digest)
            return self._examiner.bad_signature()
        state_nonce = examined.state_nonce
        if head != self._examiner.number:  # a block came while signatures were checked
            state_nonce = self._examiner.nonce_of(examined.sender)
            if examined.nonce < state_nonce:
                return self._examiner.stale()
        entry = Pooled(
            hash=digest,
            extrinsic=extrinsic,
            sender=examined.sender,
            nonce=examined.nonce,
            priority=examined.priority,
            expires=examined.expires,
            decoded=examined.decoded,
        )
        try:
            change = self._queue.insert(entry, state_nonce)
        except NotQueued as refused:
            return refused
        if watcher is not None:
            self._watchers[digest] = [watcher]
            self._tell(digest, READY if entry.ready else FUTURE)
        if change.replaced is not None:
            self._end(change.replaced, {"usurped": str(digest)})
        for other in change.promoted:
            self._tell(other.hash, READY)
        for other in change.evicted:
            self._end(other, DROPPED)
        return digest

    def _include(self, extrinsic: bytes, block: Hash) -> list[Pooled]:
        """Account for one extrinsic of a block; gives what became ready by it."""
        digest = blake2_256(extrinsic)
        entry = self._queue.get(digest)
        if entry is None:
            signer = self._examiner.sender_of(extrinsic)
            if signer is None:
                return []
            sender, nonce = signer
        else:
            sender, nonce = entry.sender, entry.nonce
        gone, promoted = self._queue.included(sender, nonce)
        for other in gone:
            if other.hash == digest:
                self._tell(digest, {"inBlock": str(block)})
                self._end(other, {"finalized": str(block)})
            else:
                self._end(other, {"usurped": str(digest)})
        return promoted

    def _tell(self, digest: Hash, status: Status) -> None:
        for watcher in tuple(self._watchers.get(digest, ())):
            try:
                watcher(status)
            # It is told while a block is made: a bug of one who listens must not stop the chain.
            except Exception:
                log.exception("a watcher of %s meets a bug", digest)

    def _end(self, entry: Pooled, status: Status) -> None:
        self._own.discard(entry.hash)
        if entry.hash in self._watchers:
            self._tell(entry.hash, status)
            del self._watchers[entry.hash]

    def _ban(self, digest: Hash) -> None:
        while len(self._banned) >= MAX_BANNED:
            del self._banned[next(iter(self._banned))]
        self._banned[digest] = self._clock() + BAN_SECONDS


def _admitted(
    extrinsics: Sequence[bytes], outcomes: Sequence[Hash | DeepBrainError]
) -> list[bytes]:
    """Those that are in the pool now and were not before."""
    return [
        extrinsic
        for extrinsic, outcome in zip(extrinsics, outcomes, strict=True)
        if isinstance(outcome, Hash)
    ]

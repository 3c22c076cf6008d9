"""The order of the pool: which extrinsics are ready, which wait for a nonce, which must go.

Each sender has a lane: its extrinsics by nonce. Those without a gap from the account's nonce on are
*ready*, the rest *future*. Blocks take ready extrinsics by priority, each sender's by nonce. This
module asks nothing of the chain.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.runtime.extrinsic import Extrinsic

REPLACEMENT_PERCENT: Final = 110
"""What a replacement must offer, in percent of the priority it replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much the pool holds."""

    entries: int = 16_384
    future: int = 4_096
    per_sender: int = 256
    total_bytes: int = 32 * 1024 * 1024


class Refusal(Enum):
    """Why an extrinsic that may be valid does not enter the pool."""

    ALREADY_HERE = "it is in the pool already"
    UNDERPRICED = "its priority is too low to replace the one with the same nonce"
    SENDER_FULL = "its sender has too many extrinsics in the pool"
    POOL_FULL = "the pool is full of extrinsics with a higher priority"


class NotQueued(DeepBrainError):
    """The extrinsic stays outside. `against` is the priority it would have had to beat."""

    def __init__(self, refusal: Refusal, against: int = 0) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
        self.against = against


@dataclass(slots=True, kw_only=True, eq=False)
class Pooled:
    """One extrinsic in the pool. `expires` is the last block that may hold it."""

    hash: Hash
    extrinsic: bytes
    sender: AccountId
    nonce: int
    priority: int
    expires: int
    decoded: Extrinsic | None = None
    """So that a block need not decode it again."""
    order: int = 0
    """Arrival, counted; older goes first among equals."""
    ready: bool = False


@dataclass(slots=True)
class Change:
    """What an insertion did besides inserting."""

    replaced: Pooled | None = None
    promoted: list[Pooled] = field(default_factory=list)
    """Others that became ready."""
    evicted: list[Pooled] = field(default_factory=list)


@dataclass(slots=True)
class _Lane:
    """One sender's extrinsics. `[start, end)` are the nonces that are ready."""

    start: int
    end: int
    by_nonce: dict[int, Pooled] = field(default_factory=dict)


class Queue:
    """Ready and future extrinsics within `Bounds`.

    Cost: inserting and removing O(1), and O(log n) once the pool has been full; a candidate
    O(log senders).
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._lanes: dict[AccountId, _Lane] = {}
        self._entries: dict[Hash, Pooled] = {}
        self._worst: list[tuple[int, int, Hash]] | None = None
        """A heap by priority, made when the pool is full for the first time."""
        self._expiry: dict[int, dict[Hash, Pooled]] = {}
        """By the last block that may hold them."""
        self._arrivals = 0
        self._future = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, digest: object) -> bool:
        return digest in self._entries

    @property
    def future(self) -> int:
        """How many wait for a nonce."""
        return self._future

    @property
    def ready(self) -> int:
        return len(self._entries) - self._future

    def get(self, digest: Hash) -> Pooled | None:
        return self._entries.get(digest)

    def entries(self) -> Iterator[Pooled]:
        """All of them, oldest first."""
        return iter(self._entries.values())

    def next_nonce(self, sender: AccountId, state_nonce: int) -> int:
        """The nonce that the sender's next extrinsic should have."""
        lane = self._lanes.get(sender)
        return state_nonce if lane is None else max(lane.end, state_nonce)

    def insert(self, entry: Pooled, state_nonce: int) -> Change:
        """Take `entry` in. `state_nonce` is its sender's at the head. Raises: NotQueued."""
        if entry.hash in self._entries:
            raise NotQueued(Refusal.ALREADY_HERE)
        lane = self._lanes.get(entry.sender) or _Lane(state_nonce, state_nonce)
        rival = lane.by_nonce.get(entry.nonce)
        self._check_room(entry, lane, rival)
        change = Change(replaced=rival)
        if rival is not None:
            self._forget(rival)
        self._lanes[entry.sender] = lane
        self._arrivals += 1
        entry.order = self._arrivals
        self._keep(entry, lane)
        change.promoted = [one for one in self._advance(lane) if one is not entry]
        change.evicted = self._evict(entry)
        return change

    def remove(self, digest: Hash) -> Pooled | None:
        """Take one out, as if it had never come: what follows it waits for its nonce again."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        lane = self._lanes[entry.sender]
        self._forget(entry)
        self._retreat(lane, entry.nonce)
        self._drop_empty(entry.sender, lane)
        return entry

    def included(self, sender: AccountId, nonce: int) -> tuple[list[Pooled], list[Pooled]]:
        """A block holds the sender's extrinsic `nonce`: (those taken out, those now ready)."""
        lane = self._lanes.get(sender)
        if lane is None:
            return [], []
        gone = []
        for stale in range(lane.start, nonce + 1):
            entry = lane.by_nonce.get(stale)
            if entry is not None:
                self._forget(entry)
                gone.append(entry)
        lane.start = max(lane.start, nonce + 1)
        lane.end = max(lane.end, lane.start)
        promoted = self._advance(lane)
        self._drop_empty(sender, lane)
        return gone, promoted

    def expire(self, head: int) -> list[Pooled]:
        """Take out what no block after `head` may hold."""
        gone: list[Pooled] = []
        for expires in [expires for expires in self._expiry if expires <= head]:
            for entry in tuple(self._expiry[expires].values()):
                gone.append(entry)
                self.remove(entry.hash)
        return gone

    def candidates(self, limit: int) -> list[Pooled]:
        """At most `limit` ready extrinsics, best first, each sender's in the order of its nonces."""
        heads = [
            _rank(lane.by_nonce[lane.start])
            for lane in self._lanes.values()
            if lane.start < lane.end
        ]
        heapq.heapify(heads)
        chosen: list[Pooled] = []
        while heads and len(chosen) < limit:
            entry = heads[0][2]
            chosen.append(entry)
            lane = self._lanes[entry.sender]
            if entry.nonce + 1 < lane.end:
                heapq.heapreplace(heads, _rank(lane.by_nonce[entry.nonce + 1]))
            else:
                heapq.heappop(heads)
        return chosen

    def _check_room(self, entry: Pooled, lane: _Lane, rival: Pooled | None) -> None:
        if rival is not None:
            if entry.priority * 100 < rival.priority * REPLACEMENT_PERCENT or (
                entry.priority <= rival.priority
            ):
                raise NotQueued(Refusal.UNDERPRICED, rival.priority)
            grown = self._bytes + len(entry.extrinsic) - len(rival.extrinsic)
            if grown > self._bounds.total_bytes:
                raise NotQueued(Refusal.POOL_FULL)
            return
        if len(lane.by_nonce) >= self._bounds.per_sender:
            raise NotQueued(Refusal.SENDER_FULL)

    def _keep(self, entry: Pooled, lane: _Lane) -> None:
        lane.by_nonce[entry.nonce] = entry
        self._entries[entry.hash] = entry
        self._bytes += len(entry.extrinsic)
        entry.ready = lane.start <= entry.nonce < lane.end
        self._future += not entry.ready
        self._expiry.setdefault(entry.expires, {})[entry.hash] = entry
        if self._worst is not None:
            heapq.heappush(self._worst, (entry.priority, -entry.order, entry.hash))
            if len(self._worst) > 2 * len(self._entries) + 1024:
                self._worst = None

    def _forget(self, entry: Pooled) -> None:
        del self._lanes[entry.sender].by_nonce[entry.nonce]
        del self._entries[entry.hash]
        together = self._expiry[entry.expires]
        del together[entry.hash]
        if not together:
            del self._expiry[entry.expires]
        self._bytes -= len(entry.extrinsic)
        self._future -= not entry.ready

    def _advance(self, lane: _Lane) -> list[Pooled]:
        """Make ready what has no gap before it any more."""
        promoted: list[Pooled] = []
        while (entry := lane.by_nonce.get(lane.end)) is not None:
            lane.end += 1
            if not entry.ready:
                entry.ready = True
                self._future -= 1
                promoted.append(entry)
        return promoted

    def _retreat(self, lane: _Lane, nonce: int) -> None:
        """Make future what follows a nonce that is gone."""
        for follower in range(nonce + 1, lane.end):
            lane.by_nonce[follower].ready = False
            self._future += 1
        if lane.start <= nonce < lane.end:
            lane.end = nonce

    def _drop_empty(self, sender: AccountId, lane: _Lane) -> None:
        if not lane.by_nonce:
            del self._lanes[sender]

    def _evict(self, newest: Pooled) -> list[Pooled]:
        """Bring the pool back within its bounds. Raises: NotQueued: by putting `newest` out again."""
        evicted: list[Pooled] = []
        while self._over():  # never by a replacement, see `_check_room`
            worst = self._pop_worst(future_only=self._future > self._bounds.future)
            self.remove(worst.hash)
            if worst is newest:
                raise NotQueued(Refusal.POOL_FULL)
            evicted.append(worst)
        return evicted

    def _over(self) -> bool:
        bounds = self._bounds
        return (
            len(self._entries) > bounds.entries
            or self._future > bounds.future
            or self._bytes > bounds.total_bytes
        )

    def _pop_worst(self, *, future_only: bool) -> Pooled:
        """The entry of least priority, the youngest of equals."""
        if self._worst is None:
            self._worst = [(one.priority, -one.order, one.hash) for one in self._entries.values()]
            heapq.heapify(self._worst)
        skipped: list[tuple[int, int, Hash]] = []
        while True:
            item = heapq.heappop(self._worst)
            entry = self._entries.get(item[2])
            if entry is None or entry.order != -item[1]:
                continue
            if future_only and entry.ready:
                skipped.append(item)
                continue
            for other in skipped:
                heapq.heappush(self._worst, other)
            return entry


def _rank(entry: Pooled) -> tuple[int, int, Pooled]:
    return (-entry.priority, entry.order, entry)

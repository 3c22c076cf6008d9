"""What Prometheus may ask a node: how its chain goes, in Prometheus' own form.

Blocks are counted as they come, on the event loop; everything else is read when somebody asks, by the
server's threads. It is served without a password, on loopback unless somebody chose otherwise. What
CometBFT measures itself is at its own address (`--comet-metrics`).

The figure to watch is the age of the last block: whatever is wrong with a network shows there.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from deepbrain import __version__
from deepbrain.frame.consensus import ConsensusAddress
from deepbrain.net import exporter
from deepbrain.node.chain import Chain, Notice
from deepbrain.node.engine import Engine
from deepbrain.node.ledger import NodeLedger
from deepbrain.node.pool import Pool
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.pallets.validators import Validators
from deepbrain.runtime.limits import Limits

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric


@dataclass(slots=True)
class Tally:
    """Counted since this node started. Only the event loop writes."""

    blocks: int = 0
    extrinsics: int = 0
    """Inherents included."""
    work_seconds: float = 0.0
    interval_seconds: float = 0.0
    """Between the last two blocks, as they came here."""
    block_extrinsics: int = 0
    block_work_seconds: float = 0.0
    block_weight: int = 0
    block_at: float = 0.0
    """When the last block came, by the monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """The set, and this node in it."""

    powers: Mapping[str, int] = field(default_factory=dict)
    """By the validators' addresses, in hex."""
    own_power: int = 0
    own_missed: int = 0
    """Blocks of this era."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is the case now."""

    block_number: int = 0
    block_time: float = 0.0
    """Calendar time of the last block, in seconds of the epoch."""
    block_age_seconds: float = 0.0
    block_interval_seconds: float = 0.0
    block_work_seconds: float = 0.0
    block_extrinsics: int = 0
    block_weight_ratio: float = 0.0
    blocks: int = 0
    extrinsics: int = 0
    work_seconds: float = 0.0
    pool_ready: int = 0
    pool_future: int = 0
    pool_own: int = 0
    live: bool = True
    peers: int | None = None
    """None: nobody counts them."""
    restarts: int = 0
    inbox: int = 0
    outbox: int = 0
    chain_bytes: int = 0
    cometbft_bytes: int = 0
    disk_free_bytes: int | None = None
    """None: the chain is in memory."""
    votes: Votes = field(default_factory=Votes)


class Source(Protocol):
    """Where the figures come from."""

    def snapshot(self) -> Snapshot: ...


class Meter:
    """A node's figures."""

    def __init__(
        self,
        chain: Chain,
        pool: Pool,
        ledger: NodeLedger,
        engine: Engine,
        *,
        data: Path | None,
        peers: Callable[[], int | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain = chain
        self._pool = pool
        self._ledger = ledger
        self._engine = engine
        self._data = data
        self._peers = peers
        self._clock = clock
        self._max_weight = Limits(chain.spec.target_interval).weight
        self._tally = Tally(block_at=clock())
        chain.subscribe(self._count)

    def _count(self, notice: Notice) -> None:
        tally, now = self._tally, self._clock()
        tally.interval_seconds = now - tally.block_at
        tally.block_at = now
        tally.block_extrinsics = len(notice.extrinsics)
        tally.block_work_seconds = self._ledger.block_seconds
        tally.block_weight = notice.weight
        tally.blocks += 1
        tally.extrinsics += tally.block_extrinsics
        tally.work_seconds += tally.block_work_seconds

    def snapshot(self) -> Snapshot:
        tally, data, traffic = self._tally, self._data, self._engine.traffic
        moment, votes = self._from_state()
        return Snapshot(
            block_number=self._chain.head.number,
            block_time=moment,
            block_age_seconds=max(self._clock() - tally.block_at, 0.0),
            block_interval_seconds=tally.interval_seconds if tally.blocks > 1 else 0.0,
            block_work_seconds=tally.block_work_seconds,
            block_extrinsics=tally.block_extrinsics,
            block_weight_ratio=tally.block_weight / self._max_weight,
            blocks=tally.blocks,
            extrinsics=tally.extrinsics,
            work_seconds=tally.work_seconds,
            pool_ready=self._pool.ready,
            pool_future=self._pool.future,
            pool_own=self._pool.own_count,
            live=self._engine.live,
            peers=self._peers(),
            restarts=traffic.restarts,
            inbox=traffic.inbox,
            outbox=traffic.outbox,
            chain_bytes=0 if data is None else size_on_disk(data / "chain"),
            cometbft_bytes=0 if data is None else size_on_disk(data / "comet"),
            disk_free_bytes=None if data is None else shutil.disk_usage(data).free,
            votes=votes,
        )

    def _from_state(self) -> tuple[float, Votes]:
        """The time of the last block, and who votes after it."""
        own, missed = self._engine.address, 0
        with self._chain.snapshot() as state:
            now = Timestamp.now.decode(state.get(Timestamp.now.key_of()))
            held = Validators.held.decode(state.get(Validators.held.key_of())) or ()
            if own is not None:
                missed = _missed(state.get, own)
        powers = {ConsensusAddress.of(one.key).hex(): int(one.power) for one in held}
        own_power = 0 if own is None else powers.get(own.hex(), 0)
        votes = Votes(powers=powers, own_power=own_power, own_missed=missed)
        return int(now or 0) / 1000, votes


def _missed(get: Callable[[bytes], bytes | None], own: ConsensusAddress) -> int:
    """What the owner of a key missed in the era of the last election."""
    who = Validators.key_owner.decode(get(Validators.key_owner.key_of(own)))
    if who is None:
        return 0
    found = Validators.missed.decode(get(Validators.missed.key_of(who)))
    era = Validators.era.decode(get(Validators.era.key_of()))
    return int(found.blocks) if found is not None and found.era == era else 0


def size_on_disk(directory: Path) -> int:
    """Bytes that a directory takes; files that come and go meanwhile count or not."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += (Path(parent) / name).stat().st_blocks * 512
    return total


_GAUGES: Final = {
    "block_number": ("block_number", "The last block"),
    "block_time": ("block_time_seconds", "When the last block was made, by its own time"),
    "block_age_seconds": ("block_age_seconds", "Since the last block came; without one, the start"),
    "block_interval_seconds": ("block_interval_seconds", "Between the last two blocks"),
    "block_work_seconds": (
        "block_execution_seconds",
        "What the last block took here: to run, vote on and write it",
    ),
    "block_extrinsics": ("block_extrinsics", "Extrinsics of the last block, inherents included"),
    "block_weight_ratio": ("block_weight_ratio", "Share of the weight limit in the last block"),
    "pool_ready": ("pool_ready", "Extrinsics that could enter the next block"),
    "pool_future": ("pool_future", "Extrinsics that wait for an earlier one"),
    "pool_own": ("pool_own", "Extrinsics submitted to this node that are not final"),
    "live": ("live", "1 when this node has caught up with the others"),
    "inbox": ("inbox", "Extrinsics of peers that the pool has not looked at"),
    "outbox": ("outbox", "Extrinsics that peers are to be told of"),
}
_COUNTERS: Final = {
    "blocks": ("blocks", "Blocks since the start"),
    "extrinsics": ("extrinsics", "Extrinsics in them, inherents included"),
    "work_seconds": ("execution_seconds", "What they took here: to run, vote on and write them"),
    "restarts": ("cometbft_restarts", "How often CometBFT ended and was started again"),
}


class Collector:
    """A collector of prometheus_client."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge
        from prometheus_client.core import InfoMetricFamily as Info

        found = self._source.snapshot()
        yield Info("deepbrain_node", "This release", value={"version": __version__})
        for name, (metric, help_) in _GAUGES.items():
            yield Gauge(f"deepbrain_node_{metric}", help_, value=float(getattr(found, name)))
        for name, (metric, help_) in _COUNTERS.items():
            yield Counter(f"deepbrain_node_{metric}", help_, value=float(getattr(found, name)))
        if found.peers is not None:
            yield Gauge("deepbrain_node_peers", "Nodes that this one talks with", value=found.peers)
        if found.disk_free_bytes is not None:
            store = Gauge("deepbrain_node_store_bytes", "Bytes on disk", labels=["part"])
            store.add_metric(["chain"], found.chain_bytes)
            store.add_metric(["cometbft"], found.cometbft_bytes)
            yield store
            free = "Free bytes where the node's data lies"
            yield Gauge("deepbrain_node_disk_free_bytes", free, value=found.disk_free_bytes)
        yield from _of_votes(found.votes)


def _of_votes(votes: Votes) -> "Iterator[Metric]":
    from prometheus_client.core import GaugeMetricFamily as Gauge

    power = Gauge("deepbrain_validator_power", "What a validator's vote weighs", labels=["address"])
    for address, weight in votes.powers.items():
        power.add_metric([address], weight)
    yield power
    yield Gauge("deepbrain_node_power", "What this node's own vote weighs", value=votes.own_power)
    missed = "Blocks of this era that lack this node's vote"
    yield Gauge("deepbrain_node_missed_blocks", missed, value=votes.own_missed)


def registry(source: Source) -> "CollectorRegistry":
    return exporter.registry(Collector(source))


def served(address: str, source: Source) -> AbstractContextManager[None]:
    """Answer at `host:port` meanwhile; nowhere when it is empty."""
    return exporter.served(address, Collector(source), extra="node")

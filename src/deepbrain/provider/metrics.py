"""What Prometheus may ask an agent: the newest snapshot of what it knows, in Prometheus' own form.

The agent's loop makes a snapshot and counts; the server's threads only read what was made. It is served
without a password, on loopback unless somebody chose otherwise, and says nothing of who rents what.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from deepbrain import __version__
from deepbrain.net import exporter

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric


@dataclass(slots=True)
class Tally:
    """Counted since this agent started. Only the agent's loop writes."""

    connections: int = 0
    refused: int = 0
    """Connections that were turned away, or never got as far as a proof."""
    sessions: int = 0
    """Commands that renters ran beside their jobs."""
    received_bytes: int = 0
    sent_bytes: int = 0
    failed_actions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is the case now. Nothing of it changes: other threads read it."""

    tally: Tally = field(default_factory=Tally)
    """A copy."""
    orders: dict[str, int] = field(default_factory=dict)
    """Orders here by state."""
    units: int = 0
    free_units: int = 0
    live_sessions: int = 0
    live_connections: int = 0
    relays: int = 0
    """Relays that this machine is attached to."""
    billed_unit_seconds: int = 0
    """Of all orders that this machine ever ended, by the chain."""
    chain_block: int = 0
    chain_read_at: float = 0.0
    """By the monotonic clock; 0: never."""
    paused: bool = False
    disk_free_bytes: int = 0
    disk_budget_bytes: int = 0
    disk_needed_bytes: int = 0


class Source(Protocol):
    """Where the figures come from: the agent."""

    @property
    def snapshot(self) -> Snapshot: ...

    def now(self) -> float:
        """The clock of `chain_read_at`."""
        ...


_GAUGES: Final = {
    "units": ("units", "Units that this machine sells"),
    "free_units": ("units_free", "Units that no order has taken"),
    "live_sessions": ("exec_sessions", "Commands that renters run beside their jobs now"),
    "live_connections": ("connections", "Connections of renters now"),
    "relays": ("relays", "Relays that this machine is attached to"),
    "chain_block": ("chain_block", "The newest final block that was read"),
    "paused": ("paused", "1 while the machine takes no new orders"),
    "disk_free_bytes": ("disk_free_bytes", "Free bytes where tenants lie"),
    "disk_budget_bytes": ("disk_budget_bytes", "Bytes of disk that tenants get in all"),
    "disk_needed_bytes": ("disk_needed_bytes", "Free bytes below which no new order is taken"),
}
_COUNTERS: Final = {
    "connections": ("connections_accepted", "Connections whose proof held"),
    "refused": ("connections_refused", "Connections that were turned away"),
    "sessions": ("exec_sessions_started", "Commands that renters ran beside their jobs"),
    "received_bytes": ("received_bytes", "Bytes that renters sent"),
    "sent_bytes": ("sent_bytes", "Bytes that were sent to renters"),
    "failed_actions": ("actions_failed", "Actions that failed and were put off"),
}


class Collector:
    """A collector of prometheus_client."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge
        from prometheus_client.core import InfoMetricFamily as Info

        snapshot = self._source.snapshot
        yield Info("deepbrain", "This release", value={"version": __version__})
        orders = Gauge("deepbrain_orders", "Orders on this machine", labels=["state"])
        for state, count in snapshot.orders.items():
            orders.add_metric([state], count)
        yield orders
        for name, (metric, help_) in _GAUGES.items():
            yield Gauge(f"deepbrain_{metric}", help_, value=float(getattr(snapshot, name)))
        for name, (metric, help_) in _COUNTERS.items():
            yield Counter(f"deepbrain_{metric}", help_, value=float(getattr(snapshot.tally, name)))
        billed = "Billed seconds of all units, as the chain counts them"
        yield Counter("deepbrain_billed_unit_seconds", billed, value=snapshot.billed_unit_seconds)
        if snapshot.chain_read_at:
            age = max(self._source.now() - snapshot.chain_read_at, 0.0)
            yield Gauge("deepbrain_chain_age_seconds", "Since the chain was read", value=age)


def registry(source: Source) -> "CollectorRegistry":
    return exporter.registry(Collector(source))


def served(address: str, source: Source) -> AbstractContextManager[None]:
    """Answer at `host:port` meanwhile; nowhere when it is empty."""
    return exporter.served(address, Collector(source), extra="provider")

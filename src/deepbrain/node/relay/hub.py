"""Who is attached to a relay, and what goes between them.

Nothing is buffered here: a frame is written to its destination's connection or dropped. QUIC takes a
dropped datagram for a full link and slows down, which is what is meant.
"""

import asyncio
import ipaddress
import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import Final, Protocol

from deepbrain.net.transport import TransportKey
from deepbrain.node.relay import wire
from deepbrain.node.relay.limits import RelayLimits, Standing
from deepbrain.node.relay.meter import Meter, Meters

log = logging.getLogger(__name__)

MAX_PEERS: Final = 256
"""How many of the keys that somebody wrote to are told when it goes."""

SWEEP_SECONDS: Final = 1.0


class Attached(Protocol):
    """A connection as the hub sees it: `link.Link`."""

    key: TransportKey | None
    group: str
    token: str
    """The access proof it brought, in its own words; empty without."""
    heard_at: float
    opened_at: float
    stalled_since: float | None
    peers: set[bytes]
    meter: Meter | None

    def deliver(self, frame: bytes) -> bool:
        """Write a frame; False: too much waits there already, and it was dropped."""
        ...

    def cut(self, reason: str) -> None:
        """Close at once."""
        ...


class Hub:
    """Every method is of the event loop's thread, and returns at once."""

    def __init__(self, limits: RelayLimits | None = None) -> None:
        self.limits = limits or RelayLimits()
        self._by_key: dict[bytes, list[Attached]] = {}
        self._all: set[Attached] = set()
        self._groups: Counter[str] = Counter()
        self._unproven: Counter[str] = Counter()
        self._standing: dict[bytes, Standing] = {}
        self._fixed: dict[bytes, Standing] = {}
        stranger = self.limits.rates[Standing.STRANGER]
        self.keys: Meters[bytes] = Meters(self.limits.remembered, lambda: stranger)
        self.addresses: Meters[str] = Meters(
            self.limits.remembered, lambda: self.limits.strangers_of_address
        )
        self.refused = 0
        """Connections that would have been too many."""
        self.arrived = asyncio.Event()
        """Set when somebody attaches: its standing is to be looked up."""

    @property
    def connections(self) -> int:
        return len(self._all)

    def attached(self) -> Iterator[tuple[TransportKey, str]]:
        """Every key that is attached, with the token it brought."""
        for key, links in self._by_key.items():
            yield TransportKey(key), links[-1].token

    def is_attached(self, key: bytes) -> bool:
        return key in self._by_key

    def admits(self, group: str) -> bool:
        """Whether one more connection from there is not too many."""
        limits = self.limits
        fits = (
            len(self._all) < limits.connections
            and self._groups[group] < limits.per_address
            and self._unproven.total() < limits.unproven
            and self._unproven[group] < limits.unproven_per_address
        )
        self.refused += not fits
        return fits

    def enter(self, link: Attached) -> None:
        self._all.add(link)
        self._groups[link.group] += 1
        self._unproven[link.group] += 1

    def attach(self, link: Attached, key: TransportKey) -> None:
        """The connection has proven `key`; it is the one that hears from now on."""
        self._proven(link)
        link.key = key
        now = asyncio.get_running_loop().time()
        link.meter = self.keys.of(key, now)
        links = self._by_key.setdefault(key, [])
        if links:
            links[-1].deliver(wire.status(wire.SAME_KEY))
        links.append(link)
        if len(links) > self.limits.per_key:
            links[0].cut("too many connections with one key")
        self.judge(key, self._fixed.get(key) or self.standing(key))
        self.arrived.set()

    def leave(self, link: Attached) -> None:
        """The connection has ended. Idempotent."""
        if link not in self._all:
            return
        self._all.discard(link)
        _less(self._groups, link.group)
        if link.key is None:
            self._proven(link)
            return
        links = self._by_key.get(link.key, [])
        if link in links:
            links.remove(link)
        if not links:
            self._by_key.pop(link.key, None)
            self._standing.pop(link.key, None)
            for peer in link.peers:
                self._tell(peer, wire.gone(link.key))

    def judge(self, key: bytes, standing: Standing) -> None:
        """Give a key the allowance of its standing."""
        if key in self._by_key:
            self._standing[key] = standing
        self.keys.of(key, asyncio.get_running_loop().time()).rate = self.limits.rates[standing]

    def judge_always(self, key: bytes, standing: Standing) -> None:
        """Give a key a standing that does not go with its connection."""
        self._fixed[key] = standing

    def standing(self, key: bytes) -> Standing:
        return self._standing.get(key, Standing.STRANGER)

    def charge(self, link: Attached, size: int) -> float:
        """Count what came from a connection; how long not to read from it, in seconds."""
        if link.key is None or link.meter is None:
            return 0.0
        now = asyncio.get_running_loop().time()
        wait = link.meter.take(size, now)
        if self.standing(link.key) is Standing.STRANGER:
            wait = max(wait, self.addresses.of(link.group, now).take(size, now))
        return wait

    def forward(self, link: Attached, frame: bytes) -> None:
        """Pass a Send or SendBatch on, if its destination is here and reads."""
        to = wire.destination(frame)
        if to is None or link.key is None:
            link.cut("a frame that is none")
            return
        links = self._by_key.get(to)
        if links is None:
            return
        target = links[-1]
        if target.deliver(wire.received(frame, link.key)):
            if target.meter is not None:
                target.meter.received += len(frame)
            if len(link.peers) < MAX_PEERS:
                link.peers.add(to)
        elif target.meter is not None:
            target.meter.dropped += len(frame)

    def cut_all(self) -> None:
        """Close every connection."""
        for link in tuple(self._all):
            link.cut("the relay ends")

    async def sweep(self) -> None:
        """Cut what is half-open, silent or stalled, and ping the others; for ever."""
        loop, limits = asyncio.get_running_loop(), self.limits
        next_ping = loop.time() + limits.ping_seconds
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = loop.time()
            for link in tuple(self._all):
                if reason := self._fault(link, now):
                    link.cut(reason)
            if now >= next_ping:
                next_ping = now + limits.ping_seconds
                for links in tuple(self._by_key.values()):
                    for link in tuple(links):
                        link.deliver(wire.ping(os.urandom(wire.PING_BYTES)))

    def _fault(self, link: Attached, now: float) -> str | None:
        limits = self.limits
        if link.key is None:
            late = now - link.opened_at > limits.handshake_seconds
            return "no key was proven in time" if late else None
        if link.stalled_since is not None and now - link.stalled_since > limits.stalled_seconds:
            return "it does not read"
        return "it is silent" if now - link.heard_at > limits.silence_seconds else None

    def _proven(self, link: Attached) -> None:
        _less(self._unproven, link.group)

    def _tell(self, key: bytes, frame: bytes) -> None:
        for link in self._by_key.get(key, ())[-1:]:
            link.deliver(frame)


def group_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]

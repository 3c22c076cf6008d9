"""Two hosts far apart on one machine: a program that carries packets between two TUN devices, each in a
network namespace of its own, late, at a rate, and losing some.

The kernel's own way (netem) is not built into every kernel. Packets that find a full queue are dropped,
as routers do; those that are lost at random are drawn from a seed, so that two runs meet the same.
"""

import contextlib
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Final

from tests.hostile.world import IP, Place

ROOT: Final = FilePath(__file__).resolve().parents[2]
NEAR, FAR = "10.55.0.1", "10.55.0.2"
QUEUE_SECONDS: Final = 0.1
"""How long a packet may wait for those before it; one that would wait longer is dropped."""

_MTU: Final = 1500
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 1
_IFF_NO_PI: Final = 0x1000
_BATCH: Final = 64
_SECONDS_LONGEST: Final = 0.5


@dataclass(frozen=True, slots=True)
class Path:
    """What is between the two."""

    rtt: float
    """Seconds there and back."""
    loss: float
    """The share of packets that are lost, in each direction."""
    rate: float
    """Bytes a second, in each direction."""


@contextlib.contextmanager
def apart(path: Path) -> Iterator[tuple[Place, Place]]:
    """Two places, whose addresses are `NEAR` and `FAR`, with `path` between them."""
    places = Place("near"), Place("far")
    devices: list[int] = []
    try:
        for place, here, there in zip(places, (NEAR, FAR), (FAR, NEAR), strict=True):
            devices.append(place.run(_open_tun))
            place.sh(IP, "link", "set", "lo", "up")
            place.sh(IP, "addr", "add", here, "peer", there, "dev", "tun0")
            place.sh(IP, "link", "set", "tun0", "mtu", str(_MTU), "up")
            place.sh(IP, "route", "add", "default", "dev", "tun0")
        said = [str(value) for value in (*devices, path.rtt / 2, path.loss, path.rate)]
        with subprocess.Popen(
            [sys.executable, "-m", "tests.net.distance", *said],
            pass_fds=devices,
            cwd=ROOT,
        ) as carrier:
            try:
                yield places
            finally:
                carrier.terminate()
    finally:
        for device in devices:
            os.close(device)
        for place in places:
            place.namespace.close()


def _open_tun() -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
    return device


class _Direction:
    def __init__(self, source: int, sink: int, delay: float, loss: float, rate: float) -> None:
        self.source = source
        self._sink = sink
        self._delay, self._loss, self._rate = delay, loss, rate
        self._random = random.Random(7)
        self._free_at = 0.0
        """When the last packet will have left the queue."""
        self._under_way: deque[tuple[float, bytes]] = deque()

    @property
    def due_at(self) -> float | None:
        return self._under_way[0][0] if self._under_way else None

    def take(self, now: float) -> None:
        for _ in range(_BATCH):
            try:
                packet = os.read(self.source, _MTU + 100)
            except BlockingIOError:
                return
            leaves = max(now, self._free_at) + len(packet) / self._rate
            if leaves - now <= QUEUE_SECONDS and self._random.random() >= self._loss:
                self._free_at = leaves
                self._under_way.append((leaves + self._delay, packet))

    def give(self, now: float) -> None:
        while self._under_way and self._under_way[0][0] <= now:
            with contextlib.suppress(BlockingIOError, OSError):
                os.write(self._sink, self._under_way[0][1])
            self._under_way.popleft()


def carry(one: int, other: int, delay: float, loss: float, rate: float) -> None:
    """Carry packets until this process is ended."""
    ways = [_Direction(a, b, delay, loss, rate) for a, b in ((one, other), (other, one))]
    while True:
        due = [way.due_at for way in ways if way.due_at is not None]
        wait = max(0.0, min(due) - time.monotonic()) if due else _SECONDS_LONGEST
        readable, _, _ = select.select([one, other], [], [], wait)
        now = time.monotonic()
        for way in ways:
            if way.source in readable:
                way.take(now)
            way.give(now)


if __name__ == "__main__":
    carry(int(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:6]))

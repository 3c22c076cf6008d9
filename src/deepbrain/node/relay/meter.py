"""What each key and each address has sent, and how long it must wait."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from deepbrain.node.relay.limits import DAY_SECONDS, TRICKLE, Rate

K = TypeVar("K")


@dataclass(slots=True)
class Meter:
    """A bucket that fills by `rate`, and the day's sum. `now` is any clock that never goes back."""

    rate: Rate
    now: float
    tokens: float = field(init=False)
    today: int = 0
    """Bytes since `day`."""
    day: float = field(init=False)
    sent: int = 0
    """Bytes that came from it, ever."""
    received: int = 0
    """Bytes that were passed on to it."""
    dropped: int = 0
    """Bytes for it that were dropped: it was not there, or did not read."""

    def __post_init__(self) -> None:
        self.tokens = float(self.rate.burst)
        self.day = self.now

    def take(self, size: int, now: float) -> float:
        """Count `size` bytes; how many seconds to wait before reading more, 0 for none."""
        if now - self.day >= DAY_SECONDS:
            self.day, self.today = now, 0
        self.sent += size
        self.today += size
        speed = self.rate.per_second if self.today <= self.rate.per_day else TRICKLE
        filled = self.tokens + (now - self.now) * speed
        self.tokens = min(filled, float(self.rate.burst)) - size
        self.now = now
        return 0.0 if self.tokens >= 0 else -self.tokens / speed


class Meters(Generic[K]):
    """A meter for each of the latest `limit` keys."""

    def __init__(self, limit: int, rate: Callable[[], Rate]) -> None:
        self._limit = limit
        self._rate = rate
        self._meters: OrderedDict[K, Meter] = OrderedDict()

    def of(self, key: K, now: float) -> Meter:
        meter = self._meters.get(key)
        if meter is None:
            meter = self._meters[key] = Meter(self._rate(), now)
            if len(self._meters) > self._limit:
                self._meters.popitem(last=False)
        self._meters.move_to_end(key)
        return meter

    def items(self) -> Iterator[tuple[K, Meter]]:
        yield from self._meters.items()

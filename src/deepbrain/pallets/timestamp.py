"""Timestamp: the two clocks of the chain.

    calendar   the block's time, set by its first extrinsic; rules eras, emission, the sunset of root
    service    seconds of a running chain; rules terms, deadlines and bills

An *era* is a stretch of calendar time; the first begins with block 1. Block 1 is not before
`genesis_time`, so that all who start a chain together agree when.
Service time goes with the calendar, but by at most ten target intervals a block: a chain that stood
still for a day neither bills that day nor lets a deadline pass in it.
Invariants: T1  service time never runs ahead of the calendar time since genesis.
Units: milliseconds inside; the service clock is read in whole seconds.
"""

from collections.abc import Iterator
from typing import Final

from deepbrain.frame.calls import call
from deepbrain.frame.errors import PalletError, ensure
from deepbrain.frame.origin import Inherent
from deepbrain.frame.pallet import Constant, Pallet
from deepbrain.frame.storage import Value
from deepbrain.frame.weight import DispatchClass
from deepbrain.primitives.units import U32, Moment, Seconds
from deepbrain.scale import Compact

MAX_STEP: Final = 10
"""Target intervals by which service time advances in one block at most."""


class TooEarly(PalletError, index=0):
    """A block is later than the one before, and the first not before its chain's genesis time."""


class Timestamp(Pallet, index=2):
    minimum_period: Constant[Moment]
    """Half the target interval between blocks, in milliseconds: wallets reckon the interval from it.

    Blocks may come closer, so that what waits need not wait for the interval.
    """

    era_length: Constant[Moment] = Moment(24 * 3600 * 1000)
    """How long an era is, in milliseconds: 24 hours."""
    genesis_time: Constant[Moment] = Moment(0)
    """The earliest time of block 1, in milliseconds since the Unix epoch."""

    now: Value[Moment]
    """The time of this block, in milliseconds since the Unix epoch."""
    first: Value[Moment]
    """The time of block 1, from which service time counts."""
    service_ms: Value[Moment]
    """Service time, in milliseconds."""

    @call(0, reads=3, writes=3, dispatch_class=DispatchClass.MANDATORY)
    def set(self, origin: Inherent, now: Compact[Moment]) -> None:
        """Set the time of this block: the first extrinsic of every block, made by whoever made it.
        Cost: O(1).
        """
        before = self.now.get()
        if before:
            ensure(now > before, TooEarly)
            step = min(now - before, MAX_STEP * 2 * self.minimum_period)
            self.service_ms.put(self.service_ms.get() + step)
        else:
            ensure(now >= self.genesis_time, TooEarly)
            self.first.put(now)
        self.now.put(now)

    # What other pallets may ask: `traits.Clock`.

    def calendar(self) -> Moment:
        """The time of this block."""
        return self.now.get()

    def genesis(self) -> Moment:
        """The time of block 1."""
        return self.first.get()

    def service(self) -> Seconds:
        """Service time, in whole seconds."""
        return Seconds(int(self.service_ms.get()) // 1000)

    def era(self) -> U32:
        """Whole eras of calendar time since block 1; it stands still at its last number."""
        elapsed = int(self.now.get()) - int(self.first.get())
        return U32(min(elapsed // max(1, int(self.era_length)), U32.MAX))

    def earliest(self) -> Moment:
        """The earliest time that the next block may have."""
        now = self.now.get()
        return now + 1 if now else max(Moment(1), self.genesis_time)

    def try_state(self) -> Iterator[str]:
        if self.service_ms.get() > self.now.get() - self.first.get():
            yield "T1: service time is ahead of the calendar"

"""Oracle: what one DBC is worth.

Root sets the price until validators vote on it. Prices of machines are in US dollars; each order
turns them into DBC once, at the price of its day.
Invariants: O1  the price, once set, is above zero.
Units: µUSD (US dollars × 10⁶) for one DBC.
"""

from collections.abc import Iterator

from deepbrain.frame.calls import call
from deepbrain.frame.context import Context
from deepbrain.frame.errors import PalletError, ensure
from deepbrain.frame.origin import Root
from deepbrain.frame.pallet import Event, Pallet
from deepbrain.frame.storage import Maybe
from deepbrain.frame.traits import Clock
from deepbrain.frame.weight import DispatchClass
from deepbrain.primitives.units import MicroUsd, Moment
from deepbrain.scale import Struct


class Quote(Struct):
    """A price, and the calendar time it was set at."""

    micro_usd: MicroUsd
    set_at: Moment


class PriceSet(Event, index=0):
    """One DBC is worth this much now."""

    micro_usd: MicroUsd


class NoPrice(PalletError, index=0):
    """Nobody has said yet what the token is worth."""


class ZeroPrice(PalletError, index=1):
    """The token is worth something."""


class Oracle(Pallet, index=10):
    price: Maybe[Quote]
    """The price of one DBC."""

    def __init__(self, context: Context, clock: Clock) -> None:
        super().__init__(context)
        self.clock = clock

    @call(0, reads=1, writes=1, dispatch_class=DispatchClass.OPERATIONAL)
    def set_price(self, origin: Root, micro_usd: MicroUsd) -> None:
        """Say what one DBC is worth. Orders already placed keep theirs. Cost: O(1)."""
        ensure(micro_usd > 0, ZeroPrice)
        self.price.put(Quote(micro_usd=micro_usd, set_at=self.clock.calendar()))
        self.emit(PriceSet(micro_usd=micro_usd))

    # What other pallets may ask: `traits.Price`.

    def micro_usd_per_dbc(self) -> MicroUsd:
        """µUSD for one DBC. Raises: NoPrice."""
        return self.price.expect(NoPrice).micro_usd

    def try_state(self) -> Iterator[str]:
        price = self.price.get()
        if price is not None and not price.micro_usd:
            yield "O1: the price is zero"

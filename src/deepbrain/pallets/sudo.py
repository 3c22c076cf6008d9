"""Sudo: the root key, and the day it dies.

One key may make root calls until the chain is `root_lifetime` old. From then on the runtime refuses
every one of them, and nobody can move the date: it is a constant of the chain.
Units: calendar time in milliseconds.
"""

from deepbrain.frame.calls import Call, call
from deepbrain.frame.context import Context
from deepbrain.frame.errors import PalletError, ensure
from deepbrain.frame.origin import ROOT, Signed
from deepbrain.frame.pallet import Constant, Event, Pallet
from deepbrain.frame.storage import Maybe
from deepbrain.frame.traits import Clock, Dispatcher
from deepbrain.frame.weight import DispatchClass
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import Moment


class Sudid(Event, index=0):
    """A root call was made."""


class KeyChanged(Event, index=1):
    """Another key is root now."""

    new: AccountId


class RequireSudo(PalletError, index=0):
    """Only the root key may do this."""


class SunsetPassed(PalletError, index=1):
    """The chain has outlived its root key: no root call is possible any more."""


class Sudo(Pallet, index=8):
    root_lifetime: Constant[Moment] = Moment(365 * 24 * 3600 * 1000)
    """How long after block 1 root calls are possible, in milliseconds: 365 days."""

    key: Maybe[AccountId]
    """The root key."""

    def __init__(self, context: Context, clock: Clock, dispatcher: Dispatcher) -> None:
        super().__init__(context)
        self.clock, self.dispatcher = clock, dispatcher

    @call(
        0,
        reads=3,
        writes=0,
        size=lambda call: call.weight,
        dispatch_class=DispatchClass.OPERATIONAL,
    )
    def sudo(self, who: Signed, call: Call) -> None:
        """Make `call` as root; if it fails, this fails for the same reason. Cost: that of `call`."""
        self._ensure_root(who)
        failure = self.dispatcher.dispatch(call, ROOT)
        if failure is not None:
            raise failure
        self.emit(Sudid())

    @call(1, reads=3, writes=1, dispatch_class=DispatchClass.OPERATIONAL)
    def set_key(self, who: Signed, new: AccountId) -> None:
        """Hand the root key on. Cost: O(1)."""
        self._ensure_root(who)
        self.key.put(new)
        self.emit(KeyChanged(new=new))

    def _ensure_root(self, who: AccountId) -> None:
        ensure(self.clock.calendar() < self.root_sunset(), SunsetPassed)
        ensure(who == self.key.get(), RequireSudo)

    def root_sunset(self) -> Moment:
        """From this calendar time on no root call is possible."""
        return self.clock.genesis() + self.root_lifetime

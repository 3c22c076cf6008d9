"""Utility: several calls in one extrinsic, made by whoever signed it.

    batch        call after call until one fails; what was done before it stays
    batch_all    all of them, or none
    force_batch  all of them, whatever becomes of each

Each call runs on a layer of its own, as if it had been signed alone. The weight of a batch, and so
its fee, is that of all its calls, made or not. Calls lie at most eight deep in one another.
"""

from typing import Final

from deepbrain.frame.calls import Call, call
from deepbrain.frame.context import Context
from deepbrain.frame.dispatch import DispatchError
from deepbrain.frame.origin import Anyone
from deepbrain.frame.pallet import Event, Pallet
from deepbrain.frame.traits import Dispatcher
from deepbrain.frame.weight import MICROSECOND
from deepbrain.primitives.units import U32

ITEM: Final = 10 * MICROSECOND
"""What it takes to decode and dispatch one call more, its own work left out."""


class BatchInterrupted(Event, index=0):
    """A batch ended early: the call at `index` failed, those before it were made."""

    index: U32
    error: DispatchError


class BatchCompleted(Event, index=1):
    """Every call of a batch was made."""


class BatchCompletedWithErrors(Event, index=2):
    """Every call of a batch was tried, and some failed."""


class ItemCompleted(Event, index=3):
    """One call of a batch was made."""


class ItemFailed(Event, index=4):
    """One call of a batch failed."""

    error: DispatchError


def _weight_of(calls: tuple[Call, ...]) -> int:
    return sum(ITEM + each.weight for each in calls)


class Utility(Pallet, index=7):
    def __init__(self, context: Context, dispatcher: Dispatcher) -> None:
        super().__init__(context)
        self.dispatcher = dispatcher

    @call(0, reads=0, writes=0, size=_weight_of)
    def batch(self, origin: Anyone, calls: tuple[Call, ...]) -> None:
        """Make the calls in order, until one fails. Cost: that of all of them.

        It succeeds even then: `BatchInterrupted` tells which failed, and why.
        """
        for index, each in enumerate(calls):
            failure = self.dispatcher.dispatch(each, origin)
            if failure is not None:
                error = self.dispatcher.error_of(failure)
                self.emit(BatchInterrupted(index=U32(index), error=error))
                return
            self.emit(ItemCompleted())
        self.emit(BatchCompleted())

    @call(2, reads=0, writes=0, size=_weight_of)
    def batch_all(self, origin: Anyone, calls: tuple[Call, ...]) -> None:
        """Make the calls in order; if one fails, this fails for the same reason and none is made.
        Cost: that of all of them.
        """
        for each in calls:
            failure = self.dispatcher.dispatch(each, origin)
            if failure is not None:
                raise failure
            self.emit(ItemCompleted())
        self.emit(BatchCompleted())

    @call(4, reads=0, writes=0, size=_weight_of)
    def force_batch(self, origin: Anyone, calls: tuple[Call, ...]) -> None:
        """Make the calls in order, those after a failed one too. Cost: that of all of them."""
        failed = False
        for each in calls:
            failure = self.dispatcher.dispatch(each, origin)
            if failure is None:
                self.emit(ItemCompleted())
            else:
                failed = True
                self.emit(ItemFailed(error=self.dispatcher.error_of(failure)))
        self.emit(BatchCompletedWithErrors() if failed else BatchCompleted())

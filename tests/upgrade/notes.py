"""Notes: short texts that accounts keep on the chain; the pallet that the next version brings."""

from typing import Annotated

from deepbrain.frame.calls import call
from deepbrain.frame.errors import PalletError, ensure
from deepbrain.frame.origin import Signed
from deepbrain.frame.pallet import Constant, Event, Pallet
from deepbrain.frame.storage import Map, Value
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import U32, BlockNumber
from deepbrain.scale import MaxLen

Text = Annotated[bytes, MaxLen(64)]


class Noted(Event, index=0):
    """An account keeps another text."""

    who: AccountId


class Empty(PalletError, index=0):
    """A note has at least one byte."""


class Notes(Pallet, index=200):
    longest: Constant[U32] = U32(64)
    """The longest text, in bytes."""

    notes: Map[AccountId, Text]
    """What each account keeps."""
    since: Value[BlockNumber]
    """The block that brought this pallet, written by the migration."""

    @call(0, reads=1, writes=1)
    def note(self, who: Signed, text: Text) -> None:
        """Keep a text. Cost: O(1)."""
        ensure(len(text) > 0, Empty)
        self.notes[who] = text
        self.emit(Noted(who=who))

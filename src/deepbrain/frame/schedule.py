"""Things to do at a second of service time, a bounded number a block.

Entries lie in pages below their second: `due_pages[second, page]`, `due_count[second]` of them in
all. `due_cursor` is the first second that is not done. Nothing is ever taken out early: whoever
scheduled an entry decides, when it comes up, whether it still means something.
Cost: `add` writes two keys, shared by all entries of a second; `take` one read per second that went
by and two writes per page.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Generic, TypeVar

from deepbrain.frame.storage import Counter, DoubleMap, Map
from deepbrain.primitives.units import U32, Seconds
from deepbrain.scale import MaxLen

E = TypeVar("E")

PAGE: Final = 128
"""Entries in a page."""

Page = Annotated[tuple[E, ...], MaxLen(PAGE)]


class Schedule(Generic[E]):
    """The three storage items of a pallet that make up one schedule."""

    def __init__(
        self,
        count: Map[Seconds, U32],
        pages: DoubleMap[Seconds, U32, tuple[E, ...]],
        cursor: Counter[Seconds],
    ) -> None:
        self.count, self.pages, self.cursor = count, pages, cursor

    def add(self, at: Seconds, entry: E) -> None:
        """Have `entry` come up at `at`; at the next opportunity if that has passed."""
        second = max(at, self.cursor.get())
        count = self.count.get(second) or U32(0)
        page = count // PAGE
        self.pages[second, page] = (*(self.pages.get((second, page)) or ()), entry)
        self.count[second] = count + 1

    def take(self, now: Seconds, *, entries: int, seconds: int) -> Iterator[E]:
        """The entries that are due by `now`, each removed as it is given.

        At most so many `entries`, and at most so many `seconds` looked at; the rest stays due.
        """
        second = self.cursor.get()
        last = min(now, second + (seconds - 1))
        while second <= last and entries:
            count = self.count.get(second)
            if count is None:
                second = second + 1
                self.cursor.put(second)
                continue
            yield self._pop(second, count - 1)
            entries -= 1

    def _pop(self, second: Seconds, index: U32) -> E:
        """Take the last entry of a second, which has `index` others."""
        page = index // PAGE
        *rest, entry = self.pages.get((second, page)) or ()
        if rest:
            self.pages[second, page] = tuple(rest)
        else:
            del self.pages[second, page]
        if index:
            self.count[second] = index
        else:
            del self.count[second]
        return entry

    def entries(self) -> Iterator[tuple[Seconds, E]]:
        """Everything scheduled, for invariants. Cost: all of it."""
        for (second, _), page in self.pages.items():
            for entry in page:
                yield second, entry

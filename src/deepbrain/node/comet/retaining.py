"""Which of its blocks CometBFT may forget. Ours are another matter: ADR 0043.

A block is kept while any of these needs it: evidence that it may be asked for (by blocks and by calendar
time: both must have passed), a snapshot that a joining node takes to go on from it, and nodes that were
away for a while and catch up block by block.
"""

import bisect
from typing import Final

from deepbrain.node.chain import Chain
from deepbrain.node.comet.home import evidence_blocks
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import BlockNumber
from deepbrain.runtime.errors import InvalidBlock
from deepbrain.runtime.executive import Executive

EVERY: Final = 100
"""Blocks between two answers that are not "all"."""
AT_LEAST: Final = 4096
"""Blocks that are kept whatever else is so."""

_ALL: Final = 0
_NOBODY: Final = AccountId(bytes(32))


class Retaining:
    """Answers what CometBFT asks at every commit. `archive`: it never forgets."""

    def __init__(self, chain: Chain, *, archive: bool) -> None:
        self._chain = chain
        self._archive = archive

    def from_height(self, oldest_snapshot: int | None) -> int:
        """The first block to keep; 0: all, for now.

        Cost: nothing at most blocks, some 25 reads of a block at every hundredth.
        """
        head = self._chain.head.number
        if self._archive or head % EVERY or head <= AT_LEAST:
            return _ALL
        executive = self._chain.executive(self._chain.spec_version())
        first = min(head - AT_LEAST, head - evidence_blocks(executive.runtime))
        if oldest_snapshot is not None:
            first = min(first, oldest_snapshot)
        low = self._chain.oldest_block
        if first <= low:
            return _ALL
        try:
            unbonding = int(executive.runtime.constants["Validators"]["unbonding"])
            cutoff = self._moment(executive, head) - unbonding * 1000
            blocks = range(low, first)
            # The first block that is not older than unbonding takes.
            place = bisect.bisect_left(
                blocks, cutoff, key=lambda number: self._moment(executive, number)
            )
        # Blocks of rules whose time these cannot read: kept until they are out of the question.
        except (DecodeError, InvalidBlock):
            return _ALL
        return low + place if place else _ALL

    def _moment(self, executive: Executive, number: int) -> int:
        """The calendar time of a block, in milliseconds. Raises: DecodeError, InvalidBlock."""
        digest = self._chain.hash_of(number)
        block = None if digest is None else self._chain.block(digest)
        if digest is None or block is None:
            raise InvalidBlock("it is not here")
        context = executive.context_of(BlockNumber(number), digest, _NOBODY, block.extrinsics[:1])
        return int(context.moment)

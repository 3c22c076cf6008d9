"""What orders extrinsics, and what it drives. Neither the runtime nor the pool knows which one it is.

    engine ──propose──► ledger   which extrinsics, best first, that really run
           ──accepts──► ledger   does a block of somebody else run (BFT engines vote by it)
           ──finalize─► ledger   this is the next block: execute (once), write, tell

Inherents are not among an engine's extrinsics: the ledger puts them in front, made from the block's
moment. One scenario runs on every engine: `tests/conformance/test_engine.py`.
"""

from collections.abc import Sequence
from typing import Protocol

from deepbrain.node.chain import Head
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import Moment


class Ledger(Protocol):
    """The chain and the pool, as an engine sees them. Calls do not overlap."""

    @property
    def head(self) -> Head:
        """The last final block."""

    @property
    def earliest(self) -> Moment:
        """The earliest calendar time that the next block may have."""

    @property
    def waiting(self) -> int:
        """How many extrinsics could enter a block now."""

    async def propose(self, moment: Moment, author: AccountId) -> tuple[bytes, ...]:
        """Extrinsics for the next block, out of the pool. Bad ones leave the pool."""

    async def accepts(self, moment: Moment, author: AccountId, extrinsics: Sequence[bytes]) -> bool:
        """Whether a block of these may follow the head."""

    async def finalize(
        self, moment: Moment, author: AccountId, extrinsics: Sequence[bytes]
    ) -> Head:
        """Make the block the head, for good. Raises: NodeError, StoreError: the node must stop."""


class Engine(Protocol):
    """Orders extrinsics into blocks until it is cancelled."""

    name: str
    """Written into the data directory, which belongs to one engine."""

    async def run(self) -> None:
        """Raises: NodeError, StoreError: the node must stop."""

    def announce(self, extrinsics: Sequence[bytes]) -> None:
        """Extrinsics of this node that are not final: new ones at once, all of them now and then."""

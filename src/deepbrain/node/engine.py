"""What orders extrinsics, and what it drives. Neither the runtime nor the pool knows which one it is.

    engine ──propose──► ledger   which extrinsics, best first, that really run
           ──accepts──► ledger   does a block of somebody else run (BFT engines vote by it)
           ──execute──► ledger   what comes of the next block (BFT engines agree on its root)
           ──finalize─► ledger   this is the next block: write it, tell

A block runs once, whichever of these asks first. Inherents are not among an engine's extrinsics: the
ledger puts them in front, made from the block's inherent data. One scenario runs on every engine: `tests/conformance/test_engine.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from deepbrain.frame.consensus import ConsensusAddress
from deepbrain.node.chain import Executed, Head, InherentData
from deepbrain.node.snapshots import Rows
from deepbrain.primitives.ids import Hash
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

    async def propose(self, data: InherentData) -> tuple[bytes, ...]:
        """Extrinsics for the next block, out of the pool. Bad ones leave the pool."""

    async def accepts(self, data: InherentData, extrinsics: Sequence[bytes]) -> bool:
        """Whether a block of these may follow the head."""

    async def execute(self, data: InherentData, extrinsics: Sequence[bytes]) -> Executed:
        """What comes of a block that will be the head. Raises: NodeError: the node must stop."""

    async def finalize(self, data: InherentData, extrinsics: Sequence[bytes]) -> Head:
        """Make the block the head, for good. Raises: NodeError, StoreError: the node must stop."""

    async def join(self, number: int, root: Hash, rows: Rows) -> Head:
        """Begin with a snapshot, as `Chain.join` does.

        Raises: BadSnapshot: all is as it was. NodeError, StoreError: the node must stop.
        """


class Traffic(NamedTuple):
    """What passes between an engine, its program and its peers, for whoever watches a node."""

    inbox: int = 0
    """Extrinsics of peers that the pool has not looked at."""
    outbox: int = 0
    """Extrinsics that peers are to be told of."""
    restarts: int = 0
    """How often its program ended and was started again."""


class Engine(Protocol):
    """Orders extrinsics into blocks until it is cancelled."""

    name: str
    """Written into the data directory, which belongs to one engine."""

    @property
    def live(self) -> bool:
        """Whether this node has caught up with the others."""

    @property
    def address(self) -> ConsensusAddress | None:
        """By which the chain knows this node, if it validates; None: no node of this engine does."""

    @property
    def traffic(self) -> Traffic:
        """Read from any thread."""

    async def run(self) -> None:
        """Raises: NodeError, StoreError: the node must stop."""

    def announce(self, extrinsics: Sequence[bytes]) -> None:
        """Extrinsics of this node that are not final: new ones at once, all of them now and then."""

"""What a provider reads from the chain, and the two things it declares there.

`onchain.py` answers over a node; `fake.FakeChain` in memory, for tests.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import AccountId, Hash

MOST_BLOCKS_PER_DAY: Final = 24 * 3600
"""At the shortest target interval a chain may have, 1 s."""


class ChainUnavailable(DeepBrainError):
    """The node does not answer, or refuses what was submitted; trying again may help."""


NO_BLOCK: Final = Hash(bytes(32))


class OrderPhase(Enum):
    PLACED = "placed"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order on this machine, as the chain shows it. Times are service time in seconds."""

    id: int
    renter: AccountId
    units: int
    manifest_hash: Hash
    phase: OrderPhase
    seconds: int
    """The whole term, extensions included."""
    start_by: int
    """When it lapses if it has not started."""
    ends_at: int | None = None
    """When the term is over; known while it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A final state of the chain: everything it says about this machine's orders."""

    genesis: Hash
    block: int
    service: int
    """Service time of that block in seconds."""
    orders: Mapping[int, Order] = field(default_factory=dict)
    """Open and recently ended orders of this machine, by number."""
    owners: frozenset[AccountId] = frozenset()
    """The machine's stash and controller."""
    block_hash: Hash = NO_BLOCK
    blocks_per_day: int = MOST_BLOCKS_PER_DAY
    """Blocks this chain makes in 24 h at its target interval."""
    offer: int | None = None
    """The version of the machine's offer: every edit raises it. None: the machine is not listed."""
    paused: bool = False
    unit_seconds: int = 0
    """Billed seconds of each unit, of all orders that ever ended here."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The chain cannot be read now. Nothing may be concluded from it."""

    reason: str


Desired = Known | Unknown


class Closing(Enum):
    """Why the provider closes an order."""

    EXITED = "exited"
    """The job ended by itself, or its time was over; the exit code goes with it."""
    FAILED = "failed"
    """The machine could not run it, or lost it."""
    LAPSED = "lapsed"
    """The start window passed."""


class Chain(Protocol):
    async def snapshot(self) -> Desired:
        """The newest final state; `Unknown` rather than an error when there is none to be had."""
        ...

    async def holds(self, *blocks: tuple[int, Hash]) -> bool:
        """Whether all these blocks (number, hash) are of one chain: that of the node that answers now.

        Raises: ChainUnavailable.
        """
        ...

    async def start(self, order: int) -> None:
        """Declare that the job runs; billing begins. Returns once that is final.

        Raises: ChainUnavailable: it is not (yet); a later snapshot tells.
        """
        ...

    async def close(self, order: int, closing: Closing, exit_code: int | None) -> None:
        """End and settle an order, and wait until that is final. Raises: ChainUnavailable: as above."""
        ...

    async def pause(self) -> None:
        """Take no new orders from now on. Raises: ChainUnavailable."""
        ...

    async def resume(self) -> None:
        """Take new orders again. Raises: ChainUnavailable."""
        ...

    async def accept(self, stash: AccountId) -> bool:
        """Agree to act for `stash` if it asks for that; whether we act for it now.

        Raises: ChainUnavailable.
        """
        ...

    async def relays(self) -> tuple[str, ...]:
        """URLs of relays that the node names. Raises: ChainUnavailable."""
        ...

    async def announce(self, relays: Sequence[str]) -> None:
        """Have the machine's record say that these relays lead to it; nothing where it does already.

        Raises: ChainUnavailable.
        """
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields when a snapshot may have changed; mends itself when the node goes away."""
        ...

    async def disconnect(self) -> None: ...

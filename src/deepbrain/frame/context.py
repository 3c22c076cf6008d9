"""What a pallet may know of the block it is in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepbrain.frame.journal import Journal
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.units import BlockNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One block, and nothing else: no clock, no network, no randomness.

    Time is asked of the timestamp pallet (`traits.Clock`), which has it from the block's inherent.
    """

    number: BlockNumber
    parent_hash: Hash
    author: AccountId
    journal: Journal
    constants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The figures of the chain's spec: pallet → attribute → value."""

    @classmethod
    def outside(cls, journal: Journal) -> "Context":
        """For reading storage outside any block."""
        return cls(
            number=BlockNumber(0),
            parent_hash=Hash(bytes(Hash.SIZE)),
            author=AccountId(bytes(AccountId.SIZE)),
            journal=journal,
        )

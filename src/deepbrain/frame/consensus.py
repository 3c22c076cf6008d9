"""What a consensus engine and the chain tell each other of those who make blocks.

    engine → chain   `CommitReport`: who missed the last commit, who was caught breaking the rules
    chain → engine   `ValidatorUpdate`: whose vote counts for how much from now on

The solo engine reports nothing and is told nothing.
"""

from typing import Annotated, Final, NamedTuple

from deepbrain.primitives.hashing import sha2_256
from deepbrain.primitives.ids import FixedBytes
from deepbrain.primitives.units import U64, BlockNumber
from deepbrain.scale import Enumeration, MaxLen, Struct

MAX_VALIDATORS: Final = 100
"""The most validators that a chain may ever have at once."""
MAX_MISBEHAVIOURS: Final = 64
"""The most that one block reports; what is left out is reported by a later one."""


class ConsensusKey(FixedBytes, size=32):
    """The ed25519 key that a validator votes with."""

    __slots__ = ()


class ConsensusAddress(FixedBytes, size=20):
    """A consensus key as the engine names it: the first 20 bytes of its SHA-256."""

    __slots__ = ()

    @classmethod
    def of(cls, key: ConsensusKey) -> "ConsensusAddress":
        return cls(sha2_256(key)[:20])


class MisbehaviourKind(Enumeration):
    """What a validator was caught at."""

    DOUBLE_SIGN = 0
    """Two votes for different blocks at one height and round."""
    LIGHT_CLIENT_ATTACK = 1
    """A vote for a header that was made up for light clients."""


class Misbehaviour(Struct):
    """A validator broke the rules, and the engine has the proof."""

    kind: MisbehaviourKind
    validator: ConsensusAddress
    height: BlockNumber
    """Where it did."""


Absent = Annotated[tuple[ConsensusAddress, ...], MaxLen(MAX_VALIDATORS)]
Misbehaviours = Annotated[tuple[Misbehaviour, ...], MaxLen(MAX_MISBEHAVIOURS)]


class CommitReport(Struct):
    """What the engine says, in a block, of the validators at work."""

    absent: Absent = ()
    """Those whose vote is not in the commit of the block before."""
    misbehaviours: Misbehaviours = ()


NOTHING_TO_REPORT: Final = CommitReport()


class ValidatorUpdate(NamedTuple):
    """A vote's weight from the block after the next one on; 0: no vote."""

    key: ConsensusKey
    power: U64

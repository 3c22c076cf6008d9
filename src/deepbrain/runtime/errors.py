"""Why an extrinsic may not enter a block, or a block not follow."""

from enum import Enum

from deepbrain.primitives.errors import DeepBrainError


class Invalid(Enum):
    """Substrate's `InvalidTransaction`, by its wire index, in the words that clients know."""

    CALL = (0, "Transaction call is not expected")
    PAYMENT = (1, "Inability to pay some fees (e.g. account balance too low)")
    FUTURE = (2, "Transaction will be valid in the future")
    STALE = (3, "Transaction is outdated")
    BAD_PROOF = (4, "Transaction has a bad signature")
    ANCIENT_BIRTH_BLOCK = (5, "Transaction has an ancient birth block")
    EXHAUSTS_RESOURCES = (6, "Transaction would exhaust the block limits")
    BAD_MANDATORY = (8, "A call was labelled as mandatory, but resulted in an Error.")
    BAD_SIGNER = (10, "Invalid signing address")

    @property
    def index(self) -> int:
        """The wire index."""
        return self.value[0]

    @property
    def text(self) -> str:
        """What Substrate says."""
        return self.value[1]


class InvalidTransaction(DeepBrainError):
    """An extrinsic may not enter a block here and now."""

    def __init__(self, kind: Invalid) -> None:
        super().__init__(kind.text)
        self.kind = kind


class InvalidBlock(DeepBrainError):
    """A block breaks a rule of the chain, and may not follow."""


class UnknownRuntime(DeepBrainError):
    """This software has no runtime of the version that is to make the next block."""

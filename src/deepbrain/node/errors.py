"""Why a node does not start or stops: one sentence for a person, exit code 1."""

from deepbrain.primitives.errors import DeepBrainError


class NodeError(DeepBrainError):
    """The node cannot start or go on. The text says what to do."""


class UnknownBlock(DeepBrainError):
    """A block hash or number that this node does not know."""

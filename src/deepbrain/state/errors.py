"""Why a store refuses."""

from deepbrain.primitives.errors import DeepBrainError


class StoreError(DeepBrainError):
    """The disk, the database or the data directory said no. The text is one sentence for a person."""


class UnknownState(StoreError):
    """The state of that block was never committed here, or is no longer kept."""


class BadSnapshot(StoreError):
    """A snapshot is not what it says, or not of a state that anybody vouches for."""

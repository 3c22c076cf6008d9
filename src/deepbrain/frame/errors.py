"""Why a call fails.

Only these, and `ArithmeticFailure`, are results: the fee is kept, the writes are undone, and the
extrinsic is included as failed. Everything else that is raised below the node is a bug.
"""

from typing import ClassVar

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.scale import Enumeration


class PalletError(DeepBrainError):
    """A declared reason why a call of a pallet failed: one class for each reason.

    Derive with `index=`, the wire index within the pallet, append-only. The docstring is what a
    wallet shows. Raise the class itself: nothing but the reason travels.
    """

    index: ClassVar[int] = -1

    def __init_subclass__(cls, index: int, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if not 0 <= index <= 255:
            raise TypeError(f"{cls.__name__}: a wire index is between 0 and 255")
        cls.index = index

    def __str__(self) -> str:
        return " ".join((self.__doc__ or type(self).__name__).split())


class TokenError(Enumeration):
    """Why money could not be moved."""

    __scale_path__ = ("sp_runtime", "TokenError")

    FUNDS_UNAVAILABLE = 0
    ONLY_PROVIDER = 1
    BELOW_MINIMUM = 2
    CANNOT_CREATE = 3
    UNKNOWN_ASSET = 4
    FROZEN = 5
    UNSUPPORTED = 6
    CANNOT_CREATE_HOLD = 7
    NOT_EXPENDABLE = 8
    BLOCKED = 9


class TokenFailure(DeepBrainError):
    """Money is not there, or may not be moved like this. Wallets know these reasons by heart."""

    def __init__(self, kind: TokenError) -> None:
        super().__init__(kind.name.lower().replace("_", " "))  # determinism: allow (for people)
        self.kind = kind


class BadOrigin(DeepBrainError):
    """The caller may not make this call."""


def ensure(condition: bool, error: type[PalletError]) -> None:
    """Raises: `error`: the condition does not hold."""
    if not condition:
        raise error

"""How much fits in a block: 30 % of its interval on the reference CPU and 1 MiB, a quarter of it for
operational calls alone. Mandatory work (inherents, hooks) is done whatever it takes.
"""

from typing import Final

from deepbrain.frame.weight import EXTRINSIC, DispatchClass, Weight
from deepbrain.pallets.system import (
    BlockLength,
    BlockWeights,
    LengthsByClass,
    WeightsByClass,
    WeightsPerClass,
)
from deepbrain.primitives.units import U32, U64, Moment
from deepbrain.runtime.errors import Invalid, InvalidTransaction

MAX_LENGTH: Final = 1 << 20
_PICOSECONDS_PER_MS: Final = 10**9


class Limits:
    """The limits of a chain with this target interval."""

    def __init__(self, target_interval: Moment) -> None:
        self.weight = int(target_interval) * _PICOSECONDS_PER_MS * 30 // 100
        self.normal_weight = self.weight * 3 // 4
        self.length = MAX_LENGTH
        self.normal_length = MAX_LENGTH * 3 // 4

    def weights(self) -> BlockWeights:
        """As the metadata shows them."""

        def per_class(total: int | None, reserved: int | None) -> WeightsPerClass:
            return WeightsPerClass(
                base_extrinsic=_weight(EXTRINSIC),
                max_extrinsic=None if total is None else _weight(total),
                max_total=None if total is None else _weight(total),
                reserved=None if reserved is None else _weight(reserved),
            )

        return BlockWeights(
            base_block=_weight(0),
            max_block=_weight(self.weight),
            per_class=WeightsByClass(
                normal=per_class(self.normal_weight, 0),
                operational=per_class(self.weight, self.weight - self.normal_weight),
                mandatory=per_class(None, None),
            ),
        )

    def lengths(self) -> BlockLength:
        """As the metadata shows them."""
        return BlockLength(
            max=LengthsByClass(
                normal=U32(self.normal_length),
                operational=U32(self.length),
                mandatory=U32(self.length),
            )
        )


def _weight(ref_time: int) -> Weight:
    return Weight(ref_time=U64(ref_time))


class Room:
    """What is left of a block while it is made."""

    __slots__ = ("length", "limits", "weight")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.weight = 0
        """Picoseconds used."""
        self.length = 0
        """Bytes used."""

    def check(self, dispatch_class: DispatchClass, weight: int, length: int) -> None:
        """Raises: InvalidTransaction: so much does not fit any more."""
        limits = self.limits
        if dispatch_class is DispatchClass.NORMAL:
            most, longest = limits.normal_weight, limits.normal_length
        else:
            most, longest = limits.weight, limits.length
        if self.weight + weight > most or self.length + length > longest:
            raise InvalidTransaction(Invalid.EXHAUSTS_RESOURCES)

    def take(self, weight: int, length: int) -> None:
        """Use so much."""
        self.weight += weight
        self.length += length

"""How long an extrinsic may wait.

A mortal extrinsic names the block of its birth, whose hash it signs, and lives for a power of two of
blocks, 4 to 65,536; the chain keeps the hashes of 4,096. An immortal one signs the genesis hash.
Source: `sp_runtime::generic::Era`.
"""

from typing import Final, NamedTuple

from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.units import BlockNumber

MIN_PERIOD: Final = 4
MAX_PERIOD: Final = 1 << 16
_PHASE_STEPS: Final = 1 << 12


class Era(NamedTuple):
    """A span of blocks; a period of 0 is for ever."""

    period: int = 0
    phase: int = 0

    @classmethod
    def mortal(cls, period: int, current: int) -> "Era":
        """Alive from about block `current` for `period` blocks, rounded up to a power of two."""
        period = min(max(1 << (period - 1).bit_length(), MIN_PERIOD), MAX_PERIOD)
        step = max(period // _PHASE_STEPS, 1)
        return cls(period, current % period // step * step)

    @property
    def is_immortal(self) -> bool:
        return not self.period

    def birth(self, current: int) -> BlockNumber:
        """The block whose hash it signs, seen from block `current`."""
        if not self.period:
            return BlockNumber(0)
        behind = max(current, self.phase) - self.phase
        return BlockNumber(behind // self.period * self.period + self.phase)

    def death(self, current: int) -> int | None:
        """The first block too late for it; None if there is none."""
        return int(self.birth(current)) + self.period if self.period else None

    def encode(self) -> bytes:
        """One byte, or two."""
        if not self.period:
            return b"\0"
        step = max(self.period // _PHASE_STEPS, 1)
        exponent = self.period.bit_length() - 2
        return (min(15, max(1, exponent)) | self.phase // step << 4).to_bytes(2, "little")

    @classmethod
    def decode_at(cls, data: bytes, at: int) -> tuple["Era", int]:
        """The era at `at`, and the place behind it. Raises: DecodeError."""
        if data[at : at + 1] == b"\0":
            return IMMORTAL, at + 1
        if at + 2 > len(data):
            raise DecodeError("the input ends inside an era")
        encoded = int.from_bytes(data[at : at + 2], "little")
        period = 2 << (encoded & 15)
        phase = (encoded >> 4) * max(period // _PHASE_STEPS, 1)
        if period < MIN_PERIOD or phase >= period:
            raise DecodeError("an era has a phase outside its period")
        return cls(period, phase), at + 2


IMMORTAL: Final = Era()

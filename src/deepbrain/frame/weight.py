"""What work costs: picoseconds of the reference CPU, declared by each call as reads and writes.

The constants are the measured cost of the reference machine (`bench/`), rounded up: `EXTRINSIC` is
everything about an extrinsic but the call's own state access (decoding, the signature, nonce, fee,
events, the signer's account), `READ` a first read of a key, `WRITE` a changed key with its share of the state root, the
history and the commit. A call that does more than its keys say declares `compute`, and one whose
work depends on its arguments a `size` function.
"""

from typing import Final

from deepbrain.primitives.units import U64
from deepbrain.scale import Compact, Enumeration, Struct

MICROSECOND: Final = 10**6
"""Picoseconds in a microsecond."""

EXTRINSIC: Final = 76 * MICROSECOND
READ: Final = 3 * MICROSECOND
WRITE: Final = 16 * MICROSECOND
SIGNATURE: Final = 40 * MICROSECOND
"""One more signature, checked by a call."""


class Weight(Struct):
    """Time in picoseconds, and bytes of proof, of which a chain without collators uses none."""

    __scale_path__ = ("sp_weights", "weight_v2", "Weight")

    ref_time: Compact[U64]
    proof_size: Compact[U64] = U64(0)


class DispatchClass(Enumeration):
    """Which part of a block's weight a call may use."""

    __scale_path__ = ("frame_support", "dispatch", "DispatchClass")

    NORMAL = 0
    OPERATIONAL = 1
    MANDATORY = 2


class Pays(Enumeration):
    """Whether an extrinsic pays a fee."""

    __scale_path__ = ("frame_support", "dispatch", "Pays")

    YES = 0
    NO = 1


class DispatchInfo(Struct):
    """The weight of a dispatched call, and how it is charged."""

    __scale_path__ = ("frame_system", "DispatchEventInfo")

    weight: Weight
    class_: DispatchClass
    pays_fee: Pays

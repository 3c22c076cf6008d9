"""What the chain keeps of an account: shared by `system`, which stores it, and `balances`."""

from typing import Final

from deepbrain.primitives.units import U32, U128, Balance, Nonce
from deepbrain.scale import Enumeration, Struct

NEW_LOGIC: Final = U128(1 << 127)
"""The flag by which wallets know that holds, not locks, make up `reserved`."""


class HoldReason(Enumeration):
    """What money is set aside for. Append-only."""

    __scale_path__ = ("deepbrain_runtime", "RuntimeHoldReason")

    BOND = 0
    RENT = 1
    STAKE = 2
    SLASH = 3


class AccountData(Struct):
    """The money of an account, in planck: what it has is `free` and `reserved`."""

    __scale_path__ = ("pallet_balances", "types", "AccountData")

    free: Balance
    """What it may spend."""
    reserved: Balance
    """The sum of its holds."""
    frozen: Balance
    """Always zero: nothing is frozen on this chain. Wallets expect the field."""
    flags: U128

    def total(self) -> int:
        """All it has."""
        return int(self.free) + int(self.reserved)


class AccountInfo(Struct):
    """An account: how many extrinsics it has had, and its money."""

    __scale_path__ = ("frame_system", "AccountInfo")

    nonce: Nonce
    consumers: U32
    providers: U32
    sufficients: U32
    data: AccountData


NO_ACCOUNT: Final = AccountInfo(
    nonce=Nonce(0),
    consumers=U32(0),
    providers=U32(0),
    sufficients=U32(0),
    data=AccountData(free=Balance(0), reserved=Balance(0), frozen=Balance(0), flags=NEW_LOGIC),
)
"""What is known of an account that is not there."""


_ONE: Final = U32(1)


def with_money(info: AccountInfo, free: Balance, reserved: Balance) -> AccountInfo:
    """The account with other money."""
    data = info.data
    return AccountInfo(
        nonce=info.nonce,
        consumers=info.consumers,
        providers=_ONE,
        sufficients=info.sufficients,
        data=AccountData(free=free, reserved=reserved, frozen=data.frozen, flags=data.flags),
    )

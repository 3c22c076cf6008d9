"""System: blocks, accounts and events; what every other pallet stands on.

    header of block H  =  Number, ParentHash, ExtrinsicsRoot, Digest in the state of H, and its root
    hash of block H    =  BlockHash[H], from block H + 1 on

Accounts: an account is there while it has money, and for ever once it has signed: were its nonce
forgotten, its old extrinsics could be replayed.
Upgrades: root announces a runtime version for a block. From that block on only that version makes
blocks; a node that lacks it stops before. `:code` is not code: it names the runtime (name, version,
hash of its sources), because wallets tell runtimes apart by it.
Invariants: S1  no account is stored empty with a nonce of zero.
            S2  at most `block_hash_count` block hashes are kept, and that of block 0 always is.
Units: block numbers; service and calendar time live in `timestamp`.
"""

from collections.abc import Iterator
from typing import Annotated, Final

from deepbrain.frame.account import NO_ACCOUNT, AccountInfo
from deepbrain.frame.calls import call
from deepbrain.frame.dispatch import DispatchError
from deepbrain.frame.errors import PalletError, ensure
from deepbrain.frame.events import NO_EVENTS, EventRecords
from deepbrain.frame.header import NO_DIGEST, Digest, RuntimeEnvironmentUpdated, author_digest
from deepbrain.frame.origin import Root, Signed
from deepbrain.frame.pallet import Constant, Event, Pallet
from deepbrain.frame.storage import TWOX_64_CONCAT, Map, Maybe, Value
from deepbrain.frame.weight import READ, WRITE, DispatchClass, DispatchInfo, Weight
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId, FixedBytes, Hash
from deepbrain.primitives.units import U8, U16, U32, BlockNumber
from deepbrain.scale import Compact, MaxLen, Struct

CODE_KEY: Final = b":code"

NO_HASH: Final = Hash(bytes(32))

Remark = Annotated[bytes, MaxLen(4096)]
REMARK_BYTE: Final = 2_000
"""Picoseconds a byte of a remark takes: it is hashed."""


class Code(Struct):
    """What `:code` holds: the runtime by name."""

    name: Annotated[str, MaxLen(64)]
    spec_version: U32
    source: Hash
    """Of the sources of the deterministic floors."""


class ApiId(FixedBytes, size=8):
    """BLAKE2b-64 of a runtime API's name."""

    __slots__ = ()


class RuntimeVersion(Struct):
    """The version of a runtime, as wallets sign it."""

    __scale_path__ = ("sp_version", "RuntimeVersion")

    spec_name: str
    impl_name: str
    authoring_version: U32
    spec_version: U32
    impl_version: U32
    apis: tuple[tuple[ApiId, U32], ...]
    transaction_version: U32
    system_version: U8


class WeightsPerClass(Struct):
    """The weight that one class of calls may use."""

    __scale_path__ = ("frame_system", "limits", "WeightsPerClass")

    base_extrinsic: Weight
    max_extrinsic: Weight | None
    max_total: Weight | None
    reserved: Weight | None


class WeightsByClass(Struct):
    """One entry for each class."""

    __scale_path__ = ("frame_support", "dispatch", "PerDispatchClass")

    normal: WeightsPerClass
    operational: WeightsPerClass
    mandatory: WeightsPerClass


class BlockWeights(Struct):
    """How much may be done in a block, in picoseconds of the reference CPU."""

    __scale_path__ = ("frame_system", "limits", "BlockWeights")

    base_block: Weight
    max_block: Weight
    per_class: WeightsByClass


class LengthsByClass(Struct):
    """One entry for each class, in bytes."""

    normal: U32
    operational: U32
    mandatory: U32


class BlockLength(Struct):
    """How long a block may be, in bytes."""

    __scale_path__ = ("frame_system", "limits", "BlockLength")

    max: LengthsByClass


class Upgrade(Struct):
    """A runtime that takes over at a block."""

    spec_version: U32
    source: Hash
    block: BlockNumber
    """The first block that the new runtime makes."""


class LastUpgrade(Struct):
    """The runtime that makes blocks now."""

    __scale_path__ = ("frame_system", "LastRuntimeUpgradeInfo")

    spec_version: Compact[U32]
    spec_name: str


class ExtrinsicSuccess(Event, index=0):
    """An extrinsic did what it said. Always its last event."""

    dispatch_info: DispatchInfo


class ExtrinsicFailed(Event, index=1):
    """An extrinsic failed: its fee is kept, nothing else happened. Always its last event."""

    dispatch_error: DispatchError
    dispatch_info: DispatchInfo


class CodeUpdated(Event, index=2):
    """A new runtime makes blocks from this one on."""


class NewAccount(Event, index=3):
    """An account came to be."""

    account: AccountId


class KilledAccount(Event, index=4):
    """An account that had never signed is gone."""

    account: AccountId


class Remarked(Event, index=5):
    """Somebody left a remark."""

    sender: AccountId
    hash: Hash


class UpgradeScheduled(Event, index=6):
    """A runtime takes over at `block`."""

    spec_version: U32
    block: BlockNumber


class NotNewer(PalletError, index=0):
    """The version is not above the one that makes blocks now."""


class TooSoon(PalletError, index=1):
    """An upgrade starts at a later block than this one."""


class System(Pallet, index=0):
    ss58_prefix: Constant[U16] = U16(42)
    """Addresses of this chain are written with this SS58 prefix."""
    version: Constant[RuntimeVersion]
    """The runtime's version."""
    block_hash_count: Constant[BlockNumber] = BlockNumber(4096)
    """Hashes of so many recent blocks are kept; mortal extrinsics live no longer."""
    block_weights: Constant[BlockWeights]
    """How much may be done in a block."""
    block_length: Constant[BlockLength]
    """How long a block may be."""

    account: Map[AccountId, AccountInfo] = Map(default=NO_ACCOUNT)
    """Every account, with its money."""
    number: Value[BlockNumber]
    """The number of this block."""
    parent_hash: Value[Hash]
    """The hash of the block before."""
    extrinsics_root: Value[Hash]
    """The trie root of this block's extrinsics."""
    digest: Value[Digest] = Value(default=NO_DIGEST)
    """The digest of this block."""
    block_hash: Map[Annotated[BlockNumber, TWOX_64_CONCAT], Hash]
    """Hashes of recent blocks, and that of block 0."""
    events: Value[EventRecords] = Value(default=NO_EVENTS)
    """What happened in this block."""
    event_count: Value[U32]
    """How many events this block has."""
    figures: Value[Hash]
    """The hash of the chain spec's constants at genesis: with other figures it is another chain."""
    upgrade: Maybe[Upgrade]
    """The runtime that is to take over."""
    last_runtime_upgrade: Maybe[LastUpgrade]
    """The runtime that makes blocks now."""
    code: Maybe[Code] = Maybe(key=CODE_KEY)
    """The well-known key by which wallets tell runtimes apart."""

    @call(0, reads=0, writes=0, size=lambda remark: len(remark) * REMARK_BYTE)
    def remark(self, who: Signed, remark: Remark) -> None:
        """Leave bytes in the block and nowhere else. Cost: its length."""

    @call(7, reads=0, writes=0, size=lambda remark: len(remark) * REMARK_BYTE)
    def remark_with_event(self, who: Signed, remark: Remark) -> None:
        """Leave bytes in the block and their hash in an event. Cost: its length."""
        self.emit(Remarked(sender=who, hash=blake2_256(remark)))

    @call(9, reads=2, writes=1, dispatch_class=DispatchClass.OPERATIONAL)
    def schedule_upgrade(
        self, origin: Root, spec_version: U32, source: Hash, block: BlockNumber
    ) -> None:
        """Have the runtime of this version make blocks from `block` on. Cost: O(1).

        A later call replaces an earlier one that has not come to pass.
        """
        ensure(spec_version > self.version.spec_version, NotNewer)
        ensure(block > self.context.number, TooSoon)
        self.upgrade.put(Upgrade(spec_version=spec_version, source=source, block=block))
        self.emit(UpgradeScheduled(spec_version=spec_version, block=block))

    # Hooks.

    def on_initialize(self) -> int:
        """Open the block: its place in the chain, and the hash of the one before."""
        number = self.context.number
        self.number.put(number)
        self.parent_hash.put(self.context.parent_hash)
        self.digest.put(author_digest(self.context.author))
        self.block_hash[BlockNumber(number - 1)] = self.context.parent_hash
        # Block 0 stays: every signature names it.
        if number > self.block_hash_count + 1:
            del self.block_hash[BlockNumber(number - self.block_hash_count - 1)]
        upgrade = self.upgrade.get()
        if upgrade is not None and upgrade.block == number:
            self._take_over(upgrade)
        return 8 * WRITE + READ

    def close_block(self, extrinsics_root: Hash, events: EventRecords, count: int) -> None:
        """Store what the header and the block's readers need; the last write of a block."""
        self.extrinsics_root.put(extrinsics_root)
        self.events.put(events)
        self.event_count.put(U32(count))

    def upgraded(self) -> bool:
        """Whether a new runtime took over with this block."""
        logs = self.digest.get().logs
        return any(isinstance(item, RuntimeEnvironmentUpdated) for item in logs)

    def set_runtime(self, source: Hash) -> None:
        """Name this runtime as the one that makes blocks: at genesis and at an upgrade."""
        name, spec_version = self.version.spec_name, self.version.spec_version
        self.code.put(Code(name=name, spec_version=spec_version, source=source))
        self.last_runtime_upgrade.put(LastUpgrade(spec_version=spec_version, spec_name=name))

    def _take_over(self, upgrade: Upgrade) -> None:
        self.set_runtime(upgrade.source)
        self.upgrade.clear()
        self.digest.put(Digest(logs=(*self.digest.get().logs, RuntimeEnvironmentUpdated())))
        self.emit(CodeUpdated())

    # What other pallets may ask: `traits.Accounts`, `traits.Chain`.

    def account_of(self, who: AccountId) -> AccountInfo:
        """The account; an empty one if it is not there."""
        return self.account.at(who)

    def put_account(self, who: AccountId, info: AccountInfo) -> None:
        """Store the account, or remove it if it is empty and has never signed."""
        before = self.account.get(who)
        if info.data.free or info.data.reserved or info.nonce:
            self.account[who] = info
            if before is None:
                self.emit(NewAccount(account=who))
        elif before is not None:
            del self.account[who]
            self.emit(KilledAccount(account=who))

    def everybody(self) -> Iterator[tuple[AccountId, AccountInfo]]:
        """Every account, for invariants."""
        return self.account.items()

    def count_extrinsic(self, who: AccountId, info: AccountInfo) -> None:
        """Move the nonce on, so that the extrinsic cannot come again."""
        self.account[who] = AccountInfo(
            nonce=info.nonce + 1,
            consumers=info.consumers,
            providers=info.providers,
            sufficients=info.sufficients,
            data=info.data,
        )

    def genesis_hash(self) -> Hash:
        """The hash of block 0."""
        return self.block_hash.get(BlockNumber(0)) or NO_HASH

    def try_state(self) -> Iterator[str]:
        for who, info in self.account.items():
            if not (info.nonce or info.data.free or info.data.reserved):
                yield f"S1: the account {who} is stored empty"
        hashes = list(self.block_hash.keys())
        if len(hashes) > self.block_hash_count + 1:
            yield f"S2: {len(hashes)} block hashes are kept"
        if self.number.get() and BlockNumber(0) not in self.block_hash:
            yield "S2: the hash of block 0 is gone"

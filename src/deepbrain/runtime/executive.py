"""What happens to a block: pure functions of a state, a context and extrinsics.

    validate(reader, head, extrinsic)                 may it enter the next block, or a later one?
    builder(reader, context)  push … finish           make a block, extrinsic by extrinsic
    apply_block(reader, context, extrinsics)          what comes of a block that somebody made

An extrinsic that is paid for is included, whether its call succeeds or fails. Whatever a call raises
that is no declared failure is a bug: `BlockBuilder.push` lets it out with the block as it was before,
`propose` drops the extrinsic, and `apply_block` lets it out: such a block is no block.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from deepbrain.frame.calls import CallDefinition
from deepbrain.frame.consensus import (
    NOTHING_TO_REPORT,
    CommitReport,
    ConsensusAddress,
    ValidatorUpdate,
)
from deepbrain.frame.dispatch import DispatchError
from deepbrain.frame.errors import TokenFailure
from deepbrain.frame.events import FINALIZATION, INITIALIZATION
from deepbrain.frame.header import Digest
from deepbrain.frame.journal import Deposited
from deepbrain.frame.origin import INHERENT
from deepbrain.frame.weight import EXTRINSIC, DispatchClass, DispatchInfo, Pays, Weight
from deepbrain.pallets.system import NO_HASH, ExtrinsicFailed, ExtrinsicSuccess
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.pallets.validators import ValidatorPower, Validators
from deepbrain.primitives.errors import ArithmeticFailure
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.keys import RecoverableSignature, Scheme, Signature, verify
from deepbrain.primitives.units import U64, Balance, BlockNumber, Moment, Nonce
from deepbrain.runtime.errors import Invalid, InvalidBlock, InvalidTransaction
from deepbrain.runtime.extrinsic import Extrinsic, Signed, Signing, decode_extrinsic, inherent
from deepbrain.runtime.limits import Room
from deepbrain.runtime.runtime import NOBODY as NO_AUTHOR
from deepbrain.runtime.runtime import Runtime, RuntimeBlock
from deepbrain.state.store import Reader
from deepbrain.state.trie import ordered_root

NOBODY: Final[frozenset[Hash]] = frozenset()
"""No signature is known to be good."""

_OPERATIONAL_PRIORITY: Final = 1 << 62
_FOR_EVER: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockContext:
    """All that a block depends on beside its parent's state and its extrinsics."""

    number: BlockNumber
    parent_hash: Hash
    moment: Moment
    """Calendar time: what the block's `Timestamp.set` says."""
    author: AccountId
    report: CommitReport = NOTHING_TO_REPORT
    """What the engine says of the validators: the block's `Validators.report`, where it says anything."""


class Check(NamedTuple):
    """A signature to check; the only thing `validate` may leave to somebody else."""

    scheme: Scheme
    public: AccountId
    signature: Signature | RecoverableSignature
    message: bytes

    def holds(self) -> bool:
        """Whether it is good. Cost: about 40 µs."""
        return verify(self.scheme, self.public, self.signature, self.message)


class Validity(NamedTuple):
    """An extrinsic that may enter a block, if its signature is good."""

    extrinsic: Extrinsic
    sender: AccountId
    nonce: Nonce
    state_nonce: Nonce
    """The sender's next nonce; where `nonce` is above it, others must come first."""
    tip: Balance
    weight: int
    fee: Balance
    priority: int
    """Tip per weight; operational calls first."""
    longevity: int
    """The first block too late for it."""
    check: Check

    @property
    def hash(self) -> Hash:
        return self.extrinsic.hash

    @property
    def provides(self) -> tuple[bytes, ...]:
        """Tags: what others may wait for."""
        return (_tag(self.sender, self.nonce),)

    @property
    def requires(self) -> tuple[bytes, ...]:
        """Tags: what must come first."""
        if self.nonce <= self.state_nonce:
            return ()
        return (_tag(self.sender, Nonce(int(self.nonce) - 1)),)


def _tag(sender: AccountId, nonce: Nonce) -> bytes:
    return bytes(sender) + int(nonce).to_bytes(4, "little")


class Receipt(NamedTuple):
    """What came of an extrinsic in a block."""

    hash: Hash
    success: bool
    error: DispatchError | None
    events: tuple[Deposited, ...]
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOutcome:
    """What came of a block; with the state root, all that its header needs."""

    changes: dict[bytes, bytes | None]
    extrinsics: tuple[bytes, ...]
    """The body: inherents first."""
    receipts: tuple[Receipt, ...]
    """One for each of `extrinsics`."""
    extrinsics_root: Hash
    digest: Digest
    weight: int
    """Picoseconds of the reference CPU."""
    upgraded: bool
    """Whether a new runtime made this block."""
    validator_updates: tuple[ValidatorUpdate, ...] = ()
    """What the engine is told of the validators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A block made from candidates."""

    extrinsics: tuple[bytes, ...]
    """Those taken, inherents left out."""
    bad: tuple[bytes, ...]
    """Those that can never enter, or hit a bug: to be banned."""
    outcome: BlockOutcome


class Executive:
    """One runtime at work."""

    def __init__(self, runtime: Runtime, genesis: Hash) -> None:
        self.runtime = runtime
        self.signing = runtime.signing(genesis)

    def decode(self, raw: bytes) -> Extrinsic:
        """Raises: DecodeError."""
        return decode_extrinsic(raw, self.runtime.calls)

    def validator(self, reader: Reader, head: Hash) -> "Validator":
        """Judges extrinsics on top of the state of block `head`; make one a head, for many."""
        return Validator(self, reader, head)

    def validate(
        self, reader: Reader, head: Hash, raw: bytes, verified: Container[Hash] = NOBODY
    ) -> Validity:
        """Judge one extrinsic, its signature included unless its hash is `verified`.

        Raises: DecodeError, InvalidTransaction.
        """
        validity = self.validator(reader, head).validate(raw)
        if validity.hash not in verified and not validity.check.holds():
            raise InvalidTransaction(Invalid.BAD_PROOF)
        return validity

    def inherents(self, context: BlockContext) -> list[bytes]:
        """The extrinsics that the block itself makes; the first of its body, in this order."""
        made = [inherent(Timestamp.set.make(now=context.moment))]
        report = context.report
        if report != NOTHING_TO_REPORT:
            call = Validators.report.make(absent=report.absent, misbehaviours=report.misbehaviours)
            made.append(inherent(call))
        return made

    def earliest(self, reader: Reader) -> Moment:
        """The earliest moment that the block after this state may have."""
        return self.runtime.at(reader, NO_HASH).timestamp.earliest()

    def author_of(self, reader: Reader, address: ConsensusAddress) -> AccountId:
        """Whose consensus key this is, by this state; `runtime.NOBODY` where nobody knows it."""
        return self.runtime.at(reader, NO_HASH).validators.owner_of(address) or NO_AUTHOR

    def validators(self, reader: Reader) -> tuple[ValidatorPower, ...]:
        """The set that the engine has once it has taken in all it was told up to this state."""
        return self.runtime.at(reader, NO_HASH).validators.held.get()

    def context_of(
        self, number: BlockNumber, parent_hash: Hash, author: AccountId, body: Sequence[bytes]
    ) -> BlockContext:
        """The context of a block that somebody made, its moment and its report read from its body.

        Raises: DecodeError. InvalidBlock: it does not start with its time.
        """
        decoded = [self.decode(raw) for raw in body[:2]]
        if not decoded or decoded[0].call.definition is not Timestamp.set.definition:
            raise InvalidBlock("a block starts with its time")
        report = NOTHING_TO_REPORT
        for second in decoded[1:]:
            # Anybody may sign such a call: it fails, and reports nothing.
            if second.signed is None and second.call.definition is Validators.report.definition:
                absent, misbehaviours = second.call.arguments
                report = CommitReport(absent=absent, misbehaviours=misbehaviours)
        return BlockContext(
            number=number,
            parent_hash=parent_hash,
            moment=Moment(decoded[0].call.arguments[0]),
            author=author,
            report=report,
        )

    def builder(
        self, reader: Reader, context: BlockContext, verified: Container[Hash] = NOBODY
    ) -> "BlockBuilder":
        """A block with its hooks run and its inherents in. Raises: InvalidBlock."""
        builder = BlockBuilder(self, reader, context, verified)
        for raw in self.inherents(context):
            builder.push_inherent(self.decode(raw))
        builder.open_to_signed()
        return builder

    def apply_block(
        self,
        reader: Reader,
        context: BlockContext,
        extrinsics: Sequence[bytes | Extrinsic],
        verified: Container[Hash] = NOBODY,
    ) -> BlockOutcome:
        """What comes of a whole block, inherents included. Raises: InvalidBlock."""
        decoded = [self._decoded(extrinsic) for extrinsic in extrinsics]
        inherents = self.inherents(context)
        if [extrinsic.raw for extrinsic in decoded[: len(inherents)]] != inherents:
            raise InvalidBlock("a block starts with its inherents, as its context gives them")
        builder = self.builder(reader, context, verified)
        for extrinsic in decoded[len(inherents) :]:
            try:
                builder.push(extrinsic)
            except InvalidTransaction as error:
                raise InvalidBlock(f"extrinsic {extrinsic.hash}: {error}") from error
        return builder.close()

    def propose(
        self,
        reader: Reader,
        context: BlockContext,
        candidates: Iterable[bytes | Extrinsic],
        verified: Container[Hash] = NOBODY,
    ) -> Proposal:
        """Make a block of the candidates that fit and run. Raises: InvalidBlock: the time is wrong."""
        builder = self.builder(reader, context, verified)
        taken, bad = [], []
        for candidate in candidates:
            raw = candidate.raw if isinstance(candidate, Extrinsic) else candidate
            try:
                builder.push(self._decoded(candidate))
                taken.append(raw)
            except InvalidTransaction as error:
                if error.kind not in _LATER:
                    bad.append(raw)
            # What a proposer leaves out is its own choice, no result: a bug only costs the extrinsic.
            except Exception:  # noqa: BLE001 determinism: allow
                bad.append(raw)
        return Proposal(extrinsics=tuple(taken), bad=tuple(bad), outcome=builder.close())

    def _decoded(self, extrinsic: bytes | Extrinsic) -> Extrinsic:
        return extrinsic if isinstance(extrinsic, Extrinsic) else self.decode(extrinsic)


_LATER: Final = (Invalid.FUTURE, Invalid.EXHAUSTS_RESOURCES)
"""Why a good extrinsic may have to wait for another block."""


class Validator:
    """Judges extrinsics for the block after one state. Writes nothing."""

    def __init__(self, executive: Executive, reader: Reader, head: Hash) -> None:
        self._runtime = executive.runtime
        self._signing = executive.signing
        self._block = self._runtime.at(reader, head)
        self._room = Room(self._runtime.limits)
        self.number = self._block.context.number
        """The block that is judged for."""

    def close(self) -> None:
        """Let go of what was read."""
        self._block.context.journal.close()

    def nonce_of(self, who: AccountId) -> Nonce:
        """The account's next nonce."""
        return self._block.system.account_of(who).nonce

    def validate(self, raw: bytes | Extrinsic) -> Validity:
        """All but the signature, cheapest first. Raises: DecodeError, InvalidTransaction."""
        extrinsic = (
            raw if isinstance(raw, Extrinsic) else decode_extrinsic(raw, self._runtime.calls)
        )
        signed = extrinsic.signed
        if signed is None:
            raise InvalidTransaction(Invalid.CALL)
        birth = birth_hash(self._block, signed, self._signing)
        state_nonce = self.nonce_of(signed.signer)
        if signed.nonce < state_nonce:
            raise InvalidTransaction(Invalid.STALE)
        definition, weight = extrinsic.call.definition, weight_of(extrinsic)
        self._room.check(definition.dispatch_class, weight, len(extrinsic.raw))
        fee = self._block.fees.fee_of(weight, len(extrinsic.raw))
        if not self._block.fees.can_take(signed.signer, fee, signed.tip):
            raise InvalidTransaction(Invalid.PAYMENT)
        death = signed.era.death(int(self.number))
        return Validity(
            extrinsic=extrinsic,
            sender=signed.signer,
            nonce=signed.nonce,
            state_nonce=state_nonce,
            tip=signed.tip,
            weight=weight,
            fee=fee,
            priority=priority_of(definition, signed.tip, weight),
            longevity=_FOR_EVER if death is None else death,
            check=check_of(
                extrinsic,
                signed,
                self._signing.payload(extrinsic.raw[extrinsic.call_at :], signed.extra, birth),
            ),
        )


class BlockBuilder:
    """A block being made."""

    def __init__(
        self,
        executive: Executive,
        reader: Reader,
        context: BlockContext,
        verified: Container[Hash],
    ) -> None:
        self._runtime = executive.runtime
        self._signing = executive.signing
        self._verified = verified
        self.block = self._runtime.block(
            reader,
            number=context.number,
            parent_hash=context.parent_hash,
            author=context.author,
        )
        self._journal = self.block.context.journal
        self.room = Room(self._runtime.limits)
        self._body: list[bytes] = []
        self._receipts: list[Receipt] = []
        self._dispatch_infos: dict[tuple[CallDefinition, int], DispatchInfo] = {}
        self._upgraded = self._open()
        self._before = list(self._journal.events)
        # Events of the hooks before the first signed extrinsic.

    def _open(self) -> bool:
        """Run the first hooks; gives whether this runtime takes over with this block."""
        system, *others = self.block.pallets.values()
        self.room.weight += system.on_initialize()
        upgraded = self.block.system.upgraded()
        if upgraded:
            self.room.weight += self._runtime.migrate(self.block)
        for pallet in others:
            self.room.weight += pallet.on_initialize()
        return upgraded

    def push_inherent(self, extrinsic: Extrinsic) -> Receipt:
        """Include an extrinsic of the block's own. Raises: InvalidBlock: it fails."""
        start = len(self._journal.events)
        failure = self.block.dispatch(extrinsic.call, INHERENT)
        if failure is not None:
            raise InvalidBlock(f"{extrinsic.call.name}: {failure}")
        return self._include(extrinsic, start, weight_of(extrinsic), None)

    def open_to_signed(self) -> None:
        """Run the hooks that wait for the inherents."""
        start = len(self._journal.events)
        for pallet in self.block.pallets.values():
            self.room.weight += pallet.post_inherents()
        self._before += self._journal.events[start:]

    def push(self, extrinsic: Extrinsic) -> Receipt:
        """Include an extrinsic. Whatever this raises, the block is as it was before.

        Raises: InvalidTransaction: it may not enter now; anything else: a bug of a call.
        """
        mark = self._journal.mark()
        included = False
        try:
            receipt = self._apply(extrinsic)
            included = True
        finally:
            if not included:
                self._journal.rollback(mark)
        return receipt

    def _apply(self, extrinsic: Extrinsic) -> Receipt:
        signed, call = extrinsic.signed, extrinsic.call
        if signed is None:
            raise InvalidTransaction(Invalid.CALL)
        block, weight = self.block, weight_of(extrinsic)
        start = len(self._journal.events)
        birth = birth_hash(block, signed, self._signing)
        info = block.system.account_of(signed.signer)
        if signed.nonce != info.nonce:
            raise InvalidTransaction(Invalid.STALE if signed.nonce < info.nonce else Invalid.FUTURE)
        self.room.check(call.definition.dispatch_class, weight, len(extrinsic.raw))
        block.system.count_extrinsic(signed.signer, info)
        fee = block.fees.fee_of(weight, len(extrinsic.raw))
        try:
            paid = block.fees.take(signed.signer, fee, signed.tip)
        except (TokenFailure, ArithmeticFailure) as lack:
            raise InvalidTransaction(Invalid.PAYMENT) from lack
        if extrinsic.hash not in self._verified:
            message = self._signing.payload(extrinsic.raw[extrinsic.call_at :], signed.extra, birth)
            if not check_of(extrinsic, signed, message).holds():
                raise InvalidTransaction(Invalid.BAD_PROOF)
        failure = block.dispatch(call, signed.signer)
        block.fees.emit(paid)
        error = None if failure is None else block.error_of(failure)
        return self._include(extrinsic, start, weight, error)

    def _include(
        self, extrinsic: Extrinsic, start: int, weight: int, error: DispatchError | None
    ) -> Receipt:
        info = self._dispatch_info(extrinsic, weight)
        system = self.block.system
        if error is None:
            system.emit(ExtrinsicSuccess(dispatch_info=info))
        else:
            system.emit(ExtrinsicFailed(dispatch_error=error, dispatch_info=info))
        events = tuple(self._journal.events[start:])
        receipt = Receipt(extrinsic.hash, error is None, error, events, weight)
        self.room.take(weight, len(extrinsic.raw))
        self._body.append(extrinsic.raw)
        self._receipts.append(receipt)
        return receipt

    def _dispatch_info(self, extrinsic: Extrinsic, weight: int) -> DispatchInfo:
        """As `ExtrinsicSuccess` tells it; most extrinsics of a block share a few."""
        key = (extrinsic.call.definition, weight)
        known = self._dispatch_infos.get(key)
        if known is None:
            known = self._dispatch_infos[key] = DispatchInfo(
                weight=Weight(ref_time=U64(weight)),
                class_=extrinsic.call.definition.dispatch_class,
                pays_fee=Pays.NO if extrinsic.signed is None else Pays.YES,
            )
        return known

    def close(self) -> BlockOutcome:
        """`finish`, and let go of everything but the outcome."""
        outcome = self.finish()
        self._journal.close()
        return outcome

    def finish(self) -> BlockOutcome:
        """Run the closing hooks and seal the block's own records."""
        start = len(self._journal.events)
        for pallet in self.block.pallets.values():
            pallet.on_finalize()
        phases = [(INITIALIZATION, self._before)]
        phases += [(n, list(receipt.events)) for n, receipt in enumerate(self._receipts)]
        phases.append((FINALIZATION, self._journal.events[start:]))
        records, count = self._runtime.events.encode(phases)
        system = self.block.system
        root = ordered_root(self._body)
        system.close_block(root, records, count)
        return BlockOutcome(
            changes=self._journal.changes(),
            extrinsics=tuple(self._body),
            receipts=tuple(self._receipts),
            extrinsics_root=root,
            digest=system.digest.get(),
            weight=self.room.weight,
            upgraded=self._upgraded,
            validator_updates=tuple(
                ValidatorUpdate(each.key, each.power)
                for each in self.block.validators.updates.get()
            ),
        )


def weight_of(extrinsic: Extrinsic) -> int:
    """Picoseconds that an extrinsic is charged for."""
    definition, arguments = extrinsic.call
    fixed = definition.fixed_weight
    return EXTRINSIC + definition.weight_of(arguments) if fixed is None else fixed


def priority_of(definition: CallDefinition, tip: Balance, weight: int) -> int:
    """Tip per microsecond, operational calls above all others; at most 64 bits."""
    base = 0 if definition.dispatch_class is DispatchClass.NORMAL else _OPERATIONAL_PRIORITY
    return min(base + int(tip) * 10**6 // weight, _FOR_EVER)


def check_of(extrinsic: Extrinsic, signed: Signed, message: bytes) -> Check:
    """The signature of an extrinsic."""
    return Check(signed.scheme, signed.signer, signed.signature, message)


def birth_hash(block: RuntimeBlock, signed: Signed, signing: Signing) -> Hash:
    """The block hash that an extrinsic's era makes it sign. Raises: InvalidTransaction."""
    if signed.era.is_immortal:
        return signing.genesis
    context = block.context
    birth = signed.era.birth(int(context.number))
    if birth + 1 == context.number:
        return context.parent_hash
    found = block.system.block_hash.get(birth)
    if found is None:
        raise InvalidTransaction(Invalid.ANCIENT_BIRTH_BLOCK)
    return found

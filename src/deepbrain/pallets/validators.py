"""Validators: who makes the blocks, how much each vote weighs, and what it costs to break the rules.

    (nobody) ──bond──► bonded ──validate──► candidate ──end of era──► in the set
                          ▲                     │
                          └──chill, displaced, offline, misbehaved    (misbehaved: for ever)

*Stake* is held from the account itself; nobody nominates yet. `unbond` starts a wait of `unbonding`
seconds, in which the money can still be slashed, and `withdraw_unbonded` ends it.

*Candidates* stand in order of their stake. At the end of each era the first `max_validators` of them
are elected: they are the *target*. A vote weighs a whole DBC of stake each, and one at least.

*The set* that the engine has (`held`) goes to the target step by step: in a block the changes of power
come to a third of all power at most, so that whoever trusts the set of one block finds most of it in
the next. What grows comes first, what shrinks has the rest of the step: the other way round a set that
is exchanged as a whole would pass through one in which a few have everything. The engine is told the
difference to what it was told before, never more: to take out whom it does not know would halt it.
The set is never emptied: without candidates it stays, and its last validator cannot be taken out.

*Who misses* more than `max_missed` blocks of an era is chilled, and may `validate` again. *Who
misbehaves*, proven to the engine, loses `slash_share` of all its stake, unbonding or not, and never
validates again; further proofs cost it nothing more. Both leave the target at once.

A consensus key belongs to one account, which proves by the key's own signature that it has it, and
stays with it until the whole stake is withdrawn: as long as the key may be punished, it is known whose
it is. Nobody who is in the set, or is to be, withdraws the last of his stake.

Invariants: V1  the stake held from an account is what its ledger has, active and unlocking.
            V2  `key_owner` is the inverse of `keys`, and who has a key has a ledger.
            V3  candidates are in order, each with a key, with its active stake, and not banned.
            V4  `held` and `target` are in order of their keys, each of power, and somebody's.
            V5  `target` is there only while it differs from `held`, and is never empty.
            V6  `updates` are what `held` says now of the keys in them.
            V7  the era of the last election is not in the future.
Units: Balance in planck, power in whole DBC, spans and instants in seconds of service time.
"""

from collections.abc import Iterator
from typing import Annotated, Final

from deepbrain.frame.account import HoldReason
from deepbrain.frame.calls import call
from deepbrain.frame.consensus import (
    MAX_VALIDATORS,
    Absent,
    ConsensusAddress,
    ConsensusKey,
    MisbehaviourKind,
    Misbehaviours,
)
from deepbrain.frame.context import Context
from deepbrain.frame.errors import PalletError, ensure
from deepbrain.frame.origin import Inherent, Signed
from deepbrain.frame.pallet import Constant, Event, Pallet
from deepbrain.frame.storage import Map, Maybe, Unit, Value
from deepbrain.frame.traits import Chain, Clock, Holds, OffenceKind, Offences
from deepbrain.frame.weight import MICROSECOND, READ, SIGNATURE, WRITE, DispatchClass
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.keys import Scheme, Signature, domain_message, verify
from deepbrain.primitives.units import PLANCK, U32, U64, Balance, Permill, Seconds
from deepbrain.scale import Compact, Enumeration, MaxLen, Struct

DAY: Final = 24 * 3600

MAX_CANDIDATES: Final = 256
"""Accounts that may stand for election at once."""
MAX_UNLOCKING: Final = 32
"""Parts of a stake that may wait to be withdrawn at once."""
STEP: Final = 3
"""One in so many parts of all power may change in a block."""

LIST: Final = 1000 * MICROSECOND
"""To read the candidates, find a place and write them again, when there are as many as may be."""
SET: Final = 500 * MICROSECOND
"""To read two sets, take the step between them and write it."""
PUNISH: Final = 9 * READ + 6 * WRITE + 100 * MICROSECOND
"""What a misbehaviour touches, and no other of the same report."""
MISS: Final = 3 * READ + WRITE + 50 * MICROSECOND
"""What an absence touches, and no other of the same report."""

NOTHING: Final = Balance(0)

_OFFENCES: Final = {
    MisbehaviourKind.DOUBLE_SIGN: OffenceKind.DOUBLE_SIGN,
    MisbehaviourKind.LIGHT_CLIENT_ATTACK: OffenceKind.LIGHT_CLIENT_ATTACK,
}


class UnlockChunk(Struct):
    """A part of a stake that may be withdrawn from `at` on."""

    value: Balance
    at: Seconds


Unlocking = Annotated[tuple[UnlockChunk, ...], MaxLen(MAX_UNLOCKING)]


class StakingLedger(Struct):
    """The stake of an account."""

    active: Balance
    unlocking: Unlocking
    """In the order in which the parts fall due."""

    def total(self) -> Balance:
        """All that can be slashed."""
        return Balance(int(self.active) + sum(int(chunk.value) for chunk in self.unlocking))

    def less(self, amount: Balance) -> "StakingLedger":
        """The ledger without `amount`, taken from each part by its share.

        Each part gives what brings the sum so far to its share of `amount`, rounded down: no part
        gives more than it has, and all of them together exactly `amount`.
        """
        total, seen, given = int(self.total()), 0, 0
        left: list[Balance] = []
        for value in (self.active, *(chunk.value for chunk in self.unlocking)):
            seen += int(value)
            cut = seen * int(amount) // total - given
            given += cut
            left.append(value - cut)
        active, *values = left
        chunks = zip(self.unlocking, values, strict=True)
        kept = tuple(chunk.but(value=value) for chunk, value in chunks if value)
        return StakingLedger(active=active, unlocking=kept)


NO_LEDGER: Final = StakingLedger(active=NOTHING, unlocking=())


class Candidate(Struct):
    """An account that stands for election."""

    account: AccountId
    stake: Balance
    """What backs it: its own active stake."""


Candidates = Annotated[tuple[Candidate, ...], MaxLen(MAX_CANDIDATES)]


class ValidatorPower(Struct):
    """A vote, and how much it weighs."""

    key: ConsensusKey
    power: U64


Powers = Annotated[tuple[ValidatorPower, ...], MaxLen(MAX_VALIDATORS)]


class Missed(Struct):
    """Blocks of an era whose commit lacks a validator's vote."""

    era: U32
    blocks: U32


class ValidateMessage(Struct):
    """What a consensus key signs, by ed25519 over `DBC/validate/v1`, the genesis hash, and this."""

    account: AccountId


class ChillReason(Enumeration):
    """Why an account stands for election no more. Append-only."""

    ASKED = 0
    """It wanted to, or unbonded everything."""
    DISPLACED = 1
    """There were as many candidates as may be, and one came with more stake."""
    OFFLINE = 2
    """It missed too many blocks."""
    MISBEHAVED = 3
    """It is banned for good."""


def validate_message(genesis: Hash, account: AccountId) -> bytes:
    """The bytes that a consensus key signs to vote for `account`."""
    return domain_message("validate", genesis, ValidateMessage(account=account).encode())


def power_of(stake: Balance) -> U64:
    """How much a vote weighs."""
    return U64(max(1, int(stake) // PLANCK))


def next_step(held: Powers, target: Powers) -> Powers:
    """What `held` is after one more block on its way to `target`.

    Never empty: what shrinks does so only once everybody who shall be in the set is in it, or while it
    is full. Each step comes closer.
    """
    powers = {each.key: int(each.power) for each in held}
    wanted = {each.key: int(each.power) for each in target}
    left = max(1, sum(powers.values()) // STEP)
    for key in sorted(wanted):
        has = powers.get(key, 0)
        rise = min(wanted[key] - has, left)
        # Who is new waits while the set is full.
        if rise > 0 and (has or len(powers) < MAX_VALIDATORS):
            powers[key] = has + rise
            left -= rise
    for key in sorted(powers):
        fall = min(powers[key] - wanted.get(key, 0), left)
        if fall > 0:
            powers[key] -= fall
            left -= fall
    return _powers({key: power for key, power in powers.items() if power})


def changes(before: Powers, after: Powers) -> Powers:
    """What turns one set into the other; power 0 takes out."""
    old = {each.key: each.power for each in before}
    new = {each.key: each.power for each in after}
    gone = {key: 0 for key in old if key not in new}
    changed = {key: int(power) for key, power in new.items() if old.get(key) != power}
    return _powers(gone | changed)


def _powers(powers: dict[ConsensusKey, int]) -> Powers:
    return tuple(ValidatorPower(key=key, power=U64(powers[key])) for key in sorted(powers))


class Bonded(Event, index=0):
    """`amount` was added to the stake of an account."""

    account: AccountId
    amount: Balance


class Unbonded(Event, index=1):
    """`amount` of the stake can be withdrawn from `at` on."""

    account: AccountId
    amount: Balance
    at: Seconds


class Rebonded(Event, index=2):
    """`amount` that waited to be withdrawn is active stake again."""

    account: AccountId
    amount: Balance


class Withdrawn(Event, index=3):
    """`amount` of the stake is free money again."""

    account: AccountId
    amount: Balance


class Validating(Event, index=4):
    """An account stands for election, to vote with `key`."""

    account: AccountId
    key: ConsensusKey


class Chilled(Event, index=5):
    """An account stands for election no more."""

    account: AccountId
    reason: ChillReason


class Elected(Event, index=6):
    """An era began, for which so many candidates were elected; none: those before them stay."""

    era: U32
    validators: U32


class Tombstoned(Event, index=7):
    """An account misbehaved and never validates again."""

    account: AccountId


class NotBonded(PalletError, index=0):
    """The account has no stake."""


class ZeroAmount(PalletError, index=1):
    """The amount is zero."""


class StakeTooSmall(PalletError, index=2):
    """A candidate has at least the least stake: chill first, or unbond everything."""


class NotSoMuch(PalletError, index=3):
    """There is not so much of the stake."""


class TooManyChunks(PalletError, index=4):
    """Too many parts of the stake wait to be withdrawn: withdraw or rebond some first."""


class NothingDue(PalletError, index=5):
    """No part of the stake can be withdrawn yet."""


class StillInSet(PalletError, index=6):
    """The account's key votes, or is about to: the last of its stake stays until that is over."""


class Banned(PalletError, index=7):
    """The account misbehaved as a validator and never validates again."""


class KeyTaken(PalletError, index=8):
    """The key belongs to another account."""


class OtherKey(PalletError, index=9):
    """The account has a key, and keeps it until its whole stake is withdrawn."""


class BadSignature(PalletError, index=10):
    """The signature is not the consensus key's over this account and this chain."""


class AlreadyCandidate(PalletError, index=11):
    """The account stands for election."""


class NotCandidate(PalletError, index=12):
    """The account does not stand for election."""


class CandidatesFull(PalletError, index=13):
    """There are as many candidates as may be, and none with less stake."""


class Validators(Pallet, index=12):
    max_validators: Constant[U32] = U32(21)
    """How many are elected at most."""
    min_stake: Constant[Balance] = Balance(10_000 * PLANCK)
    """The least active stake of a candidate: 10,000 DBC."""
    unbonding: Constant[Seconds] = Seconds(14 * DAY)
    """How long stake can be slashed after it was unbonded: 14 days."""
    slash_share: Constant[Permill] = Permill(50_000)
    """Which share of its stake a validator loses that misbehaves: 5 %."""
    max_missed: Constant[U32] = U32(600)
    """How many blocks of an era a validator may miss."""

    ledger: Map[AccountId, StakingLedger]
    """The stake of every account that has some."""
    keys: Map[AccountId, ConsensusKey]
    """Account → the key it votes with, until its whole stake is withdrawn."""
    key_owner: Map[ConsensusAddress, AccountId]
    """Consensus address → whose key it is."""
    candidates: Value[Candidates]
    """Who stands for election: the most stake first, then by account."""
    held: Value[Powers]
    """The set that the engine has, all it was told counted; in order of the keys."""
    target: Maybe[Powers]
    """The set that it shall have, while that is another."""
    updates: Value[Powers]
    """What this block tells the engine; power 0 takes out."""
    era: Value[U32]
    """The era that the last election was for."""
    missed: Map[AccountId, Missed]
    """Blocks that a validator missed in the last era in which it missed any."""
    tombstones: Map[AccountId, Unit]
    """Accounts that never validate again."""

    def __init__(
        self, context: Context, holds: Holds, chain: Chain, clock: Clock, offences: Offences
    ) -> None:
        super().__init__(context)
        self.holds, self.chain, self.clock, self.offences = holds, chain, clock, offences

    @call(0, reads=4, writes=3, compute=LIST)
    def bond(self, who: Signed, value: Compact[Balance]) -> None:
        """Put money at stake, or more of it. Cost: the number of candidates."""
        self._add_stake(who, value)

    @call(1, reads=4, writes=2, compute=LIST)
    def unbond(self, who: Signed, value: Compact[Balance]) -> None:
        """Take `value` out of the active stake; it can be withdrawn after `unbonding`.

        A candidate keeps the least stake, or unbonds everything and is chilled by that.
        Cost: the number of candidates.
        """
        ensure(value > 0, ZeroAmount)
        ledger = self.ledger.expect(who, NotBonded)
        ensure(value <= ledger.active, NotSoMuch)
        left = ledger.active - value
        if self._is_candidate(who):
            ensure(not left or left >= self.min_stake, StakeTooSmall)
            if not left:
                self._leave_candidates(who)
                self.emit(Chilled(account=who, reason=ChillReason.ASKED))
        at = self.clock.service() + self.unbonding
        unlocking = _with_chunk(ledger.unlocking, UnlockChunk(value=value, at=at))
        ensure(len(unlocking) <= MAX_UNLOCKING, TooManyChunks)
        self._store(who, StakingLedger(active=left, unlocking=unlocking))
        self.emit(Unbonded(account=who, amount=value, at=at))

    @call(2, reads=3, writes=2, compute=LIST)
    def rebond(self, who: Signed, value: Compact[Balance]) -> None:
        """Make `value` of what waits to be withdrawn active again, the last unbonded first.
        Cost: the number of candidates.
        """
        ensure(value > 0, ZeroAmount)
        ledger = self.ledger.expect(who, NotBonded)
        ensure(value <= ledger.total() - ledger.active, NotSoMuch)
        unlocking = _without_last(ledger.unlocking, value)
        self._store(who, StakingLedger(active=ledger.active + value, unlocking=unlocking))
        self.emit(Rebonded(account=who, amount=value))

    @call(3, reads=6, writes=5)
    def withdraw_unbonded(self, who: Signed) -> None:
        """Take back what was unbonded `unbonding` seconds ago.

        With the last of the stake the key is given up, and may be anybody's. Cost: O(1).
        """
        ledger = self.ledger.expect(who, NotBonded)
        now = self.clock.service()
        waiting = tuple(chunk for chunk in ledger.unlocking if chunk.at > now)
        left = ledger.but(unlocking=waiting)
        due = ledger.total() - left.total()
        ensure(due > 0 or not left.total(), NothingDue)
        if left.total():
            self.ledger[who] = left
        else:
            self._forget(who)
        if due:
            self.holds.release(who, HoldReason.STAKE, due)
        self.emit(Withdrawn(account=who, amount=due))

    @call(4, reads=6, writes=3, compute=SIGNATURE + LIST)
    def validate(self, who: Signed, key: ConsensusKey, signature: Signature) -> None:
        """Stand for election, to vote with `key`, which has signed for it. Cost: the number of candidates.

        Where there are as many candidates as may be, the last is displaced by more stake than it has.
        """
        ledger = self.ledger.expect(who, NotBonded)
        ensure(who not in self.tombstones, Banned)
        ensure(not self._is_candidate(who), AlreadyCandidate)
        signed = validate_message(self.chain.genesis_hash(), who)
        ensure(verify(Scheme.ED25519, key, signature, signed), BadSignature)
        self._claim(who, key)
        self._stand(who, ledger.active)
        self.emit(Validating(account=who, key=key))

    @call(5, reads=2, writes=1, compute=LIST)
    def chill(self, who: Signed) -> None:
        """Stand for election no more; who is in the set stays until the next. Cost: the number of candidates."""
        ensure(self._is_candidate(who), NotCandidate)
        self._leave_candidates(who)
        self.emit(Chilled(account=who, reason=ChillReason.ASKED))

    @call(
        6,
        reads=10,
        writes=5,
        compute=LIST,
        size=lambda absent, misbehaviours: len(absent) * MISS + len(misbehaviours) * PUNISH,
        dispatch_class=DispatchClass.MANDATORY,
    )
    def report(self, origin: Inherent, absent: Absent, misbehaviours: Misbehaviours) -> None:
        """Take in what the engine says of the validators; in blocks where it says anything.

        Whom nobody knows is passed over: a report never fails. Cost: how many it names.
        """
        for each in misbehaviours:
            offender = self.key_owner.get(each.validator)
            if offender is not None and offender not in self.tombstones:
                self._punish(offender, _OFFENCES[each.kind])
        for address in absent:
            owner = self.key_owner.get(address)
            if owner is not None:
                self._count_missed(owner)

    # What is due by itself.

    def post_inherents(self) -> int:
        """Hold the election of a new era, and take a step towards the target.

        After the report, so that who was caught in it is not elected; before what is signed, which
        changes nothing about this block's step.
        """
        weight = 5 * READ
        era = self.clock.era()
        if era > self.era.get():
            self.era.put(era)
            weight += self._elect(era)
        return weight + self._step()

    def _elect(self, era: U32) -> int:
        """Make the first candidates the target; gives picoseconds. Without any, all stays as it was."""
        chosen = self.candidates.get()[: min(int(self.max_validators), MAX_VALIDATORS)]
        if chosen:
            self._aim(_powers({self._key_of(each): int(power_of(each.stake)) for each in chosen}))
        self.emit(Elected(era=era, validators=U32(len(chosen))))
        return LIST + (2 + len(chosen)) * READ + 2 * WRITE

    def _step(self) -> int:
        """Change the set a bit, if it shall be another; gives picoseconds."""
        target = self.target.get()
        if target is None:
            if not self.updates.get():
                return 0
            self.updates.reset()
            return WRITE
        before = self.held.get()
        after = next_step(before, target)
        self.held.put(after)
        self.updates.put(changes(before, after))
        self._aim(target)
        return SET + READ + 3 * WRITE

    # What other pallets, and nodes, may ask.

    def owner_of(self, address: ConsensusAddress) -> AccountId | None:
        """Whose key it is."""
        return self.key_owner.get(address)

    def install(self, who: AccountId, key: ConsensusKey, stake: Balance) -> None:
        """Put a validator into the set, at genesis. Raises: PalletError, TokenFailure."""
        self._add_stake(who, stake)
        self._claim(who, key)
        self._stand(who, stake)
        powers = {each.key: int(each.power) for each in self.held.get()}
        self.held.put(_powers(powers | {key: int(power_of(stake))}))

    # Helpers of the calls.

    def _add_stake(self, who: AccountId, value: Balance) -> None:
        ensure(value > 0, ZeroAmount)
        self.holds.hold(who, HoldReason.STAKE, value)
        ledger = self.ledger.get(who) or NO_LEDGER
        self._store(who, ledger.but(active=ledger.active + value))
        self.emit(Bonded(account=who, amount=value))

    def _store(self, who: AccountId, ledger: StakingLedger) -> None:
        """Store a ledger; a candidate's place follows its stake."""
        self.ledger[who] = ledger
        if self._is_candidate(who):
            self._leave_candidates(who)
            self._enter_candidates(who, ledger.active)

    def _forget(self, who: AccountId) -> None:
        """Remove what is known of an account without stake. Raises: StillInSet."""
        key = self.keys.get(who)
        if key is not None:
            powers = (*self.held.get(), *(self.target.get() or ()))
            ensure(all(each.key != key for each in powers), StillInSet)
            del self.keys[who]
            del self.key_owner[ConsensusAddress.of(key)]
            del self.missed[who]
        del self.ledger[who]

    def _claim(self, who: AccountId, key: ConsensusKey) -> None:
        """Make a key the account's. Raises: OtherKey, KeyTaken."""
        address = ConsensusAddress.of(key)
        ensure(self.keys.get(who) in (None, key), OtherKey)
        ensure(self.key_owner.get(address) in (None, who), KeyTaken)
        self.keys[who] = key
        self.key_owner[address] = who

    def _key_of(self, candidate: Candidate) -> ConsensusKey:
        return self.keys.expect(candidate.account, NotCandidate)

    # Who stands for election.

    def _is_candidate(self, who: AccountId) -> bool:
        # Who has no key was never a candidate: most who bond need not read the list.
        return who in self.keys and any(each.account == who for each in self.candidates.get())

    def _stand(self, who: AccountId, stake: Balance) -> None:
        """Make an account a candidate, in place of the last one where there are too many."""
        ensure(stake > 0 and stake >= self.min_stake, StakeTooSmall)
        candidates = self.candidates.get()
        if len(candidates) >= MAX_CANDIDATES:
            last = candidates[-1]
            ensure(stake > last.stake, CandidatesFull)
            self._leave_candidates(last.account)
            self.emit(Chilled(account=last.account, reason=ChillReason.DISPLACED))
        self._enter_candidates(who, stake)

    def _enter_candidates(self, who: AccountId, stake: Balance) -> None:
        candidates = (*self.candidates.get(), Candidate(account=who, stake=stake))
        self.candidates.put(tuple(sorted(candidates, key=_place)))

    def _leave_candidates(self, who: AccountId) -> bool:
        """Take an account off the list; gives whether it was on it."""
        before = self.candidates.get()
        after = tuple(each for each in before if each.account != who)
        if len(after) == len(before):
            return False
        self.candidates.put(after)
        return True

    # Who is to be in the set.

    def _aim(self, target: Powers) -> None:
        """Have the set become `target`."""
        if target == self.held.get():
            self.target.clear()
        else:
            self.target.put(target)

    def _leave_target(self, who: AccountId) -> bool:
        """Take an account out of the set that shall be, unless it is the last; gives whether it was."""
        key = self.keys.get(who)
        before = self.target.get() or self.held.get()
        after = tuple(each for each in before if each.key != key)
        if not after or len(after) == len(before):
            return False
        self._aim(after)
        return True

    def _dismiss(self, who: AccountId, reason: ChillReason) -> None:
        """Chill an account, and have it leave the set at once."""
        was_candidate, was_wanted = self._leave_candidates(who), self._leave_target(who)
        if was_candidate or was_wanted:
            self.emit(Chilled(account=who, reason=reason))

    # Who fails.

    def _punish(self, offender: AccountId, kind: OffenceKind) -> None:
        """Slash an account, ban it and have it leave."""
        ledger = self.ledger.get(offender) or NO_LEDGER
        amount = self.slash_share.of(ledger.total())
        if amount:
            self.ledger[offender] = ledger.less(amount)
            self.offences.report(offender, kind, amount)
        self.tombstones[offender] = ()
        self.emit(Tombstoned(account=offender))
        self._dismiss(offender, ChillReason.MISBEHAVED)

    def _count_missed(self, who: AccountId) -> None:
        """Count a block that an account missed; one too many, and it is chilled."""
        era, before = self.clock.era(), self.missed.get(who)
        blocks = before.blocks if before is not None and before.era == era else U32(0)
        if blocks < self.max_missed:
            self.missed[who] = Missed(era=era, blocks=blocks + 1)
            return
        # Should it validate again, it begins anew.
        del self.missed[who]
        self._dismiss(who, ChillReason.OFFLINE)

    def try_state(self) -> Iterator[str]:
        for who, ledger in self.ledger.items():
            if self.holds.held(who, HoldReason.STAKE) != ledger.total():
                yield f"V1: the stake held from {who} is not that of its ledger"
        for who, key in self.keys.items():
            if self.key_owner.get(ConsensusAddress.of(key)) != who or who not in self.ledger:
                yield f"V2: the key of {who} is not its own, or has no stake"
        if sorted(self.keys.keys()) != sorted(owner for _, owner in self.key_owner.items()):
            yield "V2: `key_owner` is not the inverse of `keys`"
        yield from self._check_candidates()
        yield from self._check_powers()
        if self.era.get() > self.clock.era():
            yield "V7: the last election was for an era in the future"

    def _check_candidates(self) -> Iterator[str]:
        candidates = self.candidates.get()
        if candidates != tuple(sorted(candidates, key=_place)):
            yield "V3: the candidates are out of order"
        if len({each.account for each in candidates}) != len(candidates):
            yield "V3: an account is a candidate twice"
        for each in candidates:
            ledger = self.ledger.get(each.account) or NO_LEDGER
            if each.account in self.tombstones or each.account not in self.keys:
                yield f"V3: {each.account} is a candidate, and banned or without a key"
            if each.stake != ledger.active or each.stake < self.min_stake:
                yield f"V3: the stake of the candidate {each.account} is not its own, or too small"

    def _check_powers(self) -> Iterator[str]:
        held, target = self.held.get(), self.target.get()
        for name, powers in (("held", held), ("target", target or ())):
            keys = [each.key for each in powers]
            if keys != sorted(dict.fromkeys(keys)) or not all(each.power for each in powers):
                yield f"V4: `{name}` is out of order, or somebody in it has no power"
            if not all(ConsensusAddress.of(key) in self.key_owner for key in keys):
                yield f"V4: a key in `{name}` is nobody's"
        if target is not None and target in ((), held):
            yield "V5: `target` is empty, or no other than `held`"
        has = {each.key: each.power for each in held}
        if any(each.power != has.get(each.key, 0) for each in self.updates.get()):
            yield "V6: `updates` say something else than `held`"


def _place(candidate: Candidate) -> tuple[int, AccountId]:
    """By which candidates are ordered."""
    return -int(candidate.stake), candidate.account


def _with_chunk(unlocking: Unlocking, chunk: UnlockChunk) -> Unlocking:
    """The chunks with one more, or with the last one larger where both fall due at once."""
    if unlocking and unlocking[-1].at == chunk.at:
        last = unlocking[-1]
        return (*unlocking[:-1], last.but(value=last.value + chunk.value))
    return (*unlocking, chunk)


def _without_last(unlocking: Unlocking, value: Balance) -> Unlocking:
    """The chunks without `value`, taken from the end."""
    kept = list(unlocking)
    while value:
        last = kept.pop()
        taken = min(value, last.value)
        value = value - taken
        if taken < last.value:
            kept.append(last.but(value=last.value - taken))
    return tuple(kept)

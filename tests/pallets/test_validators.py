"""Validators put up a stake, are elected, move into the set step by step, and pay for what they break."""

import pytest
from tests.runtime.local import (
    ALICE,
    BOB,
    CHARLIE,
    DAVE,
    EVE,
    CountingReader,
    Engine,
    LocalChain,
    absent,
    address,
    consensus,
    double_signed,
    key,
    load_spec,
    validate_call,
    with_validators,
)

from deepbrain.frame.account import HoldReason
from deepbrain.frame.consensus import (
    MAX_VALIDATORS,
    NOTHING_TO_REPORT,
    CommitReport,
    ConsensusAddress,
    ConsensusKey,
    MisbehaviourKind,
)
from deepbrain.frame.dispatch import BadOriginError
from deepbrain.frame.origin import INHERENT
from deepbrain.frame.weight import READ, WRITE
from deepbrain.pallets import validators
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.validators import (
    MAX_CANDIDATES,
    Chilled,
    ChillReason,
    Elected,
    StakingLedger,
    Tombstoned,
    UnlockChunk,
    ValidatorPower,
    Validators,
    changes,
    next_step,
)
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.keys import Scheme
from deepbrain.primitives.units import PLANCK, U32, U64, Balance, Moment, Seconds
from deepbrain.runtime.chainspec import BadChainSpec, ChainSpec
from deepbrain.runtime.errors import InvalidBlock
from deepbrain.runtime.executive import NO_AUTHOR
from deepbrain.runtime.extrinsic import inherent
from deepbrain.runtime.genesis import genesis_state
from deepbrain.runtime.runtime import Runtime

ERA = 10
UNBONDING = 30
MISSED = 3
K1, K2, K3, K4 = (consensus(name) for name in "1234")


def spec(*genesis, **figures):
    figures = {"unbonding": UNBONDING, "max_missed": MISSED, "min_stake": 1000 * PLANCK} | figures
    made = load_spec(
        Timestamp={"era_length": ERA * 1000}, Validators=figures, Offences={"slash_delay": 20}
    )
    return with_validators(made, *genesis)


@pytest.fixture
def chain():
    """Nobody makes its blocks yet."""
    return LocalChain(spec())


@pytest.fixture
def three():
    """Three equals make its blocks."""
    return LocalChain(spec((ALICE, K1, 9000), (BOB, K2, 9000), (CHARLIE, K3, 9000)))


def dbc(amount):
    return Balance(amount * PLANCK)


def bond(chain, who, amount):
    chain.do(who, Validators.bond.make(value=dbc(amount)))


def enter(chain, who, pair, amount):
    bond(chain, who, amount)
    chain.do(who, validate_call(chain, who, pair))


def next_era(chain):
    """Up to the block that holds the next election."""
    era = chain.now().timestamp.era()
    while chain.now().timestamp.era() == era:
        chain.block()


def settle(chain, most=200):
    """Until the set is what it shall be; gives how many blocks that took."""
    for blocks in range(most):
        if chain.now().validators.target.get() is None:
            return blocks
        chain.block()
    raise AssertionError("the set never becomes its target")


def powers(chain):
    return {each.key: int(each.power) for each in chain.executive.validators(chain.state)}


def power(chain, pair):
    return powers(chain).get(pair.public, 0)


def ledger(chain, who):
    return chain.now().validators.ledger.get(who.public)


def staked(chain, who, reason=HoldReason.STAKE):
    return int(chain.now().balances.held(who.public, reason))


def is_candidate(chain, who):
    return any(each.account == who.public for each in chain.now().validators.candidates.get())


def unbond(chain, who, amount):
    chain.do(who, Validators.unbond.make(value=dbc(amount)))


WITHDRAW = Validators.withdraw_unbonded.make()
CHILL = Validators.chill.make()


# The way of a validator.


def test_a_validator_bonds_is_elected_leaves_and_has_its_stake_back(three):
    before = three.free(DAVE)
    enter(three, DAVE, K4, 3000)
    assert power(three, K4) == 0
    next_era(three)
    assert three.events(Elected) == [Elected(era=U32(1), validators=U32(4))]
    settle(three)
    assert power(three, K4) == 3000
    unbond(three, DAVE, 3000)
    assert three.events(Chilled) == [Chilled(account=DAVE.public, reason=ChillReason.ASKED)]
    assert power(three, K4) == 3000
    next_era(three)
    settle(three)
    assert power(three, K4) == 0
    assert three.refused(DAVE, WITHDRAW) is validators.NothingDue
    three.advance(UNBONDING)
    three.do(DAVE, WITHDRAW)
    assert staked(three, DAVE) == 0
    assert 0 <= before - three.free(DAVE) < PLANCK
    assert ledger(three, DAVE) is None
    assert three.now().validators.keys.get(DAVE.public) is None
    enter(three, EVE, K4, 3000)


def test_a_candidate_keeps_the_least_stake_or_leaves(chain):
    enter(chain, ALICE, K1, 3000)
    call = Validators.unbond.make(value=dbc(2001))
    assert chain.refused(ALICE, call) is validators.StakeTooSmall
    unbond(chain, ALICE, 2000)
    (candidate,) = chain.now().validators.candidates.get()
    assert candidate.stake == dbc(1000)
    chain.do(ALICE, CHILL)
    assert chain.refused(ALICE, CHILL) is validators.NotCandidate
    unbond(chain, ALICE, 1)
    again = validate_call(chain, ALICE, K1)
    assert chain.refused(ALICE, again) is validators.StakeTooSmall
    chain.do(ALICE, Validators.rebond.make(value=dbc(2001)))
    assert ledger(chain, ALICE) == StakingLedger(active=dbc(3000), unlocking=())
    chain.do(ALICE, validate_call(chain, ALICE, K1))
    assert chain.refused(ALICE, again) is validators.AlreadyCandidate


def test_amounts_are_above_zero_and_there(chain):
    none, some, lots = Balance(0), dbc(1), dbc(10**9)
    assert chain.refused(ALICE, Validators.bond.make(value=none)) is validators.ZeroAmount
    assert chain.refused(ALICE, Validators.unbond.make(value=some)) is validators.NotBonded
    assert chain.refused(ALICE, Validators.rebond.make(value=some)) is validators.NotBonded
    assert chain.refused(ALICE, WITHDRAW) is validators.NotBonded
    assert chain.refused(ALICE, validate_call(chain, ALICE, K1)) is validators.NotBonded
    chain.refused(ALICE, Validators.bond.make(value=lots))
    bond(chain, ALICE, 5)
    assert chain.refused(ALICE, Validators.unbond.make(value=lots)) is validators.NotSoMuch
    assert chain.refused(ALICE, Validators.unbond.make(value=none)) is validators.ZeroAmount
    assert chain.refused(ALICE, Validators.rebond.make(value=some)) is validators.NotSoMuch
    assert chain.refused(ALICE, Validators.rebond.make(value=none)) is validators.ZeroAmount


def test_parts_fall_due_one_by_one_and_the_last_unbonded_comes_back_first(chain):
    bond(chain, ALICE, 10)
    unbond(chain, ALICE, 2)
    unbond(chain, ALICE, 3)
    chain.do(ALICE, Validators.rebond.make(value=dbc(4)))
    (left,) = ledger(chain, ALICE).unlocking
    assert left.value == dbc(1)
    unbond(chain, ALICE, 5)
    chain.advance(UNBONDING - 2)
    chain.do(ALICE, WITHDRAW)
    assert staked(chain, ALICE) == dbc(9)
    chain.advance(2)
    chain.do(ALICE, WITHDRAW)
    assert staked(chain, ALICE) == dbc(4)


def test_so_many_parts_may_wait_at_once():
    chain = LocalChain(spec(unbonding=1000))
    one = Validators.unbond.make(value=dbc(1))
    bond(chain, ALICE, 100)
    for _ in range(32):
        chain.do(ALICE, one)
    assert chain.refused(ALICE, one) is validators.TooManyChunks
    # In one block they fall due together, and are one part.
    both = [chain.signed(ALICE, Validators.rebond.make(value=dbc(3)))]
    both += [chain.signed(ALICE, one, ahead=n) for n in (1, 2, 3)]
    assert all(receipt.success for receipt in chain.block(*both).receipts)
    assert len(ledger(chain, ALICE).unlocking) == 30


# Keys.


def test_a_key_is_one_accounts_and_an_account_has_one_key(chain):
    enter(chain, ALICE, K1, 3000)
    bond(chain, BOB, 3000)
    assert chain.refused(BOB, validate_call(chain, BOB, K1)) is validators.KeyTaken
    chain.do(ALICE, CHILL)
    assert chain.refused(ALICE, validate_call(chain, ALICE, K2)) is validators.OtherKey
    chain.do(ALICE, validate_call(chain, ALICE, K1))
    chain.do(BOB, validate_call(chain, BOB, K2))


def test_a_key_is_proven_for_this_account_on_this_chain(chain):
    bond(chain, ALICE, 3000)
    bond(chain, BOB, 3000)
    for_bob = dict(validate_call(chain, BOB, K1).named())
    stolen = Validators.validate.make(**for_bob)
    assert chain.refused(ALICE, stolen) is validators.BadSignature
    elsewhere = K1.sign(validators.validate_message(Hash(bytes(32)), ALICE.public))
    replayed = Validators.validate.make(**for_bob | {"signature": elsewhere})
    assert chain.refused(ALICE, replayed) is validators.BadSignature
    other = Validators.validate.make(**for_bob | {"key": ConsensusKey(K2.public)})
    assert chain.refused(BOB, other) is validators.BadSignature
    message = validators.validate_message(chain.executive.signing.genesis, ALICE.public)
    assert message == b"DBC/validate/v1" + chain.executive.signing.genesis + ALICE.public


def test_who_is_in_the_set_leaves_the_last_of_his_stake_in():
    chain = LocalChain(spec((ALICE, K1, 3000)))
    unbond(chain, ALICE, 1000)
    chain.do(ALICE, CHILL)
    unbond(chain, ALICE, 2000)
    chain.advance(UNBONDING + ERA)
    assert power(chain, K1) == 3000
    assert chain.refused(ALICE, WITHDRAW) is validators.StillInSet
    enter(chain, BOB, K2, 3000)
    next_era(chain)
    settle(chain)
    chain.do(ALICE, WITHDRAW)
    assert powers(chain) == {K2.public: 3000}


# Candidates and elections.


def test_the_first_candidates_by_stake_are_elected():
    chain = LocalChain(spec(max_validators=2))
    for who, pair, amount in ((ALICE, K1, 2000), (BOB, K2, 4000), (CHARLIE, K3, 3000)):
        enter(chain, who, pair, amount)
    next_era(chain)
    settle(chain)
    assert powers(chain) == {K2.public: 4000, K3.public: 3000}
    bond(chain, ALICE, 1500)
    assert powers(chain) == {K2.public: 4000, K3.public: 3000}
    next_era(chain)
    settle(chain)
    assert powers(chain) == {K1.public: 3500, K2.public: 4000}


def test_a_full_list_displaces_the_last_for_more_stake():
    chain = LocalChain(spec(min_stake=PLANCK))
    pairs = [key(f"v{n}") for n in range(MAX_CANDIDATES)]
    gift = [Balances.transfer_keep_alive.make(dest=pair.public, value=dbc(9)) for pair in pairs]
    chain.block(*(chain.signed(ALICE, call, ahead=n) for n, call in enumerate(gift)))
    for start in range(0, MAX_CANDIDATES, 64):
        some = range(start, start + 64)
        bonds = [chain.signed(pairs[n], Validators.bond.make(value=dbc(2))) for n in some]
        calls = [validate_call(chain, pairs[n], consensus(f"v{n}")) for n in some]
        validates = [chain.signed(pairs[n], calls[n - start], ahead=1) for n in some]
        outcome = chain.block(*bonds, *validates)
        assert len(outcome.receipts) == 129
        assert all(receipt.success for receipt in outcome.receipts)
    last = chain.now().validators.candidates.get()[-1]
    bond(chain, BOB, 2)
    call = validate_call(chain, BOB, K1)
    assert chain.refused(BOB, call) is validators.CandidatesFull
    bond(chain, BOB, 1)
    chain.do(BOB, call)
    assert chain.events(Chilled) == [Chilled(account=last.account, reason=ChillReason.DISPLACED)]
    candidates = chain.now().validators.candidates.get()
    assert len(candidates) == MAX_CANDIDATES
    assert candidates[0].account == BOB.public
    next_era(chain)
    assert chain.events(Elected) == [Elected(era=U32(1), validators=U32(21))]


def test_without_candidates_the_set_stays(three):
    for who in (ALICE, BOB, CHARLIE):
        three.do(who, CHILL)
    before = powers(three)
    next_era(three)
    assert three.events(Elected) == [Elected(era=U32(1), validators=U32(0))]
    three.advance(30)
    assert powers(three) == before


def test_the_engine_is_told_the_difference_once(three):
    bond(three, ALICE, 300)
    next_era(three)
    assert [tuple(each) for each in three.outcome.validator_updates] == [(K1.public, 9300)]
    assert three.block().validator_updates == ()
    assert three.now().validators.updates.get() == ()


# A third at most.


def step_of(*members):
    return tuple(
        ValidatorPower(key=ConsensusKey(bytes([n]) * 32), power=U64(power)) for n, power in members
    )


def walk(held, target, most=300):
    """Every set on the way, checked as the engine would."""
    engine, sets = Engine(held), [held]
    while held != target:
        after = next_step(held, target)
        engine.apply(tuple((each.key, int(each.power)) for each in changes(held, after)))
        assert engine.powers == {each.key: int(each.power) for each in after}
        held = after
        sets.append(held)
        assert len(sets) < most
    return sets


def test_two_equals_take_a_third_in_three_blocks():
    before, after = step_of((1, 100), (2, 100)), step_of((1, 100), (2, 100), (3, 100))
    sets = [{each.key[0]: int(each.power) for each in held} for held in walk(before, after)]
    assert sets == [
        {1: 100, 2: 100},
        {1: 100, 2: 100, 3: 66},
        {1: 100, 2: 100, 3: 100},
    ]


def test_one_of_two_equals_goes_in_steps_and_is_replaced_first():
    sets = walk(step_of((1, 100), (2, 100)), step_of((1, 100), (3, 100)))
    for held in sets:
        total = sum(int(each.power) for each in held)
        assert all(int(each.power) * 2 <= total for each in held)


def test_a_whale_ramps_up():
    sets = walk(step_of(*((n, 10_000) for n in range(4))), step_of((0, 10_000), (9, 10**9)))
    assert 30 < len(sets) < 60


@pytest.mark.parametrize(
    ("held", "target"),
    [
        (step_of((1, 1)), step_of((2, 1))),
        (step_of((1, 1)), step_of((2, 1000))),
        (step_of((1, 1000)), step_of((2, 1))),
        (step_of((1, 2)), step_of((1, 1))),
        ((), step_of((1, 5), (2, 5))),
        (
            step_of(*((n, 1) for n in range(MAX_VALIDATORS))),
            step_of(*((n + MAX_VALIDATORS, 7) for n in range(MAX_VALIDATORS))),
        ),
        (
            step_of(*((n, 10**9) for n in range(MAX_VALIDATORS))),
            step_of(*((n, 1) for n in range(50, 50 + MAX_VALIDATORS))),
        ),
    ],
)
def test_every_set_becomes_every_other_and_is_never_empty_or_too_large(held, target):
    assert walk(held, target)[-1] == target


# Who misbehaves.


def test_a_double_signer_is_slashed_once_banned_and_gone(three):
    enter(three, DAVE, K4, 3000)
    unbond(three, ALICE, 2000)
    unbond(three, ALICE, 1000)
    total = 9000 * PLANCK
    three.block(report=double_signed(K1, K1))
    assert three.events(Tombstoned) == [Tombstoned(account=ALICE.public)]
    assert three.events(Chilled) == [Chilled(account=ALICE.public, reason=ChillReason.MISBEHAVED)]
    cut = total * 5 // 100
    assert staked(three, ALICE, HoldReason.SLASH) == cut
    assert staked(three, ALICE) == total - cut
    left = ledger(three, ALICE)
    assert left.active == dbc(5700)
    assert [chunk.value for chunk in left.unlocking] == [dbc(1900), dbc(950)]
    settle(three)
    assert powers(three) == {K2.public: 9000, K3.public: 9000}
    three.block(report=double_signed(K1, kind=MisbehaviourKind.LIGHT_CLIENT_ATTACK))
    assert staked(three, ALICE, HoldReason.SLASH) == cut
    assert three.refused(ALICE, validate_call(three, ALICE, K1)) is validators.Banned
    three.advance(2 * ERA)
    assert power(three, K1) == 0


def test_what_is_unbonding_is_slashed_too_and_cannot_be_withdrawn(three):
    unbond(three, ALICE, 9000)
    three.advance(UNBONDING - 2)
    three.block(report=double_signed(K1))
    three.advance(UNBONDING)
    three.do(ALICE, WITHDRAW)
    assert staked(three, ALICE) == 0
    assert ledger(three, ALICE) is None
    bond(three, ALICE, 2000)
    assert three.refused(ALICE, validate_call(three, ALICE, K1)) is validators.Banned


def test_the_last_of_the_set_stays_and_is_replaced_by_the_next_election():
    chain = LocalChain(spec((ALICE, K1, 3000)))
    chain.block(report=double_signed(K1))
    assert not is_candidate(chain, ALICE)
    chain.advance(2 * ERA)
    assert powers(chain) == {K1.public: 3000}
    enter(chain, BOB, K2, 2000)
    next_era(chain)
    settle(chain)
    assert powers(chain) == {K2.public: 2000}


def test_all_of_a_set_may_misbehave_at_once(three):
    three.block(report=double_signed(K1, K2, K3))
    settle(three)
    assert len(powers(three)) == 1
    assert all(
        staked(three, who, HoldReason.SLASH) == 450 * PLANCK for who in (ALICE, BOB, CHARLIE)
    )


def test_who_loses_everything_has_nothing_to_withdraw():
    chain = LocalChain(spec((ALICE, K1, 3000), (BOB, K2, 3000), slash_share=1_000_000))
    unbond(chain, ALICE, 1000)
    chain.block(report=double_signed(K1))
    assert ledger(chain, ALICE) == StakingLedger(active=Balance(0), unlocking=())
    settle(chain)
    chain.do(ALICE, WITHDRAW)
    assert ledger(chain, ALICE) is None


@pytest.mark.parametrize("amount", [0, 1, 2, 33, 99, 100, 107])
def test_the_parts_of_a_slash_add_up_to_it(amount):
    parts = (1, 33, 0, 3, 70)
    before = StakingLedger(
        active=Balance(parts[0]),
        unlocking=tuple(
            UnlockChunk(value=Balance(part), at=Seconds(n)) for n, part in enumerate(parts[1:])
        ),
    )
    after = before.less(Balance(amount))
    assert before.total() - after.total() == amount
    assert all(chunk.value for chunk in after.unlocking)


# Who is absent.


def test_who_misses_too_much_of_an_era_is_chilled_and_may_come_again(three):
    three.block()
    for _ in range(MISSED):
        three.block(report=absent(K1))
        assert three.events(Chilled) == []
    three.block(report=absent(K1))
    assert three.events(Chilled) == [Chilled(account=ALICE.public, reason=ChillReason.OFFLINE)]
    settle(three)
    assert power(three, K1) == 0
    assert staked(three, ALICE) == 9000 * PLANCK
    assert staked(three, ALICE, HoldReason.SLASH) == 0
    three.do(ALICE, validate_call(three, ALICE, K1))
    next_era(three)
    settle(three)
    assert power(three, K1) == 9000


def test_every_era_counts_anew(three):
    for _ in range(4):
        next_era(three)
        for _ in range(MISSED):
            three.block(report=absent(K1, K2))
    assert is_candidate(three, ALICE)
    assert is_candidate(three, BOB)
    assert three.now().validators.missed.get(CHARLIE.public) is None


def test_the_last_of_the_set_is_not_taken_out_for_being_absent(three):
    for _ in range(3 * MISSED):
        three.block(report=absent(K1, K2, K3))
    three.advance(20)
    assert len(powers(three)) == 1


# The report.


def test_a_report_of_strangers_changes_nothing(three):
    everybody = tuple(ConsensusAddress(bytes([n]) * 20) for n in range(MAX_VALIDATORS))
    report = CommitReport(absent=everybody, misbehaviours=double_signed(K4).misbehaviours)
    outcome = three.block(report=report)
    assert [receipt.success for receipt in outcome.receipts] == [True, True]
    assert outcome.validator_updates == ()
    assert LocalChain().block(report=report).receipts[1].success


def test_a_block_has_a_report_only_where_there_is_one(three):
    assert len(three.block().extrinsics) == 1
    outcome = three.block(report=absent(K1))
    assert len(outcome.extrinsics) == 2
    context = three.context(report=absent(K1))
    executive, state = three.executive, three.state
    clock, told = executive.inherents(context)
    empty = inherent(Validators.report.make(absent=(), misbehaviours=()))
    other = inherent(Validators.report.make(absent=(address(K2),), misbehaviours=()))
    for body in (
        [clock],
        [told, clock],
        [clock, other],
        [clock, empty],
        [clock, told, told],
        [clock, told, clock],
    ):
        with pytest.raises(InvalidBlock):
            executive.apply_block(state, context, body)
    quiet = three.context()
    for body in ([clock, told], [clock, empty]):
        with pytest.raises(InvalidBlock):
            executive.apply_block(state, quiet, body)
        # Read back from the body, an empty report is none: such a body is no block.
        read = executive.context_of(quiet.number, quiet.parent_hash, quiet.author, body)
        assert (read.report == NOTHING_TO_REPORT) == (body[1] == empty)
    with pytest.raises(InvalidBlock):
        executive.apply_block(state, read, [clock, empty])


def test_a_report_and_the_hooks_touch_no_more_than_they_are_charged_for(three):
    for _ in range(MISSED):
        three.block(report=absent(K2))
    reported = CommitReport(
        absent=tuple(address(pair) for pair in (K1, K2, K4)),
        misbehaviours=double_signed(K1, K3, K4).misbehaviours,
    )
    call = Validators.report.make(absent=reported.absent, misbehaviours=reported.misbehaviours)
    reader = CountingReader(three.state)
    block = three.runtime.at(reader, three.head)
    assert block.dispatch(call, INHERENT) is None
    assert weight_of(reader, block) <= call.weight
    enter(three, DAVE, K4, 3000)
    reader = CountingReader(three.state)
    block = three.runtime.at(reader, three.head)
    block.timestamp.now.put(Moment(block.timestamp.now.get() + ERA * 1000))
    charged = block.validators.post_inherents()
    assert block.validators.updates.get()
    assert weight_of(reader, block) <= charged + WRITE


def weight_of(reader, block):
    return len(set(reader.keys)) * READ + len(block.context.journal.changes()) * WRITE


def test_who_signs_a_report_reports_nothing(three):
    call = Validators.report.make(absent=(address(K1),), misbehaviours=())
    assert three.refused(DAVE, call) == BadOriginError()
    assert three.now().validators.missed.get(ALICE.public) is None


# Genesis, and what nodes ask.


def test_the_validators_of_genesis_are_the_set(three):
    fresh = LocalChain(three.runtime.spec)
    assert powers(fresh) == {pair.public: 9000 for pair in (K1, K2, K3)}
    assert staked(fresh, ALICE) == 9000 * PLANCK
    assert fresh.free(ALICE) == (10**7 - 9000) * PLANCK
    assert all(is_candidate(fresh, who) for who in (ALICE, BOB, CHARLIE))
    assert fresh.head != LocalChain(spec((ALICE, K1, 9001), (BOB, K2, 9000))).head
    executive = fresh.executive
    assert executive.author_of(fresh.state, address(K2)) == BOB.public
    assert executive.author_of(fresh.state, address(K4)) == NO_AUTHOR


def file_with(*entries):
    file = {
        "constants": {
            "Machines": {"gpu_stake": 1, "core_stake": 1},
            "Rent": {"burn_schedule": []},
        },
        "genesis": {
            "root": None,
            "micro_usd_per_dbc": 1000,
            "source": None,
            "raw": None,
            "balances": {ALICE.address(): 10**5 * PLANCK},
            "validators": list(entries),
        },
        "id": "x",
        "name": "X",
        "target_interval_ms": 1000,
        "type": "Local",
    }
    return ChainSpec.parse(file)


def entry(who=ALICE, pair=K1, stake=10**4 * PLANCK):
    return {"stash": who.address(), "key": "0x" + pair.public.hex(), "stake": stake}


def test_a_spec_names_validators_that_have_their_stake():
    (found,) = file_with(entry()).validators
    assert found == (ALICE.public, ConsensusKey(K1.public), 10**4 * PLANCK)
    genesis_state(Runtime(file_with(entry())))
    for bad in (entry(stake=10**6 * PLANCK), entry(stake=1), entry(who=BOB)):
        with pytest.raises(BadChainSpec, match=r"genesis\.validators"):
            genesis_state(Runtime(file_with(bad)))


@pytest.mark.parametrize(
    "entries",
    [
        [entry(), entry(pair=K2)],
        [entry(), entry(who=BOB)],
        [entry() | {"name": "x"}],
        [{"stash": ALICE.address()}],
        [entry() | {"key": "0x12"}],
        [entry() | {"stake": -1}],
        [entry(key(f"x{n}"), key(f"y{n}", Scheme.ED25519)) for n in range(MAX_VALIDATORS + 1)],
    ],
)
def test_a_spec_with_a_slip_in_its_validators_is_refused(entries):
    with pytest.raises(BadChainSpec, match=r"genesis\.validators"):
        file_with(*entries)

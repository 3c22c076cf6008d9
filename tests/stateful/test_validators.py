"""Validators under random calls and reports, before an engine as strict as CometBFT.

After every block `LocalChain` checks every invariant, has its engine apply what it is told, and compares
the sets: who is unknown is never taken out, the set never emptied, no more than a third changed.
"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.runtime.local import (
    ALICE,
    BOB,
    CHARLIE,
    DAVE,
    EVE,
    LocalChain,
    address,
    consensus,
    load_spec,
    validate_call,
    with_validators,
)

from deepbrain.frame.account import HoldReason
from deepbrain.frame.consensus import (
    CommitReport,
    ConsensusAddress,
    Misbehaviour,
    MisbehaviourKind,
)
from deepbrain.pallets.offences import Offences, Outcome
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.validators import Validators
from deepbrain.primitives.ids import OffenceId
from deepbrain.primitives.units import PLANCK, Balance, BlockNumber

PEOPLE = [ALICE, BOB, CHARLIE, DAVE, EVE]
KEYS = [consensus(str(n)) for n in range(6)]
LEAST = 1000
SHARE = 50_000
people = st.sampled_from(PEOPLE)
amounts = st.one_of(
    st.sampled_from([0, 1, LEAST, 3 * LEAST, 10**6]).map(lambda dbc: dbc * PLANCK),
    st.integers(0, 3 * LEAST * PLANCK),
).map(Balance)
addresses = st.sampled_from([*map(address, KEYS), ConsensusAddress(bytes(20))])
misbehaviours = st.builds(
    lambda kind, who: Misbehaviour(kind=kind, validator=who, height=BlockNumber(1)),
    st.sampled_from(MisbehaviourKind),
    addresses,
)
# Proofs are rare: who was caught once is out for the rest of the run.
reports = st.builds(
    lambda absent, caught: CommitReport(absent=tuple(absent), misbehaviours=tuple(caught)),
    st.lists(addresses, max_size=6, unique=True),
    st.one_of(st.just([]), st.just([]), st.lists(misbehaviours, max_size=3)),
)


class ValidatorsMachine(RuleBasedStateMachine):
    @initialize(genesis=st.integers(0, 4), equal=st.booleans())
    def start(self, genesis, equal):
        spec = load_spec(
            Timestamp={"era_length": 8000},
            Validators={
                "unbonding": 12,
                "max_missed": 2,
                "max_validators": 3,
                "min_stake": LEAST * PLANCK,
                "slash_share": SHARE,
            },
            Offences={"slash_delay": 15},
        )
        stakes = (
            (who, pair, LEAST if equal else LEAST * (n + 1) ** 3)
            for n, (who, pair) in enumerate(zip(PEOPLE, KEYS, strict=False))
            if n < genesis
        )
        self.chain = LocalChain(with_validators(spec, *stakes))
        self.money = self.total()
        self.banned: set[bytes] = set()

    def total(self):
        balances = self.chain.now().balances
        return int(balances.total_issuance.get()) + int(balances.burned.get())

    @rule(who=people, value=amounts)
    def bond(self, who, value):
        self.chain.receipt(who, Validators.bond.make(value=value))

    @rule(who=people, value=amounts)
    def unbond(self, who, value):
        self.chain.receipt(who, Validators.unbond.make(value=value))

    @rule(who=people)
    def unbond_everything(self, who):
        ledger = self.chain.now().validators.ledger.get(who.public)
        if ledger is not None and ledger.active:
            self.chain.do(who, Validators.unbond.make(value=ledger.active))

    @rule(who=people, value=amounts)
    def rebond(self, who, value):
        self.chain.receipt(who, Validators.rebond.make(value=value))

    @rule(who=people)
    def withdraw(self, who):
        self.chain.receipt(who, Validators.withdraw_unbonded.make())

    @rule(who=people, pair=st.sampled_from(KEYS))
    def validate(self, who, pair):
        done = self.chain.receipt(who, validate_call(self.chain, who, pair)).success
        assert not (done and who.public in self.banned)

    @rule(who=people, pair=st.sampled_from(KEYS), more=st.integers(0, 5000))
    def enter(self, who, pair, more):
        self.bond(who, Balance((LEAST + more) * PLANCK))
        self.validate(who, pair)

    @rule(who=people)
    def chill(self, who):
        self.chain.receipt(who, Validators.chill.make())

    @rule(report=reports)
    def report(self, report):
        """It never fails; whoever is caught for the first time pays his share, and nobody twice."""
        before = self.chain.now()
        caught = {
            owner
            for each in report.misbehaviours
            if (owner := before.validators.owner_of(each.validator)) is not None
        }
        fresh = caught - self.banned
        expected = {
            who: int(before.validators.ledger.get(who).total()) * SHARE // 10**6 for who in fresh
        }
        first = int(before.offences.next_id.get())
        self.chain.block(report=report)
        offences = self.chain.now().offences
        made = [offences.offences.get(OffenceId(n)) for n in range(first, offences.next_id.get())]
        assert {each.offender: int(each.amount) for each in made} == {
            who: amount for who, amount in expected.items() if amount
        }
        assert len(made) <= len(fresh)
        self.banned |= caught

    @precondition(lambda self: self.chain.now().offences.next_id.get())
    @rule(data=st.data())
    def cancel(self, data):
        offences = self.chain.now().offences
        number = OffenceId(data.draw(st.integers(0, int(offences.next_id.get()) - 1)))
        due = offences.offences.get(number).due <= self.chain.now().timestamp.service() + 1
        pending = offences.offences.get(number).outcome is Outcome.PENDING
        call = Sudo.sudo.make(call=Offences.cancel.make(offence=number))
        assert self.chain.receipt(ALICE, call).success == (pending and not due)

    @rule(seconds=st.integers(1, 30), step=st.sampled_from([1, 3, 10]))
    def wait(self, seconds, step):
        for _ in range(0, seconds, step):
            self.chain.block(after_ms=step * 1000)

    @rule()
    def settle(self):
        """Left alone, the set becomes what it shall be, whatever it was."""
        for _ in range(120):
            if self.chain.now().validators.target.get() is None:
                return
            # So short that no era ends.
            self.chain.block(after_ms=1)
        raise AssertionError("the set never becomes its target")

    @invariant()
    def keeps_its_money_and_its_bans(self):
        block = self.chain.now()
        assert self.total() == self.money
        assert set(block.validators.tombstones.keys()) == self.banned
        for who in PEOPLE:
            held = [int(block.balances.held(who.public, reason)) for reason in HoldReason]
            assert sum(held) == self.chain.held(who)


TestValidators = ValidatorsMachine.TestCase

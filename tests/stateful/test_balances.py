"""Balances under random calls, against a dict and a pen."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.runtime.local import LocalChain

from deepbrain.frame.account import HoldReason
from deepbrain.frame.dispatch import FAILURES
from deepbrain.frame.errors import TokenFailure
from deepbrain.pallets.balances import HoldTooSmall, IssuanceExceeded
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import PLANCK, Balance

DEPOSIT = PLANCK // 100
people = st.sampled_from([AccountId(bytes([n]) * 32) for n in range(1, 5)])
reasons = st.sampled_from(list(HoldReason))
amounts = st.one_of(
    st.integers(0, 3 * DEPOSIT),
    st.sampled_from([DEPOSIT - 1, DEPOSIT, DEPOSIT + 1]),
    st.integers(0, 50 * PLANCK),
    st.just(int(Balance.MAX)),
).map(Balance)


class BalancesMachine(RuleBasedStateMachine):
    """The model: free and held per person; what vanishes is burned, what appears is issued."""

    @initialize()
    def start(self):
        self.chain = LocalChain()
        self.block = self.chain.now()
        self.free = {}
        self.held = {}
        self.burned = 0
        self.issued = 0

    def attempt(self, act) -> bool:
        """Do something the way the dispatcher does: all of it or nothing."""
        journal = self.block.context.journal
        mark = journal.mark()
        try:
            act()
        except FAILURES:
            journal.rollback(mark)
            return False
        return True

    def settle(self, who):
        """Burn what is dust, in the model."""
        holds = any(self.held.get((who, reason)) for reason in HoldReason)
        if 0 < self.free.get(who, 0) < DEPOSIT and not holds:
            self.burned += self.free[who]
            self.free[who] = 0

    def total(self, who):
        return self.free.get(who, 0) + sum(self.held.get((who, r), 0) for r in HoldReason)

    @rule(who=people, amount=amounts)
    def mint(self, who, amount):
        if self.attempt(lambda: self.block.balances.mint(who, amount)):
            self.free[who] = self.free.get(who, 0) + int(amount)
            self.issued += int(amount)
            self.settle(who)

    @rule(who=people, dest=people, amount=amounts, keep=st.booleans())
    def transfer(self, who, dest, amount, keep):
        balances = self.block.balances
        move = balances.transfer_keep_alive if keep else balances.transfer_allow_death
        possible = amount <= self.free.get(who, 0)
        if who != dest:
            possible &= self.total(dest) + int(amount) >= DEPOSIT
            possible &= not keep or self.total(who) - int(amount) >= DEPOSIT
        assert self.attempt(lambda: move(who, dest, amount)) == possible
        if possible and who != dest:
            self.free[who] = self.free.get(who, 0) - int(amount)
            self.settle(who)
            self.free[dest] = self.free.get(dest, 0) + int(amount)

    @rule(who=people, reason=reasons, amount=amounts)
    def hold(self, who, reason, amount):
        possible = amount <= self.free.get(who, 0)
        assert self.attempt(lambda: self.block.balances.hold(who, reason, amount)) == possible
        if possible:
            self.free[who] = self.free.get(who, 0) - int(amount)
            self.held[who, reason] = self.held.get((who, reason), 0) + int(amount)

    @rule(who=people, reason=reasons, amount=amounts)
    def release(self, who, reason, amount):
        possible = amount <= self.held.get((who, reason), 0)
        assert self.attempt(lambda: self.block.balances.release(who, reason, amount)) == possible
        if possible:
            self.held[who, reason] = self.held.get((who, reason), 0) - int(amount)
            self.free[who] = self.free.get(who, 0) + int(amount)
            self.settle(who)

    @rule(who=people, to=people, reason=reasons, amount=amounts)
    def pay_held(self, who, to, reason, amount):
        possible = amount <= self.held.get((who, reason), 0)
        pay = self.block.balances.pay_held
        assert self.attempt(lambda: pay(who, reason, to, amount)) == possible
        if possible:
            self.held[who, reason] = self.held.get((who, reason), 0) - int(amount)
            self.settle(who)
            self.free[to] = self.free.get(to, 0) + int(amount)
            self.settle(to)

    @rule(who=people, reason=reasons, other=reasons, amount=amounts)
    def transfer_hold(self, who, reason, other, amount):
        possible = amount <= self.held.get((who, reason), 0)
        move = self.block.balances.transfer_hold
        assert self.attempt(lambda: move(who, reason, other, amount)) == possible
        if possible:
            self.held[who, reason] = self.held.get((who, reason), 0) - int(amount)
            self.held[who, other] = self.held.get((who, other), 0) + int(amount)

    @rule(who=people, reason=reasons, amount=amounts)
    def burn_held(self, who, reason, amount):
        possible = amount <= self.held.get((who, reason), 0)
        burn = self.block.balances.burn_held
        assert self.attempt(lambda: burn(who, reason, amount)) == possible
        if possible:
            self.held[who, reason] = self.held.get((who, reason), 0) - int(amount)
            self.burned += int(amount)
            self.settle(who)

    @rule()
    def commit(self):
        """End the block: what was kept as values is read back from bytes."""
        self.chain.state.apply(self.block.context.journal.changes(), {})
        self.block = self.chain.now()

    @invariant()
    def agrees(self):
        balances, system = self.block.balances, self.block.system
        for who in {*self.free, *(who for who, _ in self.held)}:
            data = system.account_of(who).data
            assert data.free == self.free.get(who, 0)
            for reason in HoldReason:
                assert balances.held(who, reason) == self.held.get((who, reason), 0)
        genesis = balances.issued.get() - self.issued
        assert balances.burned.get() == self.burned
        assert balances.total_issuance.get() == genesis + self.issued - self.burned
        assert list(self.block.try_state()) == []


TestBalances = BalancesMachine.TestCase


def test_failures_are_the_declared_ones():
    assert issubclass(TokenFailure, FAILURES)
    assert issubclass(HoldTooSmall, FAILURES)
    assert issubclass(IssuanceExceeded, FAILURES)

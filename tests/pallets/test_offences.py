"""What is taken for an offence: out of reach at once, the treasury's in the end, or given back."""

from dataclasses import replace

import pytest
from tests.runtime.local import (
    ALICE,
    BOB,
    CHARLIE,
    LocalChain,
    consensus,
    double_signed,
    key,
    load_spec,
    with_validators,
)

from deepbrain.frame.account import HoldReason
from deepbrain.frame.dispatch import BadOriginError
from deepbrain.frame.traits import OffenceKind
from deepbrain.pallets import offences
from deepbrain.pallets.fees import TREASURY
from deepbrain.pallets.offences import DUE_PER_BLOCK, Offence, Offences, Outcome
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.validators import Validators
from deepbrain.primitives.ids import OffenceId
from deepbrain.primitives.units import PLANCK, Balance, Seconds

K1, K2, K3 = (consensus(name) for name in "123")
DELAY = 20
CUT = 450 * PLANCK
FIRST = OffenceId(0)


@pytest.fixture
def chain():
    figures = {"unbonding": 5, "min_stake": 1000 * PLANCK}
    spec = load_spec(Validators=figures, Offences={"slash_delay": DELAY})
    stakes = (ALICE, K1, 9000), (BOB, K2, 9000), (CHARLIE, K3, 9000)
    chain = LocalChain(with_validators(spec, *stakes))
    chain.block()
    return chain


def offence(chain, number=FIRST):
    return chain.now().offences.offences.get(number)


def cancel(number=FIRST):
    return Sudo.sudo.make(call=Offences.cancel.make(offence=number))


def on_hold(chain, who):
    return chain.now().balances.held(who.public, HoldReason.SLASH)


def test_a_slash_goes_to_the_treasury_when_it_is_due(chain):
    chain.block(report=double_signed(K2))
    now = chain.now().timestamp.service()
    assert offence(chain) == Offence(
        offender=BOB.public,
        kind=OffenceKind.DOUBLE_SIGN,
        amount=Balance(CUT),
        reported_at=now,
        due=Seconds(now + DELAY),
        outcome=Outcome.PENDING,
    )
    before = chain.free(TREASURY)
    chain.advance(DELAY - 1)
    assert on_hold(chain, BOB) == CUT
    assert chain.free(TREASURY) == before
    chain.block()
    assert chain.events(offences.Slashed) == [
        offences.Slashed(offence=FIRST, offender=BOB.public, amount=Balance(CUT))
    ]
    assert on_hold(chain, BOB) == 0
    assert chain.free(TREASURY) == before + CUT
    assert offence(chain).outcome is Outcome.SLASHED
    assert chain.refused(ALICE, cancel()) is offences.NotPending


def test_what_is_to_be_slashed_cannot_be_withdrawn(chain):
    chain.block(report=double_signed(K2))
    left = 9000 * PLANCK - CUT
    chain.do(BOB, Validators.unbond.make(value=Balance(left)))
    chain.advance(10)
    chain.do(BOB, Validators.withdraw_unbonded.make())
    assert on_hold(chain, BOB) == CUT
    assert chain.held(BOB) == CUT


def test_root_gives_it_back_before_it_is_due(chain):
    chain.block(report=double_signed(K2, K3))
    before, treasury = chain.free(BOB), chain.free(TREASURY)
    assert chain.refused(BOB, Offences.cancel.make(offence=FIRST)) == BadOriginError()
    assert chain.refused(ALICE, cancel(OffenceId(2))) is offences.NoSuchOffence
    chain.do(ALICE, cancel())
    assert chain.events(offences.SlashCancelled)
    assert PLANCK > before + CUT - chain.free(BOB) >= 0
    assert on_hold(chain, BOB) == 0
    assert offence(chain).outcome is Outcome.CANCELLED
    assert chain.refused(ALICE, cancel()) is offences.NotPending
    chain.advance(2 * DELAY)
    assert offence(chain).outcome is Outcome.CANCELLED
    assert offence(chain, OffenceId(1)).outcome is Outcome.SLASHED
    # Of the treasury's, what is no fee.
    assert PLANCK > chain.free(TREASURY) - treasury - CUT >= 0


def test_many_are_worked_off_over_several_blocks():
    everybody = [(key(f"s{n}"), consensus(f"s{n}")) for n in range(2 * DUE_PER_BLOCK + 1)]
    spec = load_spec(Offences={"slash_delay": DELAY}, Validators={"min_stake": PLANCK})
    people = tuple((who.public, Balance(100 * PLANCK)) for who, _ in everybody)
    rich = with_validators(spec, *((who, pair, 99) for who, pair in everybody))
    chain = LocalChain(replace(rich, balances=people))
    chain.block()
    chain.block(report=double_signed(*(pair for _, pair in everybody)))
    chain.advance(DELAY - 1)
    done = []
    for _ in range(4):
        chain.block()
        done.append(len(chain.events(offences.Slashed)))
    assert done == [DUE_PER_BLOCK, DUE_PER_BLOCK, 1, 0]


def test_a_slash_that_fails_is_parked_and_stops_no_block(chain):
    chain.block(report=double_signed(K2))
    # Something that cannot happen: the money is gone.
    block = chain.now()
    block.balances.release(BOB.public, HoldReason.SLASH, Balance(CUT))
    chain.state.apply(block.context.journal.changes(), {})
    for _ in range(DELAY + 1):
        context = chain.context()
        proposal = chain.executive.propose(chain.state, context, (), chain.verified)
        chain.state.apply(proposal.outcome.changes, {})
        chain.number, chain.moment = context.number, context.moment
    assert chain.now().offences.parked.get(FIRST) == ()
    assert offence(chain).outcome is Outcome.PENDING
    held = chain.now()
    held.balances.hold(BOB.public, HoldReason.SLASH, Balance(CUT))
    chain.state.apply(held.context.journal.changes(), {})
    chain.do(ALICE, cancel())
    assert chain.now().offences.parked.get(FIRST) is None

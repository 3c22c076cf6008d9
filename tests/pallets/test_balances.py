"""Money: moved, set aside, burned; counted to the planck."""

import pytest
from tests.runtime.local import ALICE, BOB, EVE, LocalChain, key

from deepbrain.frame.dispatch import Arithmetic, Token
from deepbrain.frame.errors import TokenError
from deepbrain.pallets.balances import Balances, DustLost, Transfer
from deepbrain.pallets.system import KilledAccount, NewAccount
from deepbrain.primitives.units import PLANCK, Balance

DEPOSIT = PLANCK // 100
STRANGER = key("stranger")


@pytest.fixture
def chain():
    return LocalChain()


def issuance(chain):
    balances = chain.now().balances
    return int(balances.total_issuance.get()), int(balances.burned.get())


def test_a_transfer_moves_money_and_pays_a_fee(chain):
    before = chain.free(ALICE), chain.free(BOB)
    chain.do(ALICE, Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(5 * PLANCK)))
    assert chain.free(BOB) == before[1] + 5 * PLANCK
    assert 0 < before[0] - 5 * PLANCK - chain.free(ALICE) < PLANCK // 1000
    (event,) = chain.events(Transfer)
    assert (event.from_, event.to, event.amount) == (ALICE.public, BOB.public, 5 * PLANCK)


def test_a_new_account_needs_the_existential_deposit(chain):
    less = Balances.transfer_keep_alive.make(dest=STRANGER.public, value=Balance(DEPOSIT - 1))
    assert chain.refused(ALICE, less) == Token(value=TokenError.BELOW_MINIMUM)
    enough = Balances.transfer_keep_alive.make(dest=STRANGER.public, value=Balance(DEPOSIT))
    chain.do(ALICE, enough)
    assert chain.events(NewAccount) == [NewAccount(account=STRANGER.public)]
    assert chain.free(STRANGER) == DEPOSIT


def test_nobody_spends_what_is_not_there(chain):
    call = Balances.transfer_allow_death.make(dest=BOB.public, value=Balance(10**9 * PLANCK))
    assert chain.refused(ALICE, call) == Token(value=TokenError.FUNDS_UNAVAILABLE)


def test_an_amount_beyond_the_range_is_a_failure_not_a_crash(chain):
    call = Balances.burn.make(value=Balance(Balance.MAX), keep_alive=True)
    reason = chain.refused(ALICE, call)
    assert isinstance(reason, Token | Arithmetic)


def test_keep_alive_refuses_to_leave_dust(chain):
    rest = chain.free(EVE) - DEPOSIT // 2
    call = Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(rest))
    reason = chain.refused(EVE, call)
    assert reason in (
        Token(value=TokenError.NOT_EXPENDABLE),
        Token(value=TokenError.FUNDS_UNAVAILABLE),
    )


def test_dust_is_burned_and_counted_and_an_account_that_signed_stays(chain):
    total, burned = issuance(chain)
    fee = 10**12
    call = Balances.transfer_allow_death.make(dest=BOB.public, value=Balance(chain.free(EVE) - fee))
    chain.do(EVE, call)
    (lost,) = chain.events(DustLost)
    assert lost.account == EVE.public
    assert issuance(chain) == (total - lost.amount, burned + lost.amount)
    info = chain.now().system.account.get(EVE.public)
    assert info is not None
    assert (info.nonce, info.data.free) == (1, 0)
    assert chain.events(KilledAccount) == []


def test_all_can_be_sent_but_for_what_keeps_the_account(chain):
    chain.do(EVE, Balances.transfer_all.make(dest=BOB.public, keep_alive=True))
    assert chain.free(EVE) == DEPOSIT


def test_burning_lowers_the_issuance_for_good(chain):
    total, burned = issuance(chain)
    chain.do(ALICE, Balances.burn.make(value=Balance(7 * PLANCK), keep_alive=True))
    assert issuance(chain) == (total - 7 * PLANCK, burned + 7 * PLANCK)


def test_sending_to_oneself_changes_nothing_but_the_fee(chain):
    before = chain.free(ALICE)
    chain.do(ALICE, Balances.transfer_keep_alive.make(dest=ALICE.public, value=Balance(PLANCK)))
    assert 0 < before - chain.free(ALICE) < PLANCK // 1000


def test_a_failed_call_pays_its_fee_and_does_nothing_else(chain):
    before = chain.free(ALICE), chain.free(BOB)
    call = Balances.transfer_allow_death.make(dest=BOB.public, value=Balance(10**9 * PLANCK))
    chain.refused(ALICE, call)
    assert chain.free(BOB) == before[1]
    assert chain.free(ALICE) < before[0]
    assert chain.now().system.account_of(ALICE.public).nonce == 1

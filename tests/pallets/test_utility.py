"""Batches: what is kept and what is undone when one call of several fails."""

import pytest
from tests.runtime.local import ALICE, BOB, CHARLIE, LocalChain

from deepbrain.frame.calls import MAX_CALLS
from deepbrain.frame.dispatch import (
    BadOriginError,
    ErrorIndex,
    Module,
    ModuleError,
    Token,
    TokenError,
)
from deepbrain.frame.events import EventRecord
from deepbrain.frame.weight import EXTRINSIC
from deepbrain.pallets import oracle, sudo
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.oracle import Oracle
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import System
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.pallets.utility import (
    ITEM,
    BatchCompleted,
    BatchCompletedWithErrors,
    BatchInterrupted,
    ItemCompleted,
    ItemFailed,
    Utility,
)
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.units import PLANCK, U8, U32, Balance, MicroUsd, Moment

POOR = Token(value=TokenError.FUNDS_UNAVAILABLE)


@pytest.fixture
def chain():
    return LocalChain()


def pay(who, dbc=1):
    return Balances.transfer_keep_alive.make(dest=who.public, value=Balance(dbc * PLANCK))


TOO_MUCH = pay(CHARLIE, 10**9)


def of_utility(chain):
    records = chain.runtime.events.decode(chain.now().system.events.get())
    assert all(isinstance(record, EventRecord) for record in records)
    return [record.event for record in records if record.pallet == Utility.index]


def test_a_batch_makes_every_call_in_order(chain):
    before = chain.free(BOB), chain.free(CHARLIE)
    chain.do(ALICE, Utility.batch.make(calls=(pay(BOB), pay(CHARLIE, 2), pay(BOB, 4))))
    assert (chain.free(BOB), chain.free(CHARLIE)) == (
        before[0] + 5 * PLANCK,
        before[1] + 2 * PLANCK,
    )
    assert of_utility(chain) == [*[ItemCompleted()] * 3, BatchCompleted()]


def test_a_batch_stops_at_the_first_failure_and_keeps_what_was_done(chain):
    before = chain.free(BOB)
    chain.do(ALICE, Utility.batch.make(calls=(pay(BOB), TOO_MUCH, pay(BOB))))
    assert chain.free(BOB) == before + PLANCK
    assert of_utility(chain) == [ItemCompleted(), BatchInterrupted(index=U32(1), error=POOR)]


def test_batch_all_makes_all_or_none_and_fails_for_the_reason_of_the_call(chain):
    before = chain.free(BOB)
    reason = chain.refused(ALICE, Utility.batch_all.make(calls=(pay(BOB), TOO_MUCH)))
    assert reason == POOR
    assert chain.free(BOB) == before
    assert of_utility(chain) == []
    call = Sudo.sudo.make(call=Oracle.set_price.make(micro_usd=MicroUsd(0)))
    assert chain.refused(ALICE, Utility.batch_all.make(calls=(pay(BOB), call))) is oracle.ZeroPrice
    chain.do(ALICE, Utility.batch_all.make(calls=(pay(BOB), pay(BOB))))
    assert chain.free(BOB) == before + 2 * PLANCK


def test_force_batch_goes_on_after_a_failure(chain):
    before = chain.free(BOB)
    denied = Oracle.set_price.make(micro_usd=MicroUsd(1))
    chain.do(ALICE, Utility.force_batch.make(calls=(TOO_MUCH, pay(BOB), denied)))
    assert chain.free(BOB) == before + PLANCK
    assert of_utility(chain) == [
        ItemFailed(error=POOR),
        ItemCompleted(),
        ItemFailed(error=BadOriginError()),
        BatchCompletedWithErrors(),
    ]
    chain.do(ALICE, Utility.force_batch.make(calls=(pay(BOB),)))
    assert of_utility(chain)[-1] == BatchCompleted()


def test_an_empty_batch_is_a_batch(chain):
    for kind in (Utility.batch, Utility.batch_all, Utility.force_batch):
        chain.do(ALICE, kind.make(calls=()))
        assert of_utility(chain) == [BatchCompleted()]


def test_a_declared_error_is_told_with_its_pallet(chain):
    chain.do(BOB, Utility.batch.make(calls=(Sudo.sudo.make(call=pay(BOB)),)))
    index = ErrorIndex(bytes((sudo.RequireSudo.index, 0, 0, 0)))
    error = Module(value=ModuleError(index=U8(Sudo.index), error=index))
    assert of_utility(chain) == [BatchInterrupted(index=U32(0), error=error)]


def test_batches_nest_and_an_inner_failure_stays_inside(chain):
    before = chain.free(BOB)
    inner = Utility.batch_all.make(calls=(pay(BOB), TOO_MUCH))
    chain.do(ALICE, Utility.batch.make(calls=(pay(BOB), inner, pay(BOB))))
    assert chain.free(BOB) == before + PLANCK
    again = Utility.force_batch.make(calls=(pay(BOB), inner, pay(BOB)))
    chain.do(ALICE, again)
    assert chain.free(BOB) == before + 3 * PLANCK


def test_root_may_batch_and_nobody_makes_the_blocks_own_calls(chain):
    prices = tuple(Oracle.set_price.make(micro_usd=MicroUsd(price)) for price in (5000, 6000))
    chain.do(ALICE, Sudo.sudo.make(call=Utility.batch_all.make(calls=prices)))
    assert chain.now().oracle.price.get().micro_usd == 6000
    clock = Timestamp.set.make(now=Moment(1))
    assert chain.refused(ALICE, Utility.batch_all.make(calls=(clock,))) == BadOriginError()
    rooted = Sudo.sudo.make(call=Utility.batch_all.make(calls=(clock,)))
    assert chain.refused(ALICE, rooted) == BadOriginError()


def test_a_batch_weighs_what_its_calls_weigh(chain):
    calls = (pay(BOB), System.remark.make(remark=b"x" * 100))
    batch = Utility.batch.make(calls=calls)
    assert batch.weight == sum(each.weight + ITEM for each in calls)
    receipt = chain.do(ALICE, batch)
    assert receipt.weight == batch.weight + EXTRINSIC


def test_a_batch_of_too_many_and_too_deep_is_no_call(chain):
    table = chain.runtime.calls
    remark = System.remark.make(remark=b"")
    most = Utility.batch.make(calls=(remark,) * MAX_CALLS)
    assert table.decode(most.encode()) == most
    with pytest.raises(DecodeError, match=f"at most {MAX_CALLS} calls"):
        table.decode(Utility.batch.make(calls=(remark,) * (MAX_CALLS + 1)).encode())
    deep = remark
    for _ in range(8):
        deep = Utility.batch.make(calls=(deep,))
    assert table.decode(deep.encode()) == deep
    with pytest.raises(DecodeError, match="nest deeper"):
        table.decode(Utility.batch.make(calls=(deep,)).encode())
    with pytest.raises(DecodeError):
        table.decode(most.encode()[:-1])

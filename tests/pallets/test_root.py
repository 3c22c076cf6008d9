"""Root: what it may do, and the day it may no more."""

import pytest
from tests.runtime.local import ALICE, BOB, START, LocalChain, load_spec

from deepbrain.frame.dispatch import BadOriginError
from deepbrain.pallets import oracle, sudo, system
from deepbrain.pallets.oracle import Oracle
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import CODE_KEY, Code, CodeUpdated, System, Upgrade
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import U32, BlockNumber, MicroUsd
from deepbrain.runtime.runtime import version_for

SOURCE = Hash(bytes([7]) * 32)


@pytest.fixture
def chain():
    return LocalChain()


def as_root(call):
    return Sudo.sudo.make(call=call)


def test_root_sets_the_price_and_nobody_else(chain):
    call = Oracle.set_price.make(micro_usd=MicroUsd(5000))
    assert chain.refused(ALICE, call) == BadOriginError()
    assert chain.refused(BOB, as_root(call)) is sudo.RequireSudo
    chain.do(ALICE, as_root(call))
    price = chain.now().oracle.price.get()
    assert (price.micro_usd, price.set_at) == (5000, START + 3000)


def test_a_root_call_that_fails_says_why(chain):
    call = as_root(Oracle.set_price.make(micro_usd=MicroUsd(0)))
    assert chain.refused(ALICE, call) is oracle.ZeroPrice


def test_root_can_be_handed_on(chain):
    chain.do(ALICE, Sudo.set_key.make(new=BOB.public))
    assert chain.refused(ALICE, Sudo.set_key.make(new=ALICE.public)) is sudo.RequireSudo
    chain.do(BOB, Sudo.set_key.make(new=ALICE.public))


def test_from_the_sunset_on_the_runtime_refuses_root():
    chain = LocalChain(load_spec(Sudo={"root_lifetime": 5000}))
    call = as_root(Oracle.set_price.make(micro_usd=MicroUsd(5000)))
    chain.block()
    chain.do(ALICE, call)
    chain.block(after_ms=3000)
    assert chain.refused(ALICE, call) is sudo.SunsetPassed
    assert chain.refused(ALICE, Sudo.set_key.make(new=BOB.public)) is sudo.SunsetPassed


def test_an_upgrade_names_a_newer_version_and_a_later_block(chain):
    def schedule(version, block):
        call = System.schedule_upgrade.make(
            spec_version=U32(version), source=SOURCE, block=BlockNumber(block)
        )
        return as_root(call)

    assert chain.refused(ALICE, schedule(1, 100)) is system.NotNewer
    assert chain.refused(ALICE, schedule(2, 2)) is system.TooSoon
    chain.do(ALICE, schedule(2, 6))
    assert chain.now().system.upgrade.get() == Upgrade(
        spec_version=U32(2), source=SOURCE, block=BlockNumber(6)
    )
    assert (version_for(chain.state, 5), version_for(chain.state, 6)) == (1, 2)


def test_with_an_upgrade_the_code_changes_and_the_digest_says_so(chain):
    call = System.schedule_upgrade.make(spec_version=U32(2), source=SOURCE, block=BlockNumber(3))
    chain.do(ALICE, as_root(call))
    before = chain.state.get(CODE_KEY)
    assert not chain.block().upgraded
    outcome = chain.block()
    assert outcome.upgraded
    assert chain.events(CodeUpdated) == [CodeUpdated()]
    assert chain.state.get(CODE_KEY) != before
    assert Code.decode(chain.state.get(CODE_KEY)).source == SOURCE
    assert not chain.block().upgraded


def test_remarks_leave_no_trace_but_their_hash(chain):
    receipt = chain.do(BOB, System.remark_with_event.make(remark=b"hello"))
    assert receipt.success
    (event,) = chain.events(system.Remarked)
    assert event.sender == BOB.public

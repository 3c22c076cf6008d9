"""Calls as values, dispatch as all or nothing, pallets that are declared wrongly."""

import pytest
from tests.runtime.local import ALICE, BOB, LocalChain, load_spec

from deepbrain.frame.calls import call
from deepbrain.frame.dispatch import BadOriginError, Module, read_error, wire_error
from deepbrain.frame.errors import BadOrigin, PalletError, ensure
from deepbrain.frame.origin import INHERENT, ROOT, Signed
from deepbrain.frame.pallet import Event, Pallet
from deepbrain.pallets.balances import Balances, HoldTooSmall
from deepbrain.pallets.oracle import Oracle
from deepbrain.pallets.rent import NoSuchOrder, Rent
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import System
from deepbrain.primitives.errors import ArithmeticFailure, DecodeError
from deepbrain.primitives.units import PLANCK, U8, Balance, MicroUsd
from deepbrain.runtime.executive import BlockBuilder
from deepbrain.runtime.runtime import Runtime


@pytest.fixture(scope="module")
def runtime():
    return Runtime(load_spec())


def test_a_call_is_made_by_name_or_place_and_never_half():
    by_name = Balances.burn.make(value=Balance(5), keep_alive=True)
    assert by_name == Balances.burn.make(Balance(5), True)
    assert by_name.argument("value") == 5
    assert by_name.name == "Balances.burn"
    for arguments in ((), (Balance(5),), (Balance(5), True, 1)):
        with pytest.raises(TypeError, match="burn takes value, keep_alive"):
            Balances.burn.make(*arguments)
    with pytest.raises(TypeError):
        Balances.burn.make(Balance(5), alive=True)


def test_every_call_survives_its_bytes(runtime):
    for made in (
        Balances.transfer_allow_death.make(dest=BOB.public, value=Balance(PLANCK)),
        Sudo.sudo.make(call=Oracle.set_price.make(micro_usd=MicroUsd(3))),
        Rent.close.make(order=7, exit_code=U8(9)),
        System.remark.make(remark=b"x" * 4096),
    ):
        assert runtime.calls.decode(made.encode()) == made
        with pytest.raises(DecodeError):
            runtime.calls.decode(made.encode() + b"\0")
        with pytest.raises(DecodeError):
            runtime.calls.decode(made.encode()[:-1])
    for junk in (b"", b"\x04", b"\x04\x63", b"\x63\0"):
        with pytest.raises(DecodeError):
            runtime.calls.decode(junk)
    too_long = bytes((0, 0)) + (4097 << 2 | 1).to_bytes(2, "little") + bytes(4097)
    with pytest.raises(DecodeError):
        runtime.calls.decode(too_long)


def test_an_account_in_a_call_is_a_multi_address_with_an_account_id(runtime):
    made = Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(1))
    raw = made.encode()
    assert raw == bytes((4, 3, 0)) + BOB.public + b"\4"
    assert runtime.calls.decode(raw) == made
    for kind in (1, 2, 3, 4, 5):
        with pytest.raises(DecodeError, match="other than an account id"):
            runtime.calls.decode(raw[:2] + bytes((kind,)) + raw[3:])
    for cut in range(2, len(raw)):
        with pytest.raises(DecodeError):
            runtime.calls.decode(raw[:cut])


def test_weight_follows_the_size_and_what_is_inside():
    short, long = System.remark.make(remark=b""), System.remark.make(remark=b"x" * 100)
    assert long.weight > short.weight
    inner = Oracle.set_price.make(micro_usd=MicroUsd(3))
    assert Sudo.sudo.make(call=inner).weight > inner.weight


@pytest.mark.parametrize("origin", [ALICE.public, INHERENT, ROOT])
def test_an_origin_that_does_not_fit_runs_nothing(origin):
    block = LocalChain().now()
    root_call = Oracle.set_price.make(micro_usd=MicroUsd(9))
    signed_call = Balances.burn.make(value=Balance(1), keep_alive=True)
    assert (block.dispatch(root_call, origin) is None) == (origin is ROOT)
    failure = block.dispatch(signed_call, origin)
    assert isinstance(failure, BadOrigin) == (origin is not ALICE.public)


def test_failures_travel_as_their_pallet_and_index(runtime):
    for error in (HoldTooSmall, NoSuchOrder):
        wire = wire_error(error(), runtime.pallet_of_error)
        assert isinstance(wire, Module)
        assert read_error(wire, runtime.errors) is error
    assert wire_error(BadOrigin(), {}) == BadOriginError()
    assert read_error(BadOriginError(), runtime.errors) == BadOriginError()
    assert str(NoSuchOrder()) == "No order has this id, or it was removed after its end."


def test_a_bug_is_no_result(monkeypatch):
    chain = LocalChain()

    def broken(self, who, value, keep_alive):
        self.total_issuance.put(Balance(0))
        raise ZeroDivisionError

    monkeypatch.setattr(Balances.burn.definition, "function", broken)
    bad = chain.signed(ALICE, Balances.burn.make(value=Balance(1), keep_alive=True))
    good = chain.signed(
        BOB, Balances.transfer_keep_alive.make(dest=ALICE.public, value=Balance(PLANCK))
    )
    context = chain.context()
    proposal = chain.executive.propose(chain.state, context, [bad, good], chain.verified)
    assert (proposal.extrinsics, proposal.bad) == ((good,), (bad,))
    body = [*chain.executive.inherents(context), bad]
    with pytest.raises(ZeroDivisionError):
        chain.executive.apply_block(chain.state, context, body, chain.verified)
    builder = chain.executive.builder(chain.state, context, chain.verified)
    assert isinstance(builder, BlockBuilder)
    before = builder.block.balances.total_issuance.get()
    with pytest.raises(ZeroDivisionError):
        builder.push(chain.executive.decode(bad))
    assert builder.block.balances.total_issuance.get() == before
    assert builder.block.system.account_of(ALICE.public).nonce == 0
    assert list(builder.block.try_state()) == []


def test_pallets_declared_wrongly_are_refused_at_once():
    with pytest.raises(TypeError, match="index 0 is taken"):

        class Twice(Pallet, index=97):
            @call(0, reads=0, writes=0)
            def one(self, who: Signed) -> None: ...

            @call(0, reads=0, writes=0)
            def two(self, who: Signed) -> None: ...

    with pytest.raises(TypeError, match="Signed, Root, Inherent or Anyone"):

        class NoOrigin(Pallet, index=97):
            @call(0, reads=0, writes=0)
            def one(self, amount: Balance) -> None: ...

    with pytest.raises(TypeError):

        class Unnumbered(PalletError, index=256):
            """No such index."""


def test_ensure_raises_what_it_is_given():
    ensure(True, NoSuchOrder)
    with pytest.raises(NoSuchOrder):
        ensure(False, NoSuchOrder)
    with pytest.raises(ArithmeticFailure):
        Balance(1) - 2
    assert issubclass(Event, object)

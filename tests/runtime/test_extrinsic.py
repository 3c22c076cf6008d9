"""Extrinsics from outside: strict, bounded, and judged in the order of cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.primitives.ecdsa import EcdsaPair
from tests.runtime.local import ALICE, BOB, CHARLIE, LocalChain, key

from deepbrain.pallets.balances import Balances
from deepbrain.pallets.oracle import Oracle
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import System
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.keys import Scheme
from deepbrain.primitives.units import PLANCK, Balance, MicroUsd, Moment
from deepbrain.runtime.era import IMMORTAL, Era
from deepbrain.runtime.errors import Invalid, InvalidBlock, InvalidTransaction
from deepbrain.runtime.extrinsic import MAX_EXTRINSIC, Signing, inherent, sign
from deepbrain.scale import encode_compact

CALL = Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(PLANCK))


@pytest.fixture(scope="module")
def chain():
    chain = LocalChain(verify=True)
    for _ in range(5):
        chain.block()
    return chain


def refusal(chain, raw):
    with pytest.raises(InvalidTransaction) as caught:
        chain.executive.validate(chain.state, chain.head, raw)
    return caught.value.kind


def test_a_good_extrinsic_says_what_it_needs(chain):
    raw = chain.signed(ALICE, CALL, tip=1000)
    validity = chain.executive.validate(chain.state, chain.head, raw)
    assert (validity.sender, validity.nonce, validity.tip) == (ALICE.public, 0, 1000)
    assert validity.requires == ()
    ahead = chain.executive.validate(chain.state, chain.head, chain.signed(ALICE, CALL, ahead=2))
    assert ahead.requires != ()
    assert ahead.nonce == 2
    richer = chain.executive.validate(chain.state, chain.head, chain.signed(ALICE, CALL, tip=10**9))
    assert richer.priority > validity.priority


def test_root_calls_come_first(chain):
    call = Sudo.sudo.make(call=Oracle.set_price.make(micro_usd=MicroUsd(1)))
    operational = chain.executive.validate(chain.state, chain.head, chain.signed(ALICE, call))
    tipped = chain.executive.validate(
        chain.state, chain.head, chain.signed(ALICE, CALL, tip=10**15)
    )
    assert operational.priority > tipped.priority


@pytest.mark.parametrize("scheme", Scheme)
def test_every_scheme_signs(chain, scheme):
    payer = EcdsaPair(b"\5" * 32) if scheme is Scheme.ECDSA else key("payer", scheme)
    raw = sign(CALL, payer, chain.executive.signing, nonce=0)
    assert refusal(chain, raw) is Invalid.PAYMENT
    own = LocalChain(verify=True)
    own.do(ALICE, Balances.transfer_keep_alive.make(dest=payer.public, value=Balance(9 * PLANCK)))
    own.do(payer, CALL)


def test_an_ecdsa_signature_is_its_accounts_alone(chain):
    own = LocalChain(verify=True)
    payer = EcdsaPair(b"\5" * 32)
    own.do(ALICE, Balances.transfer_keep_alive.make(dest=payer.public, value=Balance(9 * PLANCK)))
    good = own.signed(payer, CALL)
    own.executive.validate(own.state, own.head, good)
    at = len(encode_compact(len(good))) + 1 + 1 + 32 + 1
    for place, value in (
        (at, good[at] ^ 1),
        (at + 64, good[at + 64] ^ 1),
        (at + 64, 4),
        (at + 64, 255),
    ):
        bad = good[:place] + bytes((value,)) + good[place + 1 :]
        assert refusal(own, bad) is Invalid.BAD_PROOF
    zeros = good[:at] + bytes(65) + good[at + 65 :]
    assert refusal(own, zeros) is Invalid.BAD_PROOF
    for cut in (at, at + 1, at + 64):
        body = good[at - 35 : cut]
        with pytest.raises(DecodeError, match="ends inside a signature"):
            own.executive.decode(encode_compact(len(body)) + body)
    longer = sign(System.remark.make(remark=b"x" * 300), payer, own.executive.signing, nonce=1)
    own.executive.validate(own.state, own.head, longer)


@pytest.mark.parametrize("period", [4, 64, 4096])
def test_mortal_extrinsics_live_from_their_birth(chain, period):
    era = Era.mortal(period, chain.number)
    birth = era.birth(chain.number)
    known = chain.now().system.block_hash.get(birth)
    hash_of_birth = chain.head if birth == chain.number else known
    raw = chain.signed(ALICE, CALL, era=era, birth=hash_of_birth)
    validity = chain.executive.validate(chain.state, chain.head, raw)
    assert validity.longevity == birth + period
    assert birth <= chain.number < birth + period
    other = chain.signed(ALICE, CALL, era=era, birth=Hash(bytes(32)))
    assert refusal(chain, other) is Invalid.BAD_PROOF


def test_an_extrinsic_that_outlived_its_era_is_of_another_birth():
    chain = LocalChain(verify=True)
    for _ in range(4):
        chain.block()
    era = Era.mortal(4, chain.number)
    raw = chain.signed(ALICE, CALL, era=era, birth=chain.head)
    chain.executive.validate(chain.state, chain.head, raw)
    for _ in range(4):
        chain.block()
    assert refusal(chain, raw) is Invalid.BAD_PROOF


def test_a_birth_of_which_nothing_is_known_is_ancient(chain):
    system = chain.now().system
    assert system.block_hash_count == 4096
    era = Era(8192, 8000)
    raw = chain.signed(ALICE, CALL, era=era, birth=Hash(bytes(32)))
    assert refusal(chain, raw) is Invalid.ANCIENT_BIRTH_BLOCK


def test_what_does_not_fit_the_account_is_refused(chain):
    own = LocalChain()
    own.do(ALICE, CALL)
    old = own.signed(ALICE, CALL, ahead=-1)
    assert refusal(own, old) is Invalid.STALE
    poor = sign(CALL, key("nobody"), own.executive.signing, nonce=0)
    assert refusal(own, poor) is Invalid.PAYMENT
    assert refusal(own, own.signed(ALICE, CALL, tip=Balance.MAX)) is Invalid.PAYMENT


def test_a_signature_is_bound_to_chain_and_version(chain):
    signing = chain.executive.signing
    for other in (
        Signing(signing.spec_version + 1, signing.transaction_version, signing.genesis),
        Signing(signing.spec_version, signing.transaction_version + 1, signing.genesis),
        Signing(signing.spec_version, signing.transaction_version, Hash(bytes(32))),
    ):
        assert refusal(chain, sign(CALL, ALICE, other, nonce=0)) is Invalid.BAD_PROOF
    raw = bytearray(chain.signed(ALICE, CALL))
    raw[-1] ^= 1
    assert refusal(chain, bytes(raw)) is Invalid.BAD_PROOF


def test_inherents_cannot_be_submitted(chain):
    raw = inherent(Timestamp.set.make(now=Moment(1)))
    assert refusal(chain, raw) is Invalid.CALL
    signed = LocalChain()
    receipt = signed.receipt(ALICE, Timestamp.set.make(now=Moment(1)))
    assert not receipt.success


def test_a_block_starts_with_its_own_time_and_nothing_else(chain):
    context = chain.context()
    body = [*chain.executive.inherents(context), *chain.executive.inherents(context)]
    for wrong in ([], body, [chain.signed(CHARLIE, CALL)]):
        with pytest.raises(InvalidBlock):
            chain.executive.apply_block(chain.state, context, wrong)


def test_a_block_with_a_bad_signature_is_no_block(chain):
    context = chain.context()
    raw = bytearray(chain.signed(CHARLIE, CALL))
    raw[60] ^= 1
    body = [*chain.executive.inherents(context), bytes(raw)]
    with pytest.raises(InvalidBlock, match="bad signature"):
        chain.executive.apply_block(chain.state, context, body)


def test_a_proposer_leaves_out_what_cannot_enter(chain):
    good, ahead = chain.signed(CHARLIE, CALL), chain.signed(BOB, CALL, ahead=3)
    bad = bytearray(chain.signed(ALICE, CALL))
    bad[60] ^= 1
    proposal = chain.executive.propose(
        chain.state, chain.context(), [b"", good, ahead, bytes(bad), b"\xff" * 40]
    )
    assert proposal.extrinsics == (good,)
    assert proposal.bad == (b"", bytes(bad), b"\xff" * 40)


@pytest.mark.parametrize("size", [0, 1, 50, 130, 144])
def test_a_cut_extrinsic_is_malformed(chain, size):
    raw = chain.signed(ALICE, CALL)
    body = raw[2:][:size]
    with pytest.raises(DecodeError):
        chain.executive.decode(encode_compact(len(body)) + body)
    with pytest.raises(DecodeError):
        chain.executive.decode(raw[:size])


def test_only_one_form_of_an_extrinsic_is_understood(chain):
    raw = chain.signed(ALICE, CALL)
    body = raw[2:]

    def changed(at, value):
        other = body[:at] + bytes([value]) + body[at + 1 :]
        return encode_compact(len(other)) + other

    for at, value in ((0, 0x85), (1, 1), (34, 2), (34, 9), (101, 1)):
        with pytest.raises(DecodeError):
            chain.executive.decode(changed(at, value))
    with pytest.raises(DecodeError):
        chain.executive.decode(encode_compact(len(body) + 1) + body + b"\0")
    with pytest.raises(DecodeError):
        chain.executive.decode(bytes(MAX_EXTRINSIC + 1))


def test_calls_nest_eight_deep_and_no_deeper(chain):
    call = CALL
    for _ in range(8):
        call = Sudo.sudo.make(call=call)
    assert chain.runtime.calls.decode(call.encode()) == call
    with pytest.raises(DecodeError, match="nest"):
        chain.runtime.calls.decode(Sudo.sudo.make(call=call).encode())
    with pytest.raises(DecodeError):
        chain.runtime.calls.decode(bytes((8, 0)) * 50_000)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_extrinsic_or_malformed(data):
    chain = LocalChain()
    for raw in (data, encode_compact(len(data)) + data):
        try:
            decoded = chain.executive.decode(raw)
        except DecodeError:
            continue
        assert decoded.raw == raw


@given(st.integers(2, 16), st.integers(0, 1 << 20), st.integers(0, 1 << 16))
def test_an_era_is_what_it_encodes(exponent, current, later):
    era = Era.mortal(1 << exponent, current)
    assert Era.decode_at(era.encode(), 0) == (era, 2)
    birth = era.birth(current)
    assert birth <= current < birth + era.period
    assert era.birth(current + later) % era.period == era.phase
    assert Era.decode_at(b"\0", 0) == (IMMORTAL, 1)

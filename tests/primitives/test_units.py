import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbrain.primitives.errors import ArithmeticFailure, ArithmeticKind, DecodeError
from deepbrain.primitives.hashing import blake2_128, blake2_256, twox_64, twox_128
from deepbrain.primitives.ids import AccountId, FixedBytes, Hash, OrderId
from deepbrain.primitives.units import U8, U64, U128, Balance, Permill, Seconds

small = st.integers(0, 255)


@given(
    st.sampled_from([operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod]),
    small,
    small,
    st.booleans(),
)
def test_arithmetic_is_exact_or_fails_with_its_reason(operation, left, right, both):
    try:
        result = operation(U8(left), U8(right) if both else right)
    except ArithmeticFailure as failure:
        if not right:
            assert failure.kind is ArithmeticKind.DIVISION_BY_ZERO
        else:
            exact = operation(left, right)
            kind = ArithmeticKind.UNDERFLOW if exact < 0 else ArithmeticKind.OVERFLOW
            assert not 0 <= exact <= 255
            assert failure.kind is kind
        return
    assert result == operation(left, right)
    assert type(result) is U8


def test_the_type_is_that_of_the_left_operand():
    assert type(Balance(3) * U8(2)) is Balance
    assert type(2 * Seconds(3)) is Seconds
    assert type(5 - Seconds(3)) is Seconds
    with pytest.raises(ArithmeticFailure):
        2 - Seconds(3)


@given(small, small)
def test_saturating_subtraction_stops_at_zero(left, right):
    assert U8(left).saturating_sub(right) == max(0, left - right)


@pytest.mark.parametrize(("cls", "bits"), [(U8, 8), (U64, 64), (U128, 128), (OrderId, 64)])
def test_ranges(cls, bits):
    assert int(cls(2**bits - 1)) == cls.MAX
    for value in (-1, 2**bits):
        with pytest.raises(ArithmeticFailure):
            cls(value)


@given(st.integers(0, 10**6), st.integers(0, 2**100))
def test_a_share_is_rounded_down(parts, amount):
    share = Permill(parts).of(Balance(amount))
    assert share * 10**6 <= parts * amount < (share + 1) * 10**6


def test_a_share_is_at_most_the_whole():
    with pytest.raises(ArithmeticFailure):
        Permill(1_000_001)


def test_fixed_bytes_have_their_length():
    assert Hash.from_hex("0x" + "ab" * 32) == Hash(b"\xab" * 32)
    assert str(Hash(b"\xab" * 32)) == "0x" + "ab" * 32
    for wrong in (lambda: Hash(b""), lambda: AccountId(bytes(33)), lambda: Hash.from_hex("0xzz")):
        with pytest.raises(DecodeError):
            wrong()

    class Four(FixedBytes, size=4):
        pass

    assert repr(Four(b"abcd")) == "Four(0x61626364)"


def test_hashes_are_those_of_substrate():
    # Storage prefixes every Substrate chain shares: System, Account.
    assert twox_128(b"System").hex() == "26aa394eea5630e07c48ae0c9558cef7"
    assert twox_128(b"Account").hex() == "b99d880ec681799c0cf30e8886371da9"
    assert twox_64(b"").hex() == "99e9d85137db46ef"
    assert blake2_256(b"").hex() == (
        "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
    )
    assert blake2_128(b"").hex() == "cae66941d9efbd404e4d88758ea67670"

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbrain.primitives.errors import DecodeError
from deepbrain.scale import EncodeError, compact_size, decode_compact, encode_compact

LARGEST = 2**536 - 1


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "04"),
        (63, "fc"),
        (64, "0101"),
        (16383, "fdff"),
        (16384, "02000100"),
        (2**30 - 1, "feffffff"),
        (2**30, "0300000040"),
        (2**32, "070000000001"),
        (2**128 - 1, "33" + "ff" * 16),
        (LARGEST, "ff" * 68),
    ],
)
def test_the_known_encodings(value, encoded):
    assert encode_compact(value).hex() == encoded
    assert decode_compact(bytes.fromhex(encoded), 0) == (value, len(encoded) // 2)
    assert compact_size(value) == len(encoded) // 2


@pytest.mark.parametrize(
    "encoded",
    [
        "0100",
        "fd00",
        "02000000",
        "feff0000",
        "0300000000",
        "03ffffff3f",
        "070000004000",
        "ff" + "00" * 67,
    ],
)
def test_a_longer_form_than_needed_is_refused(encoded):
    with pytest.raises(DecodeError, match="shortest"):
        decode_compact(bytes.fromhex(encoded), 0)


@pytest.mark.parametrize("encoded", ["", "01", "02", "0200", "020000", "03", "03000000", "ff" * 67])
def test_short_input_is_refused(encoded):
    with pytest.raises(DecodeError, match="ends"):
        decode_compact(bytes.fromhex(encoded), 0)


@pytest.mark.parametrize("value", [-1, LARGEST + 1])
def test_what_does_not_fit_is_refused(value):
    with pytest.raises(EncodeError):
        encode_compact(value)


@given(st.integers(0, LARGEST), st.binary(max_size=3), st.binary(max_size=3))
def test_values_come_back_wherever_they_stand(value, before, behind):
    encoded = encode_compact(value)
    data = before + encoded + behind
    assert decode_compact(data, len(before)) == (value, len(before) + len(encoded))


@given(st.binary(max_size=70))
def test_every_accepted_encoding_is_the_only_one(data):
    try:
        value, end = decode_compact(data, 0)
    except DecodeError:
        return
    assert encode_compact(value) == data[:end]

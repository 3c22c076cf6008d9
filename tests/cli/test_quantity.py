"""Money and time survive being written down, to the last unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbrain.cli import quantity
from deepbrain.primitives.units import PLANCK


@given(st.integers(0, 10**25))
def test_an_amount_printed_is_the_amount_read(amount: int) -> None:
    text = quantity.dbc(amount).removesuffix(" DBC")
    assert quantity.parse_dbc(text) == amount


@given(st.integers(0, 10**15))
def test_a_price_printed_is_the_price_read(amount: int) -> None:
    assert quantity.parse_usd(quantity.usd(amount)) == amount


@given(st.integers(0, 86_399))
def test_a_span_printed_is_the_span_read(seconds: int) -> None:
    assert quantity.parse_span(quantity.span(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("1w", 604_800)],
)
def test_spans_as_people_write_them(text: str, seconds: int) -> None:
    assert quantity.parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1.5h", "-1m", "1x", "10 m", "1h-", "9" * 30, "１h"])
def test_other_spans_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 90s"):
        quantity.parse_span(text)


@pytest.mark.parametrize("text", ["", "1e3", "-1", "1.", ".5", "0x1", "1.2.3", "nan", "1_0"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no amount"):
        quantity.parse_dbc(text)


def test_what_is_finer_than_the_unit_is_refused_not_rounded() -> None:
    with pytest.raises(ValueError, match="decimals"):
        quantity.parse_usd("0.0000001")
    assert quantity.parse_usd("0.02000000") == 20_000


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.00"), (PLANCK, "1.00"), (PLANCK // 3, "0.3333"), (1234 * PLANCK + 1, "1,234.00"),
     (5, "0.000000000000005"), (12_345_678, "0.0000000123")],
)  # fmt: skip
def test_tables_show_four_decimals_and_never_nothing_of_something(amount: int, text: str) -> None:
    assert quantity.about(amount) == text


def test_sizes() -> None:
    assert [quantity.size(n) for n in (0, 1023, 1536, 1 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "1.0 GiB",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200G", 200 << 30),
        ("1.5T", 3 << 39),
        ("512MiB", 512 << 20),
        ("0.5k", 512),
        ("7GB", 7 << 30),
    ],
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert quantity.parse_size(text) == expected


@pytest.mark.parametrize("text", ["200", "", "G", "-1G", "1e3G", "1.2345G", "1 G", "9999999999G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        quantity.parse_size(text)

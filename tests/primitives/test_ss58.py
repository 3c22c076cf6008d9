import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbrain.primitives import ss58
from deepbrain.primitives.errors import InvalidKey
from deepbrain.primitives.ids import AccountId

ALICE = AccountId.from_hex("d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d")

accounts = st.binary(min_size=32, max_size=32).map(AccountId)
prefixes = st.integers(0, ss58.MAX_PREFIX).filter(lambda prefix: prefix not in (46, 47))

# From the address pages of subscan, for Alice.
KNOWN = {
    0: "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5",
    2: "HNZata7iMYWmk5RvZRTiAsSDhV8366zq2YGb3tLH5Upf74F",
    42: "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
}


@pytest.mark.parametrize(("prefix", "address"), KNOWN.items())
def test_known_addresses(prefix, address):
    assert ss58.encode(ALICE, prefix) == address
    assert ss58.decode_any(address) == (ALICE, prefix)


@given(accounts, prefixes)
def test_accounts_come_back_on_every_network(account, prefix):
    address = ss58.encode(account, prefix)
    assert ss58.decode_any(address) == (account, prefix)
    assert ss58.decode(address, prefix) == ss58.decode(address, None) == account


@given(accounts)
def test_ours_start_with_five(account):
    address = ss58.encode(account)
    assert address.startswith("5")
    assert 46 <= len(address) <= 49


def test_an_address_of_another_network_is_refused():
    with pytest.raises(InvalidKey, match="network 0"):
        ss58.decode(KNOWN[0])


@pytest.mark.parametrize("prefix", [-1, 46, 47, 1 << 14])
def test_impossible_prefixes_are_refused(prefix):
    with pytest.raises(InvalidKey):
        ss58.encode(ALICE, prefix)


@given(
    st.integers(0, 47),
    st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"),
)
def test_a_mistyped_letter_is_noticed(at, letter):
    address = KNOWN[42]
    mistyped = address[:at] + letter + address[at + 1 :]
    if mistyped != address:
        with pytest.raises(InvalidKey):
            ss58.decode(mistyped)


@pytest.mark.parametrize(
    "text", ["", "5", "0OIl", KNOWN[42] + "1", KNOWN[42][1:], "1" * 50, "z" * 10**6, "5é"]
)
def test_nonsense_is_refused(text):
    with pytest.raises(InvalidKey):
        ss58.decode(text)


@pytest.mark.parametrize("first", [0b0100_0000, 0b0100_1010, 0x80, 0xFF])
def test_a_prefix_has_one_spelling(first):
    # Network 0 and 40 in the two-byte form; and bytes beyond the largest prefix.
    body = bytes((first, 0)) + ALICE if first & 0x40 else bytes((first,)) + ALICE
    with pytest.raises(InvalidKey):
        ss58.decode(ss58._to_base58(body + ss58._checksum(body)), None)


@given(st.text(max_size=60))
def test_any_text_gives_an_account_or_a_sentence(text):
    try:
        account, prefix = ss58.decode_any(text)
    except InvalidKey:
        return
    assert ss58.encode(account, prefix) == text

import json
import os
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbrain.client.keystore import Cost, Wallet, decrypt, encrypt, parse, write_plain
from deepbrain.primitives.errors import InvalidKey
from deepbrain.primitives.keys import Keypair, Scheme, verify

VECTORS = json.loads((Path(__file__).parent.parent / "vectors/polkadot-js-keys.json").read_text())
ALICE = Keypair.from_uri("//Alice")
QUICK = Cost(1 << 15, 1, 8)


@pytest.fixture(scope="module")
def sealed():
    return encrypt(ALICE, "password", name="main", cost=QUICK)


def change(text, path, value):
    document = json.loads(text)
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    "vector", VECTORS["keystores"], ids=lambda v: f"{v['scheme']}-{v['uri']}-{v['password']}"
)
def test_a_wallets_key_opens_here(vector):
    scheme = Scheme[vector["scheme"].upper()]
    pair = decrypt(json.dumps(vector["json"]), vector["password"] or "", dev=True)
    expected = Keypair.from_uri(vector["uri"], scheme)
    assert (pair.scheme, pair.public) == (scheme, expected.public)
    assert verify(scheme, expected.public, pair.sign(b"x"), b"x")


@pytest.mark.parametrize("index", [3, 4])
def test_our_plain_form_is_the_wallets_byte_for_byte(index):
    vector = VECTORS["keystores"][index]
    pair = Keypair.from_uri(vector["uri"], Scheme[vector["scheme"].upper()])
    ours = json.loads(write_plain(pair, dev=True))
    assert ours | {"meta": {}} == vector["json"]


@pytest.mark.parametrize("scheme", [Scheme.SR25519, Scheme.ED25519])
def test_a_key_comes_back_with_the_standard_cost(scheme):
    pair = Keypair.from_uri("//Bob", scheme)
    text = encrypt(pair, "päss😀")
    assert decrypt(text, "päss😀").public == pair.public
    assert b64decode(json.loads(text)["encoded"])[32:44] == bytes.fromhex(
        "000002000100000008000000"
    )


def test_a_wrong_password_is_one_sentence(sealed):
    with pytest.raises(InvalidKey, match="password is wrong"):
        decrypt(sealed, "passwort")
    with pytest.raises(InvalidKey, match="needs its password"):
        decrypt(sealed, "")


def test_a_key_without_password_is_for_development():
    with pytest.raises(InvalidKey, match="development"):
        write_plain(ALICE, dev=False)
    with pytest.raises(InvalidKey, match="development"):
        decrypt(write_plain(ALICE, dev=True), "")
    with pytest.raises(InvalidKey, match="choose a password"):
        encrypt(ALICE, "")


@pytest.mark.parametrize(
    ("n", "p", "r"),
    [
        (1 << 30, 1, 8),
        (1 << 17, 1 << 20, 8),
        (1 << 17, 1, 1 << 20),
        (0, 0, 0),
        (1, 1, 8),
        (2, 1, 1),
    ],
)
def test_hostile_scrypt_parameters_are_refused(sealed, n, p, r):
    encoded = bytearray(b64decode(json.loads(sealed)["encoded"]))
    encoded[32:44] = b"".join(x.to_bytes(4, "little") for x in (n, p, r))
    with pytest.raises(InvalidKey, match="scrypt"):
        decrypt(change(sealed, ["encoded"], b64encode(encoded).decode()), "password")


def test_the_former_cost_is_accepted():
    assert decrypt(encrypt(ALICE, "pw", cost=Cost(1 << 15, 1, 8)), "pw").public == ALICE.public


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["encoded"], None),
        (["encoded"], 7),
        (["encoded"], "&&&"),
        (["encoded"], "AAAA"),
        (["encoded"], ""),
        (["address"], None),
        (["address"], "5Grw"),
        (["encoding"], []),
        (["encoding", "version"], "2"),
        (["encoding", "type"], "scrypt"),
        (["encoding", "type"], ["none", "none"]),
        (["encoding", "content"], ["pkcs8", "ecdsa"]),
        (["encoding", "content"], ["pkcs8", "ed25519"]),
        (["address"], Keypair.from_uri("//Bob").address()),
    ],
)
def test_a_damaged_file_is_one_sentence(sealed, path, value):
    with pytest.raises(InvalidKey) as caught:
        decrypt(change(sealed, path, value), "password")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", "[" * 50_000, " " * 70_000, b"\xff\xfe"]
)
def test_what_is_no_keystore_is_refused(text):
    with pytest.raises(InvalidKey):
        parse(text)


@given(st.integers(0, 63 + 16 + 5 + 32), st.integers(1, 255))
def test_a_damaged_plain_key_is_refused_or_harmless(at, flip):
    text = write_plain(ALICE, dev=True)
    encoded = bytearray(b64decode(json.loads(text)["encoded"]))
    encoded[at] ^= flip
    try:
        pair = decrypt(change(text, ["encoded"], b64encode(encoded).decode()), "", dev=True)
    except InvalidKey:
        return
    # Unnoticed may change the secret's nonce half, which decides nothing but signatures' form, and the
    # three bits of its number that the cofactor 8 takes: whoever reads it divides by that.
    assert 16 + 32 <= at < 16 + 64 or (at == 16 and flip < 8)
    assert pair.public == ALICE.public


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["encoded", "encoding", "address", "type", "version", "content"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=10,
)


@given(json_values)
def test_any_json_gives_a_keystore_or_a_sentence(document):
    with pytest.raises(InvalidKey):
        parse(json.dumps(document))


@pytest.fixture
def wallet(tmp_path):
    return Wallet(tmp_path / "a" / "wallet")


def test_an_absent_wallet_is_empty(wallet):
    assert wallet.names() == ()
    assert wallet.entries() == ()
    assert wallet.default() is None
    with pytest.raises(InvalidKey, match="none yet"):
        wallet.account("main")


def test_a_new_key_is_kept_under_its_password_and_its_phrase_is_the_backup(wallet):
    phrase = wallet.create("main", "password")
    pair = wallet.unlock("main", "password")
    assert pair.public == Keypair.from_phrase(phrase).public == wallet.account("main")
    for path in wallet.directory.iterdir():
        assert not any(word in path.read_text() for word in (phrase, "password"))
    with pytest.raises(InvalidKey, match=r"wrong.*main\.json"):
        wallet.unlock("main", "other")


def test_files_are_for_their_owner_only_and_complete(wallet):
    old = os.umask(0)
    try:
        wallet.add_plain("dev", ALICE, dev=True)
        wallet.choose_default("dev")
    finally:
        os.umask(old)
    assert wallet.directory.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in wallet.directory.iterdir()} == {"dev.json", "default"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in wallet.directory.iterdir())


def test_a_key_is_never_overwritten(wallet):
    wallet.add_plain("dev", ALICE, dev=True)
    for again in (
        lambda: wallet.create("dev", "pw"),
        lambda: wallet.add("dev", ALICE, "pw"),
        lambda: wallet.add_plain("dev", ALICE, dev=True),
        lambda: wallet.import_json("dev", write_plain(ALICE, dev=True), "pw"),
    ):
        with pytest.raises(InvalidKey, match="already"):
            again()
    assert wallet.unlock("dev", "", dev=True).public == ALICE.public


@pytest.mark.parametrize(
    "name", ["", "../x", "Main", "a b", "a" * 33, "-x", ".new-1", "a/b", "a\n"]
)
def test_names_are_plain(wallet, name):
    with pytest.raises(InvalidKey, match="lower-case"):
        wallet.create(name, "pw")


def test_the_default_is_the_chosen_or_the_only_key(wallet):
    wallet.add_plain("one", ALICE, dev=True)
    assert wallet.default() == "one"
    wallet.add_plain("two", Keypair.from_uri("//Bob"), dev=True)
    assert wallet.default() is None
    wallet.choose_default("two")
    assert [(entry.name, entry.is_default) for entry in wallet.entries()] == [
        ("one", False),
        ("two", True),
    ]
    wallet.remove("two")
    assert wallet.default() == "one"
    with pytest.raises(InvalidKey, match="it has: one"):
        wallet.choose_default("two")


def test_a_wallets_export_comes_in_and_goes_out(wallet):
    vector = VECTORS["keystores"][0]
    account = wallet.import_json("main", json.dumps(vector["json"]), vector["password"])
    assert account == ALICE.public
    assert decrypt(wallet.export_json("main"), vector["password"]).public == ALICE.public
    with pytest.raises(InvalidKey):
        wallet.import_json("bad", json.dumps(vector["json"]), "wrong")
    assert wallet.names() == ("main",)


def test_a_damaged_file_is_listed_with_its_problem(wallet):
    wallet.add_plain("good", ALICE, dev=True)
    (wallet.directory / "bad.json").write_text("{")
    bad, good = wallet.entries()
    assert (bad.name, bad.account) == ("bad", None)
    assert "damaged" in bad.problem
    assert (good.problem, good.account, good.is_encrypted) == (None, ALICE.public, False)
    with pytest.raises(InvalidKey, match=r"not JSON \(.*bad\.json\)"):
        wallet.unlock("bad", "pw")


def test_an_open_key_others_can_read_is_refused(wallet):
    wallet.add_plain("dev", ALICE, dev=True)
    (wallet.directory / "dev.json").chmod(0o644)
    with pytest.raises(InvalidKey, match="chmod 600"):
        wallet.unlock("dev", "", dev=True)


def test_a_full_or_forbidden_disk_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    wallet = Wallet(tmp_path / "file" / "wallet")
    with pytest.raises(InvalidKey, match="cannot write"):
        wallet.add_plain("dev", ALICE, dev=True)

import json
import pickle
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbrain.primitives import keys
from deepbrain.primitives.errors import InvalidKey
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.keys import (
    DEV_PHRASE,
    Keypair,
    Scheme,
    Secret,
    domain_message,
    generate_phrase,
    self_test,
    verify,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors/polkadot-js-keys.json").read_text())
SCHEMES = (Scheme.SR25519, Scheme.ED25519)
ALICE = {scheme: Keypair.from_uri("//Alice", scheme) for scheme in SCHEMES}


@pytest.mark.parametrize("vector", VECTORS["uris"], ids=lambda v: f"{v['type']}-{v['uri'][-12:]}")
def test_wallets_derive_the_same_keys(vector):
    pair = Keypair.from_uri(vector["uri"], Scheme[vector["type"].upper()])
    assert pair.address() == vector["address"]
    assert f"0x{pair.public.hex()}" == vector["public"]


def test_the_dev_phrase_stands_before_a_bare_path():
    assert Keypair.from_uri("//Alice").public == Keypair.from_uri(f"{DEV_PHRASE}//Alice").public
    assert Keypair.from_uri("").public == Keypair.from_phrase(DEV_PHRASE).public


def test_a_seed_may_stand_for_the_phrase():
    seed = "0xe5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a"
    assert Keypair.from_uri(seed).public == ALICE[Scheme.SR25519].public


@pytest.mark.parametrize("scheme", SCHEMES)
def test_signatures_verify_and_only_for_their_message_key_and_scheme(scheme):
    pair = ALICE[scheme]
    signature = pair.sign(b"message")
    assert verify(scheme, pair.public, signature, b"message")
    assert not verify(scheme, pair.public, signature, b"massage")
    assert not verify(scheme, Keypair.from_uri("//Bob", scheme).public, signature, b"message")
    for other in Scheme:
        if other is not scheme:
            assert not verify(other, pair.public, signature, b"message")


def test_a_soft_child_signs():
    pair = Keypair.from_uri("//Alice/soft/7")
    assert verify(pair.scheme, pair.public, pair.sign(b"x"), b"x")


@given(
    st.sampled_from(Scheme),
    st.binary(min_size=32, max_size=32) | st.binary(max_size=70),
    st.binary(min_size=64, max_size=64) | st.binary(max_size=70),
    st.binary(max_size=40),
)
def test_nonsense_never_verifies_and_never_raises(scheme, public, signature, message):
    assert verify(scheme, public, signature, message) is False


@given(st.sampled_from(SCHEMES), st.binary(min_size=64, max_size=64))
def test_a_random_signature_of_a_true_key_never_verifies(scheme, signature):
    assert verify(scheme, ALICE[scheme].public, signature, b"m") is False


def test_nobody_signs_for_the_all_zero_account():
    nobody = bytes(32)
    forged = {
        Scheme.SR25519: bytes(63) + b"\x80",
        Scheme.ED25519: b"\x01" + bytes(63),
    }
    # Not a theory: the bare libraries accept these, whatever the message.
    assert keys.sr25519.verify(forged[Scheme.SR25519], b"m", nobody)
    assert any(
        keys.ed25519_zebra.ed_verify(forged[Scheme.ED25519], bytes([n]), nobody) for n in range(64)
    )
    for scheme, signature in forged.items():
        assert not any(verify(scheme, nobody, signature, bytes([n])) for n in range(64))


def test_ed25519_follows_zip_215():
    weak = bytes.fromhex("ee" + "ff" * 30 + "7f")
    assert verify(Scheme.ED25519, weak, weak + bytes(32), b"anything")


def test_the_self_test_passes_and_notices_another_library(monkeypatch):
    self_test()
    monkeypatch.setattr(keys.ed25519_zebra, "ed_verify", lambda *_: False)
    with pytest.raises(InvalidKey, match="ed25519 library"):
        self_test()


@pytest.mark.parametrize("words", [12, 24])
def test_a_new_phrase_makes_a_key_and_is_new(words):
    phrase = generate_phrase(words)
    assert len(phrase.split()) == words
    assert phrase != generate_phrase(words)
    assert Keypair.from_phrase(phrase).public == Keypair.from_phrase(f"  {phrase} ").public
    assert Keypair.from_phrase(phrase).public != Keypair.from_phrase(phrase, "password").public


def test_phrases_have_twelve_or_twenty_four_words():
    with pytest.raises(InvalidKey):
        generate_phrase(13)


@pytest.mark.parametrize(
    "phrase",
    ["", "bottom", DEV_PHRASE + " walk", DEV_PHRASE.replace("walk", "wolk"), "bottom " * 12],
)
def test_a_mistyped_phrase_is_refused_without_showing_it(phrase):
    with pytest.raises(InvalidKey) as caught:
        Keypair.from_phrase(phrase)
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    assert not any(word in shown for word in ("obey", "wolk", "bottom "))


@pytest.mark.parametrize(
    "uri",
    [
        "0x12",
        "0xzz",
        "0x" + "00" * 33,
        "//",
        "//Alice/",
        "//Alice//",
        "//18446744073709551616",
        "0x" + "11" * 32 + "///pw",
        "//" + "a" * 2000,
        "//\ud800",
    ],
)
def test_malformed_uris_are_refused(uri):
    with pytest.raises(InvalidKey):
        Keypair.from_uri(uri)


def test_ed25519_has_no_soft_children():
    with pytest.raises(InvalidKey, match="hard"):
        Keypair.from_uri("//Alice/soft", Scheme.ED25519)


@given(st.text(max_size=40))
def test_any_uri_gives_a_key_or_a_sentence(uri):
    try:
        Keypair.from_uri(uri)
    except InvalidKey:
        return


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_exported_secret_comes_back(scheme):
    pair = ALICE[scheme]
    again = Keypair.from_exported(scheme, pair.export().expose())
    assert again.public == pair.public
    assert verify(scheme, pair.public, again.sign(b"x"), b"x")


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("exported", [b"", bytes(63), b"\xff" * 64, b"\xff" * 65])
def test_a_malformed_secret_is_refused(scheme, exported):
    with pytest.raises(InvalidKey):
        Keypair.from_exported(scheme, exported)


def test_a_secret_of_another_key_is_refused():
    with pytest.raises(InvalidKey):
        Keypair(Scheme.ED25519, ALICE[Scheme.ED25519].public, Secret(bytes(32)))
    with pytest.raises(InvalidKey):
        Keypair.from_seed(bytes(31))
    with pytest.raises(InvalidKey):
        Keypair.from_seed(bytes(32), Scheme.ECDSA)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_secrets_do_not_show(scheme):
    secret = ALICE[scheme].export()
    for shown in (repr(secret), str(secret), f"{secret}", repr(ALICE[scheme]), str(ALICE[scheme])):
        assert secret.expose().hex()[:16] not in shown
        assert "***" in shown or ALICE[scheme].address() in shown
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        pickle.dumps(ALICE[scheme])


def test_a_signature_means_nothing_for_another_purpose_or_chain():
    one, two = Hash(bytes(32)), Hash(b"\1" * 32)
    assert domain_message("access", one, b"x") == b"DBC/access/v1" + bytes(32) + b"x"
    assert domain_message("access", one, b"x") != domain_message("access", two, b"x")
    for purpose in ("", "a/b", "a b", "é"):
        with pytest.raises(InvalidKey):
            domain_message(purpose, one, b"")

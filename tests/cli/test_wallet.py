"""Keys are made, moved and listed without a secret on a command line."""

import io
import json
from pathlib import Path

import pytest

from deepbrain.client import keystore
from deepbrain.client.keystore import Cost, decrypt
from deepbrain.primitives.keys import Keypair

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = keystore.encrypt.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "cost", Cost(1 << 13, 10, 8))


def test_a_new_key_shows_its_phrase_once_on_stdout(dbc, passphrase: Path) -> None:  # type: ignore[no-untyped-def]
    outcome = dbc("wallet", "new", "main")
    assert outcome.code == 0, outcome.err
    pair = Keypair.from_phrase(outcome.out)
    assert dbc("wallet", "address", "main").out.strip() == pair.address()
    assert "only backup" in outcome.err
    assert outcome.out.strip() not in outcome.err


def test_without_a_terminal_the_password_comes_from_a_file(dbc, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("deepbrain.cli.keys._has_terminal", lambda: False)
    outcome = dbc("wallet", "new", "main")
    assert outcome.code == 1
    assert "DBC_PASSPHRASE_FILE" in outcome.err


def test_a_key_travels_out_and_in(dbc, passphrase: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    dbc("wallet", "new", "main")
    exported = tmp_path / "main.json"
    assert dbc("wallet", "export", "main", "--out", str(exported)).code == 0
    assert exported.stat().st_mode & 0o777 == 0o600
    pair = decrypt(exported.read_text(), "correct horse")
    assert dbc("wallet", "import", "copy", str(exported)).code == 0
    assert dbc("wallet", "address", "copy").out.strip() == pair.address()


def test_a_phrase_is_imported_from_a_file(dbc, passphrase: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    phrase = tmp_path / "phrase"
    phrase.write_text("bottom drive obey lake curtain smoke basket hold race lonely fit walk\n")
    outcome = dbc("wallet", "import", "dev", "--phrase-file", str(phrase))
    assert outcome.code == 0, outcome.err
    phrase.write_text("bottom drive obey\n")
    outcome = dbc("wallet", "import", "other", "--phrase-file", str(phrase))
    assert outcome.code == 1
    assert "phrase is not valid" in outcome.err


def test_a_question_that_nobody_answers_says_how_to_agree_beforehand(
    dbc, passphrase, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    dbc("wallet", "new", "main")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    outcome = dbc("wallet", "remove", "main")
    assert outcome.code == 1
    assert outcome.err.endswith("\ndbc: nobody answers here; pass -y to agree beforehand\n")
    assert dbc("wallet", "address", "main").code == 0, "it is there still"


def test_a_corrupt_keystore_is_one_sentence_and_does_not_hide_the_others(  # type: ignore[no-untyped-def]
    dbc, passphrase: Path, dbc_home: Path
) -> None:
    dbc("wallet", "new", "good")
    (dbc_home / "wallets" / "bad.json").write_text("{")
    listed = json.loads(dbc("wallet", "list", "--json").out)
    assert [entry["name"] for entry in listed] == ["bad", "good"]
    assert "damaged" in listed[0]["problem"]
    outcome = dbc("wallet", "address", "bad")
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert "damaged" in outcome.err


def test_a_name_that_is_taken_is_refused_before_a_password_is_asked(dbc, passphrase: Path) -> None:  # type: ignore[no-untyped-def]
    dbc("wallet", "new", "main")
    assert "already" in dbc("wallet", "new", "main").err


def test_dev_keys_need_nothing(dbc) -> None:  # type: ignore[no-untyped-def]
    assert dbc("--wallet", "//Alice", "wallet", "address").out.strip() == ALICE
    assert dbc("wallet", "address", "//Alice").out.strip() == ALICE

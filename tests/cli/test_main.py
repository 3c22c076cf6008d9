"""The command's face: help without weight, and one sentence for everything that is wrong."""

import importlib
import subprocess
import sys

import click
import pytest

from deepbrain.cli.failure import explain
from deepbrain.cli.main import PANELS, Entry

COMMANDS = {name: entry for panel in PANELS.values() for name, entry in panel.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_the_table_is_the_command_s_own(name: str) -> None:
    entry: Entry = COMMANDS[name]
    command = getattr(importlib.import_module(f"deepbrain.cli.{entry.module}"), entry.name)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.get_short_help_str(200) == entry.help


def test_help_imports_no_command_and_nothing_heavy() -> None:
    script = (
        "import sys; from deepbrain.cli.main import run; code = run(['--help']);"
        "heavy = {'rich', 'iroh', 'websockets', 'asyncio', 'sr25519', 'pathspec'} & set(sys.modules);"
        "print(heavy, file=sys.stderr); sys.exit(code or bool(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for panel in PANELS:
        assert f"{panel}:" in done.stdout


def test_every_command_explains_itself(dbc) -> None:  # type: ignore[no-untyped-def]
    for name in COMMANDS:
        outcome = dbc(name, "--help")
        assert outcome.code == 0
        assert outcome.out.startswith("Usage: dbc")
        assert "\\b" not in outcome.out, "the mark that keeps lines is one character"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nonsense"], 2, "there is no command 'nonsense'"),
        (["ps", "--nonsense"], 2, "see `dbc ps --help`"),
        (["run", "--nonsense"], 125, "see `dbc run --help`"),
        (["run", "--for", "soon", "--", "true"], 125, "write 90s"),
        (["run", "--for", "0", "--", "true"], 125, "zero"),
        (["run", "--max-price", "cheap", "--", "true"], 125, "no amount of dollars"),
        (["bill", "seven"], 2, "order"),
        (["wallet", "send", "x", "much"], 2, "no amount of DBC"),
        (["--wallet", "bottom drive obey", "wallet", "address"], 1, "must not stand on a command"),
        (["--wallet", "//Alice///secret", "wallet", "address"], 1, "must not stand on a command"),
        (["wallet", "address"], 1, "dbc wallet new"),
        (["wallet", "address", "5" * 48], 1, "checksum"),
        (["--node", "ws://127.0.0.1:1", "--wallet", "//Alice", "ps"], 1, "no node answers"),
        (["--node", "ws://127.0.0.1:1", "gpus"], 1, "no node answers"),
        (["--node", "ws://127.0.0.1:1", "--wallet", "//Alice", "run", "-y", "--no-workspace",
          "--", "true"], 125, "no node answers"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_on_stderr(dbc, args, code, words) -> None:  # type: ignore[no-untyped-def]
    outcome = dbc(*args)
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert words in outcome.err
    assert outcome.err.startswith("dbc: ")
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("place", ["/", "~"])
def test_run_never_sends_the_system_or_a_home(dbc, monkeypatch, tmp_path, place) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path if place == "~" else place)
    outcome = dbc("--wallet", "//Alice", "run", "-y", "--", "true")
    assert outcome.code == 125
    assert "never sent" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_reader_that_has_enough_ends_the_command_quietly() -> None:
    script = f"{sys.executable} -m deepbrain.cli.main --help | head -1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Usage: dbc")
    assert done.stderr == ""


def test_bugs_are_not_disguised_as_sentences() -> None:
    assert explain(ValueError("a bug")) is None
    failure = explain(OSError(28, "No space left on device"))
    assert failure is not None
    assert "disk is full" in failure.sentence

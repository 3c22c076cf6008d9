"""Every test of the command line has a home of its own, and sees what a person would see."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepbrain.cli.main import run


@pytest.fixture(autouse=True)
def dbc_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "dbc-home"
    monkeypatch.setenv("DBC_HOME", str(home))
    for name in ("DBC_NODE", "DBC_WALLET", "DBC_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    return home


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def dbc(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def call(*args: str) -> Outcome:
        code = run(args)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("correct horse\n")
    path.chmod(0o600)
    monkeypatch.setenv("DBC_PASSPHRASE_FILE", str(path))
    return path

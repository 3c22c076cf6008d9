"""What `dbc doctor` says of a node: each finding has a name that stays, and says what to do."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.node.world import running_node
from tests.validators.chain import free_ports

from deepbrain.cli import doctor
from deepbrain.cli.validate import checks
from deepbrain.cli.validate.place import NODE_KEY, SETTINGS, SIGN_STATE, VALIDATOR_KEY, Place
from deepbrain.client import Client
from deepbrain.node.comet.socket import serving
from deepbrain.sandbox.checks import Finding

NAMES = ["CometBFT", "node keys", "sign state", "node disk", "open files", "p2p port"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    place = tmp_path / "node"
    Place(place).make_keys()
    (port,) = free_ports(1)
    listen(place, port)
    return place


def listen(data: Path, port: int) -> None:
    (data / SETTINGS).write_text(f'[p2p]\nladdr = "tcp://127.0.0.1:{port}"\n')


def said(data: Path) -> dict[str, Finding]:
    found = {finding.name: finding for finding in checks.node_checks(data)}
    assert list(found) == NAMES
    assert all(finding.ok or finding.hint for finding in found.values())
    return found


def test_a_fresh_directory_is_fine(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LEAST_FREE", 1)
    monkeypatch.setattr(checks, "LEAST_FILES", 1)
    found = said(data)
    assert [name for name, finding in found.items() if not finding.ok and name != "CometBFT"] == []
    assert found["sign state"].detail == "has signed nothing yet"
    assert "is free, the node is down" in found["p2p port"].detail


def test_what_is_missing_or_damaged_is_named(data: Path) -> None:
    (data / VALIDATOR_KEY).chmod(0o640)
    (data / SIGN_STATE).write_text("{}")
    found = said(data)
    assert "is 0640" in found["node keys"].detail
    assert "never copy one from a backup" in found["sign state"].hint
    (data / NODE_KEY).unlink()
    (data / SIGN_STATE).unlink()
    found = said(data)
    assert "is missing" in found["node keys"].detail
    assert "dbc validate init" in found["node keys"].hint
    assert "no other one has run" in found["sign state"].hint


def test_a_node_that_has_signed_says_how_far(data: Path) -> None:
    (data / SIGN_STATE).write_text('{"height": "42", "round": 0, "step": 3}')
    assert said(data)["sign state"] == Finding("sign state", ok=True, detail="last signed block 42")


def test_too_little_is_too_little(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LEAST_FREE", 1 << 60)
    monkeypatch.setattr(checks, "LEAST_FILES", 1 << 60)
    monkeypatch.setenv("DBC_COMETBFT", "/bin/sh")
    found = said(data)
    assert not found["node disk"].ok
    assert not found["CometBFT"].ok
    assert "no CometBFT" in found["CometBFT"].hint


async def test_a_port_is_the_node_s_or_somebody_else_s(data: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen(data, other.getsockname()[1])
        assert "taken by another program" in said(data)["p2p port"].detail
        async with serving(data / "comet" / "abci.sock", None):  # type: ignore[arg-type]
            assert said(data)["p2p port"].ok
            (free,) = free_ports(1)
            listen(data, free)
            assert "does not answer" in said(data)["p2p port"].detail


@pytest.mark.parametrize("text", ["", "nonsense = [", '[p2p]\nladdr = "tcp://x:y"', "[p2p]\n"])
def test_without_settings_the_port_is_the_usual_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / SETTINGS
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert checks.p2p_place(tmp_path) == "0.0.0.0:26656"


async def test_a_node_makes_progress_or_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        running_node(interval=0.2) as node,
        await Client.connect(f"ws://127.0.0.1:{node.server.port}") as client,
    ):
        assert (await doctor._progress(client)).ok
        node.engine.live = False
        catching_up = await doctor._progress(client)
        assert not catching_up.ok
        assert "catching up" in catching_up.detail
    monkeypatch.setattr(doctor, "_LEAST_PROGRESS_SECONDS", 0.5)
    monkeypatch.setattr(doctor, "_INTERVALS", 0)
    async with (
        running_node() as node,
        await Client.connect(f"ws://127.0.0.1:{node.server.port}") as client,
    ):
        still = await doctor._progress(client)
        assert (still.ok, still.name, still.detail) == (False, "progress", "no new block in 0 s")


def test_only_the_node_is_looked_at(dbc: Callable[..., object], data: Path) -> None:
    outcome = dbc("--node", "ws://127.0.0.1:1", "doctor", "--node-data", str(data), "--json")
    assert outcome.code == 1  # type: ignore[attr-defined]
    found = json.loads(outcome.out)  # type: ignore[attr-defined]
    assert [one["name"] for one in found] == [*NAMES, "node"]

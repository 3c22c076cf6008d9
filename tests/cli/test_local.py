"""A local network has one supervisor, and says in one sentence why it cannot run."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deepbrain.cli.failure import UserError
from deepbrain.cli.home import forget_network, home, local_network, read_json, write_json
from deepbrain.cli.network.local import Network, Place, bring_down, detach, supervising
from deepbrain.cli.provider.machine import address_record
from deepbrain.cli.renter.market import dial_addresses
from deepbrain.cli.supervise import Program, Trace


def test_a_second_start_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path / "net")
    assert place.supervisor() is None
    with supervising(place):
        assert place.supervisor() == os.getpid()
        with pytest.raises(UserError, match=r"runs in .* already"), supervising(place):
            pass
    assert place.supervisor() is None


def test_a_network_that_cannot_start_leaves_the_record_of_the_one_that_runs(tmp_path: Path) -> None:
    write_json(home() / "network.json", {"node": "ws://127.0.0.1:1", "dir": str(tmp_path / "runs")})
    forget_network(tmp_path / "failed")
    assert local_network() is not None
    forget_network(tmp_path / "runs")
    assert local_network() is None


def test_what_a_killed_supervisor_left_is_ended_by_the_next_one(tmp_path: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    trace = Trace.of(left.pid)
    assert trace is not None
    place = Place(tmp_path)
    write_json(tmp_path / "children.json", {"children": [[trace.pid, trace.started]]})
    with supervising(place):
        assert left.wait(5) == -signal.SIGTERM


async def test_a_child_that_does_not_stay_up_ends_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepbrain.cli.supervise._FIRST_DELAY", 0.01)
    monkeypatch.setattr("deepbrain.cli.supervise._LONGEST_DELAY", 0.01)
    network = Network(Place(tmp_path))
    network.start(
        Program("a", (sys.executable, "-c", "import time; time.sleep(60)"), tmp_path / "a")
    )
    network.start(
        Program("b", (sys.executable, "-c", "raise SystemExit('broken')"), tmp_path / "b")
    )
    with pytest.raises(UserError, match="b does not stay up: broken"):
        await network.during(asyncio.sleep(60))
    await network.stop()
    remembered = read_json(tmp_path / "children.json")
    assert remembered == {"children": []}


async def test_detaching_passes_on_why_it_did_not_start(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('dbc: the port is taken')"]
    with pytest.raises(UserError, match=r"^the port is taken$"):
        await detach(Place(tmp_path), argv, 10)


async def test_a_detached_network_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(UserError, match="not ready within 0 s"):
        await detach(Place(tmp_path), argv, 0.3)


async def test_bringing_down_what_does_not_run_is_fine(tmp_path: Path) -> None:
    assert not await bring_down(Place(tmp_path / "nothing"), print)


def test_status_and_down_without_a_network(dbc: Callable[..., object], tmp_path: Path) -> None:
    outcome = dbc("network", "status", "--dir", str(tmp_path))
    assert outcome.code == 1  # type: ignore[attr-defined]
    assert "dbc network up" in outcome.err  # type: ignore[attr-defined]
    assert dbc("network", "down", "--dir", str(tmp_path)).code == 0  # type: ignore[attr-defined]


def test_addresses_survive_the_chain_s_form() -> None:
    addresses = ("203.0.113.7:4001", "[2001:db8::1]:4002")
    assert dial_addresses(address_record(addresses)) == addresses
    with pytest.raises(UserError, match="no address"):
        address_record(["nonsense"])

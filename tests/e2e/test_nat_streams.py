"""Streams between two NATs, with a real relay and a real agent whose chain and sandbox are fakes.

The same with everything real is in `nat_runs.py`, which `make nat` runs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.streets import NFT, NODE_TO_PROVIDER, RELAY, ROOT, Streets
from tests.hostile.world import Place

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces with NATs need root"),
    pytest.mark.skipif(not NFT.exists(), reason="nft is not here; `make sandbox` gets it"),
]

URL = f"http://{NODE_TO_PROVIDER}:{RELAY}"
ENDS = "tests.provider.nat_ends"
NO_UDP = "meta l4proto udp"
RUNS = 3
Process = subprocess.Popen[str]


class Street:
    """A relay and a machine that is attached to it."""

    def __init__(self, streets: Streets, data: Path) -> None:
        self.streets = streets
        self.data = data
        self.processes: list[Process] = []
        self.relay = self.start_relay()
        self.machine = self.start(streets.provider, ENDS, "machine", str(data), URL)
        assert self.next(self.machine)["attached"] == [URL]

    def start(self, place: Place, module: str, *words: str) -> Process:
        process: Process = place.start(
            [sys.executable, "-m", module, *words], stdout=subprocess.PIPE, cwd=ROOT
        )
        self.processes.append(process)
        return process

    def start_relay(self) -> Process:
        words = ("--port", str(RELAY), "--chain", "ws://127.0.0.1:9", "--log", "error")
        relay = self.start(
            self.streets.public, "deepbrain.node.relay", *words, "--data", str(self.data)
        )
        assert relay.stdout is not None
        assert relay.stdout.readline() == f"ready port={RELAY}\n"
        return relay

    def next(self, process: Process) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "it ended without a word"
        return json.loads(line)

    def all(self, process: Process) -> list[Any]:
        """What it still says, until its end."""
        assert process.stdout is not None
        said = [json.loads(line) for line in process.stdout]
        assert process.wait(10) == 0
        return said

    def echo(self) -> tuple[Any, Any]:
        """The first echo, and the path four seconds later."""
        first, later = self.all(self.start(self.streets.renter, ENDS, "echo", URL))
        return first, later

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def living(data: Path) -> Iterator[Street]:
    streets = Streets()
    street = None
    try:
        street = Street(streets, data)
        yield street
    finally:
        if street is not None:
            street.stop()
        streets.close()


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    with living(tmp_path_factory.mktemp("street")) as made:
        yield made


def test_between_two_nats_it_begins_by_relay_and_moves_to_a_direct_path(street: Street) -> None:
    for _ in range(RUNS):
        first, later = street.echo()
        assert first["seconds"] < 5
        assert not first["direct"], "the NATs let everything in, so nothing was shown"
        assert later["direct"]


@pytest.mark.parametrize("side", ["nat_a", "nat_b"])
def test_without_udp_at_one_side_it_stays_with_the_relay(street: Street, side: str) -> None:
    with street.streets.without(getattr(street.streets, side), NO_UDP):
        for _ in range(RUNS):
            first, later = street.echo()
            assert first["seconds"] < 5
            assert not later["direct"]


@pytest.mark.parametrize("udp", [True, False])
def test_an_outage_of_35_seconds_loses_no_byte_of_a_command(street: Street, udp: bool) -> None:
    """With UDP the outage ends a direct path, without it a relayed one."""
    streets = street.streets
    if udp:
        said = _outage(street)
    else:
        with streets.without(streets.nat_b, NO_UDP):
            said = _outage(street)
    assert said[-1]["whole"], said[-3:]
    assert {one["direct"] for one in said[:-1]} == {udp}


def _outage(street: Street) -> list[Any]:
    typing = street.start(street.streets.renter, ENDS, "type", URL, "48")
    before = [street.next(typing) for _ in range(5)]
    with street.streets.without(street.streets.nat_b, ""):
        time.sleep(35)
    said = street.all(typing)
    silent = [one for one in said if "got" in one and one["got"] == said[5]["got"]]
    assert len(silent) > 25, "the outage was none"
    return before[2:] + said


def test_a_relay_that_is_killed_and_comes_back_loses_no_byte(street: Street) -> None:
    with street.streets.without(street.streets.nat_b, NO_UDP):
        typing = street.start(street.streets.renter, ENDS, "type", URL, "20")
        for _ in range(4):
            street.next(typing)
        street.relay.send_signal(signal.SIGKILL)
        street.relay.wait()
        street.relay = street.start_relay()
        said = street.all(typing)
    assert said[-1]["whole"], said[-3:]

"""Behind NATs: no open port anywhere but at the public node. `make nat` runs this.

What of it needs neither a chain nor gVisor is in `test_nat_streams.py`, and runs with the other tests.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from tests.e2e.nat import Town, town
from tests.hostile.streets import NFT, NODE_TO_PROVIDER, RELAY

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces with NATs need root"),
    pytest.mark.skipif(not NFT.exists(), reason="nft is not here; `make sandbox` gets it"),
]

RUNS = int(os.environ.get("NAT_RUNS", "3"))
"""How often the runs that must always work are tried; `make nat` tries 20."""


def _note(figure: str) -> None:
    """Shown by `pytest -rA`, which `make nat` asks for."""
    sys.stderr.write(f"{figure}\n")


@pytest.fixture(scope="module")
def nat() -> Iterator[Town]:
    with town() as made:
        yield made


def test_a_machine_without_an_open_port_is_listed_with_its_relay(nat: Town) -> None:
    assert nat.joined_after < 120
    assert nat.relays() == [f"http://{NODE_TO_PROVIDER}:{RELAY}"]
    said = (nat.base / "join.log").read_text()
    assert "reachable through 1 relay, which needs no open port" in said


def test_between_two_nats_every_run_reaches_its_first_output(nat: Town) -> None:
    seconds = [nat.first_output() for _ in range(RUNS)]
    _note("first output after " + " ".join(f"{one:.1f}" for one in seconds) + " s")


def test_with_udp_blocked_at_the_renter_every_run_reaches_its_first_output(nat: Town) -> None:
    with nat.streets.without(nat.streets.nat_b, "meta l4proto udp"):
        seconds = [nat.first_output() for _ in range(RUNS)]
    _note("first output after " + " ".join(f"{one:.1f}" for one in seconds) + " s")


def test_with_udp_blocked_at_the_provider_every_run_reaches_its_first_output(nat: Town) -> None:
    with nat.streets.without(nat.streets.nat_a, "meta l4proto udp"):
        seconds = [nat.first_output() for _ in range(RUNS)]
    _note("first output after " + " ".join(f"{one:.1f}" for one in seconds) + " s")


def _order(nat: Town, seconds: str = "240s") -> "tuple[subprocess.Popen[str], str]":
    """A job that runs until its order is stopped; its process and its order's number."""
    process = nat.dbc("run", "-y", "--for", seconds, "--no-workspace", "--", "sh", "-c",
                      "echo up; sleep 300")  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n", nat.logs()
    listed = nat.done("ps", "--json")
    [order] = [one for one in json.loads(listed.out) if one["state"] == "running"]
    return process, str(order["order"])


def _end(nat: Town, process: "subprocess.Popen[str]", order: str) -> None:
    nat.done("stop", order)
    process.communicate(timeout=60)


class Typist:
    """Types numbered lines into `cat` over there, and keeps what comes back."""

    def __init__(self, nat: Town, order: str) -> None:
        self.process = nat.dbc("exec", "-i", order, "cat", stdin=subprocess.PIPE)
        self.sent: list[str] = []
        self.got: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.got.append(line)

    def type(self) -> None:
        line = f"line {len(self.sent)} {'x' * 200}\n"
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()
        self.sent.append(line)

    def type_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.type()
            time.sleep(0.25)

    def finish(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(90)
        self.reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code


@pytest.mark.parametrize("blocked", ["nothing", "udp"])
def test_an_outage_of_35_seconds_loses_no_byte_of_a_command(nat: Town, blocked: str) -> None:
    process, order = _order(nat)
    typist = Typist(nat, order)
    typist.type_for(2)
    nat.wait(lambda: len(typist.got) > 2, 20, "nothing comes back")
    streets = nat.streets
    if blocked == "udp":
        with streets.without(streets.nat_b, "meta l4proto udp"):
            typist.type_for(3)
    before = len(typist.got)
    with streets.without(streets.nat_b, ""):
        typist.type_for(35)
        assert len(typist.got) < before + 10, "the outage was none"
    typist.type_for(5)
    assert typist.finish() == 0, nat.logs()
    assert typist.got == typist.sent
    _end(nat, process, order)


def test_a_relay_that_is_killed_and_comes_back_loses_no_byte(nat: Town) -> None:
    streets = nat.streets
    with streets.without(streets.nat_b, "meta l4proto udp"):
        process, order = _order(nat)
        typist = Typist(nat, order)
        typist.type_for(2)
        nat.wait(lambda: len(typist.got) > 2, 20, "nothing comes back")
        os.kill(nat.relay_pid(), signal.SIGKILL)
        typist.type_for(15)
        assert typist.finish() == 0, nat.logs()
        assert typist.got == typist.sent
        _end(nat, process, order)


def test_the_relay_carries_what_cannot_go_directly_and_not_what_can(nat: Town) -> None:
    """A bulk transfer between two NATs moves to a direct path, and stays relayed without UDP."""
    payload = os.urandom(12 << 20)
    source = nat.base / "bulk"
    source.mkdir(exist_ok=True)
    (source / "data.bin").write_bytes(payload)

    def carried() -> float:
        return sum(value for name, value in nat.metrics().items() if "received_bytes_total" in name)

    words = ("run", "-y", "--for", "60s", "--workspace", str(source), "--", "wc", "-c", "data.bin")
    streets = nat.streets
    with streets.without(streets.nat_b, "meta l4proto udp"):
        before = carried()
        done = nat.done(*words)
        assert done.code == 0, done.err
        relayed = carried() - before
    assert relayed > len(payload)
    before = carried()
    done = nat.done(*words)
    assert done.code == 0, done.err
    direct = carried() - before
    _note(f"relayed {relayed:.0f} bytes without UDP, {direct:.0f} with it")
    assert direct < relayed / 2, "it did not move to a direct path"

"""An operator joins a network that runs, with the commands of the guide, and is elected."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
from tests.node.test_metrics import scrape
from tests.validators.chain import free_ports, spec_file

from deepbrain.node.comet.home import CometHome

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DBC = (sys.executable, "-m", "deepbrain.cli.main")
ERA_MS = 5000
ELECTED_SECONDS = 40.0


class Operator:
    """A home of its own, and the command."""

    def __init__(self, base: Path) -> None:
        self.env = dict(os.environ) | {"DBC_HOME": str(base / "home")}
        for name in ("DBC_NODE", "DBC_WALLET"):
            self.env.pop(name, None)

    def dbc(self, *args: str) -> str:
        done = subprocess.run(
            [*DBC, *args], env=self.env, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def own(self, data: Path) -> dict[str, object]:
        found = json.loads(self.dbc("validate", "status", "--data", str(data), "--json"))
        (mine,) = [one for one in found["validators"] if one["own"]]
        return mine


def test_a_third_validator_joins_two_that_run(tmp_path: Path) -> None:
    net, data = tmp_path / "net", tmp_path / "node"
    homes = [CometHome(net / f"validator-{number}" / "comet") for number in (1, 2)]
    spec = spec_file([home.ensure_keys().key for home in homes], Timestamp={"era_length": ERA_MS})
    (net / "chain.json").write_text(json.dumps(spec))
    operator = Operator(tmp_path)
    operator.dbc("network", "up", "-d", "--validators", "2", "--providers", "0", "--dir", str(net))
    node = None
    try:
        made = json.loads(
            operator.dbc(
                *("validate", "init", "--data", str(data)),
                *("--spec", str(net / "chain.json"), "--json"),
            )
        )
        p2p, rpc, comet_metrics, metrics = free_ports(4)
        argv = [
            *shlex.split(made["command"]),
            *("--p2p", f"127.0.0.1:{p2p}", "--rpc-port", str(rpc), "--private"),
            *("--comet-metrics", f"127.0.0.1:{comet_metrics}", "--metrics", f"127.0.0.1:{metrics}"),
            *(part for home in homes for part in ("--peer", peer_of(home))),
        ]
        node = start(argv, tmp_path, rpc)
        for _ in range(2):
            operator.dbc(
                *("--wallet", "//Alice", "validate", "join", "-y"),
                *("--data", str(data), "--stake", "20000"),
            )
        deadline = time.monotonic() + ELECTED_SECONDS
        while (mine := operator.own(data))["state"] != "validating":
            assert time.monotonic() < deadline, (mine, (tmp_path / "node.log").read_text())
            time.sleep(0.5)
        assert (mine["power"], mine["elected"]) == (20_000, True)
        assert mine["stake"] == str(20_000 * 10**15)

        deadline = time.monotonic() + ELECTED_SECONDS
        while (found := scrape(metrics)).get("deepbrain_node_peers") != 2:
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
        assert (found["deepbrain_node_power"], found["deepbrain_node_live"]) == (20_000, 1)
        health = call(rpc, "system_health")
        assert health == {"peers": 2, "isSyncing": False, "shouldHavePeers": True}

        # The guide's way to fetch the chain again: the sign state stays, and it votes once it is there.
        signs_beyond(data, 0)
        stop(node)
        node = None
        signed = home_of(data).last_signed()
        for path in (data / "chain", data / "snapshots", *(data / "comet" / "data").glob("*.db")):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(data / "comet" / "data" / "cs.wal")
        node = start(argv, tmp_path, rpc)
        signs_beyond(data, signed + 1)

        operator.dbc("--wallet", "//Alice", "validate", "leave", "-y")
        deadline = time.monotonic() + ELECTED_SECONDS
        while (mine := operator.own(data))["power"]:
            assert time.monotonic() < deadline, mine
            time.sleep(0.5)
        assert mine["state"] == "bonded"
    finally:
        if node is not None:
            stop(node)
        operator.dbc("network", "down", "--dir", str(net))


def start(argv: list[str], base: Path, rpc: int) -> "subprocess.Popen[str]":
    """A node, once it says that it is ready."""
    with (base / "node.log").open("a") as log:
        node = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True)
    assert node.stdout is not None
    assert node.stdout.readline().startswith(f"ready rpc=ws://127.0.0.1:{rpc}")
    return node


def stop(node: "subprocess.Popen[str]") -> None:
    node.terminate()
    node.communicate(timeout=20)


def signs_beyond(data: Path, block: int) -> None:
    deadline = time.monotonic() + ELECTED_SECONDS
    while home_of(data).last_signed() <= block:
        assert time.monotonic() < deadline, f"it signs nothing after block {block}"
        time.sleep(0.5)


def home_of(data: Path) -> CometHome:
    return CometHome(data / "comet")


def call(port: int, method: str) -> object:
    frame = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": []}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/", frame, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read())["result"]


def peer_of(home: CometHome) -> str:
    settings = tomllib.loads((home.path / "config" / "config.toml").read_text())
    address = settings["p2p"]["laddr"].removeprefix("tcp://")
    return f"{home.ensure_keys().node_id}@{address}"

"""`dbc network up --validators N`, as a person types it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
DBC = (sys.executable, "-m", "deepbrain.cli.main")


@pytest.fixture
def dbc(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("DBC_")}
    if "DBC_COMETBFT" in os.environ:
        env["DBC_COMETBFT"] = os.environ["DBC_COMETBFT"]
    env["DBC_HOME"] = str(tmp_path / "home")

    def run(*words, code=0):
        place = ("--dir", str(tmp_path / "net"))
        done = subprocess.run(
            [*DBC, "network", *words, *place], env=env, capture_output=True, text=True, timeout=150
        )
        assert done.returncode == code, done.stderr
        return done

    yield run
    run("down")


def blocks(dbc):
    record = json.loads(dbc("status", "--json").stdout)
    return [one["block"] for one in record["validators"]]


def wait(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def ours(tmp_path):
    """Processes of this network, by the directory that they were given or stand in."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            stands = (process / "cwd").readlink()
        except OSError:
            continue
        if str(tmp_path).encode() in b" ".join(words) or stands.is_relative_to(tmp_path / "net"):
            found[int(process.name)] = words
    return found


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_validators_come_up_show_their_health_come_back_and_go_down(dbc, tmp_path):
    dbc("up", "--validators", "3", "--providers", "0", "--detach")
    wait(lambda: min(blocks(dbc)) >= 3)
    shown = dbc("status").stdout
    assert shown.splitlines()[0].split() == ["validator", "node", "block"]
    assert len(shown.splitlines()) == 4

    def running(word):
        found = ours(tmp_path).items()
        return {pid for pid, words in found if any(one.endswith(word) for one in words)}

    nodes, comets = running(b"--engine"), running(b"cometbft") - running(b"--engine")
    assert (len(nodes), len(comets)) == (3, 3)
    # That of another node: the killed one's ends with it.
    comet = next(pid for pid in comets if parent_of(pid) != min(nodes))
    os.kill(min(nodes), signal.SIGKILL)
    os.kill(comet, signal.SIGKILL)
    wait(lambda: len(running(b"--engine") - {min(nodes)}) == 3)
    wait(lambda: None not in blocks(dbc))
    before = max(blocks(dbc))
    wait(lambda: min(blocks(dbc)) > before + 2)

    # The chain stays for the next time, and has as many validators as it was made with.
    dbc("down")
    wait(lambda: not ours(tmp_path), 10)
    refused = dbc("up", "--validators", "2", "--providers", "0", "--detach", code=1)
    assert "has 3 validators; start it with `--validators 3`" in refused.stderr
    dbc("up", "--validators", "3", "--providers", "0", "--detach")
    wait(lambda: min(blocks(dbc)) > before)

"""The main job, in every isolation: rent, run, watch, get the files back, pay exactly what was used."""

import ast
import os
import threading
import time
from pathlib import Path
from typing import IO

import pytest
from tests.e2e import jobs
from tests.e2e.money import assert_conserved, assert_settled
from tests.e2e.network import Network, Popen

FIRST_OUTPUT_SECONDS = 5.0


class Watched:
    """A running command whose lines are stamped as they come."""

    def __init__(self, process: Popen) -> None:
        self.process = process
        self.began = time.monotonic()
        self.out: list[tuple[float, str]] = []
        self.err: list[tuple[float, str]] = []
        self._threads = [
            threading.Thread(target=self._read, args=(process.stdout, self.out)),
            threading.Thread(target=self._read, args=(process.stderr, self.err)),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: IO[str], into: list[tuple[float, str]]) -> None:
        with stream:
            into.extend((time.monotonic() - self.began, line.rstrip("\n")) for line in stream)

    def wait(self, seconds: float = 60) -> int:
        code = self.process.wait(seconds)
        for thread in self._threads:
            thread.join(10)
        return code


def test_a_weaker_isolation_is_explained_in_one_line(as_process: Network, as_user: Network) -> None:
    notes = as_process.status()["notes"]
    assert [
        note for note in notes if "gvisor-own is not used: user namespaces are switched" in note
    ]
    isolation, no_network = as_user.status()["notes"]
    assert "gvisor is not used" in isolation
    assert "tenants have no network: only the mode gvisor" in no_network


def test_a_numpy_job_runs_live_and_settles_to_the_planck(net: Network) -> None:
    workspace = net.workspace("train", {"train.py": jobs.TRAIN, "sub/data.txt": "data\n"})
    run = Watched(
        net.start("run", "-y", "--for", "60s", "--workspace", str(workspace), "--into", "out",
                  "--", "python3", "train.py", "7", "3", "9")
    )  # fmt: skip
    code = run.wait()
    out, err = [line for _, line in run.out], [line for _, line in run.err]
    assert code == 9, err
    assert out[0] == "start"
    assert out[-1] == "end"
    assert "to stderr" in err
    assert not any(line == "to stderr" for line in out), "the two streams stay apart"
    assert run.out[0][0] <= FIRST_OUTPUT_SECONDS
    assert run.out[-1][0] - run.out[0][0] > 2.0, "output comes while the job runs"
    order = net.orders()[-1]
    _assert_results(net.base / "out" / str(order["order"]))
    bill = net.bill(order["order"])
    assert_settled(bill)
    assert bill["state"] == "exited"
    assert bill["exit_code"] == 9
    assert 3 <= bill["used_seconds"] <= 8
    assert int(bill["paid"]) > 0
    assert int(bill["burned"]) > 0
    assert int(bill["refunded"]) > int(bill["paid"])
    _assert_isolation_is_named(net, bill, err)
    assert_conserved(net)


def _assert_results(directory: Path) -> None:
    files = sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())
    assert files == ["model.npy", "sub/note.txt"], "what is new comes back, what was sent does not"
    model = (directory / "model.npy").read_bytes()
    header = ast.literal_eval(model[10 : model.index(b"\n")].decode())
    assert header["shape"] == (4,)
    assert (directory / "sub" / "note.txt").read_text() == "made by the job\n"
    for path in directory.rglob("*"):
        assert not path.is_symlink()
        assert path.stat().st_mode & 0o7022 == 0


def _assert_isolation_is_named(net: Network, bill: dict[str, object], err: list[str]) -> None:
    assert {offer["isolation"] for offer in net.offers()} == {net.variant.mode}
    assert bill["isolation"] == net.variant.mode
    assert any(f"({net.variant.mode})" in line for line in err), err


def test_a_job_over_its_memory_ends_with_137(net: Network) -> None:
    workspace = net.workspace("hog", {"hog.py": jobs.HOG})
    done = net.dbc("run", "-y", "--for", "5m", "--workspace", str(workspace), "--",
                   "python3", "hog.py", timeout=110)  # fmt: skip
    assert done.code == 137, done.err
    assert "eating" in done.out
    assert "out of memory" in done.sentence
    assert_settled(net.bill(net.orders()[-1]["order"]))


def test_a_job_ends_at_its_term_with_124(as_root: Network) -> None:
    done = as_root.dbc("run", "-y", "--for", "10s", "--no-workspace", "--",
                       "python3", "-c", "import time; print('on', flush=True); time.sleep(99)")  # fmt: skip
    assert done.code == 124, done.err
    assert done.out == "on\n"
    assert "end of its term" in done.sentence
    bill = as_root.bill(as_root.orders()[-1]["order"])
    assert_settled(bill)
    assert bill["used_seconds"] == 10
    assert bill["refunded"] == "0"


def test_a_command_that_is_not_there_ends_with_127(net: Network) -> None:
    done = net.dbc("run", "-y", "--for", "60s", "--no-workspace", "--", "no-such-command")
    assert done.code == 127, done.err
    assert "no-such-command" in done.err
    assert "Traceback" not in done.err
    assert_settled(net.bill(net.orders()[-1]["order"]))


SEARCH = """
import os, sys
secret, met = sys.argv[1].encode()[::-1], []
def look(path):
    try:
        with open(path, "rb") as file:
            before = b""
            for _ in range(64):
                data = file.read(1 << 20)
                if secret in before + data:
                    met.append(path)
                    return
                if not data:
                    return
                before = data[-64:]
    except OSError:
        return
for root, directories, files in os.walk("/"):
    directories[:] = [d for d in directories if root + d not in ("/sys", "/dev")]
    for name in files:
        path = os.path.join(root, name)
        if os.path.isfile(path) and not path.startswith("/proc/self/task"):
            look(path)
print("met", met)
sys.exit(3 if met else 0)
"""


@pytest.mark.parametrize("mode", ["as_root", "as_user"])
def test_a_tenant_finds_nothing_of_another(mode: str, request: pytest.FixtureRequest) -> None:
    net: Network = request.getfixturevalue(mode)
    secret = os.urandom(12).hex()
    writer = (
        "import sys,time; s=sys.argv[1]; [open(p,'w').write(s) for p in "
        "('mine','/tmp/mine','/root-mine')]; print('written', flush=True); time.sleep(60)"
    )
    machines = [entry["machine"][:12] for entry in net.record()["machines"]]
    units = {offer["machine"][:12]: offer["units"] for offer in net.offers()}
    common = ("run", "-y", "--for", "2m")
    a = net.expect(*common, "-d", "--no-workspace", "--machine", machines[0], "--",
                   "python3", "-c", writer, secret)  # fmt: skip
    order = a.out.strip()
    _await_output(net, order, "written")
    # Spelled backwards, so that the searcher's own command line is not what it finds.
    space = net.workspace("search", {"search.py": SEARCH})
    try:
        for machine in machines if units[machines[0]] > 1 else machines[1:]:
            b = net.dbc(*common, "--workspace", str(space), "--machine", machine, "--",
                        "python3", "search.py", secret[::-1])  # fmt: skip
            assert b.code == 0, b.out + b.err
            assert "met []" in b.out
    finally:
        net.expect("stop", order)


def _await_output(net: Network, order: str, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in net.dbc("logs", order).out:
        assert time.monotonic() < deadline, f"order {order} never said {text!r}"
        time.sleep(0.2)

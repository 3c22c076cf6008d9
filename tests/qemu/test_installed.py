"""`dbc provider install` under a real systemd: the service serves, restarts under its jobs, and goes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EMULATED = subprocess.run(
    ["systemd-detect-virt"], capture_output=True, text=True, check=False
).stdout.strip() == "qemu"  # fmt: skip
PATIENCE = 10 if EMULATED else 1
"""Without KVM everything takes so much longer."""

pytestmark = pytest.mark.timeout(400 * PATIENCE)

UNIT = "dbc-provider.service"
DROP_IN = Path(f"/etc/systemd/system/{UNIT}.d/path.conf")
NODE = "ws://127.0.0.1:9944"
DBC = (sys.executable, "-m", "deepbrain.cli.main", "--node", NODE)


def run(*words: str, code: int | None = 0) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False,
                          timeout=200 * PATIENCE)  # fmt: skip
    assert code is None or done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def dbc(*words: str, code: int | None = 0) -> str:
    return run(*DBC, *words, code=code)


def property_of(name: str) -> str:
    return run("systemctl", "show", "--value", f"--property={name}", UNIT).strip()


def wait_for(holds: Callable[[], object], seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds * PATIENCE
    while not holds():
        assert time.monotonic() < deadline, complaint + run(
            "journalctl", "-u", UNIT, "-n", "40", "--no-pager", code=None
        )
        time.sleep(0.2)


@pytest.fixture(scope="module", autouse=True)
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    data = tmp_path_factory.mktemp("node")
    command = [sys.executable, "-m", "deepbrain.node", "--spec", "dev", "--data", str(data / "n")]
    with (data / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    wait_for(lambda: dbc("gpus", "--json", code=None).startswith("["), 60, "no node")
    yield
    process.terminate()
    process.wait(30)


def status() -> str:
    done = subprocess.run([*DBC, "provider", "status", "--json"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    return done.stdout


def test_installed_it_serves_as_a_service_with_the_mounts_of_the_host() -> None:
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    # The guest has no environment of its own for Python; a host's service starts that of its checkout.
    DROP_IN.write_text(f"[Service]\nEnvironment=PYTHONPATH={os.environ['PYTHONPATH']}\n")
    dbc("provider", "install", "--stash", "//Bob", "--address", "127.0.0.1", "--disk", "2G")
    wait_for(lambda: property_of("ActiveState") == "active", 30, "the service is not active")
    dbc("--wallet", "//Bob", "provider", "bond", "/etc/dbc/bond.json", "--price", "0.02", "-y")
    wait_for(lambda: json.loads(status())["serves"], 60, "it does not serve")
    assert json.loads(status())["service"] == "active"
    main = property_of("MainPID")
    assert Path(f"/proc/{main}/ns/mnt").readlink() == Path("/proc/1/ns/mnt").readlink()
    assert b"deepbrain.provider.helper" in Path(f"/proc/{main}/cmdline").read_bytes()
    assert run("systemctl", "is-enabled", UNIT).strip() == "enabled"
    password = Path("/etc/dbc/controller.password").read_text().strip()
    assert password not in run("journalctl", "-u", UNIT, "--no-pager")
    for process in Path("/proc").glob("[0-9]*/environ"):
        try:
            assert password.encode() not in process.read_bytes()
        except OSError:
            continue


def test_a_restart_of_the_service_leaves_jobs_alone(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    words = ("run", "-y", "--for", "5m", "--no-workspace", "--", "sh", "-c",
             "echo started; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 1; echo $i; done")  # fmt: skip
    with log.open("w") as out:
        job = subprocess.Popen([*DBC, "--wallet", "//Alice", *words], stdout=out, stderr=out)
    wait_for(lambda: "started\n" in log.read_text(), 60, "the job does not start")
    main = property_of("MainPID")
    said = dbc("provider", "upgrade")
    assert "1 of 1 jobs went on" in said
    assert property_of("MainPID") != main
    assert job.wait(90 * PATIENCE) == 0, log.read_text()
    assert [line for line in log.read_text().splitlines() if line.isdigit()] == [
        str(i) for i in range(1, 16)
    ]
    about = run(*DBC, "provider", "logs", "--order", "0")
    assert "event=begin order=0" in about
    assert all("order=0" in line for line in about.splitlines() if line.startswith("time="))


def test_killed_it_comes_back() -> None:
    main = property_of("MainPID")
    os.kill(int(main), 9)
    wait_for(lambda: property_of("MainPID") not in ("0", main), 30, "it does not come back")
    wait_for(lambda: json.loads(status())["serves"], 60, "it does not serve")


def test_uninstalled_nothing_is_left() -> None:
    assert "still bonded" in dbc("provider", "uninstall", "-y", code=1)
    dbc("drain")
    machine = json.loads(status())["machine"]
    dbc("--wallet", "//Bob", "leave", "-y", "--machine", machine)
    dbc("provider", "uninstall", "-y", "--purge")
    DROP_IN.unlink()
    assert not Path("/etc/dbc").exists()
    assert not Path(f"/etc/systemd/system/{UNIT}").exists()
    assert "deepbrain.provider" not in run("ps", "ax", "-o", "args")
    assert "/var/lib/dbc" not in Path("/proc/self/mountinfo").read_text()
    assert "dbc:" not in Path("/etc/passwd").read_text()

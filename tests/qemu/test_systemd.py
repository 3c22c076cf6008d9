"""Tenants of a service under systemd and cgroup version 2; run by `scripts/qemu`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepbrain.sandbox.canary import IMAGE
from deepbrain.sandbox.cgroup2 import SCOPE, find_place
from deepbrain.sandbox.cgroups import Version2, find_cgroups
from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.open import open_host
from deepbrain.sandbox.sandbox import Mode

pytestmark = pytest.mark.timeout(300)

UNIT = "dbc-served"
ROOT = Path("/sys/fs/cgroup")


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


@pytest.fixture
def data() -> Iterator[Path]:
    place = Path("/var/lib/dbc-test")
    place.mkdir(mode=0o711, exist_ok=True)
    yield place
    systemctl("stop", UNIT)
    host = open_host(place, None)
    for tenant in (place / "tenants").glob("[0-9]*"):
        host.destroy(int(tenant.name))


def serve(data: Path) -> None:
    """The service as a provider's unit is made: its own subtree, and tenants outlive it."""
    keep = [f"--setenv={name}={os.environ[name]}" for name in ("PYTHONPATH", "HOME")]
    rights = ("--property=Delegate=yes", "--property=KillMode=process", "--remain-after-exit")
    command = [sys.executable, "-m", "tests.qemu.served", str(data), "1"]
    subprocess.run(
        [
            "systemd-run",
            f"--unit={UNIT}",
            *rights,
            "--property=WorkingDirectory=/checkout",
            *keep,
            *command,
        ],
        check=True,
    )


def wait_serving(data: Path, order: int) -> str:
    said = data / f"serving-{order}"
    for _ in range(600):
        if said.exists() and said.read_text():
            return said.read_text().split()[0]
        time.sleep(0.1)
    pytest.fail(systemctl("status", UNIT, "--no-pager", "--full"))


def test_this_machine_is_what_the_test_is_for() -> None:
    assert isinstance(find_cgroups(), Version2)
    assert find_place(ROOT).scope
    assert find_cgroups().missing() == []


def test_tenants_outlive_their_service_and_it_comes_back(data: Path) -> None:
    serve(data)
    assert wait_serving(data, 1) == Mode.GVISOR.value
    tenant = TenantDirectory(data / "tenants" / "1")
    group = ROOT / f"system.slice/{SCOPE}.scope" / tenant.container
    assert (group / "cgroup.procs").read_text().split()
    assert (group / "memory.oom.group").read_text().strip() == "1"
    assert (group / "memory.swap.max").read_text().strip() == "0"
    assert (group / "cpu.max").read_text().split() == ["10000", "100000"]
    keeper = tenant.keeper()
    systemctl("restart", UNIT)
    assert wait_serving(data, 2) == Mode.GVISOR.value
    assert tenant.keeper() == keeper  # untouched
    second = TenantDirectory(data / "tenants" / "2")
    assert (group.parent / second.container / "cgroup.procs").read_text().split()
    assert "active" in systemctl("is-active", f"{SCOPE}.scope")


def test_a_service_without_tenants_leaves_no_scope(data: Path) -> None:
    host = open_host(data, None)
    assert host.report.mode is Mode.GVISOR
    assert (data / "images" / IMAGE).exists() or not list((data / "tenants").glob("[0-9]*"))
    assert not list(ROOT.glob(f"system.slice/{SCOPE}.scope/*-*"))

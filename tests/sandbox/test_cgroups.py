"""Limits are written, read back, and refused where they differ; on a file system of our own."""

import os
from pathlib import Path

import pytest

from deepbrain.sandbox import cgroups as cgroups_module
from deepbrain.sandbox import runsc as runsc_module
from deepbrain.sandbox.cgroup2 import Place
from deepbrain.sandbox.cgroups import SENTRY_MEMORY, Limits, Version1, Version2, find_cgroups
from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.runsc import RunscEngine
from deepbrain.sandbox.sandbox import SandboxError

LIMITS = Limits.for_tenant(256 << 20, 1500, 64)


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "deepbrain").mkdir()
    for group in (tmp_path, tmp_path / "deepbrain"):
        (group / "cgroup.subtree_control").write_text("")
    return tmp_path


def in_version_2(root: Path) -> Version2:
    return Version2(root, Place("/deepbrain"))


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    for name in ("memory", "cpu", "pids", "blkio"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_what_a_tenant_gets() -> None:
    assert LIMITS.memory_bytes == (256 << 20) + SENTRY_MEMORY
    assert LIMITS.cpu_quota_us == 150_000
    assert LIMITS.pids == 4 * 64 + 256
    assert Limits.for_tenant((256 << 20) + 1, 1, 8).memory_bytes % 4096 == 0
    assert Limits.for_tenant(1, 1, 8).cpu_quota_us == 1000


def test_members_of_a_group_that_vanishes_meanwhile(
    version_1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [version_1 / name / "deepbrain" / "t" for name in ("memory", "blkio")]
    for group, numbers in zip(groups, ("1 2", "3"), strict=True):
        (group / "below").mkdir(parents=True)
        (group / "cgroup.procs").write_text(numbers)
        (group / "below" / "cgroup.procs").write_text("4")
    cgroups = Version1(version_1)
    assert cgroups.members("t") == {1, 2, 3, 4}
    scandir = os.scandir

    def vanished(path: Path) -> object:
        if Path(path).is_relative_to(groups[1]):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanished)
    assert {1, 2, 4} <= cgroups.members("t")


def test_version_2(version_2: Path) -> None:
    cgroups = in_version_2(version_2)
    group = version_2 / "deepbrain" / "t"
    group.mkdir(parents=True)
    (group / "memory.swap.max").write_text("max")
    cgroups.make("t", LIMITS)
    assert (version_2 / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert (group.parent / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert (group / "memory.max").read_text() == str(LIMITS.memory_bytes)
    assert (group / "memory.swap.max").read_text() == "0"
    assert (group / "cpu.max").read_text() == "150000 100000"
    assert (group / "pids.max").read_text() == str(LIMITS.pids)
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert cgroups.oom_counters("t") == [str(group / "memory.events")]


def test_version_2_without_swap(version_2: Path) -> None:
    in_version_2(version_2).make("t", LIMITS)
    assert not (version_2 / "deepbrain/t/memory.swap.max").exists()


def test_version_1(version_1: Path) -> None:
    cgroups = Version1(version_1)
    cgroups.make("t", LIMITS)
    memory = version_1 / "memory/deepbrain/t"
    assert (memory / "memory.limit_in_bytes").read_text() == str(LIMITS.memory_bytes)
    assert not (memory / "memory.memsw.limit_in_bytes").exists()
    assert (version_1 / "cpu/deepbrain/t/cpu.cfs_quota_us").read_text() == "150000"
    assert (version_1 / "pids/deepbrain/t/pids.max").read_text() == str(LIMITS.pids)


@pytest.mark.parametrize("name", ["memory.max", "cpu.max", "pids.max"])
def test_a_limit_that_reads_back_another_is_refused(version_2: Path, name: str) -> None:
    group = version_2 / "deepbrain" / "t"
    group.mkdir(parents=True)
    (group / name).symlink_to("/dev/null")
    with pytest.raises(SandboxError, match=f"{name} reads back"):
        in_version_2(version_2).make("t", LIMITS)


def test_a_missing_controller_is_named(version_1: Path) -> None:
    (version_1 / "pids").rmdir()
    assert Version1(version_1).missing() == ["pids"]
    with pytest.raises(SandboxError, match="pids"):
        Version1(version_1).make("t", LIMITS)


def test_who_is_in_it(version_1: Path) -> None:
    cgroups = Version1(version_1)
    cgroups.make("t", LIMITS)
    for controller, pids in (("memory", "11\n12\n"), ("cpu", "12\n"), ("pids", "")):
        (version_1 / controller / "deepbrain/t/cgroup.procs").write_text(pids)
    assert cgroups.members("t") == {11, 12}
    assert not cgroups.holds_all("t")
    (version_1 / "pids/deepbrain/t/cgroup.procs").write_text("12\n")
    assert cgroups.holds_all("t")


def test_which_version_is_found_by_looking(version_1: Path, tmp_path_factory) -> None:
    assert find_cgroups(version_1).version == 1
    (version_1 / "cgroup.controllers").write_text("cpu\n")
    assert find_cgroups(version_1).version == 2
    nothing = tmp_path_factory.mktemp("nothing")
    with pytest.raises(SandboxError, match="no cgroup controller for memory, cpu, pids"):
        find_cgroups(nothing).make("t", LIMITS)


@pytest.mark.parametrize("swaps", [True, False])
def test_swap_that_cannot_be_limited_is_refused(
    version_1: Path, swaps: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "swaps"
    table.write_text("Filename Type Size\n" + ("/dev/vdb partition 1\n" if swaps else ""))
    monkeypatch.setattr(cgroups_module, "_SWAPS", table)
    if swaps:
        with pytest.raises(SandboxError, match="turn swap off"):
            Version1(version_1).make("t", LIMITS)
    else:
        Version1(version_1).make("t", LIMITS)


def test_a_group_that_a_starting_sandbox_makes_again_goes_as_well(
    version_1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroups = Version1(version_1)
    tenant = TenantDirectory(tmp_path / "7")
    tenant.path.mkdir()
    nobody = (os.getuid(), os.getgid())
    engine = RunscEngine(
        tmp_path / "runsc", tmp_path / "tool", rootless=False, empty_rootfs=tmp_path / "empty",
        owner=nobody, cgroups=cgroups,
    )  # fmt: skip
    made = version_1 / "memory" / "deepbrain" / tenant.container
    monkeypatch.setattr(runsc_module, "kill_until_gone", lambda *_: made.mkdir(parents=True))
    engine.clean(tenant)
    assert not made.exists()

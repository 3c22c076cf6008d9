"""Limits are written, read back, and refused where they differ; on a file system of our own."""

from pathlib import Path

import pytest

from deepbrain.sandbox.cgroups import SENTRY_MEMORY, Cgroups, Limits
from deepbrain.sandbox.sandbox import SandboxError

LIMITS = Limits.for_tenant(256 << 20, 1500, 64)


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return tmp_path


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


def test_version_2(version_2: Path) -> None:
    cgroups = Cgroups(version_2)
    group = version_2 / "deepbrain" / "t"
    group.mkdir(parents=True)
    (group / "memory.swap.max").write_text("max")
    cgroups.make("t", LIMITS)
    assert (version_2 / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert (group / "memory.max").read_text() == str(LIMITS.memory_bytes)
    assert (group / "memory.swap.max").read_text() == "0"
    assert (group / "cpu.max").read_text() == "150000 100000"
    assert (group / "pids.max").read_text() == str(LIMITS.pids)
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert cgroups.oom_counters("t") == [str(group / "memory.events")]


def test_version_2_without_swap(version_2: Path) -> None:
    Cgroups(version_2).make("t", LIMITS)
    assert not (version_2 / "deepbrain/t/memory.swap.max").exists()


def test_version_1(version_1: Path) -> None:
    cgroups = Cgroups(version_1)
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
        Cgroups(version_2).make("t", LIMITS)


def test_a_missing_controller_is_named(version_1: Path) -> None:
    (version_1 / "pids").rmdir()
    assert Cgroups(version_1).missing() == ["pids"]
    with pytest.raises(SandboxError, match="pids"):
        Cgroups(version_1).make("t", LIMITS)


def test_who_is_in_it(version_1: Path) -> None:
    cgroups = Cgroups(version_1)
    cgroups.make("t", LIMITS)
    for controller, pids in (("memory", "11\n12\n"), ("cpu", "12\n"), ("pids", "")):
        (version_1 / controller / "deepbrain/t/cgroup.procs").write_text(pids)
    assert cgroups.members("t") == {11, 12}
    assert not cgroups.holds_all("t")
    (version_1 / "pids/deepbrain/t/cgroup.procs").write_text("12\n")
    assert cgroups.holds_all("t")

"""Canaries that cannot fail would prove nothing: each meets an engine without the limit it is about."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from deepbrain.sandbox import bundle, canary
from deepbrain.sandbox.cgroups import Cgroups, Limits, find_cgroups
from deepbrain.sandbox.modes import Programs
from deepbrain.sandbox.runsc import RunscEngine
from deepbrain.sandbox.sandbox import Mode, SandboxError

pytestmark = [pytest.mark.gvisor, pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for path in (tmp_path, *list(tmp_path.parents)[:3]):
        path.chmod(0o711)
    canary.make_data_directory(tmp_path, (0, 0))
    return tmp_path


def run(place: Path, cgroups: Cgroups) -> str:
    programs = Programs.find()
    if os.geteuid() != 0 or programs.runsc is None or programs.tool is None or cgroups.missing():
        reason = "needs root, cgroup controllers, and scripts/get-gvisor .cache/bin"
        pytest.fail(reason) if os.environ.get("REQUIRE_GVISOR") else pytest.skip(reason)
    engine = RunscEngine(
        programs.runsc, programs.tool, rootless=False, empty_rootfs=place / "empty",
        owner=(0, 0), cgroups=cgroups,
    )  # fmt: skip
    return canary.run_canaries(Mode.GVISOR, engine, place, (0, 0), programs.tool)


def lenient(**factors: int) -> Cgroups:
    """This machine's cgroups, but for a limit that is some times as wide as was asked for."""
    cgroups = find_cgroups()
    make = cgroups.make

    def wide(name: str, limits: Limits) -> None:
        wider = {field: getattr(limits, field) * factor for field, factor in factors.items()}
        make(name, replace(limits, **wider))

    cgroups.make = wide  # type: ignore[method-assign]
    return cgroups


def test_all_is_well_where_limits_hold(place: Path) -> None:
    assert "gvisor" in run(place, find_cgroups())
    assert not list(place.glob("canary-*"))


def test_memory_that_is_not_limited_is_noticed(place: Path) -> None:
    with pytest.raises(SandboxError, match="outlived its memory limit"):
        run(place, lenient(memory_bytes=16))


def test_a_share_of_processors_that_is_not_limited_is_noticed(place: Path) -> None:
    with pytest.raises(SandboxError, match=r"of a core where 0\.5 is its share"):
        run(place, lenient(cpu_milli=16))


def test_processes_that_are_not_limited_are_noticed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "INIT_TASKS", 4096)
    with pytest.raises(SandboxError, match="processes where 48 are allowed"):
        run(place, lenient(pids=64))

"""The suite of `test_sandbox` again, as others than root: each run is a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conformance import test_sandbox
from tests.conformance.test_sandbox import AS_ROOT, ORDINARY_UID, leftovers, loop_devices, refuse

from deepbrain.provider.confine import confined, program_trees
from deepbrain.sandbox.modes import FORCE, Programs
from deepbrain.sandbox.volumes import mounts_below, unmount_below

pytestmark = [pytest.mark.gvisor, pytest.mark.root, pytest.mark.timeout(240)]


def test_as_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not AS_ROOT:
        pytest.skip("`test_sandbox` itself is that run here")
    place = tmp_path_factory.mktemp("ordinary")
    os.chown(place, ORDINARY_UID, ORDINARY_UID)
    env = inner_environment("gvisor-own,process", place)
    enter = confined(ORDINARY_UID, ORDINARY_UID, (*program_trees(), *reachable(), place))
    done = subprocess.run(
        inner_pytest(place), env=env, preexec_fn=enter, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_as_the_agent_of_a_root_helper(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not AS_ROOT:
        refuse("the helper needs root")
    place = tmp_path_factory.mktemp("agent")  # closed to the agent, but for what it is let reach
    os.chown(place, ORDINARY_UID, ORDINARY_UID)
    data = tmp_path_factory.mktemp("helper")
    data.chmod(0o755)
    env = inner_environment("helper", place) | {"DBC_HELPER_DATA": str(data), FORCE: "gvisor"}
    helper = [sys.executable, "-m", "deepbrain.provider.helper", "--once"]
    for path in (place, *reachable()):
        helper += ["--reach", str(path)]
    helper += ["--data", str(data), "--uid", str(ORDINARY_UID), "--", *inner_pytest(place)]
    done = subprocess.run(helper, env=env, capture_output=True, text=True, check=False)
    left = {**mounts_below(data)}
    unmount_below(data)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert left == {}
    assert leftovers(data) + loop_devices(data) == []


def reachable() -> tuple[Path, ...]:
    programs = Programs.find()
    return (
        Path(__file__).parents[2],
        *(path.parent for path in (programs.runsc, programs.tool) if path),
    )


def inner_environment(kinds: str, place: Path) -> dict[str, str]:
    programs = Programs.find()
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
        "DBC_CONFORMANCE": kinds,
        "DBC_RUNSC": str(programs.runsc),
        "DBC_TOOL": str(programs.tool),
        "HOME": str(place),
        "TMPDIR": str(place),
    }


def inner_pytest(place: Path) -> list[str]:
    root = Path(__file__).parents[2]
    return [
        sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist",
        f"--rootdir={root}", "-c", str(root / "pyproject.toml"), f"--basetemp={place}/t", test_sandbox.__file__,
    ]  # fmt: skip

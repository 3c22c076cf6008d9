"""Every node computes the same, whatever its process is like."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def root_in_a_process(seed: str, *flags: str) -> str:
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    # The scenario asserts while it runs: under -O only the runtime's own checks are left.
    done = subprocess.run(
        [sys.executable, *flags, "-m", "tests.runtime.scenario"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return done.stdout.strip()


def test_the_root_is_the_same_in_every_process():
    roots = {
        root_in_a_process("0"),
        root_in_a_process("4242"),
        root_in_a_process("1", "-O"),
    }
    assert len(roots) == 1
    assert roots.pop().startswith("0x")


@pytest.mark.parametrize("tool", ["determinism.py", "spec.py"])
def test_the_floors_are_lint_free_and_their_pages_fresh(tool):
    arguments = ["--check"] if tool == "spec.py" else []
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

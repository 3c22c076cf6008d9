"""What the renter's guide has somebody type while a job runs, typed."""

import re
import shlex
import subprocess
from pathlib import Path

from tests.docs.pages import ROOT
from tests.e2e.network import DBC, Network

HEADING = "## While it runs"
STOPPED = 143
WANTS_A_PERSON = ("dbc exec -it 7 bash", "dbc ssh 7")
FOLLOWS = ("dbc logs -f 7", "dbc attach 7")
"""Typed when the job has ended: before that, they last as long as it does."""


def test_what_the_guide_types_while_a_job_runs(as_root: Network) -> None:
    place = as_root.workspace("as-in-the-guide", {"train.py": "", "data/a.txt": "A"})
    (place / "bin").mkdir()
    (place / "bin" / "dbc").write_text(f'#!/bin/sh\nexec {shlex.join(DBC)} "$@"\n')
    (place / "bin" / "dbc").chmod(0o755)
    job = ("sh", "-c", "echo weights > model.npz; echo trained; sleep 600")
    started = as_root.expect("run", "-y", "-d", "--for", "10m", "--no-workspace", "--", *job)
    order = started.out.strip()
    try:
        as_root.wait_for(lambda: "trained" in as_root.dbc("logs", order).out, 20, "it is silent")
        said = {line: typed(as_root, place, line, order) for line in in_turn(block(HEADING))}
    finally:
        as_root.dbc("stop", order)
    assert (place / "model.npz").read_text() == "weights\n"
    assert "trained" in said["dbc logs -f 7"]
    assert "refunded" in said["dbc bill 7"]


def in_turn(lines: list[str]) -> list[str]:
    assert {*WANTS_A_PERSON, *FOLLOWS} < {*lines}
    now = [line for line in lines if line not in (*WANTS_A_PERSON, *FOLLOWS)]
    return [*now, *FOLLOWS]


def typed(net: Network, place: Path, line: str, order: str) -> str:
    """What a line says, whose order 7 is this one; who is asked agrees."""
    command = re.sub(r"\b7(?=$|[ :])", order, line)
    env = net.env | {"PATH": f"{place}/bin:/usr/local/bin:/usr/bin:/bin"}
    done = net.within(
        lambda: subprocess.run(
            ["sh", "-c", command], cwd=place, env=env, input="y\n", capture_output=True, text=True,
            check=False, timeout=60,
        )
    )  # fmt: skip
    expected = STOPPED if line == "dbc attach 7" else 0
    assert done.returncode == expected, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout + done.stderr)


def block(heading: str) -> list[str]:
    """The first block of code under a heading of the guide, without its comments."""
    page = (ROOT / "docs" / "guide" / "renter.md").read_text()
    lines = page.partition(heading)[2].split("```")[1].splitlines()[1:]
    return [line.partition("#")[0].strip() for line in lines]

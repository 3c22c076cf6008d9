"""A short run of the fuzzer of extrinsics and frames; `make fuzz` runs it for long."""

import asyncio
import json
import os
import sys

import pytest
from tests.installed import ROOT, CannotRun, packages

RUNS = 20_000


@pytest.mark.timeout(240)
async def test_twenty_thousand_hostile_inputs(tmp_path):
    try:
        place = await asyncio.to_thread(packages, "fuzz")
    except CannotRun as lack:
        if os.environ.get("REQUIRE_GVISOR") == "1":  # where nothing may be skipped
            raise
        pytest.skip(str(lack))
    report = tmp_path / "fuzz.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fuzz.node_fuzz", "--runs", str(RUNS), "--report", str(report),
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(place)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode(errors="replace")[-3000:]
    found = json.loads(report.read_text())
    assert found["runs"] == RUNS
    # It reaches all there is: parsing, refusing, answering, making calls, and failing them.
    outcomes = found["outcomes"]
    assert {"answered", "call made", "error -32700", "error -32602", "error 1001"} <= set(outcomes)
    assert sum(kind.startswith("call failed") for kind in outcomes) >= 5
    assert found["kept"] > found["seeds"], "new code was reached"

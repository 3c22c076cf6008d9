"""What a renter feels: how soon the first output comes, how fast bytes move, how a keystroke echoes.

A real network on this machine, in the mode its canary found. `first_output_ratio` compares the time from
placing an order to the first byte of its output with a bare `runsc run` of the same unpacked image plus
one block, both measured here, in turns.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deepbrain.cli.renter.orders import expect_order
from deepbrain.cli.renter.reach import Reach, fresh_endpoint
from deepbrain.client import Client
from deepbrain.primitives.ids import OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.sandbox.programs import find_binary

DBC: Final = Path(sys.executable).with_name("dbc")
RENTER: Final = "//Alice"
JOB: Final = ("sh", "-c", "echo first")
ROUNDS: Final = 7
BLOCK_SECONDS: Final = 1.0
STREAM_BYTES: Final = 512 << 20
KEYSTROKES: Final = 300


@contextmanager
def network() -> Iterator[tuple[Path, str]]:
    """A network's directory and its node's URL; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dbc-bench-") as name:
        place = Path(name)
        place.chmod(0o755)
        os.environ["DBC_HOME"] = str(place / "home")
        at = ["--dir", str(place / "network")]
        subprocess.run([DBC, "network", "up", "--detach", *at], check=True, capture_output=True)
        try:
            status = subprocess.run(
                [DBC, "network", "status", "--json", *at], check=True, capture_output=True
            )
            yield place / "network", json.loads(status.stdout)["node"]
        finally:
            subprocess.run([DBC, "network", "down", *at], check=True, capture_output=True)


def ordered_first_output() -> float:
    """Seconds from placing an order to the first byte of its output, through `dbc run`."""
    command = [str(DBC), "run", "-y", "--for", "1m", "--no-workspace", "--", *JOB]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if run.stdout is None or run.stderr is None:
        raise RuntimeError("the run's output is not connected")
    placing = 0.0
    for line in run.stderr:
        if b"placing" in line:
            placing = time.perf_counter()
            break
    run.stdout.read(1)
    first = time.perf_counter() - placing
    run.communicate()
    if run.returncode or not placing:
        raise RuntimeError(f"the run ended with {run.returncode}")
    return first


def bare_first_output(rootfs: Path, place: Path) -> float:
    """Seconds from `runsc run` to the first byte of its output, without anything of ours."""
    runsc = find_binary("runsc", "DBC_RUNSC")
    if runsc is None:
        raise RuntimeError("runsc is missing; run scripts/sandbox")
    bundle = place / f"bare-{time.monotonic_ns()}"
    bundle.mkdir()
    config = {
        "ociVersion": "1.0.0",
        "process": {"args": list(JOB), "cwd": "/", "env": ["PATH=/usr/bin:/bin"], "user": {}},
        "root": {"path": str(rootfs), "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
    }
    (bundle / "config.json").write_text(json.dumps(config))
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    command = [str(runsc), "--root", str(bundle / "state"), *rootless, "--ignore-cgroups"]
    command += ["--network=none", "run", "--bundle", str(bundle), bundle.name]
    began = time.perf_counter()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if run.stdout is None:
        raise RuntimeError("the run's output is not connected")
    run.stdout.read(1)
    first = time.perf_counter() - began
    _, errors = run.communicate()
    subprocess.run(["umount", bundle / "state" / "null-netns"], capture_output=True, check=False)
    if run.returncode:
        raise RuntimeError(f"bare runsc ended with {run.returncode}: {errors[-300:]!r}")
    return first


async def on_a_running_order(url: str, order: int) -> dict[str, float]:
    """The figures that need a job that runs: one stream's speed, a keystroke's echo."""
    pair = Keypair.from_uri(RENTER)
    async with await Client.connect(url) as client, fresh_endpoint() as endpoint:
        found = await expect_order(client, OrderId(order), pair.public)
        reach = Reach(client, endpoint, pair, OrderId(order), found.machine)
        session = await reach.session()
        best = 0.0
        for _ in range(3):
            began, size = time.perf_counter(), 0
            async for chunk in session.copy_out(["big"]):
                size += len(chunk)
            best = max(best, size / (time.perf_counter() - began) / 1e6)
        echoes = []
        async with await session.exec(["cat"], tty=True) as shell:
            for number in range(KEYSTROKES):
                key = b"abcdefghij"[number % 10 : number % 10 + 1]
                began = time.perf_counter()
                await shell.write(key)
                if await shell.read() is None:
                    raise RuntimeError("the shell ended")
                echoes.append(time.perf_counter() - began)
                await asyncio.sleep(0.01)
        reach.lost()
    return {
        "stream_mb_per_s": round(best),
        "keystroke_echo_ms": round(statistics.median(echoes) * 1e3, 2),
    }


def measure() -> dict[str, float]:
    with network() as (place, url):
        rootfs = next((place / "provider-1" / "images").glob("*/rootfs"))
        ordered, bare = [], []
        for _ in range(ROUNDS):
            ordered.append(ordered_first_output())
            bare.append(bare_first_output(rootfs, place))
        figures = {
            "first_output_ratio": round(
                statistics.median(ordered) / (statistics.median(bare) + BLOCK_SECONDS), 2
            ),
            "first_output_s": round(statistics.median(ordered), 3),
            "bare_runsc_s": round(statistics.median(bare), 3),
        }
        job = f"head -c {STREAM_BYTES} /dev/zero > big && echo made && sleep 600"
        command = [str(DBC), "run", "-y", "--detach", "--for", "15m", "--no-workspace"]
        started = subprocess.run(
            [*command, "--", "sh", "-c", job], check=True, capture_output=True, text=True
        )
        order = int(started.stdout)
        logs = [str(DBC), "logs", str(order)]
        while b"made" not in subprocess.run(logs, check=True, capture_output=True).stdout:
            time.sleep(0.3)
        figures |= asyncio.run(on_a_running_order(url, order))
        subprocess.run([DBC, "stop", str(order)], check=True, capture_output=True)
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))

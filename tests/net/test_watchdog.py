"""A process whose loop stands still ends, and says where it stood."""

import subprocess
import sys

STANDS = """
import asyncio, threading, time
from deepbrain.net.watchdog import watchdog

async def main():
    async with watchdog(0.8):
        await asyncio.sleep(2)
        print("runs", flush=True)
        {stand}
        print("goes on", flush=True)
    {after}

asyncio.run(main())
print("over", flush=True)
"""


def ended(stand: str = "", after: str = "") -> "subprocess.CompletedProcess[str]":
    script = STANDS.format(stand=stand or "pass", after=after or "pass")
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_loop_that_stands_still_ends_its_process_and_tells_where() -> None:
    done = ended("lock = threading.Lock(); lock.acquire(); lock.acquire()")
    assert (done.returncode, done.stdout) == (1, "runs\n")
    assert " in main" in done.stderr


def test_a_loop_that_runs_is_left_alone() -> None:
    done = ended(after="time.sleep(2)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "runs\ngoes on\nover\n", "")

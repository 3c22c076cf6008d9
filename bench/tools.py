"""A renter's own tools: how long `ssh` takes, how a keystroke echoes through it, how fast `scp` copies.

A real network on this machine; the order has been reached before, as all but the first command find it.
"""

import fcntl
import json
import os
import pty
import statistics
import struct
import subprocess
import tempfile
import termios
import time
import tty
from pathlib import Path
from typing import Final

from bench.renting import DBC, network

ROUNDS: Final = 11
KEYSTROKES: Final = 200
COPY_BYTES: Final = 256 << 20


def command_seconds(ssh: list[str]) -> float:
    """The median of `ssh dbc-N true`."""
    taken = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        subprocess.run([*ssh, "true"], check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def echo_seconds(ssh: list[str]) -> float:
    """The median time from a key to what `cat` in a terminal there makes of it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    tty.setraw(slave)  # else this end echoes by itself, in no time, until ssh has made it raw
    shell = subprocess.Popen([*ssh, "cat"], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    taken = []
    try:
        os.write(master, b"x")  # until it echoes, it is being started
        while b"x" not in os.read(master, 4096):
            continue
        time.sleep(0.5)
        for number in range(KEYSTROKES):
            key = b"abcdefghij"[number % 10 : number % 10 + 1]
            began = time.perf_counter()
            os.write(master, key)
            os.read(master, 4096)
            taken.append(time.perf_counter() - began)
            time.sleep(0.01)
    finally:
        shell.kill()
        shell.wait()
        os.close(master)
    return statistics.median(taken)


def copy_speeds(config: Path, host: str, place: Path) -> tuple[float, float]:
    """The best of three, up and down, in MB/s."""
    source, back = place / "up", place / "down"
    with source.open("wb") as file:
        for _ in range(COPY_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    speeds = []
    for origin, target in ((f"{source}", f"{host}:big"), (f"{host}:big", f"{back}")):
        best = 0.0
        for _ in range(3):
            began = time.perf_counter()
            command = ["scp", "-q", "-F", str(config), origin, target]
            subprocess.run(command, check=True)
            best = max(best, COPY_BYTES / (time.perf_counter() - began) / 1e6)
        speeds.append(best)
    if back.read_bytes() != source.read_bytes():
        raise RuntimeError("the copy differs")
    return speeds[0], speeds[1]


def measure() -> dict[str, float]:
    with network(), tempfile.TemporaryDirectory(prefix="dbc-bench-") as name:
        run = [str(DBC), "run", "-y", "--detach", "--for", "15m", "--no-workspace"]
        run += ["--", "sleep", "600"]
        order = subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
        config, host = Path(name) / "config", f"dbc-{order}"
        shown = subprocess.run([DBC, "ssh-config"], check=True, capture_output=True)
        config.write_bytes(shown.stdout)
        ssh = ["ssh", "-F", str(config), host]
        began = time.perf_counter()
        subprocess.run([*ssh, "true"], check=True)
        first = time.perf_counter() - began
        up, down = copy_speeds(config, host, Path(name))
        figures = {
            "ssh_first_s": round(first, 2),
            "ssh_true_s": round(command_seconds(ssh), 3),
            "ssh_echo_ms": round(echo_seconds([*ssh[:-1], "-tt", host]) * 1e3, 2),
            "scp_up_mb_per_s": round(up),
            "scp_down_mb_per_s": round(down),
        }
        subprocess.run([DBC, "stop", order], check=True, capture_output=True)
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))

"""How long a person waits for `dbc --help`."""

import statistics
import subprocess
import sys
import time
from pathlib import Path


def measure() -> dict[str, float]:
    """The median of eleven starts, after one that warms the caches."""
    command = Path(sys.executable).with_name("dbc")
    taken = []
    for _ in range(12):
        began = time.perf_counter()
        subprocess.run([command, "--help"], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    return {"help_s": round(statistics.median(taken[1:]), 3)}

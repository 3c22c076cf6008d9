"""NVIDIA's driver on this machine, and whether gVisor's driver proxy knows it.

The proxy speaks the driver's private interface, which changes between versions: a version that it does
not list is refused, with the listed one to install.
"""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

_VERSION_FILE: Final = Path("/sys/module/nvidia/version")
_VERSION: Final = re.compile(r"\d{3,4}\.\d{1,4}(?:\.\d{1,4})?")


def driver_version(file: Path = _VERSION_FILE) -> str:
    """Of the loaded kernel module, such as `580.126.20`; empty where there is none."""
    try:
        found = _VERSION.fullmatch(file.read_text().strip())
    except OSError:
        return ""
    return found.group() if found else ""


@cache
def supported_drivers(runsc: Path) -> tuple[str, ...]:
    """Versions that this gVisor's proxy knows, oldest first; none where it has no proxy."""
    command = [str(runsc), "nvproxy", "list-supported-drivers"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20, env={})
    if done.returncode:
        return ()
    words = (line.strip() for line in done.stdout.splitlines())
    return tuple(sorted({word for word in words if _VERSION.fullmatch(word)}, key=_numbers))


def driver_problem(runsc: Path, version: str | None = None) -> str:
    """Why the driver cannot be used from inside gVisor, with what to do; empty where it can."""
    version = driver_version() if version is None else version
    if not version:
        return "NVIDIA's kernel module is not loaded; install the driver and run `nvidia-smi`"
    known = supported_drivers(runsc)
    if not known:
        return "this gVisor has no proxy for NVIDIA's driver; install a newer one"
    if version in known:
        return ""
    return f"gVisor does not know driver {version}; install {nearest(version, known)}"


def nearest(version: str, known: tuple[str, ...]) -> str:
    """The listed version to install instead: the newest of the same branch, else of all."""
    branch = version.partition(".")[0]
    same = [each for each in known if each.partition(".")[0] == branch]
    return (same or known)[-1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))

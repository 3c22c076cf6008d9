"""What tests need and the project does not, installed once for each of its lock files."""

import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"
PIP = (
    "--quiet",
    "--disable-pip-version-check",
    "--require-hashes",
    "--no-deps",
    "--only-binary=:all:",
)


class CannotRun(Exception):
    """This machine lacks what a test needs; the text says what."""


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """One process at a time: test files run side by side, and need the same things."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{place.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_current(place: Path, lock: Path) -> bool:
    """Whether what is in `place` came from this very lock file."""
    stamp = place / ".locked"
    return stamp.exists() and stamp.read_text() == _hash(lock)


def mark_current(place: Path, lock: Path) -> None:
    (place / ".locked").write_text(_hash(lock))


def _hash(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def environment(name: str) -> Path:
    """The interpreter of an environment of its own, with what `requirements/<name>.txt` says."""
    place, lock = CACHE / f"venv-{name}", ROOT / "requirements" / f"{name}.txt"
    python = place / "bin" / "python"
    with alone(place):
        if not is_current(place, lock):
            subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
            subprocess.run([python, "-m", "pip", "install", *PIP, "-r", lock], check=True)
            mark_current(place, lock)
    return python


def packages(name: str) -> Path:
    """A directory of packages for our own interpreter's path. Raises: CannotRun: there are none for it."""
    place, lock = CACHE / f"packages-{name}", ROOT / "requirements" / f"{name}.txt"
    with alone(place):
        if not is_current(place, lock):
            install = [sys.executable, "-m", "pip", "install", "--upgrade", *PIP]
            done = subprocess.run(
                [*install, "--target", place, "-r", lock],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise CannotRun(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            mark_current(place, lock)
    return place

"""What a network leaves on a machine: processes, mounts, loop devices, cgroups, namespaces."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Leftovers:
    """Everything is recognised by the directory of its network, which nobody else has."""

    base: Path
    netns_before: frozenset[str]
    containers: set[str] = field(default_factory=set)
    """Names of its tenants' cgroups."""

    @classmethod
    def of(cls, base: Path) -> "Leftovers":
        return cls(base, frozenset(_named_namespaces()))

    def note_tenants(self, place: Path) -> None:
        """Remember the cgroups of the tenants there are now; their directories may soon be gone."""
        for directory in place.glob("provider-*/**/tenants/*"):
            with contextlib.suppress(OSError):
                self.containers.add(f"{directory.stat().st_ino:x}-{directory.name}")

    def found(self, patience: float) -> list[str]:
        """What is left; what ends by itself within `patience` seconds is not."""
        deadline = time.monotonic() + patience
        while left := self._look():
            if time.monotonic() > deadline:
                return left
            time.sleep(0.1)
        return []

    def _look(self) -> list[str]:
        return [
            *(f"process {pid}: {words}" for pid, words in self.processes()),
            *(f"mount {point}" for point in self.mounts()),
            *(f"loop device {device}" for device in self._loops()),
            *(f"cgroup {path}" for path in self._cgroups()),
            *(f"network namespace {n}" for n in _named_namespaces() if n not in self.netns_before),
        ]

    def processes(self) -> Iterator[tuple[int, str]]:
        """Ours by command line, environment, working directory or root."""
        mark = os.fsencode(self.base)
        for path in Path("/proc").iterdir():
            if path.name.isdigit() and int(path.name) != os.getpid():
                with contextlib.suppress(OSError):
                    words = (path / "cmdline").read_bytes()
                    if mark in words or mark in (path / "environ").read_bytes():
                        yield int(path.name), words.replace(b"\0", b" ").decode(errors="replace")

    def mounts(self) -> list[str]:
        points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        return [point for point in points if Path(point).is_relative_to(self.base)]

    def _loops(self) -> Iterator[str]:
        for path in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if str(self.base) in path.read_text():
                    yield path.parts[3]

    def _cgroups(self) -> Iterator[Path]:
        for path in (*Path("/sys/fs/cgroup").glob("*/deepbrain/*"), *_unified()):
            if path.is_dir() and path.name in self.containers:
                yield path

    def clear(self) -> None:
        """Take away what a failed test left, so that the next one begins on a clean machine."""
        for _ in range(3):
            for pid, _words in list(self.processes()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
        for point in sorted(self.mounts(), reverse=True):
            subprocess.run(["umount", "-l", point], check=False)
        for path in list(self._cgroups()):
            with contextlib.suppress(OSError):
                path.rmdir()


def _unified() -> Iterator[Path]:
    yield from Path("/sys/fs/cgroup/deepbrain").glob("*")


def _named_namespaces() -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(path.name for path in Path("/run/netns").iterdir())
    return []

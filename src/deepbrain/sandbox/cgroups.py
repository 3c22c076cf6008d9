"""A tenant's cgroup: made, written and read back before anything runs in it.

Version 1 (one hierarchy per controller, hybrid machines included) and version 2. gVisor is then told
the path, joins it, and shows its memory and processors inside.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepbrain.sandbox.sandbox import SandboxError

PARENT: Final = "deepbrain"
"""All of ours are below this one; a cgroup's path is `/deepbrain/<name>`."""

SENTRY_MEMORY: Final = 48 << 20
"""What gVisor itself needs above the tenant's memory."""

CPU_PERIOD_US: Final = 100_000

_CONTROLLERS: Final = ("memory", "cpu", "pids")
_SWAP: Final = ("memory.memsw.limit_in_bytes", "memory.swap.max")
_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """What the kernel is asked to enforce on a tenant and its sentry together."""

    memory_bytes: int
    cpu_milli: int
    pids: int

    @property
    def cpu_quota_us(self) -> int:
        return max(self.cpu_milli * CPU_PERIOD_US // 1000, 1000)

    @classmethod
    def for_tenant(cls, memory_bytes: int, cpu_milli: int, pids: int) -> "Limits":
        """The tenant's share with gVisor's own on top.

        The limit on tasks is only a backstop: a tight one kills the sentry, so the real limit on
        processes is the sandbox's own (RLIMIT_NPROC).
        """
        memory = -(-(memory_bytes + SENTRY_MEMORY) // _PAGE) * _PAGE
        return cls(memory, cpu_milli, 4 * pids + 256)


class Cgroups:
    """The cgroup file system below `root` (another one than `/sys/fs/cgroup` in tests)."""

    def __init__(self, root: Path = Path("/sys/fs/cgroup")) -> None:
        self._root = root
        self.version = 2 if (root / "cgroup.controllers").is_file() else 1

    def path(self, name: str) -> str:
        """The path to name in an OCI bundle (`linux.cgroupsPath`)."""
        return f"/{PARENT}/{name}"

    def missing(self) -> list[str]:
        """Controllers that this machine cannot limit with."""
        if self.version == 2:
            known = (self._root / "cgroup.controllers").read_text().split()
            return [controller for controller in _CONTROLLERS if controller not in known]
        return [each for each in _CONTROLLERS if not (self._root / each).is_dir()]

    def make(self, name: str, limits: Limits) -> None:
        """Make the cgroup with its limits, and read them back.

        Raises: SandboxError: the machine has no such controller, refused, or kept another value.
        """
        if missing := self.missing():
            raise SandboxError(f"this machine has no cgroup controller for {', '.join(missing)}")
        try:
            for file, value in self._settings(name, limits):
                if file.name in _SWAP and not file.exists():
                    continue  # the kernel does not account swap
                file.write_text(value)
            self._read_back(name, limits)
        except OSError as error:
            raise SandboxError(f"no cgroup for the tenant: {error}") from error

    def _settings(self, name: str, limits: Limits) -> list[tuple[Path, str]]:
        if self.version == 2:
            group = self._root / PARENT / name
            enable = " ".join(f"+{controller}" for controller in _CONTROLLERS)
            (self._root / "cgroup.subtree_control").write_text(enable)
            group.parent.mkdir(exist_ok=True)
            (group.parent / "cgroup.subtree_control").write_text(enable)
            group.mkdir(exist_ok=True)
            return [
                (group / "memory.max", str(limits.memory_bytes)),
                (group / "memory.swap.max", "0"),
                (group / "memory.oom.group", "1"),
                (group / "cpu.max", f"{limits.cpu_quota_us} {CPU_PERIOD_US}"),
                (group / "pids.max", str(limits.pids)),
            ]
        for controller in _CONTROLLERS:
            self._v1(controller, name).mkdir(parents=True, exist_ok=True)
        memory, cpu, pids = (self._v1(controller, name) for controller in _CONTROLLERS)
        return [
            (memory / "memory.limit_in_bytes", str(limits.memory_bytes)),
            (memory / "memory.memsw.limit_in_bytes", str(limits.memory_bytes)),
            (cpu / "cpu.cfs_period_us", str(CPU_PERIOD_US)),
            (cpu / "cpu.cfs_quota_us", str(limits.cpu_quota_us)),
            (pids / "pids.max", str(limits.pids)),
        ]

    def _read_back(self, name: str, limits: Limits) -> None:
        for file, wanted in self._settings(name, limits):
            if file.exists() and (found := file.read_text().strip()) != wanted:
                raise SandboxError(f"the limit {file.name} reads back {found}, not {wanted}")

    def _v1(self, controller: str, name: str) -> Path:
        return self._root / controller / PARENT / name

    def _directories(self, name: str) -> list[Path]:
        """The cgroup in every hierarchy: gVisor makes it in those that we do not write, too."""
        if self.version == 2:
            return [self._root / PARENT / name]
        return [tree / PARENT / name for tree in self._root.iterdir() if not tree.is_symlink()]

    def oom_counters(self, name: str) -> list[str]:
        """Files with a line `oom_kill <n>`."""
        if self.version == 2:
            return [str(self._root / PARENT / name / "memory.events")]
        return [str(self._v1("memory", name) / "memory.oom_control")]

    def members(self, name: str) -> set[int]:
        """Processes in any of the tenant's cgroups."""
        found: set[int] = set()
        for directory in self._directories(name):
            try:
                found.update(map(int, (directory / "cgroup.procs").read_text().split()))
            except OSError:
                continue
        return found

    def holds_all(self, name: str) -> bool:
        """Whether each limited hierarchy really has a process in it."""
        groups = (
            [self._root / PARENT / name]
            if self.version == 2
            else [self._v1(controller, name) for controller in _CONTROLLERS]
        )
        return all((group / "cgroup.procs").read_text().strip() for group in groups)

    def remove(self, name: str) -> None:
        """Kill what is left in it and remove it. Raises: SandboxError: it cannot be emptied."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            kill_all(self.members(name))
            if all(_removed(directory) for directory in self._directories(name)):
                self._remove_empty_parents(name)
                return
            time.sleep(0.01)
        raise SandboxError(f"the cgroup {self.path(name)} cannot be emptied")

    def _remove_empty_parents(self, name: str) -> None:
        for directory in self._directories(name):
            with suppress(OSError):  # other tenants are in it
                directory.parent.rmdir()


def kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _removed(directory: Path) -> bool:
    """Remove a cgroup and those below it; True when it is gone."""
    try:
        for child in directory.iterdir():
            if child.is_dir():
                _removed(child)
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True

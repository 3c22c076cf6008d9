"""A tenant's cgroup: made, written and read back before anything runs in it.

Version 1 (one hierarchy per controller, hybrid machines included) and version 2 (one tree; `cgroup2.py`
says where in it). gVisor is then told the path, joins it, and shows its memory and processors inside.
"""

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepbrain.sandbox.cgroup2 import Place, find_place
from deepbrain.sandbox.sandbox import SandboxError

ROOT: Final = Path("/sys/fs/cgroup")

PARENT: Final = "deepbrain"
"""All of ours are below this one; in version 1 a cgroup's path is `/deepbrain/<name>`."""

SENTRY_MEMORY: Final = 48 << 20
"""What gVisor itself needs above the tenant's memory."""

CPU_PERIOD_US: Final = 100_000
CONTROLLERS: Final = ("memory", "cpu", "pids")

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SWAPS: Final = Path("/proc/swaps")


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


Settings = list[tuple[Path, str]]


class Cgroups(ABC):
    """The cgroup file system below `root` (another one than `/sys/fs/cgroup` in tests)."""

    version: int

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root

    @abstractmethod
    def path(self, name: str) -> str:
        """The path to name in an OCI bundle (`linux.cgroupsPath`)."""

    @abstractmethod
    def missing(self) -> list[str]:
        """Controllers that this machine cannot limit with."""

    @abstractmethod
    def oom_counters(self, name: str) -> list[str]:
        """Files with a line `oom_kill <n>`."""

    @abstractmethod
    def _make_directories(self, name: str) -> None: ...

    @abstractmethod
    def _settings(self, name: str, limits: Limits) -> Settings: ...

    @abstractmethod
    def _swap_setting(self, name: str, limits: Limits) -> tuple[Path, str]:
        """What keeps the tenant's memory from going on in swap; not on every kernel."""

    @abstractmethod
    def _limited(self, name: str) -> Sequence[Path]:
        """The cgroup in each hierarchy that limits something."""

    @abstractmethod
    def _directories(self, name: str) -> Sequence[Path]:
        """The cgroup in every hierarchy: gVisor makes it in those that we do not write, too."""

    @abstractmethod
    def _kill(self, name: str) -> None: ...

    def make(self, name: str, limits: Limits) -> None:
        """Make the cgroup with its limits, and read them back.

        Raises: SandboxError: the machine has no such controller, refused, or kept another value.
        """
        if missing := self.missing():
            raise SandboxError(f"this machine has no cgroup controller for {', '.join(missing)}")
        try:
            self._make_directories(name)
            settings = self._settings(name, limits)
            swap = self._swap_setting(name, limits)
            if swap[0].exists():
                settings.append(swap)
            elif _swaps():
                raise SandboxError(
                    "this machine swaps and its kernel does not limit it; turn swap off, or boot with "
                    "swapaccount=1"
                )
            for file, value in settings:
                file.write_text(value)
            for file, value in settings:
                if (found := file.read_text().strip()) != value:
                    raise SandboxError(f"the limit {file.name} reads back {found}, not {value}")
        except OSError as error:
            raise SandboxError(f"no cgroup for the tenant: {error}") from error

    def members(self, name: str) -> set[int]:
        """Processes in any of the tenant's cgroups, those below included.

        gVisor makes and removes some of them itself: what vanishes meanwhile has no processes.
        """
        found: set[int] = set()
        for top in self._directories(name):
            for directory, _, _ in os.walk(top):
                with suppress(OSError):
                    found.update(map(int, Path(directory, "cgroup.procs").read_text().split()))
        return found

    def holds_all(self, name: str) -> bool:
        """Whether each limited hierarchy really has a process in it."""
        return all((group / "cgroup.procs").read_text().strip() for group in self._limited(name))

    def remove(self, name: str) -> None:
        """Kill what is left in it and remove it. Raises: SandboxError: it cannot be emptied."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            self._kill(name)
            if all(_removed(directory) for directory in self._directories(name)):
                for directory in self._directories(name):
                    with suppress(OSError):  # other tenants are in it
                        directory.parent.rmdir()
                return
            time.sleep(0.01)
        raise SandboxError(f"the cgroup {self.path(name)} cannot be emptied")


class Version1(Cgroups):
    """A hierarchy for each controller."""

    version = 1

    def path(self, name: str) -> str:
        return f"/{PARENT}/{name}"

    def missing(self) -> list[str]:
        return [each for each in CONTROLLERS if not (self._root / each).is_dir()]

    def oom_counters(self, name: str) -> list[str]:
        return [str(self._group("memory", name) / "memory.oom_control")]

    def _make_directories(self, name: str) -> None:
        for group in self._limited(name):
            group.mkdir(parents=True, exist_ok=True)

    def _settings(self, name: str, limits: Limits) -> Settings:
        memory, cpu, pids = self._limited(name)
        return [
            (memory / "memory.limit_in_bytes", str(limits.memory_bytes)),
            (cpu / "cpu.cfs_period_us", str(CPU_PERIOD_US)),
            (cpu / "cpu.cfs_quota_us", str(limits.cpu_quota_us)),
            (pids / "pids.max", str(limits.pids)),
        ]

    def _swap_setting(self, name: str, limits: Limits) -> tuple[Path, str]:
        file = self._group("memory", name) / "memory.memsw.limit_in_bytes"
        return file, str(limits.memory_bytes)

    def _group(self, controller: str, name: str) -> Path:
        return self._root / controller / PARENT / name

    def _limited(self, name: str) -> Sequence[Path]:
        return [self._group(controller, name) for controller in CONTROLLERS]

    def _directories(self, name: str) -> Sequence[Path]:
        return [tree / PARENT / name for tree in self._root.iterdir() if not tree.is_symlink()]

    def _kill(self, name: str) -> None:
        kill_all(self.members(name))


class Version2(Cgroups):
    """One tree, of which a part is ours: `place`."""

    version = 2

    def __init__(
        self,
        root: Path = ROOT,
        place: Place | None = None,
        controllers: Sequence[str] = CONTROLLERS,
    ) -> None:
        super().__init__(root)
        self._place = place
        self._controllers = tuple(controllers)

    @property
    def place(self) -> Place:
        """Raises: SandboxError: no part of the tree is ours."""
        if self._place is None:
            self._place = find_place(self._root)
        return self._place

    def path(self, name: str) -> str:
        return f"{self.place.tenants}/{name}"

    def missing(self) -> list[str]:
        known = (self._root / "cgroup.controllers").read_text().split()
        return [controller for controller in self._controllers if controller not in known]

    def oom_counters(self, name: str) -> list[str]:
        return [str(self._group(name) / "memory.events")]

    def _make_directories(self, name: str) -> None:
        self.place.open(self._root, self._controllers)
        self._group(name).mkdir(exist_ok=True)

    def _settings(self, name: str, limits: Limits) -> Settings:
        group = self._group(name)
        return [
            (group / "memory.max", str(limits.memory_bytes)),
            (group / "memory.oom.group", "1"),
            (group / "cpu.max", f"{limits.cpu_quota_us} {CPU_PERIOD_US}"),
            (group / "pids.max", str(limits.pids)),
        ]

    def _swap_setting(self, name: str, limits: Limits) -> tuple[Path, str]:
        return self._group(name) / "memory.swap.max", "0"

    def _group(self, name: str) -> Path:
        return self._root / self.place.tenants.lstrip("/") / name

    def _limited(self, name: str) -> Sequence[Path]:
        return [self._group(name)]

    def _directories(self, name: str) -> Sequence[Path]:
        return [self._group(name)]

    def _kill(self, name: str) -> None:
        try:
            (self._group(name) / "cgroup.kill").write_text("1")  # all of it at once, forks included
        except OSError:  # it is gone, or the kernel is older than 5.14
            kill_all(self.members(name))


def find_cgroups(root: Path = ROOT) -> Cgroups:
    """This machine's cgroups. Changes nothing."""
    return Version2(root) if (root / "cgroup.controllers").is_file() else Version1(root)


def kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _swaps() -> bool:
    """Whether the kernel has anywhere to swap to."""
    try:
        return len(_SWAPS.read_text().splitlines()) > 1
    except OSError:
        return False


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

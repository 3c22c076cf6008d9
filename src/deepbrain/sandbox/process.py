"""The last resort: a provider's own jobs as plain processes, where no sandbox runs.

As root a tenant gets a user id that nobody uses and a root directory of hard links to its image; as an
ordinary user its programs are found in the unpacked image by PATH. Either way: no_new_privs, rlimits,
a watchdog on memory and disk, and a keeper that leaves no process behind. This is not isolation.
"""

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final

from deepbrain.sandbox.bundle import Quotas, environment
from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.engine import Command
from deepbrain.sandbox.keeper import descendants
from deepbrain.sandbox.runsc import kill_until_gone
from deepbrain.sandbox.sandbox import TOOL, WORKSPACE, Network, SandboxError, TenantSpec
from deepbrain.sandbox.volumes import ensure_space

FIRST_UID: Final = 52_000
UIDS: Final = 8_000
ADDRESS_SPACE_SLACK: Final = 4 << 30
"""Programs reserve far more addresses than memory; the watchdog holds the exact bound."""

_MARK: Final = "DBC_TENANT"
_DEVICES: Final = {"null": (1, 3), "zero": (1, 5), "random": (1, 8), "urandom": (1, 9)}
_PROGRAMS: Final = ("usr/local/bin", "usr/bin", "bin", "usr/local/sbin", "usr/sbin", "sbin")


class ProcessEngine:
    def __init__(self, tool: Path, owner: tuple[int, int]) -> None:
        self._tool = tool
        self._owner = owner
        self._root = os.geteuid() == 0 and can_become_another(tool)

    def _tree(self, tenant: TenantDirectory) -> Path:
        return tenant.path / "root"

    def _uid(self, tenant: TenantDirectory) -> int:
        """The tenant's user, the same as long as its directory exists; 0 where we are not root."""
        if not self._root:
            return 0
        record = tenant.path / "uid"
        if not record.exists():
            # By the directory, not the order: two hosts may have an order of the same number.
            uid = FIRST_UID + tenant.path.stat().st_ino % UIDS
            while _known(uid) or processes_of(uid):
                uid = FIRST_UID + (uid + 1 - FIRST_UID) % UIDS
            record.write_text(str(uid))
        return int(record.read_text())

    def try_network(self) -> tuple[Network, str]:
        return Network.NONE, "plain processes have none of their own"

    def listening(self) -> AbstractContextManager[str]:
        raise SandboxError("plain processes have no network of their own")

    def settle_network(self) -> None:
        """There is nothing of it here."""

    def prepare(self, tenant: TenantDirectory, spec: TenantSpec) -> None:
        ensure_space(tenant.path, spec.disk_bytes + spec.log_bytes)
        if not self._root:
            tenant.volume.mkdir(mode=0o700)
            return
        tenant.path.chmod(0o2751)  # as `Host` made it, and the tenant's user may pass through
        workspace = self._tree(tenant) / WORKSPACE.lstrip("/")
        workspace.mkdir(parents=True)
        self._tree(tenant).chmod(0o755)
        os.chown(workspace, *self._owner)
        tenant.volume.symlink_to(workspace)

    def run_plan(self, tenant: TenantDirectory, spec: TenantSpec, rootfs: Path) -> dict[str, Any]:
        if self._root:
            self._build_tree(tenant, rootfs)
        elif not tenant.path.joinpath("rootfs").exists():
            tenant.path.joinpath("rootfs").symlink_to(rootfs)
        inner = self._inner([TOOL, "init", "--", *spec.argv])
        return {
            "argv": [*self._confine(tenant, spec, spec.workdir), "--make-cwd", "--", *inner],
            "env": self._env(tenant, environment(spec)),
            "memory_limit": spec.memory_bytes,
            "disk_limit": Quotas.of(spec.disk_bytes).volume,
            "orphans": True,
        }

    def _build_tree(self, tenant: TenantDirectory, rootfs: Path) -> None:
        """Hard links are free, and the tenant's user can change nothing behind them."""
        tree, uid = self._tree(tenant), self._uid(tenant)
        volume = WORKSPACE.lstrip("/")
        for left in tree.iterdir():  # by a start that failed
            if left.name != volume:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        link_tree(rootfs, tree, but=volume)
        tool = tree / TOOL.lstrip("/")
        tool.unlink(missing_ok=True)  # a link to the image's own: never write through it
        shutil.copyfile(self._tool, tool)
        tool.chmod(0o755)
        for name in ("tmp", "dev/shm"):
            (tree / name).mkdir(exist_ok=True)
            (tree / name).chmod(0o1777)
        for name, numbers in _DEVICES.items():
            with suppress(OSError):  # a container may not make devices; few programs need them
                os.mknod(tree / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(*numbers))
                (tree / "dev" / name).chmod(0o666)
        for parent, directories, files in os.walk(tree / volume):
            for name in (*directories, *files):
                os.lchown(Path(parent) / name, uid, uid)
            os.lchown(parent, uid, uid)

    def _confine(self, tenant: TenantDirectory, spec: TenantSpec, cwd: str) -> list[str]:
        address_space = spec.memory_bytes * 2 + ADDRESS_SPACE_SLACK
        flags = [f"--memory={address_space}", f"--file={Quotas.of(spec.disk_bytes).volume}"]
        if self._root:
            flags += [f"--uid={self._uid(tenant)}", f"--root={self._tree(tenant)}"]
            flags += [f"--pids={spec.pids}", f"--cwd={cwd or WORKSPACE}"]
        else:
            inside = (cwd or WORKSPACE).removeprefix(WORKSPACE).lstrip("/")
            flags.append(f"--cwd={tenant.volume / inside}")
        return [str(self._tool), "confine", *flags]

    def _inner(self, argv: Sequence[str]) -> list[str]:
        tool = TOOL if self._root else str(self._tool)
        return [tool if word == TOOL else word for word in argv]

    def _env(self, tenant: TenantDirectory, env: Sequence[str]) -> list[str]:
        merged = dict(word.split("=", 1) for word in env)
        merged[_MARK] = str(tenant.path)
        if not self._root:
            rootfs = tenant.path / "rootfs"
            own = [str(rootfs / name) for name in _PROGRAMS]
            merged["PATH"] = ":".join((*own, os.environ.get("PATH", "")))
            merged["LD_LIBRARY_PATH"] = str(rootfs / "usr/local/lib")
            merged["DBC_WORKSPACE"] = str(tenant.volume)
            if merged["HOME"] == WORKSPACE:
                merged["HOME"] = str(tenant.volume)
        return [f"{key}={value}" for key, value in merged.items()]

    def launch(self, tenant: TenantDirectory, spec: TenantSpec, start: Callable[[], None]) -> None:
        start()

    def members(self, tenant: TenantDirectory) -> set[int]:
        return set(processes_marked(f"{_MARK}={tenant.path}".encode()))

    def verify(self, tenant: TenantDirectory) -> None:
        """The limits are rlimits of the process that became the job: there is no other state."""

    def exec_command(
        self,
        tenant: TenantDirectory,
        spec: TenantSpec,
        argv: Sequence[str],
        env: Sequence[str],
        cwd: str,
        *,
        tty: bool,
    ) -> Command:
        confine = self._confine(tenant, spec, cwd or spec.workdir)
        return Command([*confine, "--", *self._inner(argv)], self._env(tenant, env))

    def collect_command(
        self, tenant: TenantDirectory, spec: TenantSpec, argv: Sequence[str]
    ) -> Command:
        return self.exec_command(tenant, spec, argv, environment(spec), WORKSPACE, tty=False)

    def signal(self, tenant: TenantDirectory, keeper: int, number: int) -> None:
        for pid in descendants(keeper):
            if _parent(pid) == keeper:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def release(self, tenant: TenantDirectory) -> None:
        """Its volume is a directory: nothing was promised that is not used."""

    def clean(self, tenant: TenantDirectory, *, keep_volume: bool = False) -> None:
        marker = f"{_MARK}={tenant.path}".encode()
        kill_until_gone(lambda: processes_marked(marker), tenant.order)
        record = tenant.path / "uid"
        if record.exists():
            uid = int(record.read_text())
            kill_until_gone(lambda: processes_of(uid), tenant.order)


def can_become_another(tool: Path) -> bool:
    """Whether root here may really change root and user (in some containers it may not)."""
    command = [str(tool), "confine", f"--uid={FIRST_UID}", "--root=/", "--", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def link_tree(source: Path, target: Path, but: str) -> None:
    """The same tree but for one name in it, its files by hard link (by copy on another file system)."""

    def ignored(directory: str, _names: list[str]) -> set[str]:
        return {but} if directory == str(source) else set()

    shutil.copytree(
        source, target, symlinks=True, ignore=ignored, dirs_exist_ok=True,
        copy_function=_link_or_copy,
    )  # fmt: skip


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)
    return target


def processes_of(uid: int) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                if path.stat().st_uid == uid:
                    found.append(int(path.name))
    return found


def processes_marked(marker: bytes) -> list[int]:
    """Processes with this word in the environment they were started with."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                if marker in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
    return found


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, ValueError):
        return 0


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True

"""Where tenants' cgroups lie in version 2's one tree, and how that part of it becomes usable.

A cgroup that hands controllers down holds no processes itself ("no internal processes"), and the tree
belongs to whoever made it: on most machines systemd. So, in this order:

    systemd runs     a scope of our own, made by it and delegated to us. Not the unit of the helper: with
                     tenants in it, systemd could not start the helper again (EBUSY, before version 254)
    the real root    a group below it; the root may hold processes
    a cgroup that is delegated to us, or the root of a container's own tree
                     the processes that are in it move to a leaf

Anything else is somebody else's, and is refused.
"""

import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepbrain.sandbox.sandbox import SandboxError

SCOPE: Final = "deepbrain-tenants"
SLICE: Final = "system.slice"
TENANTS: Final = "deepbrain"
LEAF: Final = "deepbrain-host"
"""Where processes go that may not stay beside the tenants' groups."""

OPEN_SECONDS: Final = 10.0

_BOOTED: Final = Path("/run/systemd/system")
_DELEGATED: Final = ("trusted.delegate", "user.delegate")
"""How systemd marks a cgroup that it has handed to its unit."""


@dataclass(frozen=True, slots=True)
class Place:
    """A part of the tree for tenants. `tenants` and the rest are paths below its mount."""

    tenants: str
    holders: tuple[str, ...] = ()
    """Groups above that hold processes, which have to move before controllers are handed down."""
    leaf: str = ""
    """Where those go."""
    scope: bool = False

    def open(self, root: Path, controllers: Sequence[str]) -> None:
        """Make it so that groups below `tenants` are limited by `controllers`. Idempotent.

        Raises: SandboxError: systemd or the kernel refused; OSError.
        """
        if self.scope:
            _hold_scope(_at(root, self.tenants))
        if self.leaf:
            _at(root, self.leaf).mkdir(exist_ok=True)
            for holder in self.holders:
                _empty(_at(root, holder), _at(root, self.leaf))
        _at(root, self.tenants).mkdir(exist_ok=True)
        for group in _way_down(self.tenants):
            _hand_down(_at(root, group), controllers)


def find_place(
    root: Path, *, own: str | None = None, booted: Path = _BOOTED, uid: int | None = None
) -> Place:
    """Where tenants go on this machine. Changes nothing. Raises: SandboxError: nowhere.

    The last three say what is otherwise asked of the system: this process's cgroup, systemd's mark, who
    we are.
    """
    own = own_group() if own is None else own
    is_root = (os.geteuid() if uid is None else uid) == 0
    if is_root and booted.is_dir():
        scope = f"/{SLICE}/{SCOPE}.scope"
        return Place(scope, (scope,), f"{scope}/anchor", scope=True)
    if own.endswith(f"/{LEAF}"):
        own = own.removesuffix(f"/{LEAF}") or "/"
    group = _at(root, own)
    below = own.rstrip("/")
    if own == "/" and not (group / "cgroup.type").exists():
        return Place(f"/{TENANTS}")
    if own == "/" or _is_delegated(group):
        return Place(f"{below}/{TENANTS}", (own,), f"{below}/{LEAF}")
    raise SandboxError(
        f"the cgroup {own} is not ours to divide; run the provider as a service with Delegate=yes"
    )


def own_group() -> str:
    """This process's path in the tree, from where its mount shows it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    raise SandboxError("this process is in no cgroup of version 2")


def _at(root: Path, group: str) -> Path:
    return root / group.lstrip("/")


def _way_down(tenants: str) -> list[str]:
    """The groups that hand controllers down to those below `tenants`, from the top."""
    parts = tenants.strip("/").split("/")
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _is_delegated(group: Path) -> bool:
    for name in _DELEGATED:
        with suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _hand_down(group: Path, controllers: Sequence[str]) -> None:
    """Above our part all may be handed down already, and then nothing is written there."""
    control = group / "cgroup.subtree_control"
    lacking = [each for each in controllers if each not in control.read_text().split()]
    if lacking:
        control.write_text(" ".join(f"+{controller}" for controller in lacking))


def _empty(holder: Path, leaf: Path) -> None:
    """Move the processes of a group to a leaf below it; more may be forked meanwhile."""
    deadline = time.monotonic() + OPEN_SECONDS
    while pids := (holder / "cgroup.procs").read_text().split():
        for pid in pids:
            with suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
        if time.monotonic() > deadline:
            raise SandboxError(f"the processes in {holder} cannot be moved")


_anchors: dict[Path, "subprocess.Popen[bytes]"] = {}
"""This process's own in each scope; each ends with this process, as its standard input closes."""


def _hold_scope(group: Path) -> None:
    """Have systemd make the scope, and keep it while this process lives; tenants keep it after that.

    One that is there already, with tenants of an earlier helper or of another one, is joined.
    """
    held = _anchors.get(group)
    if held is not None and held.poll() is None:
        return
    reason = ""
    for _ in range(3):  # it may come, or go, while we look
        if group.exists():
            _anchors[group] = anchor = _start(["cat"])
            with suppress(OSError):
                (group / "anchor").mkdir(exist_ok=True)
                (group / "anchor" / "cgroup.procs").write_text(str(anchor.pid))
                return
        elif (anchor := _make_scope()).poll() is None:
            _anchors[group] = anchor
            return
        reason = _end(anchor)
    raise SandboxError(f"systemd made no scope for tenants: {reason}")


def _make_scope() -> "subprocess.Popen[bytes]":
    """The process for which systemd makes it; it has ended where systemd did not."""
    unit = (f"--unit={SCOPE}", f"--slice={SLICE}", "--description=Tenants of DeepBrain")
    rights = ("--property=Delegate=yes", "--property=TasksMax=infinity")
    anchor = _start(["systemd-run", "--quiet", "--collect", "--scope", *unit, *rights, "cat"])
    deadline = time.monotonic() + OPEN_SECONDS
    where = Path(f"/proc/{anchor.pid}/cgroup")
    while anchor.poll() is None and f"/{SCOPE}.scope" not in where.read_text():
        if time.monotonic() > deadline:
            anchor.kill()
            anchor.wait()
        time.sleep(0.01)
    return anchor


def _start(argv: Sequence[str]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    except FileNotFoundError as error:
        raise SandboxError(f"the program {error.filename} is missing on this machine") from error


def _end(process: "subprocess.Popen[bytes]") -> str:
    """End it; what it said."""
    process.kill()
    _, errors = process.communicate()
    return " ".join(errors.decode(errors="replace").split())[:200] or "it does not answer"

"""Let an unprivileged agent reach its own program, and nothing else of a closed home.

The agent runs as an ordinary user. Where Python or this package lies below a directory that user
may not enter (`/root` on most machines), the agent gets a mount namespace of its own in which each
such directory is covered by an empty one that holds only the needed trees. Mounts that the root
helper makes later below a *shared* directory (the tenants' volumes) still appear in it.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from deepbrain.sandbox.sandbox import SandboxError

CLONE_NEWNS: Final = 0x20000
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000
MS_SHARED: Final = 0x100000

_libc = ctypes.CDLL(None, use_errno=True)


def program_trees() -> tuple[Path, ...]:
    """The directories this interpreter and this package are loaded from."""
    package = Path(__file__).resolve().parents[2]
    roots = {
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).resolve().parent,
        package,
    }
    return tuple(sorted(roots))


def closed_ancestors(paths: Iterable[Path], uid: int, gid: int) -> tuple[Path, ...]:
    """The topmost directories on the way to `paths` that `uid` may not enter."""
    closed = set()
    for path in paths:
        for ancestor in reversed((path, *path.parents)):
            if not _may_enter(ancestor, uid, gid):
                closed.add(ancestor)
                break
    return tuple(sorted(closed))


def share(directory: Path) -> None:
    """Make `directory` a shared mount, so that later mounts below it reach every agent.

    Idempotent. Raises: SandboxError: the kernel refused.
    """
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    mine = [line.split() for line in mounts if line.split()[4] == str(directory)]
    if any(field.startswith("shared:") for field in (mine[-1] if mine else ())):
        return
    if not mine:
        _mount(str(directory), str(directory), MS_BIND)
    _mount("none", str(directory), MS_SHARED)


def confined(uid: int, gid: int, needed: Sequence[Path]) -> Callable[[], None]:
    """What a forked child calls before it becomes `uid` and executes the agent.

    Returns a function for `subprocess`'s `preexec_fn`; the caller is single-threaded root.
    """
    covers = closed_ancestors(needed, uid, gid)

    def enter() -> None:
        if covers:
            _cover(covers, needed)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)

    return enter


def _cover(covers: Sequence[Path], needed: Sequence[Path]) -> None:
    if _libc.unshare(CLONE_NEWNS):
        raise SandboxError("no mount namespace for the agent: " + os.strerror(ctypes.get_errno()))
    _mount("none", "/", MS_REC | MS_SLAVE)
    for cover in covers:
        trees = [path for path in needed if path.is_relative_to(cover)]
        held = [(path, os.open(path, os.O_PATH | os.O_DIRECTORY)) for path in trees]
        _mount("tmpfs", str(cover), 0, "tmpfs", "mode=755,size=64k")
        for path, descriptor in held:
            path.mkdir(parents=True, exist_ok=True)
            _mount(f"/proc/self/fd/{descriptor}", str(path), MS_BIND | MS_REC)
            os.close(descriptor)


def _may_enter(directory: Path, uid: int, gid: int) -> bool:
    status = directory.stat()
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _mount(source: str, target: str, flags: int, kind: str = "", options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None)
    if _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None):
        raise SandboxError(f"cannot mount {target}: {os.strerror(ctypes.get_errno())}")

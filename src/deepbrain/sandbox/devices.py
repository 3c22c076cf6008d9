"""What of a device may enter a sandbox of strangers, and how gVisor is told.

A device's maker asks for nodes, mounts, variables and hooks (`cdi.py`). Here:

- **Nodes** are character devices below `/dev`. Of NVIDIA's, those that gVisor's driver proxy knows; the
  rest (display, tools) is left out, and a slice of a GPU (MIG), which it does not know, is refused.
- **Mounts** become read-only, `nosuid,nodev`, over nothing of ours; a socket is a way out, and left out.
- **Hooks are never run.** They would run as root, on files that a stranger chose. What NVIDIA's do, links
  and a search path for libraries, is done with mounts and one variable; any other hook is an error.
- **Variables** come after the renter's and the image's, whose `NVIDIA_*` count for nothing.
"""

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Final

from deepbrain.sandbox.cdi import DIRECTORIES, CdiError, Edits, Hook, Mount, Node, read_registry

GPU: Final = "nvidia.com/gpu"
KINDS: Final = (GPU,)
"""Kinds of devices that tenants may be given."""

MAX_DEVICES: Final = 64

_HELD: Final = Path("/run/deepbrain-devices")

_NVIDIA: Final = "/dev/nvidia"
_PROXIED: Final = re.compile(r"/dev/nvidia(ctl|-uvm|\d{1,3})")
_OURS: Final = ("/proc", "/sys", "/dev", "/.dbc", "/workspace", "/tmp")  # noqa: S108 - inside
_HOOKS: Final = frozenset({"nvidia-ctk", "nvidia-cdi-hook"})
_NEEDLESS: Final = frozenset({"chmod", "enable-cuda-compat", "disable-device-node-modification"})
_LIBRARIES: Final = "LD_LIBRARY_PATH"


@dataclass(frozen=True, slots=True)
class Given:
    """What a bundle gets for its devices."""

    env: tuple[tuple[str, str], ...] = ()
    nodes: tuple[dict[str, Any], ...] = ()
    mounts: tuple[Mount, ...] = ()
    libraries: tuple[str, ...] = ()
    """Directories where programs inside are to find the driver's libraries."""

    @property
    def is_nvidia(self) -> bool:
        return any(node["path"].startswith(_NVIDIA) for node in self.nodes)


def given(
    names: Sequence[str],
    *,
    kinds: Iterable[str] = KINDS,
    directories: Sequence[Path] = DIRECTORIES,
) -> Given:
    """Resolve devices by their full names. Raises: CdiError: unknown, or asks for what none may have."""
    if not names:
        return Given()
    for name in names:
        if name.partition("=")[0] not in kinds:
            raise CdiError(f"devices like {name} are not given to tenants")
    return allow(read_registry(directories).edits(names))


def allow(edits: Edits) -> Given:
    """The part that enters a sandbox. Raises: CdiError."""
    links, libraries = _instead_of_hooks(edits.hooks)
    mounts = [mount for mount in edits.mounts if _is_mountable(mount)]
    mounts += [linked for mount in mounts for linked in _linked_names(mount)]
    mounts += _links(mounts, links)
    for name, _ in edits.env:
        if name.startswith("LD_"):
            raise CdiError(f"a device's file sets {name}, which would rule every program inside")
    nodes = [_oci_node(node) for node in edits.nodes if _is_wanted(node)]
    return Given(edits.env, tuple(nodes), tuple(dict.fromkeys(mounts)), libraries)


def environment(words: Sequence[str], devices: Given) -> list[str]:
    """A process's environment with what its devices need; `words` are `KEY=value`."""
    merged = dict(word.split("=", 1) for word in words)
    merged |= dict(devices.env)
    if devices.libraries:
        own = [merged[_LIBRARIES]] if merged.get(_LIBRARIES) else []
        merged[_LIBRARIES] = ":".join((*own, *devices.libraries))
    return [f"{key}={value}" for key, value in merged.items()]


@contextlib.contextmanager
def hold(name: str) -> Iterator[int]:
    """Hold a device for whoever inherits the descriptor, and for as long as that lives.

    Another provider of this machine has records of its own: this is what both meet.
    Raises: CdiError: somebody holds it.
    """
    _HELD.mkdir(mode=0o700, exist_ok=True)
    path = _HELD / name.replace("/", "_")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError as error:
        raise CdiError(f"another provider of this machine has given {name} to a tenant") from error
    finally:
        os.close(descriptor)


def _is_wanted(node: Node) -> bool:
    if not node.path.startswith("/dev/") or not node.host_path.startswith("/dev/"):
        raise CdiError(f"the device node {node.path} is not below /dev")
    if node.path.startswith("/dev/nvidia-caps/"):
        raise CdiError("slices of a GPU (MIG) cannot enter gVisor; list the whole GPU instead")
    if node.path.startswith("/dev/dri/"):
        return False
    return not node.path.startswith(_NVIDIA) or _PROXIED.fullmatch(node.path) is not None


def _oci_node(node: Node) -> dict[str, Any]:
    try:
        status = Path(node.host_path).stat(follow_symlinks=False)
    except OSError as error:
        raise CdiError(
            f"the device node {node.host_path} is not there: {error.strerror}; is its driver loaded?"
        ) from error
    if not stat.S_ISCHR(status.st_mode):
        raise CdiError(f"{node.host_path} is no character device")
    numbers = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    return {"path": node.path, "type": "c", **numbers, "fileMode": 0o666, "uid": 0, "gid": 0}


def _is_mountable(mount: Mount) -> bool:
    inside = PurePosixPath(mount.path)
    if mount.path == "/" or any(inside.is_relative_to(ours) for ours in _OURS):
        raise CdiError(f"a device's file mounts over {mount.path}, which is the sandbox's own")
    if mount.host_path == "/":
        raise CdiError("a device's file mounts the whole host")
    try:
        mode = Path(mount.host_path).stat().st_mode
    except OSError as error:
        raise CdiError(
            f"a device needs {mount.host_path}, which is not there: {error.strerror}"
        ) from error
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _linked_names(mount: Mount) -> list[Mount]:
    """The other names of a library beside it on the host (`libcuda.so.1`), which programs ask for."""
    host = Path(mount.host_path)
    if ".so." not in host.name or not host.is_file():
        return []
    target, inside = host.resolve(), PurePosixPath(mount.path).parent
    stem = host.name.partition(".so.")[0]
    links = (path for path in host.parent.glob(f"{_plain(stem)}.so*") if path.is_symlink())
    return [
        Mount(str(target), str(inside / link.name))
        for link in links
        if link.name != host.name and link.resolve() == target
    ]


def _plain(name: str) -> str:
    return re.sub(r"[*?\[\]]", "?", name)


def _links(mounts: Sequence[Mount], links: Sequence[tuple[str, str]]) -> list[Mount]:
    """Links that a hook would have made, as further mounts of what they lead to."""
    known = {mount.path: mount for mount in mounts}
    found = []
    for target, link in links:
        inside = os.path.normpath(PurePosixPath(link).parent / target)
        if inside in known and link not in known:
            found.append(Mount(known[inside].host_path, link))
    return found


def _instead_of_hooks(
    hooks: Sequence[Hook],
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Links as (target, link), and library directories, that the known hooks would have made."""
    links: list[tuple[str, str]] = []
    folders: list[str] = []
    for hook in hooks:
        words = [word for word in hook.args[1:] if word != "hook"]
        command, rest = (words[0], words[1:]) if words else ("", [])
        if PurePosixPath(hook.path).name not in _HOOKS:
            raise CdiError(f"a device wants {hook.path} run as root on strangers' files; it is not")
        if command == "create-symlinks":
            pairs = [value.partition("::") for value in _options(rest, "--link")]
            links += [(target, link) for target, separator, link in pairs if separator]
        elif command == "update-ldcache":
            folders += _options(rest, "--folder")
        elif command not in _NEEDLESS:
            raise CdiError(f"a device wants the hook {command!r}, which nothing here replaces")
    return links, tuple(dict.fromkeys(folders))


def _options(words: Sequence[str], name: str) -> list[str]:
    """Values of `--name value` and `--name=value`."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    found += [value for word, value in pairwise(words) if word == name]
    return found

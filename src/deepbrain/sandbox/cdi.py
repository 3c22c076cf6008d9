"""Container Device Interface: what a device's maker says a container needs to use it.

The files lie in `/etc/cdi` and `/var/run/cdi` (`nvidia-ctk cdi generate` writes them), one kind each; a
device is named `<vendor>/<class>=<name>`. They decide what of the host a stranger's container gets, so
only files that root alone can write are read, within bounds, and a word that is not known here is an
error. What of it may enter a sandbox is decided in `devices.py`.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deepbrain.sandbox.sandbox import SandboxError

DIRECTORIES: Final = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""The later one counts where both name a device."""

NAME: Final = re.compile(
    r"[A-Za-z0-9][\w.-]{0,62}/[A-Za-z0-9][\w.-]{0,62}=[A-Za-z0-9][\w.:-]{0,126}"
)

MAX_FILE: Final = 1 << 20
MAX_FILES: Final = 64
MAX_ITEMS: Final = 1024
MAX_TEXT: Final = 4096

_KIND: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,62}/[A-Za-z0-9][\w.-]{0,62}")
_DEVICE: Final = re.compile(r"[A-Za-z0-9][\w.:-]{0,126}")
_VERSION: Final = re.compile(r"(0\.[3-9]|1\.[01])\.\d{1,3}")
_SUFFIXES: Final = (".json", ".yaml", ".yml")


class CdiError(SandboxError):
    """A device's file is damaged, or the device is not there; one sentence."""


@dataclass(frozen=True, slots=True)
class Node:
    """A device file of the host, to appear at `path`."""

    path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class Mount:
    host_path: str
    path: str


@dataclass(frozen=True, slots=True)
class Hook:
    """A program that the maker wants run as root around the container's start."""

    path: str
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edits:
    """What a container gets. Duplicates are dropped where edits are added up."""

    env: tuple[tuple[str, str], ...] = ()
    nodes: tuple[Node, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()

    def __add__(self, other: "Edits") -> "Edits":
        return Edits(
            tuple(dict.fromkeys((*self.env, *other.env))),
            tuple(dict.fromkeys((*self.nodes, *other.nodes))),
            tuple(dict.fromkeys((*self.mounts, *other.mounts))),
            tuple(dict.fromkeys((*self.hooks, *other.hooks))),
        )


@dataclass(slots=True)
class Registry:
    """All devices that the files name."""

    devices: dict[str, Edits] = field(default_factory=dict)
    doubled: set[str] = field(default_factory=set)
    """Named by two files of one directory: which one counts would be a matter of luck."""

    def names(self, kind: str) -> tuple[str, ...]:
        """Devices of a kind, each once: without further names of one, and without `all`."""
        found: dict[Edits, str] = {}
        for name, edits in sorted(self.devices.items()):
            if name.partition("=")[0] == kind and not name.endswith("=all"):
                found.setdefault(edits, name)
        return tuple(found.values())

    def edits(self, names: Iterable[str]) -> Edits:
        """What these devices need together. Raises: CdiError: one is unknown, or named twice."""
        total = Edits()
        for name in names:
            if name in self.doubled:
                raise CdiError(f"two files of one directory name the device {name}; remove one")
            if name not in self.devices:
                raise CdiError(
                    f"this machine has no device {name}; run `nvidia-ctk cdi generate` to name what it has"
                )
            total += self.devices[name]
        return total


def read_registry(directories: Sequence[Path] = DIRECTORIES, owner: int = 0) -> Registry:
    """Read every file of the directories; one that does not exist holds nothing.

    `owner` is the only user who may be able to write there. Raises: CdiError: a file is damaged, or
    others can write it.
    """
    total = Registry()
    for directory in directories:
        here: dict[str, Edits] = {}
        doubled: set[str] = set()
        for path in _files(directory, owner):
            devices = parse(path, _read(path, owner))
            doubled |= here.keys() & devices.keys()
            here |= devices
        total.devices |= here
        total.doubled = (total.doubled - here.keys()) | doubled
    return total


def _files(directory: Path, owner: int) -> list[Path]:
    try:
        _ensure_closed(directory, directory.stat(), owner)
        paths = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)
    except FileNotFoundError:
        return []
    if len(paths) > MAX_FILES:
        raise CdiError(f"{directory} has more than {MAX_FILES} files")
    return paths


def _ensure_closed(path: Path, status: os.stat_result, owner: int) -> None:
    if status.st_uid != owner or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CdiError(f"{path} can be written by others than root; it says what enters containers")


def _read(path: Path, owner: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CdiError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _ensure_closed(path, status, owner)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
            raise CdiError(f"{path} is no file of at most {MAX_FILE >> 20} MiB")
        return file.read(MAX_FILE + 1)


def parse(path: Path, content: bytes) -> dict[str, Edits]:
    """The devices of one file, by full name, what all of them need included. Raises: CdiError."""
    try:
        found = _Object.of(_decode(path, content), "the file")
        found.text(
            "cdiVersion", _VERSION
        )  # what each added is an unknown word if we do not take it
        kind = found.text("kind", _KIND)
        common = _edits(found.object("containerEdits"))
        devices = [_device(each) for each in found.objects("devices")]
        found.done("annotations")
    except _Wrong as error:
        raise CdiError(f"{path} is no device file: {error}") from error
    if len({name for name, _ in devices}) < len(devices):
        raise CdiError(f"{path} is no device file: it names a device twice")
    return {f"{kind}={name}": common + edits for name, edits in devices}


def _decode(path: Path, content: bytes) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _Wrong("it is not JSON") from error
    try:
        import yaml  # it is in the extra `provider`
    except ImportError as error:
        raise CdiError(
            f"{path} is YAML: `pip install deepbrain[provider]`, or write it as JSON"
        ) from error
    try:
        # Anchors repeat a part at no cost to the writer, and devices need none.
        if any(isinstance(each, yaml.AliasToken | yaml.AnchorToken) for each in yaml.scan(content)):
            raise _Wrong("it uses anchors")
        return yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _Wrong("it is not YAML") from error


class _Wrong(Exception):
    """What is wrong with a file, to be completed by its name."""


@dataclass(slots=True)
class _Object:
    """A JSON object whose members are taken one by one; what is left over is an error."""

    members: dict[str, Any]
    what: str

    @classmethod
    def of(cls, found: Any, what: str) -> "_Object":
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise _Wrong(f"{what} is no object")
        return cls(dict(found), what)

    def text(self, name: str, pattern: re.Pattern[str] | None = None) -> str:
        return _text(self.members.pop(name, None), f"{name} of {self.what}", pattern)

    def optional(self, name: str, default: str = "") -> str:
        return self.text(name) if name in self.members else default

    def object(self, name: str) -> "_Object":
        return _Object.of(self.members.pop(name, None) or {}, name)

    def items(self, name: str) -> list[Any]:
        found = self.members.pop(name, None) or []
        if not isinstance(found, list) or len(found) > MAX_ITEMS:
            raise _Wrong(f"{name} of {self.what} is no list of at most {MAX_ITEMS}")
        return found

    def objects(self, name: str) -> "list[_Object]":
        return [_Object.of(each, f"one of {name}") for each in self.items(name)]

    def texts(self, name: str) -> "list[str]":
        return [_text(each, f"one of {name}", None) for each in self.items(name)]

    def done(self, *unread: str) -> None:
        """All is read but what may be ignored."""
        if left := self.members.keys() - set(unread):
            raise _Wrong(f"{self.what} has the unknown word {min(left)!r}")


def _text(found: Any, what: str, pattern: re.Pattern[str] | None) -> str:
    if not isinstance(found, str) or not found or len(found) > MAX_TEXT or not found.isprintable():
        raise _Wrong(f"{what} is no text")
    if pattern is not None and not pattern.fullmatch(found):
        raise _Wrong(f"{what} is {found[:80]!r}, which is not known here")
    return found


def _device(found: _Object) -> tuple[str, Edits]:
    name = found.text("name", _DEVICE)
    edits = _edits(found.object("containerEdits"))
    found.done("annotations")
    return name, edits


def _edits(found: _Object) -> Edits:
    edits = Edits(
        tuple(_pair(each) for each in found.texts("env")),
        tuple(_node(each) for each in found.objects("deviceNodes")),
        tuple(_mount(each) for each in found.objects("mounts")),
        tuple(_hook(each) for each in found.objects("hooks")),
    )
    found.done()  # groups, cache partitions, network devices: nothing that a tenant is given
    return edits


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w{0,127}", name, re.ASCII):
        raise _Wrong(f"env holds {word[:80]!r}, which sets no variable")
    return name, value


def _path(text: str) -> str:
    if not text.startswith("/") or os.path.normpath(text) != text or text.startswith("//"):
        raise _Wrong(f"{text[:80]!r} is no plain absolute path")
    return text


def _node(found: _Object) -> Node:
    path = _path(found.text("path"))
    host = _path(found.optional("hostPath", path))
    # The host's own node says what it is: numbers and rights that a file claims are not needed.
    found.done("type", "major", "minor", "fileMode", "permissions", "uid", "gid")
    return Node(path, host)


def _mount(found: _Object) -> Mount:
    mount = Mount(_path(found.text("hostPath")), _path(found.text("containerPath")))
    if found.optional("type", "bind") not in ("bind", "none"):
        raise _Wrong(f"the mount of {mount.host_path} is not a bind mount")
    found.items("options")  # ours are fixed
    found.done()
    return mount


def _hook(found: _Object) -> Hook:
    found.text("hookName")
    hook = Hook(_path(found.text("path")), tuple(found.texts("args")))
    found.items("env")
    found.done("timeout")
    return hook

"""Container images from strangers: a docker-archive or OCI-layout tar becomes a directory.

Everything here runs in a process without privileges (`unpack.py`), on a seekable file whose SHA-256 was
checked before. Bounds come first; links in the archive lead nowhere outside of the image; devices are
left out, setuid and setgid bits are stripped, and everything belongs to the unpacking user. The mount
points of a tenant are made now, since a missing one would be created inside the shared image later.
"""

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from deepbrain.sandbox.sandbox import ImageError

MAX_ARCHIVE: Final = 64 << 30
MAX_UNPACKED: Final = 64 << 30
MAX_FILES: Final = 1_000_000
MAX_LAYERS: Final = 128
MAX_NAME: Final = 4096
MAX_JSON: Final = 4 << 20
MAX_LINKS: Final = 40
MAX_WORDS: Final = 1024

MOUNT_DIRECTORIES: Final = ("workspace", ".dbc", "tmp", "proc", "dev", "sys", "etc", "root")
MOUNT_FILES: Final = (".dbc/tool", "etc/resolv.conf", "etc/hosts", "etc/hostname")

_CHUNK: Final = 1 << 20
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about running it."""

    env: tuple[tuple[str, str], ...] = ()
    argv: tuple[str, ...] = ()
    workdir: str = ""


def digest_of(file: IO[bytes]) -> str:
    """Hex SHA-256 of a whole file, left at its start again."""
    file.seek(0)
    hashing = sha256()
    while chunk := file.read(_CHUNK):
        hashing.update(chunk)
    file.seek(0)
    return hashing.hexdigest()


def unpack(archive: IO[bytes], rootfs: Path) -> ImageConfig:
    """Unpack an image into the empty directory `rootfs`.

    Raises: ImageError: malformed, over a bound, or a compression this Python lacks.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r:") as outer:
            members = _index(outer)
            layers, config = _layout(outer, members)
            tree = _Tree(rootfs)
            for layer in layers:
                content = outer.extractfile(layer)
                if content is None:
                    raise ImageError("a layer of the image is not a file")
                tree.apply(content)
            tree.make_mount_points()
    except (tarfile.TarError, EOFError, UnicodeError, RecursionError) as error:
        raise ImageError(f"the image archive is malformed: {error}") from error
    except OSError as error:
        raise ImageError(f"the image cannot be unpacked: {error.strerror or error}") from error
    return config


# -- the archive


def _index(outer: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    members: dict[str, tarfile.TarInfo] = {}
    for member in outer:
        if len(members) >= 10_000:
            raise ImageError("the image archive has too many members")
        members[_clean(member.name)] = member
    return members


def _layout(
    outer: tarfile.TarFile, members: dict[str, tarfile.TarInfo]
) -> tuple[list[tarfile.TarInfo], ImageConfig]:
    """The layers, lowest first, and the configuration."""
    if "manifest.json" in members:
        manifests = _json(outer, members, "manifest.json")
        manifest = _only(manifests, "manifest.json")
        config, names = manifest.get("Config"), manifest.get("Layers")
    elif "index.json" in members:
        manifest = _oci_manifest(outer, members)
        config = _blob(manifest.get("config"))
        names = [_blob(layer) for layer in _list(manifest.get("layers"))]
    else:
        raise ImageError(
            "the archive holds no image: neither manifest.json nor index.json is in it"
        )
    names = _list(names)
    if len(names) > MAX_LAYERS:
        raise ImageError(f"the image has more than {MAX_LAYERS} layers")
    return [_member(members, name) for name in names], _config(_json(outer, members, config))


def _oci_manifest(outer: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> dict[str, Any]:
    """The manifest for this machine's architecture, through at most one nested index."""
    found = _json(outer, members, "index.json")
    for _ in range(3):
        if not isinstance(found, dict):
            break
        if "layers" in found:
            return found
        entries = [entry for entry in _list(found.get("manifests")) if isinstance(entry, dict)]
        fitting = [entry for entry in entries if _fits(entry)]
        if not fitting:
            raise ImageError("the image holds nothing for this machine's architecture")
        found = _json(outer, members, _blob(fitting[0]))
    raise ImageError("the image's index leads to no manifest")


def _fits(entry: dict[str, Any]) -> bool:
    platform = entry.get("platform")
    if not isinstance(platform, dict):
        return True
    ours = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return platform.get("architecture") == ours and platform.get("os") == "linux"


def _blob(descriptor: object) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not digest.startswith("sha256:"):
        raise ImageError("the image names a blob without a SHA-256")
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _member(members: dict[str, tarfile.TarInfo], name: object) -> tarfile.TarInfo:
    found = members.get(_clean(name)) if isinstance(name, str) else None
    if found is not None and found.issym():  # older Docker links equal layers
        target = PurePosixPath(_clean(found.name)).parent / found.linkname
        found = members.get(os.path.normpath(target))
    if found is None or not found.isreg():
        raise ImageError(f"the image names {str(name)[:100]!r}, which is not in the archive")
    return found


def _json(outer: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: object) -> Any:
    member = _member(members, name)
    content = outer.extractfile(member)
    if content is None or member.size > MAX_JSON:
        raise ImageError(f"{member.name[:100]!r} in the image is too large")
    try:
        return json.load(content)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{member.name[:100]!r} in the image is not JSON") from error


def _only(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
        raise ImageError(f"{what} must name exactly one image")
    return value[0]


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ImageError("the image's manifest is malformed")
    return value


def _config(document: object) -> ImageConfig:
    inner = document.get("config") if isinstance(document, dict) else None
    if inner is None:
        return ImageConfig()
    if not isinstance(inner, dict):
        raise ImageError("the image's configuration is malformed")
    argv = _words(inner.get("Entrypoint")) + _words(inner.get("Cmd"))
    env = tuple(
        (key, value) for key, _, value in (word.partition("=") for word in _words(inner.get("Env")))
    )
    workdir = inner.get("WorkingDir") or ""
    if not isinstance(workdir, str) or len(workdir) > MAX_NAME or "\0" in workdir:
        raise ImageError("the image's working directory is malformed")
    return ImageConfig(env, argv, workdir)


def _words(value: object) -> tuple[str, ...]:
    words = value if isinstance(value, list) else [] if value is None else [value]
    if len(words) > MAX_WORDS:
        raise ImageError("the image's configuration is too long")
    for word in words:
        if not isinstance(word, str) or len(word) > 128 * 1024 or "\0" in word:
            raise ImageError("the image's configuration is malformed")
    return tuple(words)


def _clean(name: str) -> str:
    return os.path.normpath(name).lstrip("/")


# -- the tree


class _Tree:
    """A root file system under construction. Nobody else touches it meanwhile."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._files = 0
        self._bytes = 0

    def apply(self, content: IO[bytes]) -> None:
        """Lay one layer over what is there. Compression is found by looking."""
        with tarfile.open(fileobj=content, mode="r|*") as layer:
            made: set[str] = set()
            for member in _bounded(layer):
                self._count(member)
                parts = _parts(member.name)
                if not parts:
                    continue
                if parts[-1].startswith(_WHITEOUT):
                    self._white_out(parts, made)
                else:
                    self._place(layer, member, parts)
                    made.add("/".join(parts))

    def _count(self, member: tarfile.TarInfo) -> None:
        self._files += 1
        self._bytes += member.size if member.isreg() else 0
        if self._files > MAX_FILES:
            raise ImageError(f"the image has more than {MAX_FILES} files")
        if self._bytes > MAX_UNPACKED:
            raise ImageError(f"the image unpacks to more than {MAX_UNPACKED >> 30} GiB")

    def _white_out(self, parts: list[str], made: set[str]) -> None:
        directory = self._resolve(parts[:-1])
        if not os.path.isdir(directory):  # noqa: PTH112
            return
        if parts[-1] != _OPAQUE:
            self._remove(os.path.join(directory, parts[-1].removeprefix(_WHITEOUT)))  # noqa: PTH118
            return
        with os.scandir(directory) as entries:
            for entry in list(entries):
                if "/".join((*parts[:-1], entry.name)) not in made:
                    self._remove(entry.path)

    def _place(self, layer: tarfile.TarFile, member: tarfile.TarInfo, parts: list[str]) -> None:
        parent = self._resolve(parts[:-1])
        self._make_directory(parent)
        path = os.path.join(parent, parts[-1])  # noqa: PTH118
        mode = member.mode & 0o777
        if member.isdir():
            if os.path.islink(path) or not os.path.isdir(path):  # noqa: PTH114, PTH112
                self._remove(path)
                os.mkdir(path)  # noqa: PTH102
            os.chmod(path, mode | 0o700)  # noqa: PTH101
            return
        if member.isreg():
            self._remove(path)
            self._write(layer, member, path, mode | 0o400)
        elif member.issym():
            self._remove(path)
            os.symlink(member.linkname, path)  # noqa: PTH211
        elif member.islnk():
            target = self._resolve(_parts(member.linkname)[:-1]), _parts(member.linkname)[-1:]
            source = os.path.join(target[0], *target[1])  # noqa: PTH118
            if os.path.lexists(source) and not os.path.isdir(source):  # noqa: PTH112
                self._remove(path)
                os.link(source, path, follow_symlinks=False)

    def _write(self, layer: tarfile.TarFile, member: tarfile.TarInfo, path: str, mode: int) -> None:
        content = layer.extractfile(member)
        if content is None:
            raise ImageError("a file of the image has no content")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123
            shutil.copyfileobj(content, file, _CHUNK)
            os.fchmod(file.fileno(), mode)
            os.utime(file.fileno(), (member.mtime, member.mtime))

    def _resolve(self, parts: list[str]) -> str:
        """The host path of a directory of the image; links on the way stay inside the image."""
        queue, at, hops = list(parts), self._root, 0
        while queue:
            part = queue.pop(0)
            if part == "..":
                at = self._root if at == self._root else os.path.dirname(at)  # noqa: PTH120
                continue
            following = os.path.join(at, part)  # noqa: PTH118
            if not os.path.islink(following):  # noqa: PTH114
                at = following
                continue
            hops += 1
            if hops > MAX_LINKS:
                raise ImageError("the image's links lead in circles")
            target = os.readlink(following)  # noqa: PTH115
            at = self._root if target.startswith("/") else at
            queue = [piece for piece in target.split("/") if piece not in ("", ".")] + queue
        return at

    def _make_directory(self, path: str) -> None:
        try:
            os.makedirs(path, 0o755, exist_ok=True)  # noqa: PTH103
        except (FileExistsError, NotADirectoryError) as error:
            raise ImageError("the image puts a file below another file") from error

    def _remove(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)  # noqa: PTH108

    def make_mount_points(self) -> None:
        for name in MOUNT_DIRECTORIES:
            path = os.path.join(self._root, name)  # noqa: PTH118
            if os.path.islink(path) or not os.path.isdir(path):  # noqa: PTH112, PTH114
                self._remove(path)
                os.mkdir(path, 0o755)  # noqa: PTH102
        os.chmod(os.path.join(self._root, "tmp"), 0o1777)  # noqa: PTH101, PTH118, S103
        for name in MOUNT_FILES:
            path = os.path.join(self._root, name)  # noqa: PTH118
            if os.path.islink(path) or not os.path.isfile(path):  # noqa: PTH113, PTH114
                self._remove(path)
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644))


def _bounded(layer: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members, without letting tarfile remember all of them."""
    while (member := layer.next()) is not None:
        layer.members = []  # type: ignore[attr-defined]
        yield member


def _parts(name: str) -> list[str]:
    """Components of a name in a layer. Raises: ImageError: it leads upwards, or is too long."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name or len(name) > MAX_NAME:
        raise ImageError(f"the image holds the impossible name {name[:100]!r}")
    return parts

"""Container images from strangers: a docker-archive, an OCI layout, or blobs from a registry become a directory.

Everything here runs in a process without privileges (`unpack.py`), on a seekable file whose SHA-256 was
checked before, or on blobs that are checked here. Bounds come first; links in the archive lead nowhere
outside of the image; devices are left out, setuid and setgid bits are stripped, and everything belongs to
the unpacking user: who owns what inside is written down for the tenant's init (`owners.py`). The mount
points of a tenant are made now, since a missing one would be created inside the shared image later.
"""

import importlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Protocol

from deepbrain.sandbox.owners import OWNERS, Owners
from deepbrain.sandbox.sandbox import ImageError, User
from deepbrain.sandbox.users import MAX_FILE, resolve_user

# The extra `provider` brings it. Not from inside: there nothing can be imported any more.
zstandard: Any = importlib.import_module("zstandard") if find_spec("zstandard") else None

MAX_ARCHIVE: Final = 64 << 30
MAX_UNPACKED: Final = 64 << 30
MAX_FILES: Final = 1_000_000
MAX_MEMBERS: Final = 10_000
"""Of the archive that holds the layers."""
MAX_LAYERS: Final = 128
MAX_NAME: Final = 4096
MAX_JSON: Final = 4 << 20
MAX_LINKS: Final = 40
MAX_WORDS: Final = 1024
MAX_WINDOW: Final = 128 << 20
"""Bytes that a zstd layer may make its reader hold."""

MOUNT_DIRECTORIES: Final = ("workspace", ".dbc", "tmp", "proc", "dev", "sys", "etc", "root")
MOUNT_FILES: Final = (".dbc/tool", "etc/resolv.conf", "etc/hosts", "etc/hostname")

_CHUNK: Final = 1 << 20
_BLOCK: Final = 4096
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_UNREADABLE: Final[tuple[type[Exception], ...]] = (
    *(tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, MemoryError),
    *(() if zstandard is None else (zstandard.ZstdError,)),
)
"""What `tarfile` and the libraries of compression raise at bytes that are nearly right."""
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about running it."""

    env: tuple[tuple[str, str], ...] = ()
    argv: tuple[str, ...] = ()
    workdir: str = ""
    user: User = field(default_factory=User)
    disk: int = field(default=0, compare=False)
    """Bytes it takes unpacked."""


def digest_of(file: IO[bytes]) -> str:
    """Hex SHA-256 of a whole file, left at its start again."""
    file.seek(0)
    hashing = sha256()
    while chunk := file.read(_CHUNK):
        hashing.update(chunk)
    file.seek(0)
    return hashing.hexdigest()


def unpack(archive: IO[bytes], rootfs: Path, limit: int | None = None) -> ImageConfig:
    """Unpack an image's tar into the empty directory `rootfs`, to at most `limit` bytes.

    Raises: ImageError: malformed, over a bound, or a compression this Python lacks.
    """
    with _refusing(), tarfile.open(fileobj=archive, mode="r:") as outer:
        return _unpack(_Archive(outer), rootfs, limit)


def unpack_blobs(
    directory: int, digest: str, rootfs: Path, limit: int | None = None
) -> ImageConfig:
    """As `unpack`, from an open directory of blobs, each by the hex of its SHA-256. `digest` is the
    manifest's or the index's; what is read is compared with its name.
    """
    with _refusing():
        return _unpack(_Blobs(directory, digest), rootfs, limit)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        why = str(error) or type(error).__name__
        raise ImageError(f"the image archive is malformed: {why}") from error
    except OSError as error:
        raise ImageError(f"the image cannot be unpacked: {error.strerror or error}") from error


def _unpack(source: "_Source", rootfs: Path, limit: int | None) -> ImageConfig:
    layers, document = source.layout()
    if len(layers) > MAX_LAYERS:
        raise ImageError(f"the image has more than {MAX_LAYERS} layers")
    inner = _inner_config(source.json(document))
    tree = _Tree(rootfs, MAX_UNPACKED if limit is None else min(limit, MAX_UNPACKED))
    for layer in layers:
        with source.open(layer) as content:
            tree.apply(content)
    user = resolve_user(_text(inner.get("User")), *map(tree.read, ("etc/passwd", "etc/group")))
    tree.make_mount_points()
    return _config(inner, user, tree.disk)


# -- where an image comes from


class _Source(Protocol):
    def layout(self) -> tuple[list[Any], object]:
        """What `open` takes for each layer, lowest first, and what `json` takes for the configuration."""
        ...

    def json(self, name: object) -> Any: ...

    def open(self, name: object) -> IO[bytes]: ...


class _Archive:
    """A docker-archive or an OCI layout in a tar."""

    def __init__(self, outer: tarfile.TarFile) -> None:
        self._outer = outer
        self._members: dict[str, tarfile.TarInfo] = {}
        for number, member in enumerate(_members(outer)):
            if number >= MAX_MEMBERS:
                raise ImageError("the image archive has too many members")
            self._members[_clean(member.name)] = member

    def layout(self) -> tuple[list[Any], object]:
        if "manifest.json" in self._members:
            manifest = _only(self.json("manifest.json"), "manifest.json")
            return _list(manifest.get("Layers")), manifest.get("Config")
        if "index.json" in self._members:
            manifest = _follow(self.json("index.json"), lambda blob: self.json(_blob_name(blob)))
            layers = _list(manifest.get("layers"))
            return [_blob_name(layer) for layer in layers], _blob_name(manifest.get("config"))
        raise ImageError(
            "the archive holds no image: neither manifest.json nor index.json is in it"
        )

    def json(self, name: object) -> Any:
        with self.open(name) as content:
            return parse_json(content.read(MAX_JSON + 1), f"{str(name)[:100]!r} in the image")

    def open(self, name: object) -> IO[bytes]:
        content = self._outer.extractfile(self._member(name))
        if content is None:
            raise ImageError(f"{str(name)[:100]!r} in the image is not a file")
        return content

    def _member(self, name: object) -> tarfile.TarInfo:
        found = self._members.get(_clean(name)) if isinstance(name, str) else None
        if found is not None and found.issym():  # older Docker links equal layers
            target = PurePosixPath(_clean(found.name)).parent / found.linkname
            found = self._members.get(os.path.normpath(target))
        if found is None or not found.isreg():
            raise ImageError(f"the image names {str(name)[:100]!r}, which is not in the archive")
        return found


class _Blobs:
    """Blobs as a registry names them, in one directory."""

    def __init__(self, directory: int, digest: str) -> None:
        self._directory = directory
        self._digest = digest

    def layout(self) -> tuple[list[Any], object]:
        manifest = _follow(self.json({"digest": f"sha256:{self._digest}"}), self.json)
        return _list(manifest.get("layers")), manifest.get("config")

    def json(self, name: object) -> Any:
        with self.open(name) as content:
            return parse_json(content.read(MAX_JSON + 1), "a blob of the image")

    def open(self, name: object) -> IO[bytes]:
        digest = digest_in(name)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.fdopen(os.open(digest, flags, dir_fd=self._directory), "rb")
        except FileNotFoundError as error:
            raise ImageError("the image names a blob that did not come with it") from error
        if digest_of(file) != digest:
            file.close()
            raise ImageError("a blob of the image is damaged: its SHA-256 differs")
        return file


def parse_json(data: bytes, what: str) -> Any:
    """Raises: ImageError: too large, or not JSON."""
    if len(data) > MAX_JSON:
        raise ImageError(f"{what} is too large")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is not JSON") from error


def _follow(found: object, read: Callable[[object], Any]) -> dict[str, Any]:
    """The manifest for this machine's architecture, through at most two nested indexes."""
    for _ in range(3):
        if not is_index(found):
            if isinstance(found, dict) and "layers" in found:
                return found
            break
        found = read(ours_of(found))
    raise ImageError("the image's index leads to no manifest")


def is_index(document: object) -> bool:
    """Whether it names manifests, one for each platform."""
    return isinstance(document, dict) and "layers" not in document and "manifests" in document


def ours_of(index: Any) -> dict[str, Any]:
    """The descriptor for this machine's platform. Raises: ImageError: there is none."""
    entries = [entry for entry in _list(index.get("manifests")) if isinstance(entry, dict)]
    fitting = [entry for entry in entries if _fits(entry)]
    if not fitting:
        raise ImageError("the image holds nothing for this machine's architecture")
    return fitting[0]


def descriptors(manifest: object) -> list[dict[str, Any]]:
    """Of all blobs of a manifest: configuration and layers. Raises: ImageError: it is none."""
    if not isinstance(manifest, dict):
        raise ImageError("the image's manifest is malformed")
    found = [manifest.get("config"), *_list(manifest.get("layers"))]
    if not all(isinstance(entry, dict) for entry in found):
        raise ImageError("the image's manifest is malformed")
    return [entry for entry in found if isinstance(entry, dict)]


def digest_in(descriptor: object) -> str:
    """The hex SHA-256 that a descriptor names. Raises: ImageError: it names none."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    prefix, _, found = digest.partition(":") if isinstance(digest, str) else ("", "", "")
    if prefix != "sha256" or not _HEX.fullmatch(found):
        raise ImageError("the image names a blob without a SHA-256")
    return found


def _blob_name(descriptor: object) -> str:
    return f"blobs/sha256/{digest_in(descriptor)}"


def _fits(entry: dict[str, Any]) -> bool:
    platform = entry.get("platform")
    if not isinstance(platform, dict):
        return True
    ours = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return platform.get("architecture") == ours and platform.get("os") == "linux"


def _only(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
        raise ImageError(f"{what} must name exactly one image")
    return value[0]


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ImageError("the image's manifest is malformed")
    return value


def _inner_config(document: object) -> dict[str, Any]:
    inner = document.get("config") if isinstance(document, dict) else None
    if inner is not None and not isinstance(inner, dict):
        raise ImageError("the image's configuration is malformed")
    return inner or {}


def _config(inner: dict[str, Any], user: User, disk: int) -> ImageConfig:
    argv = _words(inner.get("Entrypoint")) + _words(inner.get("Cmd"))
    env = tuple(
        (key, value) for key, _, value in (word.partition("=") for word in _words(inner.get("Env")))
    )
    return ImageConfig(env, argv, _text(inner.get("WorkingDir")), user, disk)


def _text(value: object) -> str:
    text = value or ""
    if not isinstance(text, str) or len(text) > MAX_NAME or "\0" in text:
        raise ImageError("the image's configuration is malformed")
    return text


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

    def __init__(self, root: Path, limit: int) -> None:
        self._root = str(root)
        self._limit = limit
        self._owners = Owners()
        self._files = 0
        self._bytes = 0
        self.disk = 0

    def apply(self, content: IO[bytes]) -> None:
        """Lay one layer over what is there. Compression is found by looking."""
        with tarfile.open(fileobj=_plain(content), mode="r|*") as layer:
            made: set[str] = set()
            for member in _members(layer):
                self._count(member, layer.offset - member.offset_data)
                parts = _parts(member.name)
                if not parts:
                    continue
                if parts[-1].startswith(_WHITEOUT):
                    self._white_out(parts, made)
                else:
                    self._place(layer, member, parts)
                    made.add("/".join(parts))

    def _count(self, member: tarfile.TarInfo, stored: int) -> None:
        """`stored`: bytes in the layer before the next member, for which all of them are read."""
        self._files += 1
        self._bytes += member.size if member.isreg() else 0
        self.disk = self._bytes + self._files * _BLOCK
        if self._files > MAX_FILES:
            raise ImageError(f"the image has more than {MAX_FILES} files")
        if max(self._bytes, stored - tarfile.BLOCKSIZE) > self._limit:
            raise ImageError(f"the image unpacks to more than {self._limit >> 20} MiB")

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
        self._owners.note(self._inside(path), member.uid, member.gid)
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

    def _inside(self, path: str) -> str:
        return path.removeprefix(self._root).lstrip("/")

    def _make_directory(self, path: str) -> None:
        try:
            if os.path.isdir(path):  # noqa: PTH112
                return
            self._make_directory(os.path.dirname(path))  # noqa: PTH120
            os.mkdir(path, 0o755)  # noqa: PTH102
            self._owners.note(self._inside(path), 0, 0)
        except (FileExistsError, NotADirectoryError) as error:
            raise ImageError("the image puts a file below another file") from error

    def _remove(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)  # noqa: PTH108

    def read(self, name: str) -> bytes:
        """The beginning of a file of the image; nothing where it has none."""
        path = self._resolve(name.split("/"))
        if not os.path.isfile(path) or os.path.islink(path):  # noqa: PTH113, PTH114
            return b""
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(MAX_FILE)

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
        owners = os.path.join(self._root, OWNERS)  # noqa: PTH118
        self._remove(owners)
        self._owners.write(Path(owners), Path(self._root))


def _plain(content: IO[bytes]) -> IO[bytes]:
    """The content without zstd, which this tarfile may not know; other compressions stay."""
    magic = content.read(len(_ZSTD))
    content.seek(0)
    if magic != _ZSTD:
        return content
    if zstandard is None:
        raise ImageError("the image is compressed by zstd, which this machine lacks a library for")
    reading = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    plain: IO[bytes] = reading.stream_reader(content, read_across_frames=True)
    return plain


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members, without letting tarfile remember all of them. Raises: ImageError: a negative size."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]
        if member.size < 0:  # tarfile would go back, and come here again
            raise ImageError("the image holds a file of less than no bytes")
        yield member


def _parts(name: str) -> list[str]:
    """Components of a name in a layer. Raises: ImageError: it leads upwards, or is too long."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name or len(name) > MAX_NAME:
        raise ImageError(f"the image holds the impossible name {name[:100]!r}")
    return parts

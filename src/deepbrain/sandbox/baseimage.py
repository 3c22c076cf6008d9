"""The base image `python-numpy`, made from this machine's own files: no registry, no download.

A docker-archive tar with one layer: this Python's standard library, its NumPy and pip, a shell and a few
core programs, the shared libraries they need, and the authorities this machine trusts. Everything is ordered and dated alike, so two builds from
the same files are the same bytes; compiled modules are included (importing NumPy without them takes
three times as long) and never checked against their sources.
"""

import importlib.util
import io
import json
import marshal
import os
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, Final

from deepbrain.sandbox.sandbox import ImageError

NAME: Final = "python-numpy"
DATE: Final = 1_700_000_000
PROGRAMS: Final = (
    "sh",
    "bash",
    "cat",
    "chmod",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "du",
    "echo",
    "env",
    "false",
    "find",
    "grep",
    "gzip",
    "head",
    "id",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "nproc",
    "ps",
    "pwd",
    "rm",
    "rsync",
    "rmdir",
    "sed",
    "seq",
    "sha256sum",
    "sleep",
    "sort",
    "stty",
    "tail",
    "tar",
    "tee",
    "touch",
    "tr",
    "true",
    "tty",
    "uname",
    "uniq",
    "wc",
)

_SKIPPED_STDLIB: Final = frozenset(
    [
        "__pycache__",
        "dist-packages",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtledemo",
    ]
)
_SKIPPED_NUMPY: Final = frozenset(["__pycache__", "f2py", "tests"])
_SKIPPED_PIP: Final = frozenset(["__pycache__"])
_STANDARD_LIBRARIES: Final = ("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/")
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
)
_PREFIX: Final = PurePosixPath("usr/local")
_SITE_PACKAGES: Final = (
    _PREFIX / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
)
_PIP: Final = b"""#!/usr/local/bin/python3
import sys
from pip._internal.cli.main import main
sys.exit(main())
"""
_PIP_ENVIRONMENT: Final = (
    "PIP_DISABLE_PIP_VERSION_CHECK=1",
    "PIP_NO_CACHE_DIR=1",  # it would lie in the workspace, and come back with the results
    "PIP_ROOT_USER_ACTION=ignore",
)


@dataclass(slots=True)
class _Layer:
    """Name in the image to content: a file of this machine, bytes, or a link."""

    files: dict[str, Path] = field(default_factory=dict)
    made: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    private_libraries: bool = False

    def write(self, output: IO[bytes]) -> None:
        with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name in sorted(_parents({**self.files, **self.made, **self.links})):
                tar.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
            for name in sorted({**self.files, **self.made, **self.links}):
                if name in self.links:
                    link = _entry(name, tarfile.SYMTYPE, 0o777)
                    link.linkname = self.links[name]
                    tar.addfile(link)
                else:
                    self._write_file(tar, name)

    def _write_file(self, tar: tarfile.TarFile, name: str) -> None:
        if name in self.made:
            content = self.made[name]
            mode = 0o755 if content.startswith(b"#!") else 0o644
        else:
            content = self.files[name].read_bytes()
            mode = 0o755 if os.access(self.files[name], os.X_OK) else 0o644
        entry = _entry(name, tarfile.REGTYPE, mode)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


def build(output: Path, *, python: bool = True) -> str:
    """Write the image and return its SHA-256 in hex. A few seconds, about 160 MB.

    Without `python` only the shell and the core programs go in: 10 MB, at once.

    Raises: ImageError: NumPy or a basic program is missing here.
    """
    layer = _Layer()
    if python:
        _add_python(layer)
        _add_numpy(layer)
        _add_pip(layer)
        _add_authorities(layer)
    _add_programs(layer)
    _add_libraries(layer)
    layer.made["etc/passwd"] = b"root:x:0:0:root:/workspace:/bin/sh\n"
    layer.made["etc/group"] = b"root:x:0:\n"
    new = output.with_name(f"{output.name}.new")
    try:
        with new.open("wb") as file:
            _write_archive(layer, file)
        with new.open("rb") as file:
            digest = hashing(file)
        new.replace(output)
    finally:
        new.unlink(missing_ok=True)
    return digest


def hashing(file: IO[bytes]) -> str:
    found = sha256()
    while chunk := file.read(1 << 20):
        found.update(chunk)
    return found.hexdigest()


def _write_archive(layer: _Layer, file: IO[bytes]) -> None:
    content = io.BytesIO()
    layer.write(content)
    digest = sha256(content.getbuffer()).hexdigest()
    config = json.dumps(_config(layer, digest), sort_keys=True).encode()
    config_name = f"{sha256(config).hexdigest()}.json"
    manifest = [
        {
            "Config": config_name,
            "Layers": [f"{digest}/layer.tar"],
            "RepoTags": [f"{NAME}:{version('numpy')}"],
        }
    ]
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        members = {config_name: io.BytesIO(config), f"{digest}/layer.tar": content}
        members["manifest.json"] = io.BytesIO(json.dumps(manifest, sort_keys=True).encode())
        for name, data in members.items():
            entry = _entry(name, tarfile.REGTYPE, 0o644)
            entry.size = data.seek(0, io.SEEK_END)
            data.seek(0)
            tar.addfile(entry, data)


def _config(layer: _Layer, digest: str) -> dict[str, object]:
    env = ["PATH=/usr/local/bin:/usr/bin:/bin", "PYTHONUNBUFFERED=1", *_PIP_ENVIRONMENT]
    if layer.private_libraries:
        env.append("LD_LIBRARY_PATH=/usr/local/lib")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return {
        "architecture": machine,
        "os": "linux",
        "created": "2023-11-14T22:13:20Z",
        "config": {"Env": env, "Cmd": ["sh"], "WorkingDir": "/workspace"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }


# -- what goes in


def _add_python(layer: _Layer) -> None:
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    binary = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    layer.files[str(_PREFIX / "bin" / name)] = binary
    for link in ("python3", "python"):
        layer.links[str(_PREFIX / "bin" / link)] = name
    library = _PREFIX / "lib" / name
    for kind in ("stdlib", "platstdlib"):
        root = Path(sysconfig.get_path(kind, vars=_base_paths()))
        _add_modules(layer, root, library, _SKIPPED_STDLIB)
    layer.links[str(library / "dist-packages")] = "site-packages"  # as Debian's Python has it
    if "posix_local" in sysconfig.get_scheme_names():
        layer.links[str(_PREFIX / "local")] = "."  # where Debian's pip installs below its prefix


def _base_paths() -> dict[str, str]:
    return {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}


def _add_numpy(layer: _Layer) -> None:
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        raise ImageError(
            "NumPy is missing here, and the base image needs it; `pip install 'deepbrain[provider]'`"
        )
    site = Path(spec.origin).parent.parent
    _add_modules(layer, site / "numpy", _SITE_PACKAGES / "numpy", _SKIPPED_NUMPY)
    for name in ("numpy.libs", f"numpy-{version('numpy')}.dist-info"):
        if (site / name).is_dir():
            _add_modules(layer, site / name, _SITE_PACKAGES / name, frozenset())


def _add_pip(layer: _Layer) -> None:
    """This Python's pip; an environment that was made without one gives an image without one."""
    spec = importlib.util.find_spec("pip")
    if spec is None or spec.origin is None:
        return
    site = Path(spec.origin).parent.parent
    for name in ("pip", f"pip-{version('pip')}.dist-info"):
        if (site / name).is_dir():
            _add_modules(layer, site / name, _SITE_PACKAGES / name, _SKIPPED_PIP)
    for command in ("pip", "pip3"):
        layer.made[str(_PREFIX / "bin" / command)] = _PIP


def _add_authorities(layer: _Layer) -> None:
    """Whom this machine trusts for TLS, in one file where the image's OpenSSL looks for it."""
    places = ssl.get_default_verify_paths()
    known: tuple[str | None, ...] = (places.cafile, *_BUNDLES)
    for found in known:
        if found is not None and Path(found).is_file():
            layer.files[places.openssl_cafile.lstrip("/")] = Path(found).resolve()
            return


def _add_modules(layer: _Layer, root: Path, target: PurePosixPath, skipped: frozenset[str]) -> None:
    for path in _walk(root, skipped):
        name = target / path.relative_to(root)
        layer.files[str(name)] = path
        if path.suffix == ".py" and (code := _compiled(path, f"/{name}")) is not None:
            cache = name.parent / "__pycache__" / f"{name.stem}.{sys.implementation.cache_tag}.pyc"
            layer.made[str(cache)] = code


def _walk(root: Path, skipped: frozenset[str]) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in skipped)
        for name in sorted(files):
            path = Path(directory) / name
            unwanted = path.suffix in (".pyc", ".a") or name == "EXTERNALLY-MANAGED"
            if path.is_file() and not unwanted:
                yield path


def _compiled(path: Path, name: str) -> bytes | None:
    """A .pyc that is never compared with its source; None for a template that is no module."""
    source = path.read_bytes()
    try:
        code = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    flags = (1).to_bytes(4, "little")  # by hash, unchecked
    return (
        importlib.util.MAGIC_NUMBER
        + flags
        + importlib.util.source_hash(source)
        + marshal.dumps(code)
    )


def _add_programs(layer: _Layer) -> None:
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            layer.files[f"bin/{name}"] = Path(found).resolve()
    if "bin/sh" not in layer.files:
        raise ImageError("this machine has no sh to put into the base image")
    layer.links["usr/bin/env"] = "../../bin/env"


def _add_libraries(layer: _Layer) -> None:
    binaries = [path for path in layer.files.values() if _is_elf(path)]
    own = {str(path) for path in layer.files.values()}
    for library in sorted(_needed(binaries)):
        if library in own or "/numpy.libs/" in library:
            continue
        if library.startswith(_STANDARD_LIBRARIES):
            layer.files[library.lstrip("/")] = Path(library).resolve()
        else:
            layer.files[str(_PREFIX / "lib" / Path(library).name)] = Path(library).resolve()
            layer.private_libraries = True


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _needed(binaries: list[Path]) -> set[str]:
    """Shared libraries by absolute path, as the loader of this machine finds them."""
    ldd = shutil.which("ldd")
    if ldd is None:
        raise ImageError("the program ldd is missing; the base image needs it")
    loading = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}
    loading["LC_ALL"] = "C"
    done = subprocess.run(
        [ldd, *map(str, binaries)], capture_output=True, text=True, check=False, env=loading
    )
    found = set()
    for line in done.stdout.splitlines():
        words = line.split()
        if line.startswith("\t"):
            path = words[2] if len(words) > 2 and words[1] == "=>" else words[0]
            if path.startswith("/"):
                found.add(os.path.normpath(path))
    return found


def _parents(names: dict[str, object]) -> set[str]:
    found: set[str] = set()
    for name in names:
        found.update(str(parent) for parent in PurePosixPath(name).parents if str(parent) != ".")
    return found


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, DATE
    return entry


def main() -> int:
    """`python -m deepbrain.sandbox.baseimage FILE`: prints the digest."""
    try:
        digest = build(Path(sys.argv[1]))
    except (ImageError, OSError) as error:
        sys.stderr.write(f"build-image: {error}\n")
        return 1
    sys.stdout.write(f"{digest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Packages of our own in places like the real ones, and a Debian of this machine's files to install them in."""

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from email.utils import formatdate
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest
from tests.sandbox.registries import layer

ROOTS: Final = (
    "apt", "bash", "coreutils", "dash", "debconf", "debianutils", "diffutils", "dpkg", "findutils",
    "gpgv", "grep", "gzip", "libc-bin", "perl-base", "sed", "tar",
)  # fmt: skip
"""What `apt-get install` needs, without what they depend on."""

_NOT_NEEDED: Final = re.compile(
    r"/(usr/share/(doc|info|lintian|locale|man|perl5?/unicore|zoneinfo)|usr/lib/[^/]+/gconv|etc|dev|proc|sys)(/|$)"
)
_EMPTY: Final = (
    "etc/apt/apt.conf.d/", "etc/apt/preferences.d/", "etc/apt/sources.list.d/", "etc/apt/trusted.gpg.d/",
    "etc/dpkg/dpkg.cfg.d/", "root/", "tmp/", "var/cache/apt/archives/partial/",
    "var/cache/debconf/", "var/lib/apt/lists/partial/", "var/lib/dpkg/triggers/",
    "var/lib/dpkg/updates/", "var/log/apt/", "var/tmp/",
)  # fmt: skip
_ACCOUNTS: Final = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n"
    b"www-data:x:33:33::/var/www:/usr/sbin/nologin\n"
    b"_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n",
    "etc/group": b"root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
    "etc/debian_version": b"12\n",
}


def require_debian() -> None:
    """Skip where this machine is no Debian, whose files the image is made of; or fail if nothing may be."""
    if shutil.which("dpkg-query") and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        return
    reason = "this machine is no Debian or Ubuntu: there is no apt to make an image of"
    if os.environ.get("REQUIRE_GVISOR") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def write_debian(path: Path) -> None:
    """A docker archive in which `apt-get` works: the files of the packages that this host has. 60 MB."""
    packages = _closure()
    empty = dict.fromkeys(_EMPTY, b"")
    status = {"var/lib/dpkg/status": _status(packages)}
    layers = {"files.tar": _files_of(packages), "own.tar": layer({**empty, **_ACCOUNTS, **status})}
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers"}}
    manifest = [{"Config": "config.json", "Layers": [*layers], "RepoTags": []}]
    documents = {"config.json": config, "manifest.json": manifest}
    members = {name: json.dumps(document).encode() for name, document in documents.items()}
    path.write_bytes(layer(members | layers))


def _query(*words: str) -> str:
    done = subprocess.run(["dpkg-query", *words], capture_output=True, text=True, check=True)
    return done.stdout


def _closure() -> list[str]:
    """ROOTS and all that they depend on, of what is installed here."""
    needs, providers = {}, {}
    text = _query("-W", "-f", "${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n")
    for line in text.splitlines():
        name, wanted, provided = line.split("\t")
        needs[name] = [re.split(r"[ (:]", one.strip())[0] for one in re.split(r"[,|]", wanted)]
        for virtual in provided.split(","):
            providers[re.split(r"[ (:]", virtual.strip())[0]] = name
    found: set[str] = set()
    wanted_now = [*ROOTS]
    while wanted_now:
        name = wanted_now.pop()
        name = name if name in needs else providers.get(name, "")
        if name and name not in found:
            found.add(name)
            wanted_now += needs[name]
    return sorted(found)


def _status(packages: list[str]) -> bytes:
    """dpkg's own record of them."""
    paragraphs = Path("/var/lib/dpkg/status").read_text().split("\n\n")
    wanted = [text for text in paragraphs if text.partition("\n")[0][9:] in packages]
    return ("\n\n".join(wanted) + "\n\n").encode()


def _files_of(packages: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path("/", name).is_symlink():
                tar.add(f"/{name}", name, recursive=False)
        for path in sorted({*_listed(packages), *_records(packages)}):
            tar.add(path, str(path).lstrip("/"), recursive=False)
    return buffer.getvalue()


def _listed(packages: list[str]) -> Iterator[Path]:
    for line in set(_query("-L", *packages).splitlines()):
        if not line.startswith("/") or _NOT_NEEDED.match(line):
            continue
        path = Path(line)
        path = path.parent.resolve() / path.name  # /lib is a link to /usr/lib
        if path.is_symlink() or path.is_file() or (path.is_dir() and path != Path("/")):
            yield path


def _records(packages: list[str]) -> Iterator[Path]:
    """`libc6:amd64.list`, `apt.list` and the like."""
    for path in Path("/var/lib/dpkg/info").iterdir():
        if path.name.partition(":")[0] in packages or path.stem in packages:
            yield path


# -- what is installed


def write_packages(place: Path) -> None:
    """What `write_wheels` makes, and `debian/` for apt: `greet`, which needs `greeting`."""
    write_wheels(place)
    _write_repository(place / "debian")


def write_wheels(place: Path) -> None:
    """`greet` and `greeting` in `wheels/` below `place`, and in `simple/` as an index has them."""
    (place / "wheels").mkdir(parents=True)
    _wheel(place, "greeting", {"greeting.py": "WORDS = 'hello from a wheel'\n"})
    _wheel(
        place,
        "greet",
        {"greet.py": "import greeting\ndef main(): print(greeting.WORDS)\n"},
        needs="greeting",
        command="greet = greet:main",
    )


def _wheel(
    place: Path, name: str, files: dict[str, str], needs: str = "", command: str = ""
) -> None:
    file = f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    metadata += f"Requires-Dist: {needs}\n" if needs else ""
    made = files | {
        f"{about}/METADATA": metadata,
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{command}\n" if command else "",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(place / "wheels" / file, "w") as archive:
        for path, content in made.items():
            archive.writestr(path, content)
    digest = sha256((place / "wheels" / file).read_bytes()).hexdigest()
    page = place / "simple" / name
    page.mkdir(parents=True)
    (page / "index.html").write_text(f'<a href="../../wheels/{file}#sha256={digest}">{file}</a>')


POSTINST: Final = """#!/bin/sh
set -e
chown www-data:www-data /usr/share/greet/owned
[ "$(stat -c %u:%g /usr/share/greet/owned)" = 33:33 ]
"""


def _write_repository(place: Path) -> None:
    place.mkdir(parents=True)
    _deb(place, "greeting", {"usr/share/greeting/words": "hello from a package\n"})
    _deb(
        place,
        "greet",
        {
            "usr/bin/greet-deb": "#!/bin/sh\ncat /usr/share/greeting/words\n",
            "usr/share/greet/owned": "x",
            "DEBIAN/postinst": POSTINST,
        },
        needs="greeting",
    )
    entries = []
    for deb in sorted(place.glob("*.deb")):
        control = subprocess.run(
            ["dpkg-deb", "--field", deb], capture_output=True, text=True, check=True
        ).stdout
        content = deb.read_bytes()
        digest = sha256(content).hexdigest()
        entries.append(f"{control}Filename: ./{deb.name}\nSize: {len(content)}\nSHA256: {digest}\n")
    packages = "\n".join(entries).encode()
    (place / "Packages").write_bytes(packages)
    digest = sha256(packages).hexdigest()
    (place / "Release").write_text(
        f"Date: {formatdate(usegmt=True)}\nSHA256:\n {digest} {len(packages)} Packages\n"
    )


def _deb(place: Path, name: str, files: dict[str, str], needs: str = "") -> None:
    tree = place / f".{name}"
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: Us <us@example.com>\n"
    control += f"Depends: {needs}\n" if needs else ""
    for path, content in {**files, "DEBIAN/control": f"{control}Description: greets\n"}.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(content)
        (tree / path).chmod(0o755 if content.startswith("#!") else 0o644)
    subprocess.run(
        ["dpkg-deb", "-Zgzip", "--root-owner-group", "--build", tree, place / f"{name}_1.0_all.deb"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.rmtree(tree)

"""Debian's own package tools in a tenant, unmodified: from a repository that the renter brings along.

The image is made of this machine's apt and dpkg; what reaches the internet is shown elsewhere.
"""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.clients import require_program
from tests.e2e.network import Network
from tests.sandbox.registries import Made, base_layer, layer, serving

from deepbrain.cli.provider.prepare import base_image

PROGRAMS = (
    "apt-get",
    "apt-config",
    "dpkg",
    "dpkg-deb",
    "dpkg-query",
    "dpkg-split",
    "ldconfig",
    "diff",
)
PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ACCOUNTS = b"root:x:0:0:root:/root:/bin/sh\n_apt:x:42:65534::/nonexistent:/bin/false\n"
GROUPS = b"root:x:0:\nnogroup:x:65534:\n"
SOURCE = b"deb [trusted=yes] file:/workspace/repository ./\n"
EMPTY = ("etc/apt/apt.conf.d/", "etc/apt/preferences.d/", "var/lib/dpkg/info/", "var/lib/dpkg/updates/",
         "var/lib/dpkg/triggers/", "var/lib/apt/lists/partial/", "var/cache/apt/archives/partial/",
         "var/log/apt/", "usr/lib/apt/", "etc/apt/sources.list.d/")  # fmt: skip
INSTALL = (
    "set -e; apt-get update; apt-get install -y greeter; greeter; dpkg -s greeter; "
    "apt-get remove -y greeter; test ! -e /usr/bin/greeter"
)


@pytest.fixture(scope="module")
def debian() -> Made:
    """This machine's apt and dpkg, over the shell of the base image."""
    for name in ("apt-get", "dpkg-deb"):
        require_program(name, "this test's image is made of Debian's own files")
    found = [Path(path) for name in PROGRAMS if (path := shutil.which(name, path=PATH))]
    methods = sorted(Path("/usr/lib/apt/methods").iterdir())
    files = {f"usr/bin/{path.name}": path.read_bytes() for path in found}
    files |= {f"usr/lib/apt/methods/{path.name}": path.read_bytes() for path in methods}
    files |= {path.lstrip("/"): Path(path).read_bytes() for path in libraries([*found, *methods])}
    # dpkg asks only whether it is there: no service is started here.
    files |= {"usr/sbin/start-stop-daemon": b"#!/bin/sh\n"}
    settings = {
        "etc/passwd": ACCOUNTS,
        "etc/group": GROUPS,
        "etc/apt/sources.list": SOURCE,
        **{
            str(path).lstrip("/"): path.read_bytes()
            for path in Path("/usr/share/dpkg").glob("*table")
        },
        "var/lib/dpkg/status": b"",
        "var/lib/dpkg/arch": f"{architecture()}\n".encode(),
    }
    made = Made()
    made.add(
        [base_layer(base_image(), lambda name: "python" not in name and "numpy" not in name),
         layer(dict.fromkeys(EMPTY, b"")), layer(files), layer(settings, mode=0o644)],
        {"Env": [f"PATH={PATH}", "DEBIAN_FRONTEND=noninteractive"], "WorkingDir": "/workspace"},
    )  # fmt: skip
    return made


def libraries(programs: list[Path]) -> set[str]:
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(/\S+) \(0x", said))


def architecture() -> str:
    done = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, debian: Made) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("registry")) as port:
        debian.push(port, "debian", "12")
        yield port


def repository(place: Path, tree: Path) -> None:
    """A repository with one package, made of `tree`."""
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    control = (
        "Package: greeter\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <n@example.com>\n"
        "Description: greets\n"
    )
    (tree / "DEBIAN/control").write_text(control)
    (tree / "DEBIAN/postinst").write_text("#!/bin/sh\necho set up > /usr/share/greeter\n")
    (tree / "DEBIAN/postinst").chmod(0o755)
    (tree / "usr/share").mkdir()
    (tree / "usr/bin/greeter").write_text("#!/bin/sh\necho greetings, $(cat /usr/share/greeter)\n")
    (tree / "usr/bin/greeter").chmod(0o755)
    place.mkdir(parents=True)
    package = place / "greeter.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "--root-owner-group", "--build", tree, package],
                   check=True, capture_output=True)  # fmt: skip
    content = package.read_bytes()
    (place / "Packages").write_text(
        f"{control}Filename: ./greeter.deb\nSize: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
    )


@pytest.mark.parametrize("variant", ["as_root", "as_user"])
def test_apt_and_dpkg_work_as_they_are(
    request: pytest.FixtureRequest, registry: int, tmp_path: Path, variant: str
) -> None:
    net: Network = request.getfixturevalue(variant)
    workspace = net.workspace("brings-packages", {})
    if not (workspace / "repository").exists():
        repository(workspace / "repository", tmp_path / "greeter")
    net.hand_over(workspace)
    done = net.dbc("run", "-y", "--for", "2m", "--image", f"127.0.0.1:{registry}/debian:12",
                   "--workspace", str(workspace), "--", "sh", "-c", INSTALL)  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert "greetings, set up\n" in done.out
    assert "Status: install ok installed" in done.out
    assert not [line for line in done.err.splitlines() if line.startswith(("W:", "E:"))]

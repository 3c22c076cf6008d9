"""Images out of a registry, from `dbc run` to results: by tag, by digest, with a password, and without luck."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.money import assert_conserved, assert_settled
from tests.e2e.network import Network
from tests.e2e.packages import require_debian, write_debian, write_packages
from tests.sandbox.registries import (
    PASSWORD,
    USER,
    Answer,
    Made,
    Proxy,
    base_layer,
    layer,
    send,
    serving,
)

from deepbrain.cli.provider.prepare import base_image
from deepbrain.sandbox.modes import Programs

PASSWD = b"root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/home/app:/bin/sh\n"


@pytest.fixture(scope="module")
def lone() -> Made:
    """One static program, a user that is not root, an entrypoint, a directory that is missing: no shell."""
    tool = Programs.find().tool
    assert tool is not None
    made = Made()
    made.add(
        [layer({"app/": b"", "app/job": tool.read_bytes()}), layer({"etc/passwd": PASSWD})],
        {"User": "app", "Entrypoint": ["/app/job"], "Cmd": ["canary"], "WorkingDir": "/srv/none"},
    )
    return made


@pytest.fixture(scope="module")
def shell() -> Made:
    """A shell and a few programs of this machine's; a user of its own; zlib and zstd layers."""
    import zstandard

    wanted = ("bin/sh", "/id", "/cat", "/sleep", "/touch", "/pwd", "lib")
    made = Made()
    base = base_layer(base_image(), lambda name: name.endswith(wanted[:-1]) or is_library(name))
    made.add(
        [zstandard.compress(base), layer({"etc/passwd": PASSWD}),
         layer({"home/": b"", "home/app/": b"", "home/app/own": b"own"}, (1234, 1235), 0o700)],
        {"User": "app", "WorkingDir": "/home/app", "Cmd": ["sh", "-c", "id -u; pwd; cat own"]},
    )  # fmt: skip
    return made


def is_library(name: str) -> bool:
    return ".so" in name and "python" not in name


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, lone: Made, shell: Made) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("registry")) as port:
        lone.push(port, "team/lone", "1.0")
        shell.push(port, "team/shell", "latest")
        yield port


def run(net: Network, image: str, *argv: str, **how: object):
    words = ("run", "-y", "--for", "2m", "--no-workspace", "--image", image)
    return net.dbc(*words, *(("--", *argv) if argv else ()), **how)


def test_by_tag_then_by_digest(as_root: Network, registry: int, lone: Made) -> None:
    name = f"127.0.0.1:{registry}/team/lone"
    done = run(as_root, f"{name}:1.0")
    assert done.code == 0, done.err
    assert "uid=1234\n" in done.out
    assert f"the image is {name}@sha256:{lone.digest}" in done.err
    again = run(as_root, f"{name}@sha256:{lone.digest}", "/app/job", "canary")
    assert again.code == 0, again.err
    assert "uid=1234\n" in again.out
    assert_settled(as_root.bill(as_root.orders()[-1]["order"]))


def test_its_user_its_files_and_the_workspace(as_root: Network, registry: int) -> None:
    image = f"127.0.0.1:{registry}/team/shell"
    done = run(as_root, image)
    assert done.code == 0, done.err
    assert done.out == "1234\n/home/app\nown"
    workspace = as_root.workspace("given", {"given.txt": "given"})
    script = "id -u; pwd; echo $HOME; cat given.txt && echo more >> given.txt && echo x > made.txt"
    done = as_root.dbc("run", "-y", "--for", "2m", "--workspace", str(workspace), "--into", "of-images",
                       "--image", image, "--", "sh", "-c", script)  # fmt: skip
    assert done.code == 0, done.err
    assert done.out == "1234\n/workspace\n/home/app\ngiven"
    order = as_root.orders()[-1]["order"]
    assert (as_root.base / "of-images" / str(order) / "made.txt").read_text() == "x\n"
    assert (as_root.base / "of-images" / str(order) / "given.txt").read_text() == "givenmore\n"


def test_what_runs_beside_the_job_is_the_same_user(as_root: Network, registry: int) -> None:
    image = f"127.0.0.1:{registry}/team/shell"
    started = as_root.expect("run", "-y", "-d", "--for", "2m", "--no-workspace", "--image", image,
                             "--", "sleep", "100")  # fmt: skip
    order = started.out.strip()
    try:
        assert as_root.expect("exec", order, "sh", "-c", "id -u; touch t && echo $HOME").out == (
            "1234\n/home/app\n"
        )
        there = as_root.workspace("inputs", {"a.txt": "A"})
        as_root.expect("cp", str(there), f"{order}:inputs")
        assert as_root.expect("exec", order, "cat", "inputs/a.txt").out == "A"
    finally:
        as_root.expect("stop", order)


def test_as_an_ordinary_user(as_user: Network, registry: int) -> None:
    done = run(as_user, f"127.0.0.1:{registry}/team/shell")
    assert done.code == 0, done.err
    assert done.out == "0\n/home/app\nown", "one user on the host, root inside"


def test_apt_as_an_ordinary_user(as_user: Network) -> None:
    """From a repository that was brought along: such machines give jobs no network."""
    require_debian()
    write_debian(as_user.base / "debian.tar")
    brought = as_user.base / "brought"
    write_packages(brought)
    as_user.hand_over(brought)
    done = as_user.dbc("run", "-y", "--for", "2m", "--workspace", str(brought), "--image", "debian.tar",
                       "--", "sh", "-c", APT)  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert done.out.endswith("hello from a package\n"), done.out
    assert "W: " not in done.out + done.err


APT = """
set -e
echo 'deb [trusted=yes] file:/workspace/debian ./' > /etc/apt/sources.list
apt-get update
apt-get install -y greet
greet-deb
"""


def test_with_a_password(
    as_root: Network, tmp_path_factory: pytest.TempPathFactory, lone: Made
) -> None:
    with serving(tmp_path_factory.mktemp("locked"), with_password=True) as port:
        lone.push(port, "team/locked", "1.0", with_password=True)
        image = f"127.0.0.1:{port}/team/locked:1.0"
        before = len(as_root.orders())
        refused = run(as_root, image)
        assert refused.code == 125
        assert "wants credentials" in refused.sentence
        assert len(as_root.orders()) == before, "nothing was placed for an image nobody gives"
        config = as_root.base / ".docker" / "config.json"
        config.parent.mkdir()
        config.write_text(
            f'{{"auths": {{"127.0.0.1:{port}": {{"auth": "cmVudGVyOnNlc2FtZQ=="}}}}}}'
        )
        as_root.hand_over(config.parent)
        done = run(as_root, image)
        assert done.code == 0, done.err
        assert USER not in done.out + done.err
    assert files_with(as_root.place, PASSWORD.encode()) == []
    assert files_with(as_root.place, b'"pulled": true'), "such a search finds what is there"


def files_with(place: Path, word: bytes) -> list[Path]:
    """Plain files of a network that hold a word; not those of images, where this one is in a library."""
    found = []
    for path in place.rglob("*"):
        if "rootfs" in path.parts or path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(OSError):  # a mount of the kernel's own
            if path.stat().st_size < 16 << 20 and word in path.read_bytes():
                found.append(path)
    return found


def test_wrong_bytes_end_in_a_sentence_and_the_money_is_back(
    as_root: Network, registry: int, shell: Made
) -> None:
    def lie(proxy: Proxy, handler: object, answer: Answer) -> bool:
        if "/blobs/" not in handler.path or len(answer.body) < 100_000:  # type: ignore[attr-defined]
            return False
        send(handler, Answer(answer.status, answer.headers, b"!" + answer.body[1:]))
        return True

    with Proxy(registry) as proxy:
        # Another manifest, so that the image is not there already.
        fresh = Made()
        fresh.add([layer({"big": os.urandom(300_000)})], {"Cmd": ["/big"]})
        fresh.push(registry, "team/fresh", "1")
        proxy.misdeed = lie
        done = run(as_root, f"127.0.0.1:{proxy.port}/team/fresh:1")
    assert done.code == 125
    assert "is not the one its manifest names" in done.sentence
    assert "nothing is held" in done.sentence
    for order in as_root.orders()[-2:]:
        bill = as_root.bill(order["order"])
        assert bill["paid"] == "0"
        assert bill["refunded"] == bill["held"]
    assert not list(as_root.place.glob("provider-*/**/orders/*/blobs/pull"))
    assert_conserved(as_root)


def test_a_name_that_nobody_knows(as_root: Network, registry: int) -> None:
    done = run(as_root, f"127.0.0.1:{registry}/team/none:1")
    assert done.code == 125
    assert "has no such image" in done.sentence
    assert "it has python-numpy" in done.sentence
    odd = run(as_root, "No/Such Name")
    assert odd.code == 125
    assert "names no image" in odd.sentence

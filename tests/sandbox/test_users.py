"""Whose an image's files are, and as whom it runs."""

import os
from pathlib import Path

import pytest
from tests.sandbox.test_images import docker, entry, file, folder, layer

from deepbrain.sandbox.images import unpack
from deepbrain.sandbox.owners import MAX_OWNED, OWNERS, Owners
from deepbrain.sandbox.reference import Credentials, Reference
from deepbrain.sandbox.sandbox import ImageError, User
from deepbrain.sandbox.users import resolve_user

PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n77:x:78:79::/h:/s\n"
GROUP = b"root:x:0:\napp:x:1001:\nvideo:x:44:app,root\nself:x:1001:app\ngames:x:60:\n"


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (44,), "/root")),
        ("root", User(0, 0, (44,), "/root")),
        ("app", User(1000, 1001, (44,), "/home/app")),
        ("1000", User(1000, 1001, (44,), "/home/app")),
        ("app:games", User(1000, 60, (), "/home/app")),
        ("app:7", User(1000, 7, (), "/home/app")),
        ("5:6", User(5, 6)),
        ("5", User(5, 0)),
        ("77", User(78, 79, (), "/h")),
    ],
)
def test_users(text: str, user: User) -> None:
    assert resolve_user(text, PASSWD, GROUP) == user


def test_an_image_without_passwd_runs_as_root() -> None:
    assert resolve_user("", b"", b"") == User()


@pytest.mark.parametrize(
    "text", ["nobody", "app:nobody", "-1", "4294967296", "1e3", "٣", ":", "a:b:c"]
)
def test_users_that_are_not_there(text: str) -> None:
    with pytest.raises(ImageError, match="is not in its"):
        resolve_user(text if text != ":" else "x:", PASSWD, GROUP)


@pytest.mark.parametrize(
    "passwd",
    [b"\xff\xfe\x00:::::", b"app:x:1:2", b"app:x:x:y::/h:/s", b"app:x:-1:0::/h:/s", b":x:1:2::/h:/s",
     b"app:x:99999999999:0::/h:/s"],
)  # fmt: skip
def test_strange_passwd_files(passwd: bytes) -> None:
    with pytest.raises(ImageError):
        resolve_user("app", passwd, b"")


@pytest.mark.parametrize("home", [b"relative", b"/with\x1bescape", b"", b"/" + b"x" * 5000])
def test_strange_homes_are_none(home: bytes) -> None:
    assert resolve_user("app", b"app:x:1:2::" + home + b":/s", b"").home == ""


def test_a_passwd_may_be_a_link_and_leads_nowhere_else(tmp_path: Path) -> None:
    from tests.sandbox.test_images import link

    (tmp_path / "passwd").write_bytes(b"app:x:5:5::/h:/s\n")
    config = {"config": {"User": "app"}}
    rootfs = tmp_path / "a"
    rootfs.mkdir()
    members = (folder("etc"), link("etc/passwd", "/usr/p"), folder("usr"), file("usr/p", PASSWD))
    assert unpack(docker(layer(*members), config=config), rootfs).user.uid == 1000
    rootfs = tmp_path / "b"
    rootfs.mkdir()
    for target in ("../../passwd", str(tmp_path / "passwd")):
        with pytest.raises(ImageError, match="not in its"):
            unpack(docker(layer(folder("etc"), link("etc/passwd", target)), config=config), rootfs)


def owned(name: str, uid: int, gid: int, content: bytes = b"x"):
    made = entry(name)
    made.uid, made.gid = uid, gid
    return made, content


def records(rootfs: Path) -> dict[str, str]:
    found = (rootfs / OWNERS).read_bytes().split(b"\0")[:-1]
    return {
        record.split(" ", 2)[2]: " ".join(record.split(" ", 2)[:2])
        for record in map(os.fsdecode, found)
    }


def test_owners_are_those_of_what_is_there_at_the_end(tmp_path: Path) -> None:
    lower = layer(
        owned("kept", 1, 2), owned("gone", 1, 2), owned("taken", 1, 2), owned("d/x", 3, 4),
        owned("e/deep/y", 5, 6), owned("with space\n", 7, 8),
    )  # fmt: skip
    upper = layer(
        file(".wh.gone", b""), owned("taken", 0, 0), file(".wh.d", b""), file(".wh.e", b""),
        file("d/x"), owned("new", 9, 0),
    )  # fmt: skip
    unpack(docker(lower, upper), tmp_path)
    assert records(tmp_path) == {"kept": "1 2", "with space\n": "7 8", "new": "9 0"}


def test_directories_come_first_and_the_list_is_bounded(tmp_path: Path) -> None:
    owners = Owners()
    for at in range(MAX_OWNED + 10):
        owners.note(f"f{at}", 1, 1)
    owners.note("huge", 1 << 40, 1)
    (tmp_path / "f1").touch()
    (tmp_path / "f2").mkdir()
    owners.write(tmp_path / "list", tmp_path)
    assert (tmp_path / "list").read_bytes() == b"1 1 f2\x001 1 f1\x00"


def test_an_image_cannot_bring_a_list_of_its_own(tmp_path: Path) -> None:
    unpack(docker(layer(folder(".dbc"), file(OWNERS, b"0 0 etc\0"), owned("a", 1, 1))), tmp_path)
    assert records(tmp_path) == {"a": "1 1"}


# -- names


@pytest.mark.parametrize(
    ("text", "source", "version", "host"),
    [
        ("python", "docker.io/library/python", "latest", "registry-1.docker.io"),
        ("python:3.12-slim", "docker.io/library/python", "3.12-slim", "registry-1.docker.io"),
        ("me/app", "docker.io/me/app", "latest", "registry-1.docker.io"),
        ("index.docker.io/me/app", "docker.io/me/app", "latest", "registry-1.docker.io"),
        ("ghcr.io/x/y/z:1", "ghcr.io/x/y/z", "1", "ghcr.io"),
        ("GHCR.io/x", "ghcr.io/x", "latest", "ghcr.io"),
        ("127.0.0.1:5000/x:t", "127.0.0.1:5000/x", "t", "127.0.0.1:5000"),
        ("localhost/x", "localhost/x", "latest", "localhost"),
        ("[::1]:5000/x", "[::1]:5000/x", "latest", "[::1]:5000"),
        ("a/b:t@sha256:" + "0" * 64, "docker.io/a/b", "sha256:" + "0" * 64, "registry-1.docker.io"),
    ],
)
def test_names(text: str, source: str, version: str, host: str) -> None:
    found = Reference.parse(text)
    assert (found.source, found.version, found.host) == (source, version, host)
    assert Reference.parse_source(source).source == source
    assert found.is_loopback == (host.startswith(("127.", "localhost", "[::1]")))


@pytest.mark.parametrize(
    "text",
    ["", "/", "a//b", "UPPER", "a b", "a:", "a@", "a@md5:00", "a@sha256:" + "g" * 64, "a/../b", "x.y/",
     "http://x.y/z", "x.y:port/z", "-a", "a-", "a:-t", "a" * 300, "x.y/a?b", "x.y/a#b", "u@x.y/a", "é"],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ImageError, match="names no image"):
        Reference.parse(text)


def test_credentials_of_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepbrain.sandbox.registry import RegistryError, docker_credentials

    monkeypatch.setenv("HOME", str(tmp_path))
    assert docker_credentials(Reference.parse("me/app")) is None
    (tmp_path / ".docker").mkdir()
    config = tmp_path / ".docker" / "config.json"
    config.write_text(
        '{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0"},'
        ' "x.y:5": {"auth": "eW91OnBhOnNz"}}, "credHelpers": {"h.x": "test", "t.x": "token"}}'
    )
    assert docker_credentials(Reference.parse("me/app")) == Credentials("me", "secret")
    assert docker_credentials(Reference.parse("x.y:5/app")) == Credentials("you", "pa:ss")
    assert docker_credentials(Reference.parse("z.y/app")) is None
    for name, username in (("test", "helped"), ("token", "<token>")):
        helper = tmp_path / f"docker-credential-{name}"
        helper.write_text(f'#!/bin/sh\necho \'{{"Username":"{username}","Secret":"s"}}\'\n')
        helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert docker_credentials(Reference.parse("h.x/app")) == Credentials("helped", "s")
    with pytest.raises(RegistryError, match="access token"):
        docker_credentials(Reference.parse("t.x/app"))
    config.write_text('{"auths": {"x.y": {"auth": "no base64!"}}}')
    with pytest.raises(RegistryError, match="log in again"):
        docker_credentials(Reference.parse("x.y/app"))
    config.write_text("{")
    with pytest.raises(RegistryError, match="log in again"):
        docker_credentials(Reference.parse("x.y/app"))

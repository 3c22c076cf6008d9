"""Unpacking a workspace: what is made, and what makes it refused."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import deepbrain.provider.unpack as unpack_module


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"x", **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def write(path: Path, *members) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if info.size else None)
    return path


def run(archive: Path, target: Path, max_bytes: int = 1 << 20, max_files: int = 100):
    target.mkdir()
    command = [sys.executable, "-I", "-S", unpack_module.__file__, archive, target]
    done = subprocess.run(
        [*command, str(max_bytes), str(max_files)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def test_files_and_directories_arrive_with_reduced_modes(tmp_path):
    archive = write(
        tmp_path / "a.tar",
        member("dir", tarfile.DIRTYPE),
        member("dir/run.sh", content=b"#!", mode=0o6777, uid=4242),
        member("./deep/er/data", content=b"1" * 5000),
        member("dir", tarfile.DIRTYPE),
        member("empty", content=b""),
    )
    assert run(archive, tmp_path / "out") == (0, "")
    out = tmp_path / "out"
    assert (out / "deep/er/data").read_bytes() == b"1" * 5000
    assert (out / "dir/run.sh").stat().st_mode & 0o7777 == 0o755
    assert (out / "empty").stat().st_mode & 0o7777 == 0o644
    assert (out / "dir/run.sh").stat().st_uid == os.getuid()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([member("/etc/passwd")], "absolute"),
        ([member("../escape")], "leaves it"),
        ([member("a/../../escape")], "leaves it"),
        ([member("link", tarfile.SYMTYPE, linkname="/etc")], "neither a file nor a directory"),
        ([member("link", tarfile.SYMTYPE, linkname="a")], "neither a file nor a directory"),
        ([member("a"), member("hard", tarfile.LNKTYPE, linkname="a")], "neither a file"),
        ([member("dev", tarfile.CHRTYPE, devmajor=1, devminor=3)], "neither a file"),
        ([member("pipe", tarfile.FIFOTYPE)], "neither a file"),
        ([member("a"), member("a")], "twice"),
        ([member("a"), member("a/b")], "no directory"),
        ([member("a"), member("a", tarfile.DIRTYPE)], "no directory"),
        ([member("x" * 256)], "too long"),
        ([member("/".join("d" * 70))], "too long"),
        ([member("big", content=bytes(2 << 20))], "larger than the order's disk"),
        ([member(str(i)) for i in range(101)], "too many files"),
    ],
)
def test_the_whole_is_refused_for(tmp_path, members, reason):
    code, said = run(write(tmp_path / "a.tar", *members), tmp_path / "out")
    assert code == 1
    assert reason in said
    assert not (tmp_path / "escape").exists()


def test_a_size_that_lies_and_bytes_that_are_no_tar_are_refused(tmp_path):
    sound = write(tmp_path / "a.tar", member("a", content=b"1" * 600)).read_bytes()
    for number, broken in enumerate((sound[:700], os.urandom(2048), b"\xff" * 512)):
        (tmp_path / f"{number}.tar").write_bytes(broken)
        code, said = run(tmp_path / f"{number}.tar", tmp_path / f"out{number}")
        assert (code, "not a tar" in said) == (1, True)


@pytest.mark.parametrize("size", [-(1 << 40), -512, 1 << 62, 1 << 63, 1 << 80])
@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE]
)
def test_impossible_sizes_are_refused_in_a_sentence(tmp_path, kind, size):
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, size
    archive = tmp_path / "a.tar"
    archive.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    code, said = run(archive, tmp_path / "out")
    assert code == 1
    assert said.startswith("the workspace is refused: ")


def test_headers_of_headers_are_refused_in_a_sentence(tmp_path):
    info = tarfile.TarInfo("a")
    info.type = tarfile.GNUTYPE_LONGNAME
    archive = tmp_path / "a.tar"
    archive.write_bytes(info.tobuf(tarfile.GNU_FORMAT) * 2000)
    assert run(archive, tmp_path / "out")[0] == 1


def test_a_flood_of_headers_meets_its_bound(tmp_path):
    """A PAX header that claims gigabytes must not be read into memory beyond the bound."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(3 << 30)
    code, said = run(tmp_path / "a.tar", tmp_path / "out")
    assert code == 1
    assert "refused" in said

"""A hostile provider cannot write anywhere but in one fresh directory, nor fill the disk."""

import asyncio
import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbrain.client import results as results_module
from deepbrain.client.results import Limits, Results, ResultsRefused, receive, receive_file

ROOMY = Limits()


async def stream(data: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


def member(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def archive(*members: tuple[tarfile.TarInfo, bytes], format_: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if content else None)
    return out.getvalue()


def everything_below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def has_escaped() -> bool:
    return Path("/tmp/dbc-escaped").exists()


async def take(tmp_path: Path, data: bytes, limits: Limits = ROOMY) -> Results:
    return await receive(stream(data), tmp_path / "dbc-out" / "7", limits)


async def test_files_and_directories_arrive_as_they_are(tmp_path: Path) -> None:
    long = "/".join(["d" * 90] * 3) + "/ü.txt"
    data = archive(
        member("model.npy", b"weights" * 1000),
        member("sub", b"", type=tarfile.DIRTYPE),
        member("sub/a.sh", b"#!/bin/sh\n", mode=0o755),
        member(long, b"deep"),
        member("./dot", b"d"),
        member("empty", b""),
    )
    for format_ in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        results = await receive(stream(data), tmp_path / f"out{format_}")
        root = results.path
        assert (root / "model.npy").read_bytes() == b"weights" * 1000
        assert (root / long).read_bytes() == b"deep"
        assert (root / "dot").read_bytes() == b"d"
        assert (root / "empty").read_bytes() == b""
        assert os.access(root / "sub/a.sh", os.X_OK)
        assert (results.files, results.omitted) == (5, [])


HOSTILE: dict[str, tuple[tarfile.TarInfo, bytes]] = {
    "a link out": member("link", b"", type=tarfile.SYMTYPE, linkname="/etc"),
    "a link inside": member("link", b"", type=tarfile.SYMTYPE, linkname="model"),
    "a hard link": member("hard", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "a hard link with content": member("hard", b"", type=tarfile.LNKTYPE, linkname="model"),
    "a character device": member("null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "a block device": member("disk", b"", type=tarfile.BLKTYPE, devmajor=8),
    "a pipe": member("pipe", b"", type=tarfile.FIFOTYPE),
    "an absolute name": member("/tmp/dbc-escaped", b"x"),
    "a name that climbs": member("../escaped", b"x"),
    "a name that climbs late": member("a/b/../../../escaped", b"x"),
    "a climbing directory": member("../made", b"", type=tarfile.DIRTYPE),
    "a hook": member(".git/hooks/post-checkout", b"#!/bin/sh\n", mode=0o755),
    "a hook further down": member("sub/.git/hooks/x", b"x"),
    "a hook in capitals": member(".GIT/hooks/x", b"x"),
    "a hook by another name": member("git~1/hooks/x", b"x"),
    "a hook with a dot": member(".git./hooks/x", b"x"),
    "a git file": member("sub/.git", b"gitdir: /tmp/evil"),
    "a name with an escape": member("a\x1b[2Jb", b"x"),
    "a name with a newline": member("a\nb", b"x"),
    "a backslash": member("..\\escaped", b"x"),
    "a name that is not text": member("bad\udcff", b"x"),
    "a component too long": member("n" * 256, b"x"),
    "a path too deep": member("/".join("d" * 65), b"x"),
    "the root as a file": member(".", b"x"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_hostile_is_left_out_and_the_rest_arrives(tmp_path: Path, name: str) -> None:
    data = archive(member("before", b"1"), HOSTILE[name], member("after", b"2"))
    results = await take(tmp_path, data)
    assert everything_below(results.path) == {"before", "after"}
    assert everything_below(tmp_path) == {"dbc-out", "dbc-out/7", "dbc-out/7/before",
                                          "dbc-out/7/after"}  # fmt: skip
    assert results.omitted_count == len(results.omitted) == 1
    assert results.omitted[0].isprintable()
    assert not has_escaped()


async def test_setuid_and_world_writable_bits_are_dropped(tmp_path: Path) -> None:
    results = await take(tmp_path, archive(member("su", b"x", mode=0o6777)))
    assert stat.S_IMODE((results.path / "su").stat().st_mode) & 0o7022 == 0


async def test_a_second_entry_of_a_name_never_replaces_the_first(tmp_path: Path) -> None:
    data = archive(
        member("a", b"first"),
        member("a", b"second"),
        member("a/b", b"below a file"),
        member("a", b"", type=tarfile.DIRTYPE),
        member("d", b"", type=tarfile.DIRTYPE),
        member("d", b"a file"),
        member("d", b"", type=tarfile.DIRTYPE),
    )
    results = await take(tmp_path, data)
    assert (results.path / "a").read_bytes() == b"first"
    assert results.omitted_count == 4


async def test_a_file_that_is_there_is_never_touched(tmp_path: Path) -> None:
    target = tmp_path / "dbc-out" / "7"
    target.mkdir(parents=True)
    (target / "mine").write_text("mine")
    with pytest.raises(ResultsRefused, match="never written over"):
        await take(tmp_path, archive(member("mine", b"theirs")))
    assert (target / "mine").read_text() == "mine"
    assert everything_below(tmp_path / "dbc-out") == {"7", "7/mine"}


async def test_a_dangling_link_in_place_of_the_target_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "dbc-out").mkdir()
    (tmp_path / "dbc-out" / "7").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResultsRefused):
        await take(tmp_path, archive(member("a")))
    assert not (tmp_path / "elsewhere").exists()


def truncated(data: bytes) -> bytes:
    return data[:700]


def without_end(data: bytes) -> bytes:
    return data[:1024]


def bad_checksum(data: bytes) -> bytes:
    return b"y" + data[1:]


def not_octal(data: bytes) -> bytes:
    return refit(data[:124] + b"9" * 11 + data[135:])


def refit(data: bytes) -> bytes:
    """Correct the checksum of the first header."""
    total = sum(data[:148]) + 8 * 0x20 + sum(data[156:512])
    return data[:148] + b"%06o\0 " % total + data[156:]


def huge_size(data: bytes) -> bytes:
    return refit(data[:124] + b"\x80" + (1 << 62).to_bytes(11, "big") + data[136:])


def huge_pax(data: bytes) -> bytes:
    return refit(data[:124] + b"%011o\0" % (1 << 30) + data[136:156] + b"x" + data[157:])


@pytest.mark.parametrize(
    "spoil", [truncated, without_end, bad_checksum, not_octal, huge_size, huge_pax]
)
async def test_a_malformed_or_cut_stream_leaves_nothing(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(ResultsRefused):
        await take(tmp_path, spoil(archive(member("a", b"x" * 400))))
    assert everything_below(tmp_path) == {"dbc-out"}


async def test_too_many_bytes_are_cut(tmp_path: Path) -> None:
    data = archive(member("a", b"x" * 600), member("b", b"x" * 600))
    with pytest.raises(ResultsRefused, match="cut off"):
        await take(tmp_path, data, Limits(size=1000))
    assert everything_below(tmp_path) == {"dbc-out"}


async def test_too_many_entries_are_cut_though_none_is_taken(tmp_path: Path) -> None:
    data = archive(*(member(f"../{number}", b"") for number in range(20)))
    with pytest.raises(ResultsRefused, match="entries"):
        await take(tmp_path, data, Limits(files=10))


async def test_an_endless_stream_is_cut(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield archive(member("a"))
        while True:
            yield b"\0" * 65536

    with pytest.raises(ResultsRefused, match="longer than allowed"):
        await receive(endless(), tmp_path / "out", Limits(size=1 << 20, files=10))
    assert everything_below(tmp_path) == set()


@pytest.mark.parametrize("pause", [0.02, 60.0])
async def test_a_trickle_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    """Bytes that come one at a time, or not at all, hold nobody."""
    monkeypatch.setattr(results_module, "FIRST_SECONDS", 0.3)
    monkeypatch.setattr(results_module, "PACE_SECONDS", 0.2)
    data = archive(member("model", bytes(1 << 20)))

    async def trickle() -> AsyncIterator[bytes]:
        yield data[: 200 << 10]
        for at in range(200 << 10, len(data), 100):
            await asyncio.sleep(pause)
            yield data[at : at + 100]

    with pytest.raises(ResultsRefused, match="too slowly"):
        async with asyncio.timeout(5):
            await receive(trickle(), tmp_path / "out")
    assert everything_below(tmp_path) == set()


async def test_a_slow_line_that_goes_on_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "FIRST_SECONDS", 0.5)
    monkeypatch.setattr(results_module, "PACE_SECONDS", 0.5)
    data = archive(member("model", bytes(1 << 20)))

    async def steady() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 70 << 10):
            await asyncio.sleep(0.1)
            yield data[at : at + (70 << 10)]

    assert (await receive(steady(), tmp_path / "out")).files == 1


async def test_endless_extended_headers_are_cut(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type = tarfile.XGLTYPE
    block = info.tobuf()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield block * 128

    with pytest.raises(ResultsRefused, match="longer than allowed"):
        await receive(endless(), tmp_path / "out", Limits(size=1 << 20, files=10))


async def test_what_a_killed_receiver_left_is_swept_but_not_a_living_one(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial-dead"
    (left / "new").mkdir(parents=True)

    async def nested() -> AsyncIterator[bytes]:
        assert not left.exists()
        yield archive(member("a", b"outer"))
        with pytest.raises(ResultsRefused):
            await receive(stream(b"\0" * 10), tmp_path / "out")

    results = await receive(nested(), tmp_path / "out")
    assert everything_below(tmp_path) == {"out", "out/a"}
    assert results.files == 1


async def test_one_file_takes_the_name_it_is_given(tmp_path: Path) -> None:
    data = archive(member("w/model.npy", b"m"), member("w/b/c", b"c"))
    await receive_file(stream(data), "w", tmp_path / "tree")
    assert (tmp_path / "tree" / "model.npy").read_bytes() == b"m"
    await receive_file(stream(data), "./w/model.npy", tmp_path / "mine.npy")
    assert (tmp_path / "mine.npy").read_bytes() == b"m"
    with pytest.raises(ResultsRefused, match="choose another"):
        await receive_file(stream(data), "w/model.npy", tmp_path / "mine.npy")
    for path in ("nothing", "../tree", "w/../../tree"):
        with pytest.raises(ResultsRefused, match="sent no"):
            await receive_file(stream(data), path, tmp_path / "link")
    with pytest.raises(ResultsRefused, match="only files and directories"):
        await receive_file(stream(archive(HOSTILE["a link out"])), "link", tmp_path / "link")
    assert everything_below(tmp_path) == {
        "tree", "tree/model.npy", "tree/b", "tree/b/c", "mine.npy",
    }  # fmt: skip


HOSTILE_NAMES = st.lists(
    st.sampled_from(["a", "b", "..", ".", "", ".git", "hooks", "~", "\x1b[31m", "c" * 130]),
    min_size=1, max_size=5,
).map("/".join)  # fmt: skip
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE,
                         tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"Z"])  # fmt: skip


@given(
    st.lists(st.tuples(HOSTILE_NAMES, KINDS, st.binary(max_size=600), st.integers(0, 0o7777)),
             max_size=8),
    st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=8)), max_size=3),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)  # fmt: skip
async def test_no_stream_writes_outside_or_makes_anything_but_plain_files(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[str, bytes, bytes, int]],
    spoils: list[tuple[int, bytes]],
    format_: int,
) -> None:
    root = tmp_path_factory.mktemp("hostile")
    members = [
        member(name, content if kind in (tarfile.REGTYPE, tarfile.AREGTYPE) else b"",
               type=kind, mode=mode, linkname="a")
        for name, kind, content, mode in entries
    ]  # fmt: skip
    data = bytearray(archive(*members, format_=format_))
    for at, junk in spoils:
        data[at : at + len(junk)] = junk
    target = root / "below" / "out"
    try:
        await receive(stream(bytes(data), 777), target, Limits(files=50, size=1 << 16))
    except ResultsRefused:
        assert everything_below(root) == {"below"}
        return
    assert {path.name for path in root.iterdir()} == {"below"}
    assert {path.name for path in target.parent.iterdir()} == {"out"}
    for path in target.rglob("*"):
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
        assert not stat.S_IMODE(status.st_mode) & 0o7022
        assert ".git" not in path.parts

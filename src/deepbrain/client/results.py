"""What a renter takes back: a tar stream from a machine that may be hostile.

Only regular files and directories are made, below one fresh directory that appears under its final
name when the whole stream has arrived and not before. Whatever else the stream holds (links,
devices, names that climb, are absolute, lie in a `.git` or are too long) is left out and reported;
a stream that is malformed, too long, too slow or cut short is refused as a whole and leaves nothing.

The reader of tar is our own, strict and small: `tarfile` follows links, expands sparse files and
reads headers of any length into memory.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deepbrain.primitives.errors import DeepBrainError

MAX_FILES: Final = 100_000
MAX_BYTES: Final = 64 << 30

FIRST_SECONDS: Final = 300.0
"""How long a machine may look through its files before it sends the first byte."""
PACE_SECONDS: Final = 60.0
PACE_BYTES: Final = 64 << 10
"""What must arrive in every so many seconds: a trickle would hold the renter for ever."""

_BLOCK: Final = 512
_MAX_PAX_BYTES: Final = 64 << 10
_MAX_PATH_BYTES: Final = 4096
_MAX_NAME_BYTES: Final = 255
_MAX_DEPTH: Final = 64
_LISTED_OMISSIONS: Final = 20


class ResultsRefused(DeepBrainError):
    """A result stream is not taken; nothing of it was kept."""


@dataclass(slots=True)
class Results:
    """What arrived, and what was left out and why (the first few, and how many)."""

    path: Path
    files: int = 0
    size: int = 0
    omitted: list[str] = field(default_factory=list)
    omitted_count: int = 0

    def omit(self, name: str, why: str) -> None:
        self.omitted_count += 1
        if self.omitted_count <= _LISTED_OMISSIONS:
            # In ASCII because a name may hold what a terminal obeys.
            self.omitted.append(f"{name!a}: {why}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a stream may hold at most; omitted entries count too."""

    files: int = MAX_FILES
    size: int = MAX_BYTES


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    kind: bytes
    size: int
    mode: int


async def receive(
    stream: AsyncIterator[bytes],
    target: Path,
    limits: Limits = Limits(),
    progress: Callable[[int], None] = lambda _: None,
) -> Results:
    """Unpack `stream` as the new directory `target`; its parents are made.

    Raises: ResultsRefused: `target` exists, the stream is malformed, cut or too long, or the disk
    is full.
    """
    _ensure_absent(target)
    with _staging(target) as stage:
        results = Results(stage)
        reader = _Reader(stream, limits, progress)
        try:
            await _unpack(reader, stage, results, limits)
            _publish(stage, target)
        except OSError as error:
            raise _write_failure(target, error) from error
    results.path = target
    return results


async def receive_file(
    stream: AsyncIterator[bytes],
    path: str,
    target: Path,
    limits: Limits = Limits(),
    progress: Callable[[int], None] = lambda _: None,
    *,
    only_directory: bool = False,
) -> Results:
    """Unpack the file or directory that stands at `path` in a stream as the new name `target`.

    Raises: ResultsRefused: as `receive`, or the stream holds no such file that can be taken, or a file
    with `only_directory`.
    """
    _ensure_absent(target)
    with _staging(target) as outer:
        results = await receive(stream, outer / "got", limits, progress)
        source = _found_at(outer / "got", path)
        if source is None:
            why = f" ({results.omitted[0]})" if results.omitted else ""
            raise ResultsRefused(f"the machine sent no {path} that can be taken{why}")
        if only_directory and not source.is_dir():
            raise ResultsRefused(f"there is no directory {target} for a file; make it first")
        try:
            _publish(source, target)
        except OSError as error:
            raise _write_failure(target, error) from error
    results.path = target
    return results


def _found_at(root: Path, path: str) -> Path | None:
    """The entry at `path` below `root`, where only plain files and directories are."""
    parts = _parts_of(path.lstrip("/"))
    found = root.joinpath(*parts)
    return found if ".." not in parts and os.path.lexists(found) else None


def _ensure_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise ResultsRefused(f"{target} exists and is never written over; choose another name")


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A fresh private directory beside `target`, removed at the end with what is left in it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        outer = Path(tempfile.mkdtemp(prefix=_partial_prefix(target), dir=target.parent))
    except OSError as error:
        raise _write_failure(target, error) from error
    descriptor = os.open(outer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        stage = outer / "new"
        stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(outer, ignore_errors=True)
        os.close(descriptor)


def _partial_prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _sweep(target: Path) -> None:
    """Remove what earlier receivers of the same target left when they were killed."""
    for left in target.parent.glob(f"{_partial_prefix(target)}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                # Its owner holds the lock while it lives.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)


def _publish(source: Path, target: Path) -> None:
    """Give what arrived its final name, at once and never over something that is there."""
    if source.is_dir():
        # Renaming a directory fails on anything but an empty directory.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        source.rename(target)
    else:
        os.link(source, target, follow_symlinks=False)


def _write_failure(target: Path, error: OSError) -> ResultsRefused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResultsRefused(f"the disk of {target.parent} is full; free some room and try again")
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
        return ResultsRefused(f"{target} exists and is never written over; move it away first")
    reason = error.strerror or "unknown reason"
    return ResultsRefused(f"{target} cannot be written ({reason.lower()}); choose another place")


class _Reader:
    """Exact reads over a stream of chunks, counted against the limit of the whole stream."""

    def __init__(
        self, stream: AsyncIterator[bytes], limits: Limits, progress: Callable[[int], None]
    ) -> None:
        self._stream = stream
        self._progress = progress
        # Each entry may cost a header, an extended header with its data, and padding.
        self._left = limits.size + (limits.files + 2) * (4 * _BLOCK) + _MAX_PAX_BYTES
        self._chunk = memoryview(b"")
        self._patience = FIRST_SECONDS
        self._lately = 0

    async def exactly(self, size: int) -> bytes:
        """Only for short pieces: headers. Raises: ResultsRefused: the stream ends before."""
        parts = [bytes(part) async for part in self.pieces(size)]
        return b"".join(parts)

    async def pieces(self, size: int) -> AsyncIterator[memoryview]:
        """The next `size` bytes, as they come."""
        while size:
            if not self._chunk:
                await self._refill()
            part, self._chunk = self._chunk[:size], self._chunk[size:]
            size -= len(part)
            yield part

    async def skip(self, size: int) -> None:
        async for _ in self.pieces(size):
            pass

    async def drain(self) -> None:
        """Read on to the end of the stream, which is cut where it is too long."""
        while await self._next() is not None:
            continue

    async def _refill(self) -> None:
        chunk = await self._next()
        if chunk is None:
            raise ResultsRefused(
                "the machine's results ended in the middle; fetch them again with dbc cp"
            )
        self._chunk = memoryview(chunk)

    async def _next(self) -> bytes | None:
        """The next chunk, `None` at the end. Only the waiting counts against the machine's time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._patience):
                chunk = await anext(self._stream, None)
        except TimeoutError:
            raise ResultsRefused(
                "the machine sends its results too slowly; fetch them again with dbc cp"
            ) from None
        self._patience -= loop.time() - began
        if chunk is not None:
            self._count(len(chunk))
        return chunk

    def _count(self, size: int) -> None:
        self._left -= size
        self._progress(size)
        self._lately += size
        if self._lately >= PACE_BYTES:
            self._patience, self._lately = PACE_SECONDS, 0
        if self._left < 0:
            raise ResultsRefused("the machine's results are longer than allowed and were cut off")


async def _unpack(reader: _Reader, stage: Path, results: Results, limits: Limits) -> None:
    entries = 0
    while (header := await _next_header(reader)) is not None:
        entries += 1
        if entries > limits.files:
            raise ResultsRefused(f"the machine's results hold more than {limits.files} entries")
        results_size = results.size + header.size
        if results_size > limits.size:
            raise ResultsRefused(
                f"the machine's results hold more than {limits.size} bytes and were cut off"
            )
        await _take(reader, header, stage, results)
        await reader.skip(-header.size % _BLOCK)
    await reader.drain()


async def _take(reader: _Reader, header: _Header, stage: Path, results: Results) -> None:
    parts = _parts_of(header.name)
    problem = _problem(header, parts)
    if problem is None and not _has_free_place(stage, parts, header):
        problem = "the name is taken by an entry before it"
    if problem is not None:
        results.omit(header.name, problem)
        await reader.skip(header.size)
    elif header.kind == b"5":
        stage.joinpath(*parts).mkdir(parents=True, exist_ok=True)
        await reader.skip(header.size)
    else:
        await _write(reader, header, stage.joinpath(*parts))
        results.files += 1
        results.size += header.size


async def _write(reader: _Reader, header: _Header, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o755 if header.mode & stat.S_IXUSR else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        async for part in reader.pieces(header.size):
            file.write(part)


def _parts_of(name: str) -> tuple[str, ...]:
    """`./a/b/` and `a/b` are the same name; an absolute one keeps its leading `/`."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    return ("/", *parts) if name.startswith("/") else parts


def _problem(header: _Header, parts: tuple[str, ...]) -> str | None:
    """Why an entry is left out, or `None`."""
    if header.kind not in (b"0", b"\0", b"7", b"5"):
        return "only files and directories are taken"
    if header.kind != b"5" and header.name.endswith("/"):
        return "a file's name does not end in a slash"
    return _name_problem(header, parts)


def _name_problem(header: _Header, parts: tuple[str, ...]) -> str | None:
    if "/" in parts:
        return "absolute names are not taken"
    if ".." in parts:
        return "the name leaves its directory"
    if not parts and header.kind != b"5":
        return "it has no name"
    if any(_is_git(part) for part in parts):
        return "nothing is written into a .git"
    if any(not char.isprintable() or char == "\\" for char in header.name):
        return "the name holds characters that are not printable"
    too_long = any(len(part.encode()) > _MAX_NAME_BYTES for part in parts)
    if too_long or len(parts) > _MAX_DEPTH or len(header.name.encode()) > _MAX_PATH_BYTES:
        return "the name is too long"
    return None


def _is_git(part: str) -> bool:
    """Also what other file systems take for `.git`: any case, ignorable ends, the short name."""
    plain = part.casefold().rstrip(". ").split(":")[0]
    return plain in (".git", "git~1")


def _has_free_place(stage: Path, parts: tuple[str, ...], header: _Header) -> bool:
    """Nothing is below a file, and only a directory may be named twice."""
    place = stage
    for part in parts[:-1]:
        place /= part
        if place.exists() and not place.is_dir():
            return False
    place = stage.joinpath(*parts)
    return not os.path.lexists(place) or (header.kind == b"5" and place.is_dir())


async def _next_header(reader: _Reader) -> _Header | None:
    """The next entry with its extended names resolved, or `None` at the end mark."""
    name: str | None = None
    size: int | None = None
    while True:
        block = await reader.exactly(_BLOCK)
        if not block.strip(b"\0"):
            return None
        header = _parse_header(block)
        if header.kind not in (b"x", b"g", b"L", b"K"):
            return _Header(
                name if name is not None else header.name,
                header.kind,
                _size_of(header, size),
                header.mode,
            )
        extra = await _extended(reader, header)
        if header.kind == b"x":
            name, size = _parse_pax(extra, name, size)
        elif header.kind == b"L":
            name = _text(extra.rstrip(b"\0"))


def _size_of(header: _Header, extended: int | None) -> int:
    """Links and devices carry no content, whatever their size field says."""
    if header.kind in (b"1", b"2", b"3", b"4", b"6"):
        return 0
    return header.size if extended is None else extended


async def _extended(reader: _Reader, header: _Header) -> bytes:
    if header.size > _MAX_PAX_BYTES:
        raise _malformed("an extended header is too long")
    data = await reader.exactly(header.size)
    await reader.skip(-header.size % _BLOCK)
    return data


def _parse_header(block: bytes) -> _Header:
    total = sum(block) - sum(block[148:156]) + 8 * 0x20
    if total != _octal(block[148:156]):
        raise _malformed("a checksum is wrong")
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return _Header(_text(name), block[156:157], _number(block[124:136]), _octal(block[100:108]))


def _parse_pax(data: bytes, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    while data:
        head, space, _ = data.partition(b" ")
        if not space or not head.isdigit() or len(head) > 6:
            raise _malformed("an extended header is garbled")
        length = int(head)
        record = data[len(head) + 1 : length]
        if length > len(data) or not record.endswith(b"\n") or b"=" not in record:
            raise _malformed("an extended header is garbled")
        key, _, value = record[:-1].partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            size = _decimal(value)
        elif key.startswith(b"GNU.sparse"):
            raise _malformed("sparse files are not taken")
        data = data[length:]
    return name, size


def _decimal(field_: bytes) -> int:
    if not field_.isdigit() or len(field_) > 18:
        raise _malformed("a size is not a number")
    return int(field_)


def _number(field_: bytes) -> int:
    """A size: octal, or GNU's base 256 for files of 8 GiB and more."""
    if field_[0] == 0x80:
        return int.from_bytes(field_[1:], "big")
    return _octal(field_)


def _octal(field_: bytes) -> int:
    digits = field_.strip(b"\0 ")
    if digits.strip(b"01234567"):
        raise _malformed("a number is not octal")
    return int(digits or b"0", 8)


def _text(raw: bytes) -> str:
    """Names that are not UTF-8 keep a mark that is never printable, so they are left out."""
    return raw.decode("utf-8", "surrogateescape")


def _malformed(why: str) -> ResultsRefused:
    return ResultsRefused(f"the machine's results are not a valid archive ({why}) and were refused")

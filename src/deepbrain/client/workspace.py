"""What a renter sends: a directory as one deterministic tar, without what nobody wants to send.

The same tree gives the same bytes on every machine (sorted names, fixed owner and time), so its hash
can stand in the order's manifest and an interrupted upload can go on where it stopped.

Left out: what `.gitignore` and `.dbcignore` name (the latter has the last word, so `!data/` in it
brings back what git ignores), and always `NEVER_SENT`, because these hold secrets or rubbish.
"""

import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import IO, Final

from pathspec import GitIgnoreSpec

from deepbrain.primitives.errors import DeepBrainError

NEVER_SENT: Final = (".git", ".env*", ".ssh", ".venv", "__pycache__", "dbc-out")
"""Names that are left out wherever they stand; no `.dbcignore` brings them back."""

MAX_FILES: Final = 100_000
MAX_BYTES: Final = 64 << 30
_FIXED_TIME: Final = 315_532_800  # 1980-01-01: zip files know nothing older, and it is never "new"
_CHUNK: Final = 1 << 20
_MAX_IGNORE_BYTES: Final = 1 << 20
_LISTED_NOTES: Final = 20


class WorkspaceError(DeepBrainError):
    """A directory cannot be sent; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in the tar, and the file whose content it has, both relative to the root."""

    path: str
    mode: int
    size: int
    source: str


@dataclass(frozen=True, slots=True)
class Workspace:
    """A directory as it would be sent, before any byte of a file is read."""

    root: Path
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    @property
    def files(self) -> int:
        return sum(not stat.S_ISDIR(entry.mode) for entry in self.entries)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Packed:
    """A workspace as a tar on disk."""

    path: Path
    sha256: bytes
    size: int
    files: int


@dataclass(frozen=True, slots=True)
class _Ignores:
    """One ignore file. Its patterns see paths from its own directory: above or below the root."""

    spec: GitIgnoreSpec
    above: str = ""
    below: str = ""

    def verdict(self, path: str) -> bool | None:
        return self.spec.check_file(self.above + path[len(self.below) :]).include


@dataclass(slots=True)
class _Scan:
    root: Path
    git: list[_Ignores] = field(default_factory=list)
    own: list[_Ignores] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dropped: int = 0
    size: int = 0

    def note(self, path: str, why: str) -> None:
        self.dropped += 1
        if self.dropped <= _LISTED_NOTES:
            self.notes.append(f"left out {path!r}: {why}")


def scan(root: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> Workspace:
    """List what of `root` would be sent.

    Raises: WorkspaceError: `root` is no directory, is `/` or a home directory, or is too large.
    """
    root = _ensure_sendable(root)
    state = _Scan(root, git=list(_outer_gitignores(root)))
    for entry in chain(_walk(state, ""), _copies_of_links(state)):
        state.entries.append(entry)
        state.size += entry.size
        _ensure_bounds(state, max_files, max_bytes)
    if state.dropped > _LISTED_NOTES:
        state.notes.append(f"left out {state.dropped - _LISTED_NOTES} more")
    return Workspace(root, tuple(state.entries), tuple(state.notes))


def scan_file(path: Path) -> Workspace:
    """One file alone, as it would be sent. Raises: WorkspaceError: it is no readable file."""
    try:
        status = path.stat()
        root = path.parent.resolve()
    except OSError as error:
        raise WorkspaceError(f"{path} does not exist; name a file or a directory") from error
    if not stat.S_ISREG(status.st_mode) or not _is_text(path.name):
        raise WorkspaceError(f"{path} is neither a file nor a directory")
    mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    source = Path(os.path.realpath(path))
    entry = Entry(path.name, stat.S_IFREG | mode, status.st_size, str(source))
    return Workspace(root, (entry,), ())


def below(workspace: Workspace, name: str) -> Workspace:
    """The same, as a directory of this name in the tar."""
    top = Entry(name, stat.S_IFDIR | 0o755, 0, ".")
    entries = (replace(entry, path=f"{name}/{entry.path}") for entry in workspace.entries)
    return replace(workspace, entries=(top, *entries))


def as_name(workspace: Workspace, name: str) -> Workspace:
    """A workspace of one file, with the file under another name."""
    (entry,) = workspace.entries
    return replace(workspace, entries=(replace(entry, path=name),))


def pack(
    workspace: Workspace, target: Path, progress: Callable[[int], None] = lambda _: None
) -> Packed:
    """Write `workspace` as the new file `target`, readable by its owner alone, and hash it.

    `progress` is told the bytes of file content added since it was called last.

    Raises: WorkspaceError: a file vanished or changed while it was read, or the disk is full; then
    there is no `target`.
    """
    try:
        with open(target, "xb+", opener=_private) as spool:
            _write_tar(workspace, spool, progress)
            size = spool.tell()
            spool.seek(0)
            digest = hashlib.file_digest(spool, "sha256").digest()
    except BaseException as error:
        if not isinstance(error, FileExistsError):
            target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _read_failure(error, target) from error
        raise
    return Packed(target, digest, size, workspace.files)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _ensure_sendable(root: Path) -> Path:
    try:
        resolved = root.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in circles
        raise WorkspaceError(f"{root} does not exist; name the directory to send") from error
    if not resolved.is_dir():
        raise WorkspaceError(f"{root} is not a directory; name the directory to send")
    home = Path.home().resolve()
    if resolved == home or resolved in home.parents:
        raise WorkspaceError(
            f"{resolved} holds your whole home or system and is never sent; "
            "change into the directory of your job, or pass --no-workspace"
        )
    return resolved


def _ensure_bounds(state: _Scan, max_files: int, max_bytes: int) -> None:
    if len(state.entries) > max_files:
        raise WorkspaceError(
            f"{state.root} holds more than {max_files} files; name what is not needed in .dbcignore"
        )
    if state.size > max_bytes:
        raise WorkspaceError(
            f"{state.root} holds more than {max_bytes >> 30} GiB; "
            "name what is not needed in .dbcignore"
        )


def _outer_gitignores(root: Path) -> Iterator[_Ignores]:
    """Ignore files between the top of the git work tree and `root`, outermost first."""
    above = [root, *root.parents]
    top = next((index for index, parent in enumerate(above) if (parent / ".git").exists()), 0)
    for parent in reversed(above[1 : top + 1]):
        spec = _read_ignore(parent / ".gitignore")
        if spec is not None:
            yield _Ignores(spec, above=root.relative_to(parent).as_posix() + "/")


def _read_ignore(path: Path) -> GitIgnoreSpec | None:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_IGNORE_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise WorkspaceError(f"{path} cannot be read; make it a readable UTF-8 file") from error
    return GitIgnoreSpec.from_lines(text.splitlines())


def _walk(state: _Scan, prefix: str) -> Iterator[Entry]:
    """Entries below `prefix` (empty, or ending in `/`) in the order of their names."""
    here = state.root / prefix
    pushed = _push_ignores(state, here, prefix)
    try:
        with os.scandir(here) as listing:
            children = sorted(listing, key=lambda child: os.fsencode(child.name))
    except OSError as error:
        raise WorkspaceError(f"{here} cannot be listed; make it readable, or ignore it") from error
    for child in children:
        yield from _visit(state, child, prefix)
    for stack in pushed:
        stack.pop()


def _push_ignores(state: _Scan, here: Path, prefix: str) -> list[list[_Ignores]]:
    pushed = []
    for name, stack in ((".gitignore", state.git), (".dbcignore", state.own)):
        spec = _read_ignore(here / name)
        if spec is not None:
            stack.append(_Ignores(spec, below=prefix))
            pushed.append(stack)
    return pushed


def _visit(state: _Scan, child: os.DirEntry[str], prefix: str) -> Iterator[Entry]:
    path = prefix + child.name
    if any(fnmatchcase(child.name, pattern) for pattern in NEVER_SENT):
        return
    is_directory = child.is_dir(follow_symlinks=False)
    if _is_ignored(state, path + "/" if is_directory else path):
        return
    if not _is_text(child.name):
        state.note(path, "its name is not UTF-8")
    elif is_directory:
        yield Entry(path, stat.S_IFDIR | 0o755, 0, path)
        yield from _walk(state, path + "/")
    elif child.is_symlink():
        state.links.append(path)
    elif child.is_file(follow_symlinks=False):
        status = child.stat(follow_symlinks=False)
        mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        yield Entry(path, stat.S_IFREG | mode, status.st_size, path)
    else:
        state.note(path, "it is not a file, a directory or a link")


def _copies_of_links(state: _Scan) -> Iterator[Entry]:
    """Links travel as copies, and only of files that are sent anyway: a link reveals nothing."""
    sent = {entry.path: entry for entry in state.entries if stat.S_ISREG(entry.mode)}
    for path in state.links:
        # Not `Path.resolve`, which raises on links that lead in circles.
        landing = Path(os.path.realpath(state.root / path))
        if state.root not in landing.parents:
            state.note(path, "the link leaves the workspace")
            continue
        target = sent.get(landing.relative_to(state.root).as_posix())
        if target is None:
            state.note(path, "the link does not lead to a file that is sent")
        else:
            yield Entry(path, target.mode, target.size, target.source)


def _is_text(name: str) -> bool:
    return not any(0xD800 <= ord(char) <= 0xDFFF for char in name)


def _is_ignored(state: _Scan, path: str) -> bool:
    for stack in (state.own, state.git):
        for ignores in reversed(stack):
            verdict = ignores.verdict(path)
            if verdict is not None:
                return verdict
    return False


def _write_tar(workspace: Workspace, spool: IO[bytes], progress: Callable[[int], None]) -> None:
    with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in workspace.entries:
            member = _member_of(entry)
            if not stat.S_ISREG(entry.mode):
                tar.addfile(member)
                continue
            with _open_unlinked(workspace.root, entry) as file:
                tar.addfile(member, _Counted(file, progress))
                if file.read(1):
                    raise WorkspaceError(_changed(entry.path))


def _member_of(entry: Entry) -> tarfile.TarInfo:
    member = tarfile.TarInfo(entry.path)
    member.mode = stat.S_IMODE(entry.mode)
    member.mtime = _FIXED_TIME
    if stat.S_ISDIR(entry.mode):
        member.type = tarfile.DIRTYPE
    else:
        member.size = entry.size
    return member


def _open_unlinked(root: Path, entry: Entry) -> IO[bytes]:
    """Open a listed file, refusing what was swapped for a link or another kind since."""
    descriptor = os.open(root / entry.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
        os.close(descriptor)
        raise WorkspaceError(_changed(entry.path))
    return os.fdopen(descriptor, "rb", buffering=_CHUNK)


class _Counted:
    """A reader that reports its progress and never comes short without saying so."""

    def __init__(self, file: IO[bytes], progress: Callable[[int], None]) -> None:
        self._file = file
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        part = self._file.read(size)
        self._progress(len(part))
        return part


def _changed(path: str) -> str:
    return f"{path!r} changed while it was read; let nothing write there and try again"


def _read_failure(error: OSError, target: Path) -> WorkspaceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WorkspaceError(
            f"no room in {target.parent} to pack the workspace; free some and try again"
        )
    if error.filename is None:
        return WorkspaceError("a file of the workspace changed while it was read; try again")
    reason = (error.strerror or "unknown reason").lower()
    return WorkspaceError(f"{error.filename}: {reason}; make it readable, or ignore it")

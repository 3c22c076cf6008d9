# ruff: noqa: PTH123, SIM105, T201
"""Unpack a workspace: `python -I -S unpack.py TAR DIRECTORY MAX_BYTES MAX_FILES`.

A process of its own, with the standard library alone: strangers' bytes are parsed where a crash or a
flood of memory hurts nobody. Prints one line of reason and exits 1 when it refuses.

Files and directories are made; anything else makes the whole workspace refused: names that climb, are
absolute, lie below a file or are taken already, links, devices, sparse files.
Modes are reduced to read, write and execute; owners and times are not taken over.
"""

import os
import resource
import stat
import sys
import tarfile
from typing import IO

MEMORY_BYTES = 1 << 30
UNREADABLE = tarfile.TarError, MemoryError, ValueError, OverflowError, RecursionError
"""What tarfile raises at bytes that are nearly right."""
MAX_DEPTH = 64
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096


class Refused(Exception):
    """The workspace is not unpacked; the text says why."""


def parts_of(name: str) -> "list[str]":
    """Raises: Refused: the name leads out of the workspace, or is longer than file systems allow."""
    if name.startswith("/"):
        raise Refused(f"it holds the absolute name {name!a}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    raw = os.fsencode(name)
    if ".." in parts or b"\0" in raw:
        raise Refused(f"the name {name!a} leaves it")
    if len(parts) > MAX_DEPTH or len(raw) > MAX_PATH_BYTES:
        raise Refused("a name in it is too long")
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
        raise Refused("a name in it is too long")
    return parts


class Tree:
    """The directory being filled, entered by descriptors that never follow a link."""

    def __init__(self, root: str) -> None:
        self.root = root

    def directory(self, parts: "list[str]") -> int:
        """An open descriptor of a directory below the root, made where it is missing."""
        here = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        for part in parts:
            try:
                os.mkdir(part, 0o755, dir_fd=here)
            except FileExistsError:
                pass
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                below = os.open(part, flags, dir_fd=here)
            except OSError:
                raise Refused(f"{'/'.join(parts)!a} is below what is no directory") from None
            finally:
                os.close(here)
            here = below
        return here

    def file(self, parts: "list[str]", source: "IO[bytes]", executable: bool) -> None:
        here = self.directory(parts[:-1])
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            made = os.open(parts[-1], flags, 0o755 if executable else 0o644, dir_fd=here)
        except FileExistsError:
            raise Refused(f"it names {'/'.join(parts)!a} twice") from None
        finally:
            os.close(here)
        with open(made, "wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)


def unpack(archive: str, directory: str, max_bytes: int, max_files: int) -> None:
    """Raises: Refused; OSError; tarfile.TarError."""
    tree = Tree(directory)
    size = count = 0
    with tarfile.open(archive, "r:", errorlevel=2) as tar:
        for member in tar:
            if member.size < 0:  # tarfile would go back, and count less
                raise Refused("it holds a file of less than no bytes")
            count, size = count + 1, size + member.size
            if count > max_files or size > max_bytes:
                raise Refused("it is larger than the order's disk or holds too many files")
            take(tree, tar, member)


def take(tree: Tree, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    parts = parts_of(member.name)
    if member.isdir():
        os.close(tree.directory(parts))
    elif not parts:
        raise Refused("it holds an entry without a name")
    elif member.isreg() and not member.issparse():
        source = tar.extractfile(member)
        if source is not None:
            tree.file(parts, source, bool(member.mode & stat.S_IXUSR))
    else:
        raise Refused(f"{member.name!a} is neither a file nor a directory")


def main() -> int:
    archive, directory, max_bytes, max_files = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.umask(0o022)
    try:
        unpack(archive, directory, int(max_bytes), int(max_files))
    except Refused as error:
        print(f"the workspace is refused: {error}")
    except UNREADABLE:
        print("the workspace is refused: it is not a tar that can be read")
    except OSError as error:
        print(f"the workspace cannot be unpacked: {os.strerror(error.errno or 5).lower()}")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Disk that ends: a tenant's volume as a file system of its own in a file (root only).

The mount is `nosuid,nodev` (a setuid file that a tenant makes would be one on the host), and lies
below a directory that no other user may enter. The image file is allocated in full, so that tenants
cannot promise the same disk twice.
"""

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from deepbrain.sandbox.sandbox import SandboxError

SPARE_BYTES: Final = 256 << 20
"""Disk that a new tenant must leave to the machine."""

MIN_VOLUME: Final = 4 << 20

_MKFS: Final = ("-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard")
_RIGHTS: Final = "nosuid,nodev,noatime"
_FITRIM: Final = 0xC0185879
_PUNCH_HOLE_KEEP_SIZE: Final = 0x02 | 0x01

_libc = ctypes.CDLL(None, use_errno=True)


def find_program(name: str) -> str:
    """A system program, also where the path lacks `/sbin`. Raises: SandboxError."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        raise SandboxError(f"the program {name} is missing on this machine")
    return found


def ensure_space(directory: Path, needed: int) -> None:
    """Raises: SandboxError: the disk is too full for `needed` bytes and the machine's spare."""
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < needed + SPARE_BYTES:
        raise SandboxError(
            f"the disk has {free >> 20} MiB free, the tenant needs {needed >> 20} MiB"
        )


def make_volume(image: Path, target: Path, size: int, owner: tuple[int, int]) -> None:
    """Make and mount a volume of `size` bytes for `owner`; read back what was mounted.

    About 100 ms. Raises: SandboxError: the kernel or the disk refused; nothing is left mounted.
    """
    try:
        _run(find_program("fallocate"), "-l", str(size), str(image))
    except SandboxError:  # not every file system can allocate ahead
        ensure_space(image.parent, size)
        with image.open("wb") as file:
            file.truncate(size)
    _run(find_program("mkfs.ext4"), *_MKFS, str(image))
    mount_volume(image, target)
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.rmdir("lost+found", dir_fd=descriptor)
        os.fchown(descriptor, *owner)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def mount_volume(image: Path, target: Path) -> None:
    _run(find_program("mount"), "-t", "ext4", "-o", f"loop,{_RIGHTS}", str(image), str(target))
    options = mounts_below(target).get(target, "").split(",")
    if "nosuid" not in options or "nodev" not in options:
        unmount_below(target)
        raise SandboxError("the volume's mount reads back without nosuid,nodev")


def mount_layer(lower: Path, files: Path, target: Path) -> None:
    """Mount the directory `lower` at `target` with what is changed there kept below `files`.

    Raises: SandboxError: the kernel has no overlay file system, or a path holds a colon or a comma.
    """
    if any(character in f"{lower}{files}" for character in ":,\\"):
        raise SandboxError(
            f"{files} cannot be mounted: its path holds a colon, a comma or a backslash"
        )
    upper, work = files / "upper", files / "work"
    for directory in (upper, work):
        directory.mkdir(mode=0o755, exist_ok=True)
    options = f"{_RIGHTS},lowerdir={lower},upperdir={upper},workdir={work}"
    _run(find_program("mount"), "-t", "overlay", "-o", options, "overlay", str(target))


def shrink_volume(image: Path, target: Path) -> None:
    """Give back the disk that a mounted volume holds and does not use; from then on it is read-only.

    What the image was promised is in it as free blocks and as ranges never written: the file system
    names the first, the image's own map the second. A file system that cannot free the inside of a
    file keeps all of it. Raises: SandboxError: the volume is still being written.
    """
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with suppress(OSError):
            fcntl.ioctl(descriptor, _FITRIM, struct.pack("QQQ", 0, 2**64 - 1, 0))
    finally:
        os.close(descriptor)
    _run(find_program("mount"), "-o", f"remount,ro,{_RIGHTS}", str(target))
    _punch_unwritten(image)


def _punch_unwritten(image: Path) -> None:
    descriptor = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        end, at = os.fstat(descriptor).st_size, 0
        while at < end:
            data = _next(descriptor, at, os.SEEK_DATA, end)
            if data > at:
                arguments = (ctypes.c_long(at), ctypes.c_long(data - at))
                _libc.fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, *arguments)
            at = _next(descriptor, data, os.SEEK_HOLE, end)
    finally:
        os.close(descriptor)


def _next(descriptor: int, at: int, whence: int, end: int) -> int:
    try:
        return os.lseek(descriptor, at, whence)
    except OSError:  # there is no more of it
        return end


def mounts_below(directory: Path) -> dict[Path, str]:
    """Mount points at or below a directory, with their options."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        point = Path(fields[4].replace("\\040", " "))
        if point.is_relative_to(directory):
            found[point] = fields[5]
    return found


def unmount_below(directory: Path) -> None:
    """Unmount everything at or below a directory, deepest first.

    A busy mount is tried for two seconds, then detached: its last user is about to die.
    """
    umount = find_program("umount")
    deadline = time.monotonic() + 2
    while points := sorted(mounts_below(directory), reverse=True):
        lazy = ("-l",) if time.monotonic() > deadline else ()
        for point in points:
            subprocess.run([umount, *lazy, str(point)], capture_output=True, check=False)
        if time.monotonic() > deadline + 5:
            raise SandboxError(f"{points[0]} cannot be unmounted")
        time.sleep(0.01)


def _run(*argv: str) -> None:
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=path)
    if done.returncode:
        output = (done.stderr or done.stdout).strip()[:200]
        raise SandboxError(f"{Path(argv[0]).name} failed: {output}")

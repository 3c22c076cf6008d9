"""A job's output on disk: records `u8 stream | u32 length LE | bytes`, in segments.

A segment's name is the logical offset of its first byte. The keeper writes and drops segments
(`keeper.py`, which imports nothing of ours); everyone else only reads, so a reader meets segments
that vanish under it and goes on at the oldest one left.
"""

from collections.abc import Iterator
from pathlib import Path

STDOUT = 1
STDERR = 2

_CHUNK = 256 * 1024


def encode_record(stream: int, data: bytes) -> bytes:
    return bytes((stream,)) + len(data).to_bytes(4, "little") + data


def split_records(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take the whole records off the front of `buffer`; what is left is the start of the next one."""
    at = 0
    while len(buffer) - at >= 5:
        end = at + 5 + int.from_bytes(buffer[at + 1 : at + 5], "little")
        if end > len(buffer):
            break
        yield buffer[at], bytes(buffer[at + 5 : end])
        at = end
    del buffer[:at]


def segments(directory: Path) -> list[tuple[int, int]]:
    """(first offset, size) of each segment, in order."""
    found = []
    for path in directory.glob("*.log"):
        try:
            found.append((int(path.stem), path.stat().st_size))
        except (ValueError, FileNotFoundError):
            continue
    return sorted(found)


def log_range(directory: Path) -> tuple[int, int]:
    """Logical offsets of the oldest byte kept and of the end."""
    found = segments(directory)
    return (found[0][0], found[-1][0] + found[-1][1]) if found else (0, 0)


def read_log(directory: Path, offset: int) -> tuple[int, bytes]:
    """Some bytes at the first kept offset not below `offset`, with that offset; none at the end.

    At most 256 KiB. Offsets that lie in a dropped segment move on to the oldest one kept.
    """
    for start, size in segments(directory):
        if start + size <= offset:
            continue
        at = max(offset, start)
        try:
            with (directory / f"{start:016d}.log").open("rb") as segment:
                segment.seek(at - start)
                return at, segment.read(_CHUNK)
        except FileNotFoundError:
            continue
    return offset, b""

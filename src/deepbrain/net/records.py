"""Records: `u8` kind, `u32` little-endian length, bytes. Logs and exec sessions are made of them.

A log holds OUT and ERR only. On an exec stream the renter sends STDIN, RESIZE, SIGNAL and EOF, the
machine OUT, ERR and last of all EXIT.
"""

import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from deepbrain.net.errors import MalformedMessage
from deepbrain.net.stream import Stream

STDIN: Final = 0
OUT: Final = 1
ERR: Final = 2
RESIZE: Final = 3
"""`u16` columns, `u16` rows, little-endian."""
EOF: Final = 4
EXIT: Final = 5
"""`u8` exit code."""
SIGNAL: Final = 6
"""`u8` number, of Linux."""

HEADER: Final = struct.Struct("<BI")
SIZE: Final = struct.Struct("<HH")

MAX_RECORD: Final = 1 << 16
"""Bytes of one record's payload on an exec stream."""

MAX_LOG_RECORD: Final = 1 << 20
"""Bytes of one record's payload in a log."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A piece of a job's output."""

    stream: int
    """OUT or ERR."""
    data: bytes
    end: int
    """Logical offset behind this record: where to resume once it is shown."""


def record(kind: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


async def read_record(stream: Stream, limit: int = MAX_RECORD) -> tuple[int, bytes] | None:
    """The next record, or None at the end of the stream.

    Raises: MalformedMessage: above `limit`; NetError: StreamEnded inside a record included.
    """
    first = await stream.read_some(1)
    if not first:
        return None
    kind, length = HEADER.unpack(first + await stream.read_exactly(HEADER.size - 1))
    if length > limit:
        raise MalformedMessage(f"a record has at most {limit} bytes here, not {length}")
    return kind, await stream.read_exactly(length)


async def log_records(stream: Stream, offset: int) -> AsyncIterator[LogRecord]:
    """The records of raw log bytes that start at logical `offset`, on a record's boundary.

    A record that is still being written when the stream ends is left for the next time.
    Raises: MalformedMessage: not a log; NetError.
    """
    pending = bytearray()
    while chunk := await stream.read_some():
        pending += chunk
        at = 0
        while (end := _end_of_record(pending, at)) is not None:
            data = bytes(pending[at + HEADER.size : end])
            offset += end - at
            yield LogRecord(pending[at], data, offset)
            at = end
        del pending[:at]


def _end_of_record(pending: bytearray, at: int) -> int | None:
    """Where the record at `at` ends; None while it is not whole."""
    if len(pending) - at < HEADER.size:
        return None
    kind, length = HEADER.unpack_from(pending, at)
    if kind not in (OUT, ERR) or length > MAX_LOG_RECORD:
        raise MalformedMessage("the machine sent something that is not a log")
    end = at + HEADER.size + int(length)
    return end if end <= len(pending) else None

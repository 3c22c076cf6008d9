"""Our own extrinsics on disk until they are final, so that a restart announces them again.

An append-only file of `u32 length | bytes`. It is written without fsync: it survives a killed
process, and after a power cut the sender, who has seen no block, sends again. A torn or damaged end
is ignored. What is final is not marked: on load a stale nonce tells, and the file is rewritten once
it has grown far beyond what is still wanted.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from deepbrain.node.errors import NodeError

MAX_ENTRY: Final = 128 * 1024
COMPACT_ABOVE: Final = 4 * 1024 * 1024


class PoolJournal:
    """The file `path`; `wanted` gives the extrinsics worth keeping when it is rewritten."""

    def __init__(self, path: Path, wanted: Callable[[], Iterable[bytes]]) -> None:
        self._path = path
        self._wanted = wanted
        self._size = 0
        self._rewrite_above = COMPACT_ABOVE
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise _unwritable(path, error) from error
        self._size = path.stat().st_size

    def load(self) -> list[bytes]:
        """The extrinsics in the file, oldest first; a damaged end is cut off."""
        data = self._path.read_bytes()
        found: list[bytes] = []
        at = 0
        while at + 4 <= len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            if not 0 < size <= MAX_ENTRY or at + 4 + size > len(data):
                break
            found.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        self._file.truncate(at)
        self._size = at
        return found

    def append(self, extrinsics: Iterable[bytes]) -> None:
        """Raises: NodeError: the disk is full."""
        data = _encode(extrinsics)
        try:
            self._file.write(data)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self._size += len(data)
        if self._size > self._rewrite_above:
            self.compact()

    def compact(self) -> None:
        """Rewrite the file with what is still wanted. Raises: NodeError: the disk is full."""
        data = _encode(self._wanted())
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(data)
            fresh.replace(self._path)
            self._file.close()
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self._size = len(data)
        self._rewrite_above = max(COMPACT_ABOVE, 2 * self._size)

    def close(self) -> None:
        self._file.close()


def _encode(extrinsics: Iterable[bytes]) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in extrinsics)


def _unwritable(path: Path, error: OSError) -> NodeError:
    return NodeError(
        f"{path} cannot be written ({error.strerror or error}); "
        "free some space or choose another --data directory."
    )

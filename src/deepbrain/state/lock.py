"""One process for one data directory."""

import fcntl
import os
from pathlib import Path
from typing import Final

from deepbrain.state.errors import StoreError

LOCK_NAME: Final = "LOCK"


class DirectoryLock:
    """Holds a directory until `release`, or until the process ends, however it ends.

    A child made by a bare `fork` would hold it too: start workers by `spawn` or `forkserver`.
    """

    __slots__ = ("_file",)

    def __init__(self, directory: Path) -> None:
        """Raises: StoreError: another process (or this one) holds `directory`, or it is not writable."""
        path = directory / LOCK_NAME
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"Cannot write to the data directory {directory}: {error.strerror}."
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._file, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            self._file = -1
            raise StoreError(
                f"The data directory {directory} is in use by process {owner}: stop that, or choose"
                " another directory."
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode("ascii"), 0)

    def release(self) -> None:
        """Let go of the directory. Releasing twice is allowed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

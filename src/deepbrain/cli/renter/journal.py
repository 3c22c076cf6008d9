"""What a `run` writes down before it spends anything, so that a killed one loses nothing.

    ~/.dbc/runs/<id>/{run.json, manifest, workspace.tar}

The entry is complete on disk before `rent.place` is signed, and is found again by the manifest's
hash, which is on the chain. Orders themselves are read from the chain: a machine without the journal
can do everything but hand over what was never uploaded.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from deepbrain.cli.home import home, private_directory, read_json, write_json
from deepbrain.primitives.ids import Hash


@dataclass(slots=True)
class Run:
    """One entry. `facts` is what `run.json` holds: genesis, renter, image archive, order …"""

    path: Path
    facts: dict[str, Any]

    @classmethod
    def begin(cls) -> Self:
        """A fresh entry; nothing is in it yet."""
        path = private_directory(home() / "runs") / secrets.token_hex(8)
        path.mkdir(mode=0o700)
        return cls(path, {})

    @property
    def workspace(self) -> Path:
        return self.path / "workspace.tar"

    @property
    def manifest(self) -> bytes:
        return (self.path / "manifest").read_bytes()

    def write_manifest(self, encoded: bytes) -> None:
        with open(self.path / "manifest", "wb", opener=_private) as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())

    def note(self, **facts: Any) -> None:
        """Add facts; on disk when it returns."""
        self.facts |= facts
        write_json(self.path / "run.json", self.facts)

    def delivered(self) -> None:
        """The machine has everything: the copy of the workspace is not needed any more."""
        self.workspace.unlink(missing_ok=True)

    def discard(self) -> None:
        """Nothing was placed, or the order is over and its results are here."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Whether this process alone works on the entry during the block."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(descriptor)


def runs() -> list[Run]:
    """Every entry, newest first; what was begun and never written down is left out."""
    found = []
    for path in (private_directory(home() / "runs")).iterdir():
        facts = read_json(path / "run.json")
        if facts is not None:
            found.append((path.stat().st_mtime, Run(path, facts)))
    return [run for _, run in sorted(found, key=lambda item: item[0], reverse=True)]


def find(manifest_hash: Hash) -> Run | None:
    """The entry of the order that names this manifest."""
    return next((run for run in runs() if run.facts.get("manifest") == str(manifest_hash)), None)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

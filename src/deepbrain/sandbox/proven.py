"""Modes whose canaries have run not long ago: a helper that is started again need not run them again.

A proof holds for one boot, one user, the very programs that ran, and `PROOF_SECONDS`. Only successes are
kept: what failed is tried anew each time. The tenants' network is tried each time as well, because
firewalls change.
"""

import json
import os
import time
from pathlib import Path
from typing import Final

import deepbrain
from deepbrain.sandbox.sandbox import Mode

PROOF_SECONDS: Final = 3600
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Proven:
    """The proofs in a data directory. One that is damaged, old or another's proves nothing."""

    def __init__(self, data: Path, programs: tuple[Path | None, ...]) -> None:
        self._file = data / "canaries.json"
        self._circumstances = [
            _BOOT_ID.read_text().strip(),
            os.geteuid(),
            deepbrain.__version__,
            *(_identity(program) for program in programs),
        ]

    def kernel(self, mode: Mode) -> str | None:
        """What the canaries of this mode saw; None: they have to run."""
        found = self._load().get(mode.value)
        match found:
            case {"kernel": str(kernel), "at": int(at)} if 0 <= _now() - at < PROOF_SECONDS:
                return kernel
        return None

    def note(self, mode: Mode, kernel: str) -> None:
        """The canaries of this mode have just run, and did as they should."""
        fields = {
            "circumstances": self._circumstances,
            "modes": self._load() | {mode.value: {"kernel": kernel, "at": _now()}},
        }
        fresh = self._file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.write_text(json.dumps(fields))
        fresh.replace(self._file)

    def _load(self) -> dict[str, object]:
        try:
            if self._file.stat().st_uid != os.geteuid():
                return {}
            fields = json.loads(self._file.read_text())
            if fields["circumstances"] != self._circumstances:
                return {}
            return dict(fields["modes"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _identity(program: Path | None) -> list[object]:
    """Another file, or other bytes in it, have another."""
    if program is None:
        return []
    found = program.stat()
    return [str(program), found.st_ino, found.st_size, found.st_mtime_ns]


def _now() -> int:
    """Seconds since the boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))

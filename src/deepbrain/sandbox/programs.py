"""Programs that a checkout or a home may bring along, before those of the system."""

import os
from pathlib import Path


def find_binary(name: str, variable: str) -> Path | None:
    """By environment variable, then below a `.cache/bin` of the checkout or home, then by PATH."""
    here = Path(__file__).resolve()
    candidates = [Path(told)] if (told := os.environ.get(variable)) else []
    candidates += [parent / ".cache" / "bin" / name for parent in here.parents]
    candidates += [Path.home() / ".cache" / "deepbrain" / "bin" / name]
    candidates += [Path(entry) / name for entry in os.get_exec_path()]
    for path in candidates:
        try:
            if path.is_file() and os.access(path, os.X_OK):
                return path.absolute()
        except OSError:
            continue
    return None

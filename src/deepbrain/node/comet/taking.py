"""`python -m deepbrain.node.comet.taking STORE HEIGHT SHELF`: take one snapshot, beside a running node."""

import os
import sys
from pathlib import Path
from typing import Final

from deepbrain.node.comet.snapshots import take
from deepbrain.state.errors import StoreError
from deepbrain.state.lmdb import LmdbReader

NICENESS: Final = 10
"""Blocks go first."""


def main(store: str, number: str, shelf: str) -> int:
    os.nice(NICENESS)
    try:
        reader = LmdbReader(Path(store))
        try:
            take(reader, int(number), Path(shelf))
        finally:
            reader.close()
    except (StoreError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

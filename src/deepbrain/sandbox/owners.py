"""Who owns what in an image, for the tenant's init to give back inside the sandbox.

On the host everything of an image belongs to the user that unpacked it. What is not root's inside stands in
a file of the image, `.dbc/owners`: records `<uid> <gid> <path>` and a zero byte each, directories first.
The tool's init (`tool/owners.go`) makes it so: directories always, and files within its own budget, since a
file that changes hands is copied into the tenant's writable layer.
"""

import os
from pathlib import Path
from typing import Final

OWNERS: Final = ".dbc/owners"
MAX_OWNED: Final = 100_000
MAX_BYTES: Final = 8 << 20
MAX_ID: Final = (1 << 32) - 2


class Owners:
    """By path below the root. A path that is made anew is noted anew."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[int, int]] = {}

    def note(self, path: str, uid: int, gid: int) -> None:
        is_roots = (uid, gid) == (0, 0)
        is_known = 0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID
        if (
            is_roots
            or not is_known
            or (len(self._owners) >= MAX_OWNED and path not in self._owners)
        ):
            self._owners.pop(path, None)
        else:
            self._owners[path] = (uid, gid)

    def write(self, file: Path, root: Path) -> None:
        """What is still there of it. Beyond the bounds files keep root as their owner."""
        records: tuple[list[str], list[str]] = ([], [])
        for path, (uid, gid) in self._owners.items():
            full = os.path.join(root, path)  # noqa: PTH118
            if os.path.lexists(full):
                is_file = os.path.islink(full) or not os.path.isdir(full)  # noqa: PTH112, PTH114
                records[is_file].append(f"{uid} {gid} {path}\0")
        size = 0
        with file.open("xb") as out:
            for record in (*records[0], *records[1]):
                encoded = os.fsencode(record)
                size += len(encoded)
                if size > MAX_BYTES:
                    break
                out.write(encoded)
            os.fchmod(out.fileno(), 0o644)

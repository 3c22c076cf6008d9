"""Write the hash of the rules' source into `runtime/source.py`, which genesis and upgrades name.

    python tools/source_hash.py            write it
    python tools/source_hash.py --check    exit 1 if it is not the hash of the files there are

Whoever changes a file of these floors runs it before committing.
"""

import sys
from hashlib import blake2b
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent / "src/deepbrain"
FLOORS: Final = ("primitives", "scale", "state", "frame", "pallets", "runtime")
TARGET: Final = ROOT / "runtime/source.py"
MARK: Final = "SOURCE: Final = Hash.from_hex("


def source_hash() -> str:
    """BLAKE2b-256 over names and contents of the files, in order of their names."""
    digest = blake2b(digest_size=32)
    files = (path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
    for path in sorted(files):
        if path != TARGET:
            content = path.read_bytes()
            name = path.relative_to(ROOT).as_posix().encode()
            digest.update(b"%d %b %d\n" % (len(name), name, len(content)))
            digest.update(content)
    return "0x" + digest.hexdigest()


def main(arguments: list[str]) -> int:
    """Write or check."""
    text = TARGET.read_text()
    start = text.index(MARK) + len(MARK)
    fresh = text[:start] + f'"{source_hash()}"' + text[text.index(")", start) :]
    if arguments == ["--check"]:
        if fresh != text:
            print("runtime/source.py is stale: run `python tools/source_hash.py`")
            return 1
        return 0
    TARGET.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

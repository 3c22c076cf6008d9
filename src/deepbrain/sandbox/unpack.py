"""Unpack an image without privileges: `python -m deepbrain.sandbox.unpack DIGEST DIRECTORY UID LIMIT [FD]`.

Standard input is the archive, a seekable file. With FD, a descriptor of a directory of blobs, it is a
registry's, and DIGEST is that of the image's manifest. At most LIMIT bytes are unpacked. A UID above 0 is become, for good, before the first byte
of the archive is read. Prints the image's configuration as JSON, or one line of reason with exit code 1.
"""

import ctypes
import gzip as _gzip  # noqa: F401 - imported while the interpreter's files can still be read
import json
import os
import resource
import sys
import zlib as _zlib  # noqa: F401
from dataclasses import asdict
from pathlib import Path

from deepbrain.sandbox.images import (
    MAX_UNPACKED,
    ImageConfig,
    digest_of,
    unpack,
    unpack_blobs,
)
from deepbrain.sandbox.sandbox import ImageError

PR_SET_NO_NEW_PRIVS = 38
MEMORY_BYTES = 2 << 30


def drop_rights(uid: int) -> None:
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_UNPACKED, MAX_UNPACKED))
    os.umask(0o022)


def unpack_input(digest: str, limit: int, blobs: int | None) -> ImageConfig:
    """Raises: ImageError."""
    if blobs is not None:
        return unpack_blobs(blobs, digest, Path(), limit)
    if digest_of(sys.stdin.buffer) != digest:
        raise ImageError("the image is not the one that was named: its SHA-256 differs")
    return unpack(sys.stdin.buffer, Path(), limit)


def main() -> int:
    digest, directory, uid, limit = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5])
    blobs = int(sys.argv[5]) if len(sys.argv) > 5 else None
    os.chdir(directory)  # the way here may be closed to that user
    drop_rights(uid)
    try:
        config = unpack_input(digest, limit, blobs)
    except ImageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(asdict(config)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

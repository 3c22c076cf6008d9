"""Fetch an image's blobs from a registry: `python -m deepbrain.sandbox.pull DIRECTORY UID`.

A process of its own, without privileges: it is told by a renter where to connect to. What is wanted
comes as one line of JSON on standard input, credentials included, and nowhere else:

    {"source", "digest", "username", "secret", "private", "max_bytes", "stall_seconds", "only_check"}

Blobs come into DIRECTORY as `<hex>`, whole and checked, and as `<hex>.part` until then: another try goes
on behind it. Standard output has one JSON object a line: `{"size"}` once that is known, after which nothing
is fetched until a line comes in; `{"done", "total"}` as it goes on; and `{"error"}` with one sentence, and exit
code 1, where it ends otherwise than well.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.sandbox.addresses import admit_outside_only
from deepbrain.sandbox.images import (
    MAX_LAYERS,
    descriptors,
    digest_in,
    is_index,
    ours_of,
    parse_json,
)
from deepbrain.sandbox.reference import Credentials, Reference
from deepbrain.sandbox.registry import Registry, RegistryBusy, RegistryError
from deepbrain.sandbox.sandbox import ImageError

PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
MEMORY_BYTES: Final = 1 << 30
MAX_REQUEST: Final = 64 << 10
MAX_INDEXES: Final = 3
TRIES: Final = 5
"""In a row that bring less than this:"""
WORTH_BYTES: Final = 1 << 20
PAUSE_SECONDS: Final = (0.5, 1.0, 2.0, 4.0)
LEAST_BYTES: Final = 16 << 10
"""What must come within `stall_seconds`: a drip is as good as nothing."""
REPORT_SECONDS: Final = 0.2


class Refused(DeepBrainError):
    """The image is not fetched; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch, and how much at most."""

    reference: Reference
    digest: str
    max_bytes: int
    stall_seconds: float
    credentials: Credentials | None = None
    private: bool = False
    """Whether registries in private networks may be asked."""
    only_check: bool = False
    """Whether to ask for the manifest alone: may these credentials have the image?"""

    @classmethod
    def parse(cls, data: bytes) -> "Wanted":
        given = json.loads(data)
        credentials = None
        if given["username"] or given["secret"]:
            credentials = Credentials(given["username"], given["secret"])
        return cls(
            Reference.parse_source(given["source"]),
            given["digest"],
            int(given["max_bytes"]),
            float(given["stall_seconds"]),
            credentials,
            bool(given["private"]),
            bool(given["only_check"]),
        )


def say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


@dataclass(slots=True)
class Progress:
    total: int
    done: int = 0
    shown_at: float = field(default=-REPORT_SECONDS)

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.shown_at >= REPORT_SECONDS or self.done == self.total:
            self.shown_at = now
            say(done=self.done, total=self.total)


class Pull:
    """One image into the directory that is open as `at`."""

    def __init__(
        self, wanted: Wanted, at: int, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._wanted = wanted
        self._at = at
        self._sleep = sleep
        self._registry = Registry(wanted.reference, wanted.credentials, wanted.stall_seconds)
        self._progress = Progress(0)

    def run(self, agree: Callable[[int], None]) -> None:
        """`agree` is called with the bytes of all blobs before they are fetched.

        Raises: Refused, RegistryError, ImageError, OSError.
        """
        with closing(self._registry):
            self._run(agree)

    def _run(self, agree: Callable[[int], None]) -> None:
        manifest = self._manifest()
        if self._wanted.only_check:
            return
        blobs = descriptors(manifest)
        if len(blobs) > MAX_LAYERS + 1:
            raise Refused(f"the image has more than {MAX_LAYERS} layers")
        unique = {digest_in(blob): _size_of(blob) for blob in blobs}
        self._progress = Progress(sum(unique.values()))
        if self._progress.total > self._wanted.max_bytes:
            raise Refused(
                f"the image is {self._progress.total >> 20} MiB, and this machine has room for "
                f"{self._wanted.max_bytes >> 20} MiB"
            )
        agree(self._progress.total)
        self._progress.add(0)
        for digest, size in unique.items():
            self._blob(digest, size)

    def _manifest(self) -> dict[str, Any]:
        """The one for this machine, through nested indexes; all of them are kept."""
        digest = self._wanted.digest
        for _ in range(MAX_INDEXES):
            data = self._patiently(f"sha256:{digest}")
            found = parse_json(data, "the image's manifest")
            if not isinstance(found, dict):
                break
            if self._wanted.only_check:
                return found
            self._keep(digest, data)
            if not is_index(found):
                return found
            digest = digest_in(ours_of(found))
        raise Refused("the image's index leads to no manifest")

    def _patiently(self, version: str) -> bytes:
        for pause in PAUSE_SECONDS:
            try:
                return self._registry.manifest(version)
            except RegistryBusy:
                self._sleep(pause)
        return self._registry.manifest(version)

    def _keep(self, digest: str, data: bytes) -> None:
        with self._open(f"{digest}.part", os.O_TRUNC) as part:
            part.write(data)
        os.rename(f"{digest}.part", digest, src_dir_fd=self._at, dst_dir_fd=self._at)

    def _open(self, name: str, more: int = 0) -> Any:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | more
        return os.fdopen(os.open(name, flags, 0o600, dir_fd=self._at), "r+b")

    def _blob(self, digest: str, size: int) -> None:
        if self._has(digest, size):
            self._progress.add(size)
            return
        with self._open(f"{digest}.part") as part:
            self._fill(part, digest, size)
            os.fsync(part.fileno())
        os.rename(f"{digest}.part", digest, src_dir_fd=self._at, dst_dir_fd=self._at)

    def _has(self, digest: str, size: int) -> bool:
        try:
            return os.stat(digest, dir_fd=self._at, follow_symlinks=False).st_size == size
        except FileNotFoundError:
            return False

    def _fill(self, part: Any, digest: str, size: int) -> None:
        """Until it is whole. Raises: RegistryError: it does not come, or is another one."""
        hashing, have = _resume(part, size)
        self._progress.add(have)
        tries = 0
        while have < size:
            before = have
            try:
                for chunk in self._watched(digest, have, size):
                    if not chunk:  # the registry begins anew
                        self._progress.add(-have)
                        part.seek(0)
                        part.truncate()
                        hashing, have, before = sha256(), 0, 0
                        continue
                    part.write(chunk)
                    hashing.update(chunk)
                    have += len(chunk)
                    self._progress.add(len(chunk))
            except RegistryBusy as trouble:
                failure: RegistryError = trouble
            else:
                failure = RegistryError("the registry broke off")
            if have >= size:
                break
            tries = 0 if have - before >= WORTH_BYTES else tries + 1
            if tries >= TRIES:
                raise failure
            part.flush()
            self._sleep(PAUSE_SECONDS[max(tries - 1, 0)])
        if hashing.hexdigest() != digest:
            part.truncate(0)
            raise Refused("the registry sent a layer that is not the one its manifest names")

    def _watched(self, digest: str, have: int, size: int) -> Iterator[bytes]:
        """A blob's pieces. Raises: Refused: more comes than was announced; RegistryBusy: a drip."""
        count, since, mark = have, time.monotonic(), have
        for chunk in self._registry.blob(f"sha256:{digest}", have):
            yield chunk
            count = count + len(chunk) if chunk else 0
            mark = min(mark, count)
            if count > size:
                raise Refused("the registry sends more than its manifest says")
            if time.monotonic() - since > self._wanted.stall_seconds:
                if count - mark < LEAST_BYTES and count < size:
                    raise RegistryBusy("the registry has stalled")
                since, mark = time.monotonic(), count


def _size_of(descriptor: Any) -> int:
    size = descriptor.get("size")
    if not isinstance(size, int) or size < 0:
        raise Refused("the image's manifest names a blob without its size")
    return size


def _resume(part: Any, size: int) -> tuple[Any, int]:
    """The hash of what came before, and how much; too much counts as nothing."""
    if os.fstat(part.fileno()).st_size > size:
        part.truncate(0)
    hashing = sha256()
    while chunk := part.read(1 << 20):
        hashing.update(chunk)
    return hashing, part.tell()


def drop_rights(uid: int, max_bytes: int) -> None:
    libc = ctypes.CDLL(None)
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, max_bytes + (1 << 20)),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def await_agreement(size: int) -> None:
    """Raises: Refused: nobody wants it any more."""
    say(size=size)
    if not sys.stdin.buffer.readline(16):
        raise Refused("the image is not wanted any more")


def main() -> int:
    at = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
    wanted = Wanted.parse(sys.stdin.buffer.readline(MAX_REQUEST))
    drop_rights(int(sys.argv[2]), wanted.max_bytes)
    if not wanted.private:
        admit_outside_only()
    try:
        Pull(wanted, at).run(await_agreement)
    except (Refused, RegistryError, ImageError) as error:
        say(error=str(error))
    except MemoryError:
        say(error="the registry's answers are too large")
    except OSError as error:
        say(error=f"the image cannot be kept: {os.strerror(error.errno or 5).lower()}")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())

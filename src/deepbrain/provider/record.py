"""What the agent remembers of an order on disk, beside what the sandbox keeps of its tenant.

    <data>/orders/<order>/order.json         the record below, replaced by rename
                          manifest           the renter's manifest, checked against the chain's hash
                          blobs/<sha256>     an image's or workspace's tar, whole and checked
                          blobs/<sha256>.part    the same while it arrives
                          blobs/pull/            blobs from a registry, the same way

Latest ends are milliseconds of the monotonic clock, which starts anew at boot: after a boot they are
counted on from what was left when the record was written, so they come later and never earlier.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from deepbrain.net.messages import Digest, Manifest
from deepbrain.primitives.errors import DecodeError, DeepBrainError
from deepbrain.primitives.ids import AccountId, Hash

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


VERSION: Final = 1
"""Of order records: raised when an older release would misread what a newer one writes. A field that is
new and has a default needs no new version: older records lack it, and older releases refuse it.
"""


class RecordDamaged(DeepBrainError):
    """A file of ours does not hold what we wrote."""


class RecordNewer(DeepBrainError):
    """A newer release wrote it: this one must not touch it."""


def newer(path: Path, what: str) -> str:
    """The sentence for a file that holds more than this release knows."""
    return (
        f"{path} was written by a newer deepbrain (it has {what!r}); "
        "install that release again, or a newer one"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRecord:
    order: int
    genesis: Hash
    seen_block: int
    """The block that showed the order first."""
    seen_hash: Hash
    """Its hash: a chain that does not hold it, a fork or one begun anew, says nothing of this order."""
    renter: AccountId
    manifest_hash: Hash
    units: int
    seconds: int
    latest_end: int
    """Monotonic ms at which the job ends, whatever the chain says or does not say."""
    ends_at: int | None = None
    """Service time of the term's end that `latest_end` was made from; None before the start."""
    kept_until: int | None = None
    """Monotonic ms until which log and files are kept; known once the order was seen ended."""
    devices: tuple[str, ...] = ()
    """Its GPUs, chosen before the tenant is made and kept until it has ended."""
    unpacked: bool = False
    """Whether the workspace is in the volume (also when there is none to unpack)."""
    needs_credentials: bool = False
    """Whether the renter handed over who pulls the image; that itself is never on disk."""
    pulled: bool = False
    """Whether the image of its registry is on the machine, and the renter may have it."""
    failure: str = ""
    """Why the order cannot run here, in one sentence."""


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class OrderFiles:
    """The directory of one order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.order = int(path.name)
        self.blobs = path / "blobs"

    def create(self) -> None:
        self.blobs.mkdir(mode=0o700, parents=True, exist_ok=True)

    def record(self) -> OrderRecord:
        """Raises: RecordDamaged; RecordNewer."""
        path = self.path / "order.json"
        try:
            fields = json.loads(path.read_bytes())
            _ensure_known(path, fields)
            return _record_of(fields)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, DecodeError) as error:
            raise RecordDamaged(f"{path} is damaged; the order's files are left alone") from error

    def save(self, record: OrderRecord) -> None:
        fields: dict[str, Any] = asdict(record)
        for name in ("genesis", "seen_hash", "renter", "manifest_hash"):
            fields[name] = fields[name].hex()
        fields |= {"version": VERSION, "boot": _boot_id(), "written": monotonic_ms()}
        replace_file(self.path / "order.json", json.dumps(fields, indent=1).encode())

    def manifest(self) -> Manifest | None:
        """None while it has not arrived, and where it is in the form of another release.

        A job that runs needs none any more; for one that was not started its renter sends it again.
        Raises: RecordDamaged.
        """
        try:
            return Manifest.decode((self.path / "manifest").read_bytes())
        except (FileNotFoundError, DecodeError):
            return None
        except OSError as error:
            raise RecordDamaged(f"{self.path / 'manifest'} is damaged") from error

    def save_manifest(self, encoded: bytes) -> None:
        replace_file(self.path / "manifest", encoded)

    def blob(self, sha256: Digest) -> Path:
        return self.blobs / sha256.hex()

    @property
    def pull(self) -> Path:
        """Blobs from a registry, while they are fetched and until they are unpacked."""
        return self.blobs / "pull"

    def part(self, sha256: Digest) -> Path:
        return self.blobs / f"{sha256.hex()}.part"

    def remove(self) -> None:
        """Remove everything; what marks the directory as an order's goes last."""
        shutil.rmtree(self.blobs, ignore_errors=True)
        for path in sorted(self.path.glob("*"), key=lambda path: path.name == "order.json"):
            path.unlink()
        self.path.rmdir()


class Records:
    """All orders this machine remembers."""

    def __init__(self, data: Path) -> None:
        self._orders = data / "orders"
        self._orders.mkdir(mode=0o700, parents=True, exist_ok=True)

    def ensure_known(self) -> None:
        """Raises: RecordNewer: a newer release was here, and its tenants are left to it."""
        for files in self.all():
            with suppress(RecordDamaged):
                files.record()

    def files(self, order: int) -> OrderFiles:
        return OrderFiles(self._orders / str(int(order)))

    def all(self) -> Iterator[OrderFiles]:
        """In order of their numbers. A directory that never got its record is removed."""
        numbers = (path.name for path in self._orders.iterdir() if path.name.isascii())
        for number in sorted(int(name) for name in numbers if name.isdigit()):
            files = self.files(number)
            if (files.path / "order.json").exists():
                yield files
            else:
                shutil.rmtree(files.path)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file by rename, durably: a crash leaves the old content or the new.

    Several processes may do so at once; one of them is the last. Raises: OSError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _ensure_known(path: Path, fields: dict[str, Any]) -> None:
    """Raises: RecordNewer. Records of the releases before there were versions are of version 1."""
    if (version := fields.pop("version", 1)) != VERSION:
        raise RecordNewer(newer(path, f"version {version}"))
    known = {*OrderRecord.__dataclass_fields__, "boot", "written"}
    if unknown := fields.keys() - known:
        raise RecordNewer(newer(path, min(unknown)))


def _record_of(fields: dict[str, Any]) -> OrderRecord:
    boot, written = fields.pop("boot"), fields.pop("written")
    fields["genesis"] = Hash.from_hex(fields["genesis"])
    fields["seen_hash"] = Hash.from_hex(fields["seen_hash"])
    fields["renter"] = AccountId.from_hex(fields["renter"])
    fields["manifest_hash"] = Hash.from_hex(fields["manifest_hash"])
    fields["devices"] = tuple(fields.get("devices", ()))
    record = OrderRecord(**fields)
    return record if boot == _boot_id() else _moved(record, monotonic_ms() - written)


def _moved(record: OrderRecord, by_ms: int) -> OrderRecord:
    kept = None if record.kept_until is None else record.kept_until + by_ms
    return replace(record, latest_end=record.latest_end + by_ms, kept_until=kept)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()

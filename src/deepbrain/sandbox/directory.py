"""A tenant's directory: its paths, its records, and whether its keeper lives."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepbrain.sandbox.logs import log_range
from deepbrain.sandbox.sandbox import (
    ExitReason,
    Mode,
    Network,
    NoSuchTenant,
    Phase,
    SandboxError,
    TenantExit,
    TenantSpec,
    TenantState,
    User,
)


@dataclass(frozen=True, slots=True)
class TenantDirectory:
    path: Path

    @property
    def order(self) -> int:
        return int(self.path.name)

    @property
    def container(self) -> str:
        """The name of its container and of its cgroup, unique on this machine."""
        return f"{self.path.stat().st_ino:x}-{self.path.name}"

    @property
    def volume(self) -> Path:
        return self.path / "volume"

    @property
    def volume_image(self) -> Path:
        return self.path / "volume.img"

    @property
    def overlay(self) -> Path:
        return self.path / "overlay"

    @property
    def layered(self) -> Path:
        """The image, with mount points for devices made in a layer of the tenant's own."""
        return self.path / "rootfs"

    @property
    def layered_files(self) -> Path:
        """What that layer holds."""
        return self.path / "layer"

    @property
    def state_root(self) -> Path:
        """`runsc --root`."""
        return self.path / "runsc"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def run_plan(self) -> Path:
        return self.path / "run.json"

    @property
    def lock(self) -> Path:
        """Held by the keeper of a tenant that has started; there and free, that keeper is dead."""
        return self.path / "keeper.lock"

    @property
    def starting_lock(self) -> Path:
        """What the lock is called until the job runs."""
        return self.path / "keeper.starting"

    def exists(self) -> bool:
        return (self.path / "tenant.json").is_file()

    def spec(self) -> TenantSpec:
        """Raises: NoSuchTenant."""
        try:
            found = json.loads((self.path / "tenant.json").read_bytes())
            if unknown := found.keys() - TenantSpec.__dataclass_fields__.keys():
                raise SandboxError(
                    f"the tenant of order {self.path.name} was made by a newer deepbrain (it has "
                    f"{min(unknown)!r}); install that release again, or a newer one"
                )
            return spec_from_json(found)
        except FileNotFoundError:
            raise NoSuchTenant(f"order {self.path.name} has no tenant on this machine") from None
        except (ValueError, TypeError, KeyError) as error:
            raise SandboxError(f"the record of order {self.path.name} is unreadable") from error

    def write_spec(self, spec: TenantSpec) -> None:
        self.write_record("tenant.json", spec_to_json(spec))

    def write_record(self, name: str, content: object) -> None:
        """Replace a file: a crash leaves the old one or the new one."""
        new = self.path / f"{name}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self.path / name)

    def exit(self) -> TenantExit | None:
        try:
            found = json.loads((self.path / "exit.json").read_bytes())
        except FileNotFoundError:
            return None
        return TenantExit(
            int(found["code"]),
            ExitReason(found["reason"]),
            int(found["started_ms"]),
            int(found["ended_ms"]),
        )

    def mark_ns(self) -> int:
        """When the upload was complete: what changed later was made by the job. Unix nanoseconds."""
        return self.run_plan.stat().st_mtime_ns

    def keeper(self) -> int | None:
        """The process id of the live keeper of a tenant that has started."""
        return _holder(self.lock)

    def any_keeper(self) -> int | None:
        """The process id of a live keeper, also of one whose job does not run yet; 0: not written yet."""
        starting = _holder(self.starting_lock)
        return _holder(self.lock) if starting is None else starting

    def undo_start(self) -> None:
        """From now on the tenant is prepared again, whatever its keeper does."""
        with suppress(FileNotFoundError):
            self.lock.rename(self.starting_lock)

    def state(self) -> TenantState:
        """Raises: NoSuchTenant."""
        spec = self.spec()
        end = self.end()
        phase, ended = Phase.PREPARED, None
        if self.lock.exists():  # before its job ran nothing was lost
            live = self.keeper() is not None
            ended = None if live else self.exit()
            phase = Phase.RUNNING if live else Phase.EXITED if ended else Phase.LOST
        start, stop = log_range(self.log)
        if end is not None:
            spec = spec_from_json({**spec_to_json(spec), "end_at": end})
        return TenantState(self.order, phase, spec, ended, start, stop)

    def end(self) -> int | None:
        try:
            found = json.loads((self.path / "end.json").read_bytes())["at"]
        except FileNotFoundError:
            return None
        return None if found is None else int(found)

    def remove(self) -> None:
        """Everything, safely against links that a tenant planted. Mounts must be gone."""
        shutil.rmtree(self.path)


def _holder(lock: Path) -> int | None:
    """The process that holds a lock. Exact, where a process id alone may be another's by now."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 32, 0) or b"0")
    finally:
        os.close(descriptor)
    return None


def tenant_directories(tenants: Path) -> Iterator[TenantDirectory]:
    for path in sorted(tenants.iterdir(), key=lambda path: path.name.zfill(20)):
        if path.name.isdigit():
            yield TenantDirectory(path)


def spec_to_json(spec: TenantSpec) -> dict[str, Any]:
    mode = spec.mode.value if spec.mode else None
    return {**asdict(spec), "mode": mode, "network": spec.network.value}


def spec_from_json(found: dict[str, Any]) -> TenantSpec:
    return TenantSpec(
        **{
            **found,
            "argv": tuple(found["argv"]),
            "env": tuple((key, value) for key, value in found["env"]),
            "devices": tuple(found.get("devices", ())),
            "mode": Mode(found["mode"]) if found["mode"] else None,
            # A tenant made by a former version has none.
            "network": Network(found.get("network", Network.NONE.value)),
            "user": user_from_json(found["user"]) if found.get("user") else None,
        }
    )


def user_from_json(found: dict[str, Any]) -> User:
    return User(**{**found, "groups": tuple(found.get("groups", ()))})

"""What needs the host's rights: the closed list of requests, and the one place that carries them out.

As an ordinary user the agent answers them itself (`LocalHost`). On a provider's machine the root helper
does, over a socket, with the same `Host` behind it. Nothing in here parses a byte that came from a
stranger: images and workspaces are unpacked by the agent's user, and a request names things by order
number or digest only.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from deepbrain.sandbox.bundle import environment
from deepbrain.sandbox.cdi import NAME as DEVICE_NAME
from deepbrain.sandbox.cgroups import kill_all
from deepbrain.sandbox.devices import MAX_DEVICES, hold
from deepbrain.sandbox.directory import TenantDirectory, tenant_directories
from deepbrain.sandbox.engine import Command, Engine
from deepbrain.sandbox.images import MOUNT_DIRECTORIES, MOUNT_FILES
from deepbrain.sandbox.sandbox import (
    TOOL,
    ExitReason,
    ImageError,
    Mode,
    ModeReport,
    Network,
    NoSuchTenant,
    Phase,
    SandboxError,
    TenantSpec,
    User,
)

KEEPER: Final = Path(__file__).with_name("keeper.py")
START_SECONDS: Final = 45
MIN_LOG: Final = 1 << 20
MAX_ID: Final = (1 << 32) - 2
MAX_GROUPS: Final = 128

DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SessionFds:
    """Descriptors handed over with an exec or collect request; the receiver closes its copies.

    `leash`: the read end of a pipe; everything the session started dies when the other end closes.
    `status`: a pipe that gets the exit code in decimal and a newline.
    """

    stdin: int
    stdout: int
    stderr: int
    leash: int
    status: int

    def all(self) -> tuple[int, ...]:
        return (self.stdin, self.stdout, self.stderr, self.leash, self.status)


class HostRequests(Protocol):
    """The requests. All may raise SandboxError."""

    async def report(self) -> ModeReport: ...

    async def install_image(self, digest: str) -> None:
        """Move an image that the agent unpacked at `incoming/<digest>` to `images/<digest>`."""
        ...

    async def remove_image(self, digest: str) -> None: ...

    async def prepare(self, spec: TenantSpec) -> None: ...

    async def start(self, order: int) -> None: ...

    async def set_end(self, order: int, end_at: int, reason: ExitReason) -> None: ...

    async def signal(self, order: int, number: int) -> None: ...

    async def exec(
        self,
        order: int,
        argv: Sequence[str],
        env: Sequence[tuple[str, str]],
        cwd: str,
        tty: bool,
        fds: SessionFds,
    ) -> None: ...

    async def collect(self, order: int, arguments: Sequence[str], fds: SessionFds) -> None:
        """Run the tool's `tar-out` with these arguments over the volume of an ended tenant."""
        ...

    async def release(self, order: int) -> None: ...

    async def destroy(self, order: int) -> None: ...


class Host:
    """Carries the requests out, blocking; one instance a data directory.

    `owner` is the agent's user and group: it reads the records and fills the volumes. Threads may call
    for different orders at once; calls that change one order wait for each other.
    """

    def __init__(
        self, data: Path, engine: Engine, report: ModeReport, owner: tuple[int, int], tool: Path
    ) -> None:
        self.data = data
        self.report = report
        self._engine = engine
        self._owner = owner
        self._tool = tool
        self._locks: dict[int, threading.Lock] = {}
        self._giving = threading.Lock()
        self._guard = threading.Lock()

    def _lock(self, order: int) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(order, threading.Lock())

    def _tenant(self, order: int) -> TenantDirectory:
        tenant = TenantDirectory(self.data / "tenants" / str(order))
        if not tenant.exists():
            raise NoSuchTenant(f"order {order} has no tenant on this machine")
        return tenant

    def settle_network(self) -> None:
        self._engine.settle_network()

    # -- images

    def install_image(self, digest: str) -> None:
        """All of it becomes ours: nobody can swap or change anything afterwards, and inside it is root's."""
        incoming, target = self._image("incoming", digest), self._image("images", digest)
        if target.exists():
            shutil.rmtree(incoming, ignore_errors=True)
            return
        try:
            incoming.rename(target)
            if os.geteuid() == 0:
                own_tree(target)
            for path in (target, target / "rootfs"):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    os.fchown(descriptor, os.geteuid(), os.getegid())
                    os.fchmod(descriptor, 0o755)
                finally:
                    os.close(descriptor)
        except OSError as error:
            with suppress(FileNotFoundError):
                remove_tree(target)
            raise ImageError(f"the image cannot be installed: {error.strerror}") from error

    def remove_image(self, digest: str) -> None:
        target = self._image("images", digest)
        doomed = self._image("incoming", digest)
        if target.exists():
            shutil.rmtree(doomed, ignore_errors=True)
            target.rename(doomed)  # gone at once, whatever interrupts the rest
            shutil.rmtree(doomed)

    def _image(self, where: str, digest: str) -> Path:
        if not DIGEST.fullmatch(digest):
            raise ImageError("an image is named by its SHA-256 in hex")
        return self.data / where / digest

    # -- the life of a tenant

    def prepare(self, spec: TenantSpec) -> None:
        check_spec(spec)
        if spec.mode not in (None, self.report.mode):
            raise SandboxError(f"this machine runs tenants only as {self.report.mode.value}")
        if spec.network is not Network.NONE and self.report.network is Network.NONE:
            raise SandboxError(f"tenants have no network here: {self.report.no_network}")
        if not (self._image("images", spec.image) / "rootfs").is_dir():
            raise ImageError(f"the image {spec.image[:12]} is not on this machine")
        tenant = TenantDirectory(self.data / "tenants" / str(spec.order))
        giving = self._giving if spec.devices else contextlib.nullcontext()
        with self._lock(spec.order), giving:
            if tenant.exists():
                if tenant.spec() != spec or tenant.state().phase is not Phase.PREPARED:
                    raise SandboxError(f"order {spec.order} has another tenant already")
                return
            self._ensure_free(spec)
            self._make_directory(tenant)
            try:
                self._engine.prepare(tenant, spec)
                tenant.write_spec(spec)
            except (SandboxError, OSError) as error:
                self._remove(tenant)
                raise SandboxError(str(error)) from error

    def _ensure_free(self, spec: TenantSpec) -> None:
        """Whoever holds a device is written in the tenants' own records, until they have ended."""
        if spec.devices and self.report.mode is not Mode.GVISOR:
            raise SandboxError("devices are given to tenants only where gVisor runs as root")
        wanted = set(spec.devices)
        for other in tenant_directories(self.data / "tenants") if wanted else ():
            if not other.exists() or not wanted.intersection(other.spec().devices):
                continue
            if other.state().phase in (Phase.PREPARED, Phase.RUNNING):
                raise SandboxError(f"a device is still held by order {other.order}")

    def _make_directory(self, tenant: TenantDirectory) -> None:
        if tenant.path.exists():  # a crash came between
            self._remove(tenant)
        tenant.path.mkdir(mode=0o750)
        if os.geteuid() == 0:
            os.chown(tenant.path, -1, self._owner[1])
            tenant.path.chmod(0o2750)  # records inherit the group, and with it the agent's right
        tenant.log.mkdir(mode=0o750)

    def sweep(self) -> None:
        """Remove tenants whose making was cut short: nobody knows of them, so nobody would."""
        for tenant in tenant_directories(self.data / "tenants"):
            if not tenant.exists():
                self.destroy(tenant.order)

    def start(self, order: int) -> None:
        tenant = self._tenant(order)
        with self._lock(order):
            if tenant.state().phase is not Phase.PREPARED:
                raise SandboxError(f"order {order} was started already")
            if tenant.run_plan.exists():  # who started it was killed in the middle of that
                self._undo_start(tenant)
            spec = tenant.spec()
            rootfs = self._image("images", spec.image) / "rootfs"
            try:
                plan = self._engine.run_plan(tenant, spec, rootfs)
                plan.setdefault("env", ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
                tenant.write_record("end.json", {"at": spec.end_at, "reason": "term"})
                tenant.write_record("run.json", plan | {"log_bytes": max(spec.log_bytes, MIN_LOG)})
                self._engine.launch(tenant, spec, lambda: self._start_keeper(tenant))
                self._engine.verify(tenant)
            except (SandboxError, OSError) as error:
                if tenant.state().phase not in (Phase.EXITED, Phase.LOST):  # seen so, it stays so
                    self._undo_start(tenant)
                raise SandboxError(f"order {order} did not start: {error}") from error

    def _start_keeper(self, tenant: TenantDirectory) -> None:
        interpreter = os.path.realpath(sys.executable)
        errors = tenant.path / "keeper.err"
        with errors.open("wb") as stderr, contextlib.ExitStack() as stack:
            held = [stack.enter_context(hold(name)) for name in tenant.spec().devices]
            keeper = subprocess.Popen(
                [interpreter, "-I", "-S", str(KEEPER), str(tenant.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                pass_fds=held,
            )
        with keeper:
            stdout = keeper.stdout
            answer = _read_line(stdout.fileno(), START_SECONDS) if stdout else ""
        if answer != "ready":
            output = (errors.read_text(errors="replace").strip().splitlines() or [""])[-1]
            reason = " ".join((answer.removeprefix("failed "), output, _log_tail(tenant))).strip()
            raise SandboxError(reason or "its keeper died")

    def _undo_start(self, tenant: TenantDirectory) -> None:
        """Back to prepared, at once for whoever looks; the volume stays."""
        tenant.undo_start()
        _kill_keeper(tenant)
        with suppress(SandboxError):
            self._engine.clean(tenant, keep_volume=True)
        tenant.starting_lock.unlink(missing_ok=True)
        (tenant.path / "exit.json").unlink(missing_ok=True)
        tenant.run_plan.unlink(missing_ok=True)

    def set_end(self, order: int, end_at: int, reason: ExitReason) -> None:
        tenant = self._tenant(order)
        tenant.write_record("end.json", {"at": end_at, "reason": reason.value})
        if keeper := tenant.keeper():
            with suppress(ProcessLookupError):
                os.kill(keeper, signal.SIGHUP)  # look again

    def signal(self, order: int, number: int) -> None:
        tenant = self._tenant(order)
        if not 1 <= number <= 64:
            raise SandboxError(f"there is no signal {number}")
        if keeper := tenant.keeper():
            (tenant.path / "signalled").touch()
            self._engine.signal(tenant, keeper, number)

    def exec(
        self,
        order: int,
        argv: Sequence[str],
        env: Sequence[tuple[str, str]],
        cwd: str,
        tty: bool,
        fds: SessionFds,
    ) -> None:
        tenant = self._tenant(order)
        check_words(argv, env)
        if not argv or tenant.keeper() is None:
            raise SandboxError(f"order {order} is not running")
        spec = tenant.spec()
        inner = [TOOL, "run", *(("--tty",) if tty else ()), "--", *argv]
        merged = tuple((dict(spec.env) | dict(env)).items())
        words = environment(replace(spec, env=merged))
        command = self._engine.exec_command(tenant, spec, inner, words, cwd, tty=tty)
        self._spawn(command, fds, tty=tty)

    def collect(self, order: int, arguments: Sequence[str], fds: SessionFds) -> None:
        tenant = self._tenant(order)
        check_words(arguments, ())
        with self._lock(order):
            if tenant.state().phase is Phase.RUNNING:
                raise SandboxError(f"order {order} is running")
            inner = [TOOL, "run", "--", TOOL, "tar-out", *arguments]
            command = self._engine.collect_command(tenant, tenant.spec(), inner)
        self._spawn(command, fds, tty=False)

    def _spawn(self, command: Command, fds: SessionFds, *, tty: bool) -> None:
        """Start a session's client and forget it; its code goes to `fds.status`."""
        # Above every target number first: a descriptor must not be overwritten before it is copied.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in fds.all()]
        try:
            pid = os.posix_spawn(
                self._tool,
                [str(self._tool), "session", *(("--tty",) if tty else ()), "--", *command.argv],
                dict(word.split("=", 1) for word in command.env),
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(high)],
                setsigdef=[signal.SIGPIPE],
            )
        finally:
            for fd in high:
                os.close(fd)
        threading.Thread(target=_reap, args=(pid, command.temporary), daemon=True).start()

    def release(self, order: int) -> None:
        """Of a tenant that has ended: keep its log and files, and give the rest back. Idempotent."""
        tenant = self._tenant(order)
        with self._lock(order):
            if tenant.state().phase is Phase.RUNNING:
                raise SandboxError(f"order {order} is running")
            if (spec := tenant.spec()).devices and tenant.state().phase is Phase.PREPARED:
                tenant.write_spec(replace(spec, devices=()))  # it will never run: they are free
            self._engine.release(tenant)

    def destroy(self, order: int) -> None:
        tenant = TenantDirectory(self.data / "tenants" / str(order))
        with self._lock(order):
            if tenant.path.exists():
                self._remove(tenant)

    def _remove(self, tenant: TenantDirectory) -> None:
        _kill_keeper(tenant)
        self._engine.clean(tenant)
        doomed = tenant.path.with_name(f".{tenant.path.name}")
        if doomed.exists():
            remove_tree(doomed)
        tenant.path.rename(doomed)
        remove_tree(doomed)


class LocalHost:
    """The requests, carried out in this process with the rights it has."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def report(self) -> ModeReport:
        return self._host.report

    async def install_image(self, digest: str) -> None:
        await asyncio.to_thread(self._host.install_image, digest)

    async def remove_image(self, digest: str) -> None:
        await asyncio.to_thread(self._host.remove_image, digest)

    async def prepare(self, spec: TenantSpec) -> None:
        await asyncio.to_thread(self._host.prepare, spec)

    async def start(self, order: int) -> None:
        await asyncio.to_thread(self._host.start, order)

    async def set_end(self, order: int, end_at: int, reason: ExitReason) -> None:
        await asyncio.to_thread(self._host.set_end, order, end_at, reason)

    async def signal(self, order: int, number: int) -> None:
        await asyncio.to_thread(self._host.signal, order, number)

    async def exec(
        self,
        order: int,
        argv: Sequence[str],
        env: Sequence[tuple[str, str]],
        cwd: str,
        tty: bool,
        fds: SessionFds,
    ) -> None:
        await asyncio.to_thread(self._host.exec, order, argv, env, cwd, tty, fds)

    async def collect(self, order: int, arguments: Sequence[str], fds: SessionFds) -> None:
        await asyncio.to_thread(self._host.collect, order, arguments, fds)

    async def release(self, order: int) -> None:
        await asyncio.to_thread(self._host.release, order)

    async def destroy(self, order: int) -> None:
        await asyncio.to_thread(self._host.destroy, order)


# -- checks of what a request says (it may come from an agent that was taken over)


def check_words(argv: Sequence[str], env: Sequence[tuple[str, str]]) -> None:
    """Raises: SandboxError: what no process can be given."""
    if len(argv) > 4096 or len(env) > 1024:
        raise SandboxError("the command or its environment has too many words")
    if any("\0" in word for word in argv) or any("\0" in key + value for key, value in env):
        raise SandboxError("a word of the command holds a zero byte")
    if any(not key or "=" in key for key, _ in env):
        raise SandboxError("a name in the environment is empty or holds '='")
    if sum(len(word.encode()) for word in argv) + sum(len(k) + len(v) for k, v in env) > 1 << 20:
        raise SandboxError("the command and its environment are over 1 MiB")


def check_spec(spec: TenantSpec) -> None:
    """Raises: SandboxError: a limit is missing or senseless."""
    check_words(spec.argv, spec.env)
    if not spec.argv:
        raise SandboxError("neither the order nor its image names a command")
    if not 0 <= spec.order < 1 << 64:
        raise SandboxError("an order's number is not negative")
    if spec.workdir and (not spec.workdir.startswith("/") or "\0" in spec.workdir):
        raise SandboxError("the working directory must be an absolute path")
    check_user(spec.user or User())
    bounds = {
        "cpus": (spec.cpu_milli, 10, 1_024_000),
        "memory": (spec.memory_bytes, 16 << 20, 1 << 44),
        "disk": (spec.disk_bytes, 8 << 20, 1 << 50),
        "pids": (spec.pids, 8, 1 << 20),
        "log": (spec.log_bytes, 64 << 10, 1 << 40),
        "bandwidth": (spec.bandwidth_mbit, 0, 1 << 20),
    }
    devices = set(spec.devices)
    if len(devices) > MAX_DEVICES or len(devices) < len(spec.devices):
        raise SandboxError(f"a tenant has at most {MAX_DEVICES} devices, each once")
    if any(not DEVICE_NAME.fullmatch(name) for name in devices):
        raise SandboxError("a device is named vendor/class=name")
    for name, (value, least, most) in bounds.items():
        if not least <= value <= most:
            raise SandboxError(f"the tenant's {name} is {value}; allowed is {least} to {most}")


def check_user(user: User) -> None:
    """Raises: SandboxError: no process can be this user."""
    if any(not 0 <= number <= MAX_ID for number in (user.uid, user.gid, *user.groups)):
        raise SandboxError("the tenant's user has a number that no user can have")
    if len(user.groups) > MAX_GROUPS or "\0" in user.home:
        raise SandboxError("the tenant's user is malformed")


# -- pieces


def make_empty_rootfs(path: Path) -> None:
    """A root file system of mount points alone: for collectors and canaries."""
    path.mkdir(parents=True, exist_ok=True, mode=0o755)
    for name in MOUNT_DIRECTORIES:
        (path / name).mkdir(exist_ok=True)
    for name in MOUNT_FILES:
        (path / name).touch()


def own_tree(path: Path) -> None:
    """Everything below a directory becomes root's, entered by descriptors that follow no link."""
    for _, directories, files, descriptor in os.fwalk(path, follow_symlinks=False):
        for name in (*directories, *files):
            os.chown(name, 0, 0, dir_fd=descriptor, follow_symlinks=False)


def remove_tree(path: Path) -> None:
    """Like rmtree (which follows no links), for trees whose directories forbid their owner."""

    def unlock(function: object, name: str, error: BaseException) -> None:
        parent = Path(name).parent
        if not isinstance(error, PermissionError) or not stat.S_ISDIR(parent.lstat().st_mode):
            raise error
        parent.chmod(0o700)
        if Path(name).is_dir() and not Path(name).is_symlink():
            Path(name).chmod(0o700)
            shutil.rmtree(name)
        else:
            Path(name).unlink()

    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=unlock)
    else:
        shutil.rmtree(path, onerror=lambda function, name, info: unlock(function, name, info[1]))


def _kill_keeper(tenant: TenantDirectory) -> None:
    deadline = time.monotonic() + 10
    while (keeper := tenant.any_keeper()) is not None:
        kill_all([keeper] if keeper else [])  # 0 would be our own process group
        if time.monotonic() > deadline:
            raise SandboxError(f"the keeper of order {tenant.path.name} cannot be killed")
        time.sleep(0.005)


def _read_line(descriptor: int, seconds: float) -> str:
    """What a pipe says until it closes or a line ends; what has come by the deadline."""
    deadline, found = time.monotonic() + seconds, b""
    while b"\n" not in found and (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            data = os.read(descriptor, 4096)
            if not data:
                break
            found += data
    return found.decode(errors="replace").strip()


def _log_tail(tenant: TenantDirectory) -> str:
    """The end of what was logged, for a start that failed."""
    try:
        last = max(tenant.log.glob("*.log"))
    except ValueError:
        return ""
    return last.read_bytes()[5:][-300:].decode(errors="replace").strip()


def _reap(pid: int, temporary: tuple[Path, ...]) -> None:
    os.waitpid(pid, 0)
    for path in temporary:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

"""A sandbox in memory, for tests and simulations: jobs are Python functions."""

import asyncio
import io
import os
import shutil
import signal
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from deepbrain.sandbox.logs import encode_record
from deepbrain.sandbox.sandbox import (
    MAX_EXECS,
    NOT_RESULTS,
    TERM_GRACE_SECONDS,
    ExecSession,
    ExitReason,
    ImageError,
    ImageInfo,
    Mode,
    ModeReport,
    Network,
    NoSuchTenant,
    Phase,
    SandboxError,
    TenantExit,
    TenantSpec,
    TenantState,
)


@dataclass(slots=True)
class FakeProcess:
    """What a scripted program sees of its process."""

    argv: tuple[str, ...]
    env: dict[str, str]
    volume: Path
    tty: bool
    size: tuple[int, int]
    stdin: "asyncio.Queue[bytes]" = field(default_factory=asyncio.Queue)
    """An empty item is the end of the input."""
    signals: "asyncio.Queue[int]" = field(default_factory=asyncio.Queue)
    emit: Callable[[int, bytes], None] = lambda _stream, _data: None

    def out(self, data: bytes) -> None:
        self.emit(1, data)

    def err(self, data: bytes) -> None:
        self.emit(2, data)


Program = Callable[[FakeProcess], Awaitable[int]]
"""A scripted program: returns its exit code. Raising MemoryError is dying of the memory limit."""


async def _sleep(process: FakeProcess) -> int:
    await asyncio.sleep(float(process.argv[1]) if len(process.argv) > 1 else 0)
    return 0


async def _echo(process: FakeProcess) -> int:
    process.out(" ".join(process.argv[1:]).encode() + b"\n")
    return 0


async def _cat(process: FakeProcess) -> int:
    while data := await process.stdin.get():
        process.out(data)
    return 0


async def _exit(process: FakeProcess) -> int:
    return int(process.argv[1])


PROGRAMS: dict[str, Program] = {"sleep": _sleep, "echo": _echo, "cat": _cat, "exit": _exit}
"""What every fake image holds, besides the programs given to `FakeSandbox`."""


class _FakeSession:
    def __init__(self, process: FakeProcess, program: Program) -> None:
        self._process = process
        self._output: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        process.emit = lambda stream, data: self._output.put_nowait(
            (1 if process.tty else stream, data)
        )
        self._task = asyncio.create_task(self._run(program))

    async def _run(self, program: Program) -> int:
        try:
            return await program(self._process)
        finally:
            self._output.put_nowait(None)

    @property
    def live(self) -> bool:
        return not self._task.done()

    async def read(self) -> tuple[int, bytes] | None:
        item = await self._output.get()
        if item is None:
            self._output.put_nowait(None)
        return item

    async def write(self, data: bytes) -> None:
        if data:
            self._process.stdin.put_nowait(data)

    async def write_eof(self) -> None:
        self._process.stdin.put_nowait(b"")

    async def resize(self, cols: int, rows: int) -> None:
        if self._process.tty:
            self._process.size = (cols, rows)
            self._process.signals.put_nowait(signal.SIGWINCH)

    async def signal(self, number: int) -> None:
        self._process.signals.put_nowait(number)

    async def wait(self) -> int:
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._task.cancelled():
                return 255
            raise

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@dataclass(slots=True)
class _Tenant:
    spec: TenantSpec
    volume: Path
    phase: Phase = Phase.PREPARED
    process: FakeProcess | None = None
    task: "asyncio.Task[None] | None" = None
    exit: TenantExit | None = None
    log: bytearray = field(default_factory=bytearray)
    log_start: int = 0
    started_ms: int = 0
    mark: float = 0.0
    end_at: int | None = None
    end_reason: ExitReason | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    sessions: list[_FakeSession] = field(default_factory=list)

    def seconds_left(self) -> float | None:
        return None if self.end_at is None else self.end_at / 1000 - time.monotonic()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class FakeSandbox:
    """See `sandbox.Sandbox`. Its volumes are real directories, below a temporary one.

    `lose_keeper` is what `kill -9` of a keeper does to the real ones.
    """

    def __init__(
        self,
        programs: dict[str, Program] | None = None,
        *,
        root: Path | None = None,
        mode: Mode = Mode.FAKE,
        network: Network = Network.NONE,
        grace: float = TERM_GRACE_SECONDS,
    ) -> None:
        self._programs = PROGRAMS | (programs or {})
        self._temporary = None if root else tempfile.TemporaryDirectory(prefix="dbc-fake-")
        self._root = root or Path(self._temporary.name if self._temporary else "")
        self._report = ModeReport(mode=mode, kernel="fake", network=network)
        self._grace = grace
        self._images: dict[str, ImageInfo] = {}
        self._tenants: dict[int, _Tenant] = {}

    @property
    def report(self) -> ModeReport:
        return self._report

    async def import_image(
        self,
        archive: Path,
        digest: str,
        name: str = "",
        *,
        limit: int | None = None,
        private: bool = False,
    ) -> ImageInfo:
        data, size = await asyncio.to_thread(_read_image, archive, digest)
        if sha256(data).hexdigest() != digest:
            raise ImageError("the image is not the one that was named: its SHA-256 differs")
        if limit is not None and size > limit:
            raise ImageError(f"the image unpacks to more than {limit >> 20} MiB")
        self._images[digest] = ImageInfo(digest, name, size, disk=size, private=private)
        return self._images[digest]

    async def images(self) -> "list[ImageInfo]":
        return sorted(self._images.values(), key=lambda image: image.digest)

    async def remove_image(self, digest: str) -> None:
        if any(state.spec.image == digest and state.needs_image for state in await self.list()):
            raise SandboxError("the image is in use by a tenant")
        self._images.pop(digest, None)

    async def prepare(self, spec: TenantSpec) -> Path:
        if spec.image not in self._images:
            raise ImageError(f"image {spec.image} is not on this machine")
        if spec.mode not in (None, self._report.mode):
            raise SandboxError(f"this machine runs tenants as {self._report.mode.value}")
        if spec.network not in (Network.NONE, self._report.network):
            raise SandboxError("tenants have no network here")
        known = self._tenants.get(spec.order)
        if known is not None:
            if known.phase is not Phase.PREPARED or known.spec != spec:
                raise SandboxError(f"order {spec.order} has another tenant already")
            return known.volume
        volume = self._root / str(spec.order) / "volume"
        volume.mkdir(parents=True)
        self._tenants[spec.order] = _Tenant(spec, volume, end_at=spec.end_at)
        return volume

    async def start(self, order: int) -> None:
        tenant = self._tenant(order)
        if tenant.phase is not Phase.PREPARED:
            raise SandboxError(f"order {order} was started already")
        spec = tenant.spec
        process = FakeProcess(spec.argv, dict(spec.env), tenant.volume, tty=False, size=(80, 24))
        process.emit = lambda stream, data: self._log(tenant, stream, data)
        tenant.process, tenant.phase = process, Phase.RUNNING
        tenant.started_ms, tenant.mark = _now_ms(), time.time()
        tenant.task = asyncio.create_task(self._run(tenant, process))

    def _log(self, tenant: _Tenant, stream: int, data: bytes) -> None:
        tenant.log += encode_record(stream, data)
        surplus = len(tenant.log) - tenant.spec.log_bytes
        if surplus > 0:
            del tenant.log[:surplus]
            tenant.log_start += surplus

    async def _run(self, tenant: _Tenant, process: FakeProcess) -> None:
        program = self._programs.get(process.argv[0]) if process.argv else None
        if program is None:
            process.err(b"dbc: command not found\n")
            self._end(tenant, 127, ExitReason.ERROR)
            return
        job = asyncio.ensure_future(program(process))
        enforcement = asyncio.create_task(self._enforce(tenant, process, job))
        try:
            code = await job
            reason = tenant.end_reason or ExitReason.EXITED
        except MemoryError:
            code, reason = 137, ExitReason.MEMORY
        except asyncio.CancelledError:
            code, reason = 137, tenant.end_reason or ExitReason.KILLED
        finally:
            enforcement.cancel()
        for session in tenant.sessions:
            await session.close()
        self._end(tenant, code, reason)

    async def _enforce(
        self, tenant: _Tenant, process: FakeProcess, job: "asyncio.Future[int]"
    ) -> None:
        while (left := tenant.seconds_left()) is None or left > 0:
            tenant.moved.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(tenant.moved.wait(), left)
        tenant.end_reason = tenant.end_reason or ExitReason.TERM
        process.signals.put_nowait(signal.SIGTERM)
        await asyncio.sleep(self._grace)
        job.cancel()

    def _end(self, tenant: _Tenant, code: int, reason: ExitReason) -> None:
        tenant.exit = TenantExit(code, reason, tenant.started_ms, _now_ms())
        tenant.phase = Phase.EXITED
        tenant.ended.set()

    async def state(self, order: int) -> TenantState:
        tenant = self._tenant(order)
        log_end = tenant.log_start + len(tenant.log)
        return TenantState(order, tenant.phase, tenant.spec, tenant.exit, tenant.log_start, log_end)

    async def list(self) -> "list[TenantState]":
        return [await self.state(order) for order in sorted(self._tenants)]

    async def wait(self, order: int) -> TenantState:
        await self._tenant(order).ended.wait()
        return await self.state(order)

    async def set_end(self, order: int, end_at: int) -> None:
        tenant = self._tenant(order)
        tenant.end_at = end_at
        tenant.spec = replace(tenant.spec, end_at=end_at)
        tenant.moved.set()

    async def stop(self, order: int) -> None:
        tenant = self._tenant(order)
        if tenant.phase is Phase.RUNNING and tenant.end_reason is None:
            tenant.end_reason = ExitReason.KILLED
            tenant.end_at = 0
            tenant.moved.set()

    async def signal(self, order: int, number: int) -> None:
        tenant = self._tenant(order)
        if tenant.process is None or tenant.phase is not Phase.RUNNING:
            return
        tenant.end_reason = ExitReason.KILLED
        tenant.process.signals.put_nowait(number)
        if number == signal.SIGKILL and tenant.task is not None:
            await self._cut(tenant)
            self._end(tenant, 137, ExitReason.KILLED)

    async def _cut(self, tenant: _Tenant) -> None:
        if tenant.task is not None:
            tenant.task.cancel()
            with suppress(asyncio.CancelledError):
                await tenant.task
        for session in tenant.sessions:
            await session.close()

    async def exec(
        self,
        order: int,
        argv: Sequence[str],
        *,
        env: Sequence[tuple[str, str]] = (),
        cwd: str = "",
        tty: bool = False,
        cols: int = 80,
        rows: int = 24,
    ) -> ExecSession:
        tenant = self._tenant(order)
        if tenant.phase is not Phase.RUNNING:
            raise SandboxError(f"order {order} is not running")
        tenant.sessions = [session for session in tenant.sessions if session.live]
        if len(tenant.sessions) >= MAX_EXECS:
            raise SandboxError(f"order {order} has {MAX_EXECS} sessions already")
        process = FakeProcess(tuple(argv), dict(env), tenant.volume, tty, (cols, rows))
        session = _FakeSession(process, self._programs.get(argv[0], _missing))
        tenant.sessions.append(session)
        return session

    async def logs(
        self, order: int, offset: int = 0, *, follow: bool = False
    ) -> AsyncIterator[bytes]:
        tenant = self._tenant(order)
        while True:
            ended = tenant.ended.is_set()
            offset = max(offset, tenant.log_start)
            if data := bytes(tenant.log[offset - tenant.log_start :]):
                offset += len(data)
                yield data
            elif ended or not follow:
                return
            else:
                await asyncio.sleep(0.01)

    async def export(
        self, order: int, paths: Sequence[str] = (), *, changed_only: bool = False
    ) -> AsyncIterator[bytes]:
        tenant = self._tenant(order)
        found = [name for path in paths or (".",) for name in _named(tenant.volume, path)]
        if not found:
            raise SandboxError(f"the files were not copied out: there is no {', '.join(paths)}")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in found:
                _pack(tar, tenant.volume, name, tenant.mark if changed_only else None)
        yield archive.getvalue()

    async def import_(self, order: int, chunks: AsyncIterator[bytes], dest: str = ".") -> None:
        tenant = self._tenant(order)
        data = b"".join([chunk async for chunk in chunks])
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                tar.extractall(tenant.volume / dest, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise SandboxError(f"the files could not be copied in: {error}") from error

    async def release(self, order: int) -> None:
        if self._tenant(order).phase is Phase.RUNNING:
            raise SandboxError(f"order {order} is running")

    async def destroy(self, order: int) -> None:
        tenant = self._tenants.pop(order, None)
        if tenant is not None:
            await self._cut(tenant)
            tenant.ended.set()
            await asyncio.to_thread(shutil.rmtree, tenant.volume.parent, ignore_errors=True)

    async def close(self) -> None:
        for tenant in self._tenants.values():
            await self._cut(tenant)
        if self._temporary is not None:
            self._temporary.cleanup()

    async def lose_keeper(self, order: int) -> None:
        """The job and its keeper vanish without a record."""
        tenant = self._tenant(order)
        await self._cut(tenant)
        tenant.exit, tenant.phase = None, Phase.LOST
        tenant.ended.set()

    def _tenant(self, order: int) -> _Tenant:
        tenant = self._tenants.get(order)
        if tenant is None:
            raise NoSuchTenant(f"order {order} has no tenant on this machine")
        return tenant


def _read_image(archive: Path, digest: str) -> tuple[bytes, int]:
    """What the digest is of, and the size of all."""
    if archive.is_dir():
        size = sum(file.stat().st_size for file in archive.iterdir())
        return (archive / digest).read_bytes(), size
    data = archive.read_bytes()
    return data, len(data)


async def _missing(process: FakeProcess) -> int:
    process.err(b"dbc: command not found\n")
    return 127


def _named(volume: Path, path: str) -> list[str]:
    """What a path stands for: itself where it exists, else the names it matches as a pattern."""
    if (volume / path).exists():
        return [path]
    return [str(match.relative_to(volume)) for match in sorted(volume.glob(path))]


def _pack(tar: tarfile.TarFile, volume: Path, path: str, newer: float | None) -> None:
    start = volume / path
    for found in [start, *sorted(start.rglob("*"))] if start.is_dir() else [start]:
        name = os.path.relpath(found, volume)
        if found.is_symlink() or name == "." or not found.exists():
            continue
        if newer is not None and path == "." and Path(name).parts[0] in NOT_RESULTS:
            continue
        changed = newer is None or found.stat().st_ctime > newer
        if (newer is None and found.is_dir()) or (changed and found.is_file()):
            tar.add(found, name, recursive=False)

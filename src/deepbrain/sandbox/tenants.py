"""The sandbox an agent uses: records read from disk, everything with rights asked of the host."""

import asyncio
import json
import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from deepbrain.sandbox.directory import TenantDirectory, tenant_directories, user_from_json
from deepbrain.sandbox.host import DIGEST, HostRequests, SessionFds
from deepbrain.sandbox.images import MAX_UNPACKED
from deepbrain.sandbox.logs import read_log
from deepbrain.sandbox.sandbox import (
    MAX_EXECS,
    TOOL,
    WORKSPACE,
    ExecSession,
    ExitReason,
    ImageError,
    ImageInfo,
    Mode,
    ModeReport,
    Phase,
    SandboxError,
    TenantSpec,
    TenantState,
    User,
)
from deepbrain.sandbox.session import PipeSession, open_session, to_its_end

POLL_SECONDS: Final = 0.02
MAX_POLL_SECONDS: Final = 0.1
MAX_ERROR: Final = 4096


class LocalSandbox:
    """See `sandbox.Sandbox`. Made by `open.open_sandbox`."""

    def __init__(
        self, data: Path, host: HostRequests, report: ModeReport, unpack_uid: int = 0
    ) -> None:
        self._data = data
        self._host = host
        self._report = report
        self._unpack_uid = unpack_uid
        self._importing: dict[str, asyncio.Lock] = {}
        self._execs: dict[int, int] = {}

    @property
    def report(self) -> ModeReport:
        return self._report

    # -- images

    async def import_image(
        self,
        archive: Path,
        digest: str,
        name: str = "",
        *,
        limit: int | None = None,
        private: bool = False,
    ) -> ImageInfo:
        if not DIGEST.fullmatch(digest):
            raise ImageError("an image is named by its SHA-256 in hex")
        lock = self._importing.setdefault(digest, asyncio.Lock())
        async with lock:
            known = self._image(digest)
            if known is None:
                await self._unpack(archive, ImageInfo(digest, name, 0, private=private), limit)
                await self._host.install_image(digest)
                known = self._image(digest)
        if known is None:
            raise ImageError("the image vanished while it was unpacked")
        return known

    async def _unpack(self, archive: Path, info: ImageInfo, limit: int | None) -> None:
        incoming = self._data / "incoming" / info.digest
        await asyncio.to_thread(shutil.rmtree, incoming, ignore_errors=True)
        (incoming / "rootfs").mkdir(parents=True)
        if self._unpack_uid:
            await asyncio.to_thread(_hand_over, self._unpack_uid, incoming / "rootfs", archive)
        try:
            source = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
            try:
                config = await _unpack_process(
                    source, info.digest, incoming / "rootfs", self._unpack_uid, limit
                )
            finally:
                os.close(source)
            found = asdict(replace(info, size=_size_of(archive))) | config
            (incoming / "image.json").write_text(json.dumps(found))
        except BaseException as error:  # also where nobody wants it any more
            await asyncio.to_thread(shutil.rmtree, incoming, ignore_errors=True)
            if isinstance(error, OSError):
                raise ImageError(f"the image cannot be read: {error.strerror}") from error
            raise

    def _image(self, digest: str) -> ImageInfo | None:
        try:
            found = json.loads((self._data / "images" / digest / "image.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        return image_from_json(found)

    async def images(self) -> "list[ImageInfo]":
        paths = sorted((self._data / "images").iterdir())
        return [info for path in paths if (info := self._image(path.name)) is not None]

    async def remove_image(self, digest: str) -> None:
        if any(state.spec.image == digest and state.needs_image for state in await self.list()):
            raise SandboxError("the image is in use by a tenant")
        await self._host.remove_image(digest)

    # -- life

    def _tenant(self, order: int) -> TenantDirectory:
        return TenantDirectory(self._data / "tenants" / str(order))

    async def prepare(self, spec: TenantSpec) -> Path:
        image = self._image(spec.image)
        if image is None:
            raise ImageError(f"the image {spec.image[:12]} is not on this machine")
        env = dict(image.env) | dict(spec.env)
        own_place = "" if spec.argv else image.workdir
        whole = replace(
            spec,
            argv=spec.argv or image.argv,
            env=tuple(env.items()),
            workdir=spec.workdir or own_place or WORKSPACE,
            user=spec.user or user_in(spec.mode or self._report.mode, image.user),
            mode=spec.mode or self._report.mode,
        )
        await self._host.prepare(whole)
        return self._tenant(spec.order).volume

    async def start(self, order: int) -> None:
        await self._host.start(order)

    async def state(self, order: int) -> TenantState:
        return self._tenant(order).state()

    async def list(self) -> "list[TenantState]":
        tenants = tenant_directories(self._data / "tenants")
        return [tenant.state() for tenant in tenants if tenant.exists()]

    async def wait(self, order: int) -> TenantState:
        pause = POLL_SECONDS
        while (state := await self.state(order)).phase in (Phase.PREPARED, Phase.RUNNING):
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, MAX_POLL_SECONDS)
        return state

    async def set_end(self, order: int, end_at: int) -> None:
        await self._host.set_end(order, end_at, ExitReason.TERM)

    async def stop(self, order: int) -> None:
        if (await self.state(order)).phase is Phase.RUNNING:
            await self._host.set_end(order, 0, ExitReason.KILLED)

    async def signal(self, order: int, number: int) -> None:
        await self._host.signal(order, number)

    async def release(self, order: int) -> None:
        await self._host.release(order)

    async def destroy(self, order: int) -> None:
        await self._host.destroy(order)

    # -- sessions

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
        if self._execs.get(order, 0) >= MAX_EXECS:
            raise SandboxError(f"order {order} has {MAX_EXECS} sessions already")
        session, fds = self._open(order, tty=tty, cols=cols, rows=rows)
        return await self._hand_over(session, fds, self._host.exec(order, argv, env, cwd, tty, fds))

    def _open(
        self, order: int, *, tty: bool = False, cols: int = 80, rows: int = 24
    ) -> tuple[PipeSession, SessionFds]:
        self._execs[order] = self._execs.get(order, 0) + 1

        def ended() -> None:
            self._execs[order] -= 1
            if not self._execs[order]:
                del self._execs[order]

        return open_session(tty=tty, cols=cols, rows=rows, on_end=ended)

    async def _hand_over(
        self, session: PipeSession, fds: SessionFds, request: Awaitable[None]
    ) -> PipeSession:
        handing = asyncio.ensure_future(request)
        try:
            await asyncio.shield(handing)
        except BaseException:
            await to_its_end(_give_up(handing, fds, session))
            raise
        _close(fds.all())
        return session

    # -- files

    async def logs(
        self, order: int, offset: int = 0, *, follow: bool = False
    ) -> AsyncIterator[bytes]:
        tenant = self._tenant(order)
        pause = POLL_SECONDS
        running = tenant.state().phase in (Phase.PREPARED, Phase.RUNNING)
        while True:
            at, data = await asyncio.to_thread(read_log, tenant.log, offset)
            if data:
                offset, pause = at + len(data), POLL_SECONDS
                yield data
            elif not (follow and running):
                return
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 1.2, MAX_POLL_SECONDS)
                running = tenant.exists() and tenant.state().phase in (
                    Phase.PREPARED,
                    Phase.RUNNING,
                )
                continue

    async def export(
        self, order: int, paths: Sequence[str] = (), *, changed_only: bool = False
    ) -> AsyncIterator[bytes]:
        tenant = self._tenant(order)
        phase = tenant.state().phase
        arguments: list[str] = []
        if changed_only and phase is not Phase.PREPARED:
            arguments += ["--newer", str(tenant.mark_ns())]
        arguments += ["--", *(paths or (".",))]
        session, fds = self._open(order)
        if phase is Phase.RUNNING:
            argv = (TOOL, "tar-out", *arguments)
            request = self._host.exec(order, argv, (), "", False, fds)
        else:
            request = self._host.collect(order, arguments, fds)
        await self._hand_over(session, fds, request)
        async for chunk in _output(session, "copied out"):
            yield chunk

    async def import_(self, order: int, chunks: AsyncIterator[bytes], dest: str = ".") -> None:
        session = await self.exec(order, (TOOL, "tar-in", dest))
        errors = asyncio.create_task(_collect_errors(session))
        try:
            async for chunk in chunks:
                await session.write(chunk)
            await session.write_eof()
            if await session.wait():
                raise SandboxError(f"the files were not copied in: {await errors}")
        finally:
            errors.cancel()
            await session.close()

    async def close(self) -> None:
        """Nothing is held: tenants, keepers and sessions belong to the disk and to their callers."""


async def _give_up(handing: "asyncio.Future[None]", fds: SessionFds, session: PipeSession) -> None:
    # Cancelled or not, the host is still at it: it must not find other files by these numbers.
    await asyncio.gather(handing, return_exceptions=True)
    _close(fds.all())
    await session.close()


async def _output(session: ExecSession, doing: str) -> AsyncIterator[bytes]:
    """A session's standard output; raises with its standard error when it fails."""
    errors = b""
    try:
        while (item := await session.read()) is not None:
            stream, data = item
            if stream == 1:
                yield data
            else:
                errors = (errors + data)[:MAX_ERROR]
        if await session.wait():
            raise SandboxError(f"the files were not {doing}: {_sentence(errors)}")
    finally:
        await session.close()


async def _collect_errors(session: ExecSession) -> str:
    errors = b""
    while (item := await session.read()) is not None:
        errors = (errors + item[1])[:MAX_ERROR]
    return _sentence(errors)


def _sentence(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("dbc: ") if lines else "the sandbox ended"


def user_in(mode: Mode, user: User) -> User:
    """As whom a job of an image runs. Where the host has one user for all of a tenant's files, only root
    inside can write them; processes have a user of the host's.
    """
    match mode:
        case Mode.GVISOR_OWN:
            return User(home=user.home)
        case Mode.PROCESS:
            return User()
    return user


def image_from_json(found: dict[str, Any]) -> ImageInfo:
    """What `image.json` says; older ones say less."""
    return ImageInfo(
        **{
            **found,
            "env": tuple((key, value) for key, value in found["env"]),
            "argv": tuple(found["argv"]),
            "user": user_from_json(found.get("user", {})),
            "disk": found.get("disk", found["size"]),
        }
    )


def _hand_over(uid: int, rootfs: Path, archive: Path) -> None:
    """What the unpacking user fills, and the blobs it reads; a whole archive is opened for it."""
    blobs = (archive, *archive.iterdir()) if archive.is_dir() else ()
    for path in (rootfs, *blobs):
        os.chown(path, uid, uid, follow_symlinks=False)


def _size_of(archive: Path) -> int:
    files = archive.iterdir() if archive.is_dir() else (archive,)
    return sum(file.stat().st_size for file in files)


async def _unpack_process(
    archive: int, digest: str, rootfs: Path, uid: int, limit: int | None
) -> dict[str, Any]:
    bound = MAX_UNPACKED if limit is None else limit
    arguments = ["-m", "deepbrain.sandbox.unpack", digest, str(rootfs), str(uid), str(bound)]
    is_directory = stat.S_ISDIR(os.fstat(archive).st_mode)
    if is_directory:  # which no Python would have as its standard input
        arguments.append(str(archive))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL if is_directory else archive,
        pass_fds=(archive,) if is_directory else (),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        known = process.returncode == 1 and len(lines) == 1
        raise ImageError(lines[0] if known else "the image could not be unpacked; it is malformed")
    found: dict[str, Any] = json.loads(output)
    return found


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)

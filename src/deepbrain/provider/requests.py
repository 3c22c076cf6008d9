"""Answer what the renter of an order asks, one stream at a time.

Every answer is bounded by the stream it goes to; whatever was started for a stream ends with it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from deepbrain.net.errors import MalformedMessage, NetError, RefusalCode, Refused, StreamReset
from deepbrain.net.frames import reply_bytes
from deepbrain.net.messages import (
    PROTOCOL_VERSION,
    CopyIn,
    CopyOut,
    Done,
    Exec,
    Have,
    Logs,
    LogsFrom,
    Manifest,
    OrderStatus,
    PutBlob,
    PutCredentials,
    PutManifest,
    Request,
    Scope,
    Stage,
    State,
    Status,
    Stop,
    Wanted,
)
from deepbrain.net.records import (
    EOF,
    EXIT,
    MAX_RECORD,
    RESIZE,
    SIGNAL,
    SIZE,
    STDIN,
    read_record,
    record,
)
from deepbrain.net.stream import Stream
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.units import U64
from deepbrain.provider.act import tenant_spec, volume_bytes
from deepbrain.provider.actual import has_image, has_workspace, images_of
from deepbrain.provider.admission import Visit
from deepbrain.provider.book import Book
from deepbrain.provider.identity import Capacity
from deepbrain.provider.metrics import Tally
from deepbrain.provider.record import OrderFiles, Records
from deepbrain.provider.upload import Uploads
from deepbrain.sandbox.reference import Credentials, Reference
from deepbrain.sandbox.sandbox import (
    ExecSession,
    ImageError,
    Network,
    NoSuchTenant,
    Sandbox,
    SandboxError,
    TenantState,
)

log = logging.getLogger(__name__)

EXECS_PER_ORDER: Final = 16
FIRST_BYTES: Final = 64 << 10
"""Of an export, read before it is answered."""
LAST_WORDS_SECONDS: Final = 2.0
"""How long an upload may go on once its order needs no more files."""
PROGRESS_SECONDS: Final = 0.2
"""The least time between two published steps of an upload."""

LAST_SIGNAL: Final = 31
"""The real-time signals above it mean nothing to anybody but their sender."""

_STARTED: Final = (Stage.RUNNING, Stage.EXITED)

_UPLOADING: Final = (Stage.AWAITING_MANIFEST, Stage.UPLOADING)

_SCOPES: Final[dict[type[Request], Scope]] = {
    Status: Scope.OBSERVE,
    Logs: Scope.OBSERVE,
    PutManifest: Scope.DEPLOY,
    PutBlob: Scope.DEPLOY,
    PutCredentials: Scope.DEPLOY,
    Stop: Scope.DEPLOY,
    Exec: Scope.SHELL,
    CopyOut: Scope.FILES,
    CopyIn: Scope.FILES,
}


@dataclass(frozen=True, slots=True)
class Service:
    book: Book
    records: Records
    sandbox: Sandbox
    capacity: Capacity
    image_bytes: int
    """The largest image tar that is taken."""
    credentials: dict[int, Credentials] = field(default_factory=dict, repr=False)
    """Who pulls an order's image."""
    uploads: Uploads = field(default_factory=Uploads)
    execs: dict[int, int] = field(default_factory=dict)
    """Live commands and copies per order."""
    tally: Tally = field(default_factory=Tally)

    async def serve(self, visit: Visit, request: Request, stream: Stream) -> None:
        """Raises: Refused; SandboxError; NetError."""
        scope = _SCOPES.get(type(request))
        if scope is None:
            raise MalformedMessage("this is asked at the start of a visit only")
        if not int(visit.proof.scopes) & int(scope.value):
            raise Refused(RefusalCode.DENIED, "the access proof does not allow this")
        order = visit.order
        match request:
            case PutManifest(manifest=encoded):
                await self._put_manifest(order, encoded, stream)
            case PutCredentials():
                await self._put_credentials(order, request, stream)
            case PutBlob():
                await self._put_blob(order, request, stream)
            case Status(follow=follow):
                await _while_wanted(stream, self._status(order, follow, stream))
            case Logs(offset=offset, follow=follow):
                await _while_wanted(stream, self._logs(order, int(offset), follow, stream))
            case Exec():
                await self._exec(order, request, stream)
            case CopyOut():
                await _while_wanted(stream, self._copy_out(order, request, stream))
            case CopyIn(dest=dest):
                await self._copy_in(order, dest, stream)
            case _:
                await self.sandbox.stop(order)
                await stream.write(reply_bytes(Done()))

    async def _put_manifest(self, order: int, encoded: bytes, stream: Stream) -> None:
        renting = self.book.renting(order)
        if renting is None or blake2_256(encoded) != renting.manifest_hash:
            raise Refused(RefusalCode.MISMATCH, "the manifest is not the one the order names")
        manifest = self._checked_manifest(encoded)
        files = await self._adopted(order)
        self._ensure_fits(files, manifest)
        if files.manifest() != manifest:
            files.save_manifest(encoded)
            self.book.hint()
        await stream.write(reply_bytes(await self._wanted(files, manifest)))

    def _checked_manifest(self, encoded: bytes) -> Manifest:
        try:
            manifest = Manifest.decode(encoded)
        except DecodeError as error:
            raise Refused(RefusalCode.MALFORMED, f"the manifest is malformed: {error}") from error
        if manifest.version != PROTOCOL_VERSION:
            raise Refused(
                RefusalCode.MALFORMED,
                f"this machine reads manifests of version {PROTOCOL_VERSION} only",
            )
        if manifest.pull:
            try:
                Reference.parse_source(manifest.pull)
            except ImageError as error:
                raise Refused(RefusalCode.MALFORMED, str(error)) from error
        return manifest

    def _ensure_fits(self, files: OrderFiles, manifest: Manifest) -> None:
        spec = tenant_spec(files.record(), manifest, self.capacity)
        if spec.network not in (Network.NONE, self.sandbox.report.network):
            raise Refused(
                RefusalCode.MISMATCH, "jobs have no network on this machine; ask for --network none"
            )
        limit = volume_bytes(spec)
        if manifest.workspace is not None and manifest.workspace.size > limit:
            raise Refused(
                RefusalCode.LIMIT,
                f"the workspace is larger than the {limit >> 20} MiB of disk of this order",
            )

    async def _wanted(self, files: OrderFiles, manifest: Manifest) -> Wanted:
        record, images = files.record(), await images_of(self.sandbox)
        return Wanted(
            image=not manifest.pull and not has_image(files, manifest, record, images),
            workspace=not has_workspace(files, manifest, record),
        )

    async def _adopted(self, order: int) -> OrderFiles:
        """The order's files, once the agent has made them. Raises: Refused: it does not."""
        files = self.records.files(order)
        try:
            async with asyncio.timeout(5):
                while not (files.path / "order.json").exists():
                    await self.book.wait_change()
        except TimeoutError:
            raise Refused(
                RefusalCode.NOT_NOW, f"order {order} is not (or no longer) served on this machine"
            ) from None
        return files

    async def _put_credentials(self, order: int, given: PutCredentials, stream: Stream) -> None:
        if self.book.renting(order) is None:
            raise Refused(RefusalCode.UNKNOWN_ORDER, f"order {order} is not on this machine")
        files = await self._adopted(order)
        record = files.record()
        if not record.pulled and not record.failure:
            self.credentials[order] = Credentials(given.username, given.secret)
            files.save(replace(record, needs_credentials=True))
            self.book.hint()
        await stream.write(reply_bytes(Done()))

    async def _put_blob(self, order: int, request: PutBlob, stream: Stream) -> None:
        files = self.records.files(order)
        manifest = files.manifest()
        if manifest is None:
            raise Refused(RefusalCode.NOT_NOW, "the manifest comes before the files")
        self._ensure_named(manifest, request)
        wanted = await self._wanted(files, manifest)
        is_image = request.sha256 == manifest.image
        if not (wanted.image if is_image else wanted.workspace):
            await stream.write(reply_bytes(Have(offset=request.size)) + reply_bytes(Done()))
            return
        size = int(request.size)
        progress = _Progress(self.book, order)
        receiving = self.uploads.receive(files, request.sha256, size, stream, progress.note)
        await self._while_wanted_here(order, receiving)
        self.book.hint()

    async def _while_wanted_here(self, order: int, receiving: Coroutine[Any, Any, None]) -> None:
        """An upload ends with its order: what it writes to is removed then, and would hold the disk.

        Raises: Refused: the order has ended, or needs no more files; what `receiving` raises.
        """
        upload = asyncio.create_task(receiving)
        over = asyncio.create_task(self._until_past_upload(order))
        try:
            await asyncio.wait((upload, over), return_when=asyncio.FIRST_COMPLETED)
            if not upload.done():
                # Where the last file has just arrived, its upload is about to say so.
                await asyncio.wait((upload,), timeout=LAST_WORDS_SECONDS)
            if not upload.done():
                raise Refused(RefusalCode.NOT_NOW, f"order {order} takes no more files")
            await upload
        finally:
            for task in (upload, over):
                task.cancel()
            await asyncio.wait((upload, over))

    async def _until_past_upload(self, order: int) -> None:
        async for status in self.book.follow(order):
            if status.stage not in _UPLOADING:
                return

    def _ensure_named(self, manifest: Manifest, request: PutBlob) -> None:
        workspace = manifest.workspace
        if request.sha256 == manifest.image and not manifest.pull:
            if request.size > self.image_bytes:
                raise Refused(
                    RefusalCode.LIMIT,
                    f"images above {self.image_bytes >> 20} MiB are not taken here",
                )
        elif workspace is None or (request.sha256, request.size) != (
            workspace.sha256,
            workspace.size,
        ):
            raise Refused(RefusalCode.MISMATCH, "the manifest names no such file")

    async def _status(self, order: int, follow: bool, stream: Stream) -> None:
        status = None
        async for status in self.book.follow(order):
            fresh = await self._with_log(status)
            await stream.write(reply_bytes(State(status=fresh)))
            if not follow:
                return
        if status is None:
            raise Refused(
                RefusalCode.UNKNOWN_ORDER, f"nothing of order {order} is on this machine any more"
            )

    async def _with_log(self, status: OrderStatus) -> OrderStatus:
        """Log offsets move all the time, so they are read when somebody asks."""
        if status.stage not in _STARTED:
            return status
        try:
            state = await self.sandbox.state(int(status.order))
        except NoSuchTenant:
            return status
        return status.but(log_start=U64(state.log_start), log_end=U64(state.log_end))

    async def _logs(self, order: int, offset: int, follow: bool, stream: Stream) -> None:
        state = await self._started(order, follow)
        start = max(offset, state.log_start)
        await stream.write(reply_bytes(LogsFrom(offset=U64(start))))
        chunks = self.sandbox.logs(order, start, follow=follow)
        async with _closing(chunks):
            await _pour(chunks, stream)

    async def _started(self, order: int, wait: bool) -> TenantState:
        """The tenant, once it has run. Raises: Refused: it has not, and will not or need not yet."""
        async for status in self.book.follow(order):
            if status.stage in _STARTED:
                return await self.sandbox.state(order)
            if status.stage is Stage.FAILED:
                raise Refused(RefusalCode.NOT_NOW, status.detail or "the job never ran")
            if not wait:
                break
        raise Refused(RefusalCode.NOT_NOW, f"order {order} has not started; there is no output")

    async def _exec(self, order: int, request: Exec, stream: Stream) -> None:
        if not request.argv:
            raise Refused(RefusalCode.MALFORMED, "name a command to run")
        self.tally.sessions += 1
        with self._place_for_command(order):
            session = await self.sandbox.exec(
                order,
                request.argv,
                env=request.env,
                cwd=request.cwd,
                tty=request.tty,
                cols=int(request.cols),
                rows=int(request.rows),
            )
            try:
                await stream.write(reply_bytes(Done()))
                await _converse(session, stream)
            finally:
                await session.close()

    @contextmanager
    def _place_for_command(self, order: int) -> Iterator[None]:
        """Copies are commands too: each is a process on this machine. Raises: Refused: too many."""
        if self.execs.get(order, 0) >= EXECS_PER_ORDER:
            raise Refused(
                RefusalCode.LIMIT,
                f"order {order} has {EXECS_PER_ORDER} commands and copies running; end one",
            )
        self.execs[order] = self.execs.get(order, 0) + 1
        try:
            yield
        finally:
            self.execs[order] -= 1
            if not self.execs[order]:
                del self.execs[order]

    async def _copy_out(self, order: int, request: CopyOut, stream: Stream) -> None:
        paths, changed_only = request.paths, request.changed_only
        if not paths:
            manifest = self.records.files(order).manifest()
            paths = () if manifest is None else manifest.out
            changed_only = changed_only or not paths
        await self._started(order, wait=False)
        with self._place_for_command(order):
            chunks = self.sandbox.export(order, paths, changed_only=changed_only)
            async with _closing(chunks):
                first = await _first_of(chunks)
                await stream.write(reply_bytes(Done()) + first)
                await _pour(chunks, stream)

    async def _copy_in(self, order: int, dest: str, stream: Stream) -> None:
        await self.sandbox.state(order)
        with self._place_for_command(order):
            await stream.write(reply_bytes(Done()))
            await self.sandbox.import_(order, _chunks(stream), dest)
        await stream.write(reply_bytes(Done()))


class _Progress:
    """Publishes an upload's progress a few times a second."""

    def __init__(self, book: Book, order: int) -> None:
        self._book = book
        self._order = order
        self._shown_at = 0.0

    def note(self, done: int, total: int) -> None:
        now = time.monotonic()
        status = self._book.status(self._order)
        if status is None or (now - self._shown_at < PROGRESS_SECONDS and done < total):
            return
        self._shown_at = now
        self._book.publish(status.but(done=U64(done), total=U64(total)))


async def _first_of(chunks: AsyncIterator[bytes]) -> bytes:
    """The first part of an export, all of a small one: what fails here can still be told in words.

    Raises: SandboxError.
    """
    first = bytearray()
    async for chunk in chunks:
        first += chunk
        if len(first) >= FIRST_BYTES:
            break
    return bytes(first)


@asynccontextmanager
async def _closing(chunks: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """End what makes the chunks together with the block, and not when it is collected."""
    try:
        yield
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


async def _pour(chunks: AsyncIterator[bytes], stream: Stream) -> None:
    """Raises: StreamReset: it failed on the way, and must not look complete; NetError."""
    try:
        async for chunk in chunks:
            await stream.write(chunk)
    except SandboxError as error:
        log.warning("a stream was cut short: %s", error)
        raise StreamReset(str(error)) from error


async def _chunks(stream: Stream) -> AsyncIterator[bytes]:
    while chunk := await stream.read_some():
        yield chunk


async def _while_wanted(stream: Stream, answer: Coroutine[Any, Any, None]) -> None:
    """Answer until it is done, or until the renter ends its side: nobody listens any more."""
    answering = asyncio.create_task(answer)
    watching = asyncio.create_task(_until_gone(stream))
    try:
        await asyncio.wait((answering, watching), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            await answering
    finally:
        for task in (answering, watching):
            task.cancel()
        await asyncio.wait((answering, watching))


async def _until_gone(stream: Stream) -> None:
    try:
        await stream.read_some()
    except NetError:
        return


async def _converse(session: ExecSession, stream: Stream) -> None:
    """Carry input and output of a command until it ends, or its renter goes away.

    Raises: NetError: the renter is gone; the caller kills the command.
    """
    feeding = asyncio.create_task(_feed(session, stream))
    showing = asyncio.create_task(_show(session, stream))
    try:
        await asyncio.wait((feeding, showing), return_when=asyncio.FIRST_COMPLETED)
        if not showing.done():
            await feeding  # raises if the renter went away or broke the rules
        await showing
    finally:
        for task in (feeding, showing):
            task.cancel()
        await asyncio.wait((feeding, showing))


async def _feed(session: ExecSession, stream: Stream) -> None:
    while (entry := await read_record(stream)) is not None:
        kind, payload = entry
        if kind == STDIN:
            await session.write(payload)
        elif kind == EOF:
            await session.write_eof()
        elif kind == RESIZE and len(payload) == SIZE.size:
            await session.resize(*SIZE.unpack(payload))
        elif kind == SIGNAL and len(payload) == 1 and 1 <= payload[0] <= LAST_SIGNAL:
            await session.signal(payload[0])
        else:
            raise MalformedMessage("only input, its end, resizes and signals go to a command")
    await session.write_eof()


async def _show(session: ExecSession, stream: Stream) -> None:
    while (output := await session.read()) is not None:
        kind, data = output
        for start in range(0, len(data), MAX_RECORD):
            await stream.write(record(kind, data[start : start + MAX_RECORD]))
    code = await session.wait()
    await stream.write(record(EXIT, bytes((code & 0xFF,))))
    await stream.finish()

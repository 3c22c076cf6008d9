"""The renter's side: one authenticated connection to the machine that runs an order.

    async with await Session.open(endpoint, addresses, grant, keypair) as session:
        wanted = await session.put_manifest(manifest)
        if wanted.workspace:
            await session.put_blob(tar, manifest.workspace.sha256, on_progress=bar.update)
        async for status in session.watch():
            ...
        async for piece in session.logs(offset, follow=True):
            ...

Every call may raise `Refused` (the machine's own sentence), `ConnectionLost`, or another `NetError`.
After a `ConnectionLost` open a new session and resume: blobs by themselves, logs from the last
`LogRecord.end`. Commands (`exec`) need no such care: they go on over a new connection by themselves.
Blobs and copies travel over several connections by themselves where that is faster (`lanes.py`).
Calls of one session may run at the same time; each has its own stream.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from weakref import WeakSet

from deepbrain.net.access import Grant, token_of
from deepbrain.net.errors import (
    ConnectionLost,
    MalformedMessage,
    NetError,
    RefusalCode,
    Refused,
    StreamEnded,
)
from deepbrain.net.frames import begun, expect_reply, request_bytes
from deepbrain.net.lanes import LARGE_BYTES, Lanes
from deepbrain.net.lasting import Lasting
from deepbrain.net.messages import (
    Access,
    Again,
    Begin,
    CopyIn,
    CopyOut,
    Digest,
    Done,
    Env,
    Exec,
    Granted,
    Greeting,
    Have,
    Hello,
    Logs,
    LogsFrom,
    Manifest,
    OrderStatus,
    PutBlob,
    PutCredentials,
    PutManifest,
    Request,
    Resumed,
    Scope,
    State,
    Status,
    Stop,
    StreamName,
    Wanted,
)
from deepbrain.net.records import (
    EOF,
    ERR,
    EXIT,
    MAX_RECORD,
    OUT,
    RESIZE,
    SIGNAL,
    SIZE,
    STDIN,
    LogRecord,
    log_records,
    read_record,
    record,
)
from deepbrain.net.stream import READ_SIZE, Stream
from deepbrain.net.transport import (
    CLOSED_BROKEN,
    DIAL_SECONDS,
    Connection,
    Endpoint,
    is_relay,
)
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import U8, U16, U64

ANSWER_SECONDS: Final = 10.0
"""How long a machine may take to greet or to accept a proof."""

BEAT_SECONDS: Final = 3.0
"""How often a session asks whether the machine is still there."""

SILENCE_SECONDS: Final = 10.0
"""How long it waits for that answer, or for any byte: a machine whose agent was killed sends no
farewell, and the transport alone would take 30 s to notice; one whose disk is busy may be slow."""

MEND_SECONDS: Final = 115.0
"""How long a machine that cannot be reached is dialled again for the sake of a lasting stream; it keeps
such a stream for 120 s."""

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 2.0

OnProgress = Callable[[int, int], None]
"""`(bytes done, bytes in all)`, called a few times a second at most by whoever shows it."""


async def greet(
    endpoint: Endpoint,
    machine: MachineId,
    addresses: Sequence[str],
    timeout: float = DIAL_SECONDS,
) -> Greeting:
    """Ask a machine who it is, without an order: reachability, isolation, images.

    Raises: Unreachable: nobody with that id answers there within `timeout` seconds; NetError.
    """
    connection = await endpoint.dial(machine, addresses, timeout)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            stream = await connection.open()
            await stream.write(request_bytes(Hello()))
            return await expect_reply(stream, Greeting)
    except TimeoutError as error:
        raise NetError("the machine does not answer") from error
    finally:
        connection.close()


class ExecStream:
    """A command running inside the tenant; `Session.exec` makes one. Closing it kills the command."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._exit: int | None = None

    async def read(self) -> tuple[int, bytes] | None:
        """The next output as (1 out or 2 err, bytes); None when the command has ended.

        With a TTY everything is stream 1. Raises: NetError: the stream or the machine was lost.
        """
        if self._exit is not None:
            return None
        entry = await read_record(self._stream)
        if entry is None:
            raise StreamEnded("the machine lost the command")
        kind, payload = entry
        if kind in (OUT, ERR):
            return kind, payload
        if kind != EXIT or len(payload) != 1:
            raise MalformedMessage("the machine sent something that is not a command's output")
        self._exit = payload[0]
        await self._stream.finish()
        return None

    async def write(self, data: bytes) -> None:
        """Feed standard input; waits while the command does not read."""
        for start in range(0, len(data), MAX_RECORD):
            await self._stream.write(record(STDIN, data[start : start + MAX_RECORD]))

    async def write_eof(self) -> None:
        """Close standard input."""
        await self._stream.write(record(EOF))

    async def resize(self, cols: int, rows: int) -> None:
        """Tell the command that its terminal has changed."""
        await self._stream.write(record(RESIZE, SIZE.pack(cols, rows)))

    async def signal(self, number: int) -> None:
        """Send the command's process group a signal, 1 to 31 as Linux numbers them."""
        await self._stream.write(record(SIGNAL, bytes((number,))))

    async def wait(self) -> int:
        """The exit code, dropping what output is left unread."""
        while await self.read() is not None:
            continue
        if self._exit is None:
            raise StreamEnded("the machine lost the command")
        return self._exit

    async def close(self) -> None:
        """Kill the command if it still runs. Idempotent."""
        if self._exit is None:
            await self._stream.reset()
        else:
            await self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@dataclass(frozen=True, slots=True)
class Way:
    """Where a machine is, and what it is asked to accept."""

    addresses: Sequence[str]
    grant: Grant


@dataclass(frozen=True, slots=True)
class _Opened:
    """A connection whose proof was accepted."""

    connection: Connection
    greeting: Greeting
    granted: Granted


class Session:
    """One authenticated connection, made anew when a lasting stream needs it; `Session.open` makes one."""

    def __init__(
        self,
        opened: _Opened,
        reopen: Callable[[], Awaitable[_Opened]],
        open_lane: Callable[[], Awaitable[Connection]],
    ) -> None:
        self._connection = opened.connection
        self.greeting = opened.greeting
        """What the machine says of itself: version, isolation mode, images."""
        self.granted = opened.granted
        """Scopes and last block the machine has accepted."""
        self._reopen = reopen
        self._lanes = Lanes(open_lane)
        self._mending = asyncio.Lock()
        self._streams: WeakSet[Stream] = WeakSet()
        self._carriers: set[asyncio.Task[None]] = set()
        self._beat = asyncio.create_task(self._watch_over(self._connection))

    @classmethod
    async def open(
        cls,
        endpoint: Endpoint,
        addresses: Sequence[str],
        grant: Grant,
        renter: Keypair,
        timeout: float = DIAL_SECONDS,
        again: Callable[[], Awaitable[Way]] | None = None,
    ) -> Self:
        """Dial the grant's machine and prove that the order is ours.

        `endpoint` must have a fresh key per process: the proof is bound to it. `again` tells the way anew
        when the connection has broken; without it the same one is tried.

        Raises: Unreachable: nobody with that id answers within `timeout` seconds; Refused: the
        machine does not know the order (yet) or does not accept the proof; NetError.
        """
        way = Way(addresses, grant)

        async def reopen() -> _Opened:
            nonlocal way
            way = way if again is None else await again()
            return await _open(endpoint, way, renter, timeout)

        async def open_lane() -> Connection:
            only = replace(way.grant, scopes=U8(Scope.LANE.value))
            opened = await _open(endpoint, replace(way, grant=only), renter, timeout)
            return opened.connection

        return cls(await _open(endpoint, way, renter, timeout), reopen, open_lane)

    @property
    def is_direct(self) -> bool:
        """Whether packets go straight to the machine now, and not through a relay."""
        return bool(self._connection.direct_address)

    async def put_manifest(self, manifest: Manifest) -> Wanted:
        """Hand over what to run; its hash must be the one on the chain.

        The answer says which blobs are still needed; none means that the start is on its way.
        Repeating it is harmless.
        """
        async with await self._ask(PutManifest(manifest=manifest.encode())) as stream:
            return await expect_reply(stream, Wanted)

    async def put_credentials(self, username: str, secret: str) -> None:
        """Hand over who pulls the image; before the manifest, on every new connection."""
        async with await self._ask(PutCredentials(username=username, secret=secret)) as stream:
            await expect_reply(stream, Done)

    async def put_blob(
        self, path: Path, sha256: Digest, on_progress: OnProgress | None = None
    ) -> None:
        """Hand over the image's or the workspace's tar; goes on where an earlier try was cut off.

        Raises: Refused: the manifest names no such blob, or the bytes do not match the digest;
        OSError: the file cannot be read.
        """
        size = (await asyncio.to_thread(path.stat)).st_size
        ask = PutBlob(sha256=sha256, size=U64(size))
        async with await (self._ask_bulk(ask) if size > LARGE_BYTES else self._ask(ask)) as stream:
            have = await expect_reply(stream, Have)
            if have.offset > size:
                raise MalformedMessage("the machine has more of the file than there is")
            await _send_file(stream, path, int(have.offset), size, on_progress)
            await expect_reply(stream, Done)

    async def status(self) -> OrderStatus:
        """Where the order is now."""
        async with await self._ask(Status(follow=False)) as stream:
            return (await expect_reply(stream, State)).status

    async def watch(self) -> AsyncIterator[OrderStatus]:
        """Where the order is, and each change until the machine has destroyed everything of it."""
        async with await self._ask(Status(follow=True)) as stream:
            while True:
                try:
                    yield (await expect_reply(stream, State)).status
                except StreamEnded:
                    return

    async def logs(self, offset: int = 0, *, follow: bool = False) -> AsyncIterator[LogRecord]:
        """The job's output from a logical offset on, which is 0 or some `LogRecord.end`.

        Where older output was dropped, the first record's `end` shows the gap. With `follow` it ends
        when the job has ended and everything is read; without, at what there is now.
        """
        async with await self._ask(Logs(offset=U64(offset), follow=follow)) as stream:
            start = await expect_reply(stream, LogsFrom)
            async for piece in log_records(stream, int(start.offset)):
                yield piece

    async def exec(
        self,
        argv: Sequence[str],
        *,
        env: Env = (),
        cwd: str = "",
        tty: bool = False,
        cols: int = 80,
        rows: int = 24,
    ) -> ExecStream:
        """Run a command beside the job. At most 16 at once per order.

        It goes on when the connection breaks, for up to two minutes; nothing of its input and output is
        lost then.
        """
        request = Exec(argv=tuple(argv), env=env, cwd=cwd, tty=tty, cols=U16(cols), rows=U16(rows))
        stream = await self._ask_lasting(request)
        try:
            await expect_reply(stream, Done)
        except BaseException:
            await stream.reset()
            raise
        return ExecStream(stream)

    async def copy_out(
        self, paths: Sequence[str] = (), *, changed_only: bool = False
    ) -> AsyncIterator[bytes]:
        """A tar of files below `/workspace`; without paths, of the results the manifest names.

        The machine is a stranger: unpack with care. Raises: StreamReset: it could not finish; what
        came before is incomplete.
        """
        request = CopyOut(paths=tuple(paths), changed_only=changed_only)
        async with await self._ask_bulk(request) as stream:
            await expect_reply(stream, Done)
            while chunk := await stream.read_some():
                yield chunk

    async def copy_in(self, chunks: AsyncIterator[bytes], dest: str = ".") -> None:
        """Unpack a tar below `dest` (relative to `/workspace`) of the running job."""
        async with await self._ask_bulk(CopyIn(dest=dest)) as stream:
            await expect_reply(stream, Done)
            async for chunk in chunks:
                await stream.write(chunk)
            await stream.finish()
            await expect_reply(stream, Done)

    async def stop(self) -> None:
        """SIGTERM to the job, SIGKILL 30 s later. Settling the order is the chain's `close`."""
        async with await self._ask(Stop()) as stream:
            await expect_reply(stream, Done)

    async def wait_broken(self) -> None:
        """Until the present connection has ended, from either side or by silence."""
        await self._connection.wait_closed()

    async def mend(self) -> None:
        """Make a broken connection anew, as a lasting stream does that needs it.

        Raises: NetError: there was none to be had for `MEND_SECONDS`.
        """
        await self._mended(self._connection)

    def close(self) -> None:
        """Close the connection; commands started over it are killed. Idempotent."""
        self._beat.cancel()
        for carrier in self._carriers:
            carrier.cancel()
        self._lanes.close()
        self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _watch_over(self, connection: Connection) -> None:
        """Close the connection once the machine is silent, so that every waiting call hears of it."""
        try:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                await self._hear()
        except NetError:
            connection.close(CLOSED_BROKEN, "it is broken")
        except TimeoutError:
            connection.close(CLOSED_BROKEN, "the machine is silent")
            self._lanes.cut(CLOSED_BROKEN, "the machine is silent")

    async def _hear(self) -> None:
        """Raises: TimeoutError: no answer in time, nor a byte of anything else; NetError."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._beat_once()
        except TimeoutError:
            now = asyncio.get_running_loop().time()
            if all(now - stream.heard_at >= SILENCE_SECONDS for stream in self._streams):
                raise

    async def _beat_once(self) -> None:
        with contextlib.suppress(Refused):  # a refusal is an answer
            await self.status()

    async def _ask(self, request: Request) -> Stream:
        return await self._ask_over(self._connection, request)

    async def _ask_over(self, connection: Connection, request: Request) -> Stream:
        stream = await connection.open()
        self._streams.add(stream)
        return await begun(stream, request)

    async def _ask_bulk(self, request: Request) -> Stream:
        """A request whose bytes travel over several connections, where that is faster."""
        connection = self._connection
        if self._lanes.deserves(connection):
            first = await connection.open()
            self._streams.add(first)
            stream = await self._lanes.ask(connection, first, request)
            if stream is not None:
                return stream
        return await self._ask_over(connection, request)

    async def _ask_lasting(self, request: Request) -> Stream:
        """A request whose stream goes on when the connection breaks."""
        lasting, name = Lasting(), StreamName(os.urandom(StreamName.SIZE))
        carrier = asyncio.create_task(self._carry(lasting, name))
        self._carriers.add(carrier)
        carrier.add_done_callback(self._carriers.discard)
        return await begun(Stream(lasting), request)

    async def _carry(self, lasting: Lasting, name: StreamName) -> None:
        """Carry a lasting stream over one connection after another, until it is over."""
        connection, begun = self._connection, False
        try:
            while not lasting.is_over:
                try:
                    await self._carry_over(connection, lasting, name, again=begun)
                except (Refused, MalformedMessage):
                    raise
                except NetError:
                    connection = await self._mended(connection)
                begun = True
        except NetError as error:
            lasting.fail(error)
        finally:
            lasting.fail(ConnectionLost("the session was closed"))

    async def _carry_over(
        self, connection: Connection, lasting: Lasting, name: StreamName, *, again: bool
    ) -> None:
        """Raises: NetError: the connection broke; Refused: the machine does not know the stream."""
        received = 0
        ask = Again(name=name, received=U64(lasting.received)) if again else Begin(name=name)
        async with await self._ask_over(connection, ask) as stream:
            if again:
                received = int((await expect_reply(stream, Resumed)).received)
            await lasting.carry(stream, received)

    async def _mended(self, broken: Connection) -> Connection:
        """A connection in place of a broken one, the same for all who ask.

        Raises: NetError: there was none to be had for `MEND_SECONDS`.
        """
        async with self._mending:
            if self._connection is not broken:
                return self._connection
            self._beat.cancel()
            broken.close(CLOSED_BROKEN, "it broke")
            opened = await self._opened_again()
            self._connection = opened.connection
            self._beat = asyncio.create_task(self._watch_over(self._connection))
            return self._connection

    async def _opened_again(self) -> _Opened:
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        deadline = loop.time() + MEND_SECONDS
        while True:
            try:
                return await self._reopen()
            except Refused as refusal:
                if refusal.code is not RefusalCode.LIMIT:
                    raise
            except (DeepBrainError, OSError) as error:
                if loop.time() + pause > deadline:
                    raise ConnectionLost(f"the machine cannot be reached again: {error}") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


async def _open(endpoint: Endpoint, way: Way, renter: Keypair, timeout: float) -> _Opened:
    """Raises: as `Session.open`."""
    access = way.grant.proven(endpoint.key, renter)
    relays = [address for address in way.addresses if is_relay(address)]
    await endpoint.use_relays(relays, token_of(access))
    connection = await endpoint.dial(way.grant.machine, way.addresses, timeout)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await _authenticate(connection, way.grant, access)
    except TimeoutError as error:
        connection.close()
        raise NetError("the machine does not answer") from error
    except BaseException:
        connection.close()
        raise


async def _authenticate(connection: Connection, grant: Grant, access: Access) -> _Opened:
    stream = await connection.open()
    await stream.write(request_bytes(Hello()) + request_bytes(access))
    greeting = await expect_reply(stream, Greeting)
    if greeting.machine != grant.machine:
        raise MalformedMessage("the machine names itself by another id")
    granted = await expect_reply(stream, Granted)
    await stream.close()
    return _Opened(connection, greeting, granted)


async def _send_file(
    stream: Stream, path: Path, offset: int, size: int, on_progress: OnProgress | None
) -> None:
    """The bytes of a file from `offset` on; an early answer (a refusal) is raised by the caller."""
    with path.open("rb") as source:
        source.seek(offset)
        while offset < size:
            chunk = await asyncio.to_thread(source.read, min(READ_SIZE, size - offset))
            if not chunk:
                raise NetError(f"{path.name} became shorter while it was sent")
            await stream.write(chunk)
            offset += len(chunk)
            if on_progress is not None:
                on_progress(offset, size)

"""The agent's end of the socket to the root helper: `HostRequests`, carried out elsewhere."""

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Final

from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.units import U8, U32, U64
from deepbrain.sandbox.host import SessionFds
from deepbrain.sandbox.messages import (
    ANSWERS,
    MAX_PACKET,
    REQUESTS,
    Answer,
    AskReport,
    Collect,
    Destroy,
    Digest,
    Exec,
    Failed,
    InstallImage,
    Prepare,
    Release,
    RemoveImage,
    Report,
    Request,
    RequestPacket,
    SetEnd,
    Signal,
    Start,
    failure_from_wire,
    report_from_wire,
    spec_to_wire,
)
from deepbrain.sandbox.sandbox import ExitReason, HostLost, ModeReport, SandboxError, TenantSpec

HELPER_FD: Final = "DBC_HELPER_FD"
"""Environment of an agent that a helper started: the number of its socket."""

GONE: Final = "the root helper is gone; this agent cannot go on without it"


def inherited_socket() -> socket.socket | None:
    """The socket to the helper that started this process; None without one. To be called once."""
    number = os.environ.pop(HELPER_FD, None)
    if number is None:
        return None
    found = socket.socket(fileno=int(number))
    os.set_inheritable(found.fileno(), False)  # not for what the agent starts
    return found


class RemoteHost:
    """See `host.HostRequests`. Made inside a running event loop."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._next = 0
        self._sending = asyncio.Lock()
        self.lost: asyncio.Event = asyncio.Event()
        """Set when the helper has gone: the agent then ends, and a new helper starts a new one."""
        self._loop.add_reader(connection.fileno(), self._receive)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            packet = ANSWERS.decode(data) if data else None
        except DecodeError:
            packet = None
        if packet is None:
            self.close()
            return
        future = self._waiting.pop(int(packet.number), None)
        if future is not None and not future.done():
            future.set_result(packet.answer)

    def close(self) -> None:
        """Drop the connection; whoever waits for an answer gets an error."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        self.lost.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(HostLost(GONE))
        self._waiting.clear()

    async def _ask(self, request: Request, fds: Sequence[int] = ()) -> Answer:
        if self.lost.is_set():
            raise HostLost(GONE)
        self._next = (self._next + 1) & 0xFFFF_FFFF
        number = self._next
        data = REQUESTS.encode(RequestPacket(number=U32(number), request=request))
        if len(data) > MAX_PACKET:
            raise SandboxError("the command and its environment are too long")
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[number] = future
        try:
            async with self._sending:
                await self._send(data, fds)
            answer = await future
        finally:
            self._waiting.pop(number, None)
        if isinstance(answer, Failed):
            raise failure_from_wire(answer)
        return answer

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        while True:
            try:
                socket.send_fds(self._socket, [data], list(fds))
            except BlockingIOError:
                await self._until_writable()
            except OSError:
                self.close()
                return
            else:
                return

    async def _until_writable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_writer(self._socket.fileno(), ready.set_result, None)
        try:
            await ready
        finally:
            self._loop.remove_writer(self._socket.fileno())

    async def report(self) -> ModeReport:
        answer = await self._ask(AskReport())
        if not isinstance(answer, Report):
            raise SandboxError("the root helper answered something else than its report")
        return report_from_wire(answer)

    async def install_image(self, digest: str) -> None:
        await self._ask(InstallImage(digest=Digest.from_hex(digest)))

    async def remove_image(self, digest: str) -> None:
        await self._ask(RemoveImage(digest=Digest.from_hex(digest)))

    async def prepare(self, spec: TenantSpec) -> None:
        report = await self.report()
        if spec.mode not in (None, report.mode):
            raise SandboxError(f"this machine runs tenants only as {report.mode.value}")
        await self._ask(Prepare(spec=spec_to_wire(spec)))

    async def start(self, order: int) -> None:
        await self._ask(Start(order=U64(order)))

    async def set_end(self, order: int, end_at: int, reason: ExitReason) -> None:
        stopped = reason is not ExitReason.TERM
        await self._ask(SetEnd(order=U64(order), end_at=U64(max(end_at, 0)), stopped=stopped))

    async def signal(self, order: int, number: int) -> None:
        await self._ask(Signal(order=U64(order), number=U8(number)))

    async def exec(
        self,
        order: int,
        argv: Sequence[str],
        env: Sequence[tuple[str, str]],
        cwd: str,
        tty: bool,
        fds: SessionFds,
    ) -> None:
        request = Exec(order=U64(order), argv=tuple(argv), env=tuple(env), cwd=cwd, tty=tty)
        await self._ask(request, fds.all())

    async def collect(self, order: int, arguments: Sequence[str], fds: SessionFds) -> None:
        await self._ask(Collect(order=U64(order), arguments=tuple(arguments)), fds.all())

    async def release(self, order: int) -> None:
        await self._ask(Release(order=U64(order)))

    async def destroy(self, order: int) -> None:
        await self._ask(Destroy(order=U64(order)))

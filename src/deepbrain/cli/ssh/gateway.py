"""One process for all of a renter's SSH connections to one order.

A machine takes four connections of an order, and each costs a handshake, a proof and perhaps a password;
`ssh` starts a ProxyCommand for every one of its own. So the first `dbc ssh-proxy` leaves a gateway behind:
it holds one session with the machine and takes SSH connections at a socket that only this user can reach.
Every proxy after it just carries bytes. The gateway ends with the order, with its session, or when nobody
has used it for `LINGER_SECONDS`.

To a proxy it first says one line: `+`, or `-` and a sentence; SSH follows.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deepbrain.cli.chain import Choices
from deepbrain.cli.failure import UserError, explain
from deepbrain.cli.ssh.keys import SshFiles
from deepbrain.primitives.ids import AccountId, OrderId

if TYPE_CHECKING:
    from deepbrain.net.session import Session
    from deepbrain.primitives.keys import Keypair

log = logging.getLogger(__name__)

LINGER_SECONDS: Final = 60.0
WATCH_AGAIN_SECONDS: Final = 1.0
"""While the connection to the machine is mended."""

MAX_LOG: Final = 1 << 20
"""Bytes of the log of faults, beyond which a new gateway begins it anew."""

_TRIES: Final = 3
_BACKLOG: Final = 64
_CHUNK: Final = 256 << 10
_MAX_LINE: Final = 2048

Open = Callable[[], AbstractAsyncContextManager["Session"]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the gateway to an order is found."""

    files: SshFiles
    name: str

    @classmethod
    def of(cls, files: SshFiles, url: str, account: AccountId, order: OrderId) -> "Place":
        """Another network, or another key, has another one."""
        digest = blake2b(f"{url}\0{account.hex()}".encode(), digest_size=8).hexdigest()
        return cls(files, f"{order}-{digest}.sock")

    def connect(self) -> socket.socket | None:
        """None where no gateway listens."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            with contextlib.chdir(self.files.directory):  # a socket's path may have 107 bytes only
                connection.connect(self.name)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        return connection

    def listen(self) -> socket.socket:
        """In place of a gateway that has ended. To be called with the lock held."""
        listener = socket.socket(socket.AF_UNIX)
        with contextlib.chdir(self.files.directory):
            Path(self.name).unlink(missing_ok=True)
            listener.bind(self.name)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return listener

    def unlink(self) -> None:
        (self.files.directory / self.name).unlink(missing_ok=True)


# -- the proxy's side


def reach_gateway(place: Place, prepare: Callable[[], Open]) -> socket.socket:
    """A connection to the gateway, on which SSH follows; it is started if there is none.

    `prepare` may ask for a password; what it returns is used in the process of the gateway alone.
    Raises: UserError: the gateway's own sentence; DeepBrainError of `prepare`; OSError.
    """
    for _ in range(_TRIES):
        connection = place.connect() or _connect_or_start(place, prepare)
        answer = _read_line(connection)
        if answer == "+":
            return connection
        connection.close()
        if answer.startswith("-"):
            raise UserError(answer[1:])
        # It ended between being found and being asked.
    raise UserError(f"no gateway to the order stays up; see {place.files.log}")


def _connect_or_start(place: Place, prepare: Callable[[], Open]) -> socket.socket:
    with place.files.locked() as lock:
        connection = place.connect()
        if connection is not None:  # somebody else started it while we waited
            return connection
        opening = prepare()
        listener = place.listen()
        if os.fork() == 0:
            os.close(lock)
            _be_gateway(place, listener, opening)
        listener.close()
        connection = place.connect()
    if connection is None:
        raise UserError(f"the gateway to the order did not start; see {place.files.log}")
    return connection


def _read_line(connection: socket.socket) -> str:
    """The gateway's first line, and not a byte more; empty where it has ended."""
    line = b""
    with contextlib.suppress(ConnectionError):
        while not line.endswith(b"\n") and len(line) < _MAX_LINE:
            byte = connection.recv(1)
            if not byte:
                return ""
            line += byte
    return line.decode(errors="replace").rstrip("\n")


def carry(connection: socket.socket) -> None:
    """Standard input to the gateway, and what it says to standard output, until it ends."""

    def send() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(0, _CHUNK):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=send, name="stdin", daemon=True).start()
    with contextlib.suppress(OSError):
        while data := connection.recv(_CHUNK):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(1, rest) :]


# -- the gateway itself


def _be_gateway(place: Place, listener: socket.socket, opening: Open) -> None:
    """In a new process, which ends here. Nothing of the terminal or of `ssh` stays open."""
    code = 1
    try:
        os.setsid()
        _redirect_streams(place.files.log)
        with contextlib.suppress(asyncio.CancelledError):  # told to end
            asyncio.run(run_gateway(place, listener, opening))
        code = 0
    except Exception:
        # Nobody is above us: a fault that went on up would meet the code that forked us.
        log.exception("the gateway %s ended by a fault", place.name)
    finally:
        os._exit(code)


def _redirect_streams(log: Path) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    if log.exists() and log.stat().st_size > MAX_LOG:
        flags |= os.O_TRUNC
    faults = os.open(log, flags, 0o600)
    for number, target in ((0, null), (1, null), (2, faults)):
        os.dup2(target, number)
    os.close(null)
    os.close(faults)


async def run_gateway(place: Place, listener: socket.socket, opening: Open) -> None:
    """Until it is not needed any more, or its session is lost. Whoever waits is told what went wrong."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is not None:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        async with opening() as session:
            await Gateway(place, listener, session).run()
    except Exception as error:
        failure = explain(error)
        sentence = failure.sentence if failure else f"the gateway failed; see {place.files.log}"
        _turn_away(place, listener, sentence)
        if failure is None:
            raise


def _turn_away(place: Place, listener: socket.socket, sentence: str) -> None:
    """Tell whoever is waiting, and make room for the next gateway."""
    with place.files.locked():
        place.unlink()
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.sendall(f"-{sentence}\n".encode())
            connection.close()


class Gateway:
    """Serves SSH over one session until nobody needs it."""

    def __init__(self, place: Place, listener: socket.socket, session: "Session") -> None:
        from deepbrain.cli.ssh.execs import Execs

        self._place = place
        self._listener = listener
        self._session = session
        self._execs = Execs(session)
        self._live: set[asyncio.Task[None]] = set()
        self._is_over = False
        self._changed = asyncio.Event()

    async def run(self) -> None:
        lost = asyncio.ensure_future(self._until_lost())
        unused = asyncio.ensure_future(self._until_unused())
        helpers = {
            lost,
            unused,
            asyncio.ensure_future(self._accept()),
            asyncio.ensure_future(self._watch()),
        }
        try:
            await asyncio.wait({lost, unused}, return_when=asyncio.FIRST_COMPLETED)
            if unused.done():
                unused.result()
        finally:
            tasks = helpers | self._live
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if lost.done():
                with self._place.files.locked():
                    self._place.unlink()
            self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        task = asyncio.create_task(self._serve(connection))
        self._live.add(task)
        task.add_done_callback(self._end)
        self._changed.set()

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._live.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection ended by a fault", exc_info=error)

    async def _serve(self, connection: socket.socket) -> None:
        from deepbrain.cli.ssh.server import serve_ssh

        try:
            await asyncio.get_running_loop().sock_sendall(connection, b"+\n")
        except OSError:
            connection.close()  # the proxy went away while it waited
            return
        await serve_ssh(connection, self._execs, self._place.files)

    async def _until_lost(self) -> None:
        """Until the connection to the machine is broken for good, or nobody is here to need it."""
        from deepbrain.net.errors import NetError

        with contextlib.suppress(NetError):
            while True:
                await self._session.wait_broken()
                if not self._live:
                    return
                await self._session.mend()

    async def _watch(self) -> None:
        """Until the job is over: then nothing more can be started."""
        from deepbrain.net.errors import NetError, Refused
        from deepbrain.net.messages import Stage

        while not self._is_over:
            try:
                async for status in self._session.watch():
                    if status.stage in (Stage.EXITED, Stage.FAILED, Stage.DESTROYED):
                        break
                self._is_over = True
            except Refused:  # the machine knows nothing of the order any more
                self._is_over = True
            except NetError:
                await asyncio.sleep(WATCH_AGAIN_SECONDS)
        self._changed.set()

    async def _until_unused(self) -> None:
        while True:
            self._changed.clear()
            patience = None if self._live else 0 if self._is_over else LINGER_SECONDS
            try:
                await asyncio.wait_for(self._changed.wait(), patience)
            except TimeoutError:
                if self._retire():
                    return

    def _retire(self) -> bool:
        """Whether nobody came at the last moment; then the next proxy starts a new gateway."""
        with self._place.files.locked():
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                self._place.unlink()
                return True
        self._begin(connection)
        return False


@contextlib.asynccontextmanager
async def order_session(
    choices: Choices, pair: "Keypair", number: OrderId
) -> AsyncIterator["Session"]:
    """A session with the machine of one of our orders, which runs. Raises: UserError, NetError."""
    from deepbrain.cli.renter.orders import expect_order
    from deepbrain.cli.renter.reach import Reach, fresh_endpoint
    from deepbrain.pallets.rent import Placed

    # The client stays: when the connection breaks, or its proof has expired, it tells the way anew.
    async with fresh_endpoint() as endpoint, choices.client() as client:
        order = await expect_order(client, number, AccountId(pair.public))
        if not order.is_open():
            raise UserError(f"order {number} has ended; `dbc bill {number}` shows its bill")
        if isinstance(order.status, Placed):
            raise UserError(f"order {number} has not started; `dbc attach {number}` waits for it")
        reach = Reach(client, endpoint, pair, number, order.machine)
        async with await reach.session() as session:
            yield session

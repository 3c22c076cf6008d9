"""SSH, ended on this machine: each session, copy or forward becomes one command in the order."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncssh
from asyncssh.stream import SSHTCPStreamSession, SSHUNIXStreamSession

from deepbrain.cli.ssh.execs import Execs
from deepbrain.cli.ssh.keys import PREFIX, SshFiles
from deepbrain.cli.ssh.session import Resized, Signalled, SshSession
from deepbrain.cli.ssh.tunnel import Tunnel, dial, splice
from deepbrain.net.errors import NetError
from deepbrain.net.records import ERR
from deepbrain.net.session import ExecStream
from deepbrain.sandbox.sandbox import TOOL

LOST: Final = 255
"""The exit code of a command that was lost; `ssh` itself ends with it as well."""

LOGIN_SECONDS: Final = 30.0

_WINDOW: Final = 4 << 20
_MAX_WORD: Final = 4000
_MAX_COMMAND: Final = 48 << 10
_MAX_VARIABLE: Final = 256
_LOOPBACK: Final = frozenset(["localhost", "127.0.0.1", "::1"])

Reader = asyncssh.SSHReader[bytes]
Writer = asyncssh.SSHWriter[bytes]


class Door(asyncssh.SSHServer):
    """One SSH connection, from `ssh` and to one order."""

    def __init__(self, execs: Execs) -> None:
        self._execs = execs
        self._tunnels: set[contextlib.AsyncExitStack] = set()
        self._note = ""

    # -- sessions

    def session_requested(self) -> SshSession:
        return SshSession(self._serve)

    async def _serve(self, session: SshSession) -> None:
        """A shell, a command or SFTP, from its start to its exit code."""
        gone = asyncio.ensure_future(session.gone.wait())
        running = asyncio.ensure_future(self._run(session))
        try:
            ends: set[asyncio.Future[Any]] = {gone, running}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                session.exit(running.result())
        except NetError as error:
            session.tell(str(error))
            session.exit(LOST)
        except OSError:
            return  # `ssh` went away, and `gone` came late
        finally:
            for task in (gone, running):
                task.cancel()
            await asyncio.gather(gone, running, return_exceptions=True)

    async def _run(self, session: SshSession) -> int:
        """The exit code. Cancelling it kills the command. Raises: NetError, OSError."""
        if self._note:
            session.tell(self._note)
            self._note = ""
        if len(session.command.encode()) > _MAX_COMMAND:
            session.tell(f"a command has at most {_MAX_COMMAND >> 10} KiB; send it as a script")
            return LOST
        columns, rows = session.size
        async with self._execs.run(
            _argv(session),
            env=_environment(session),
            tty=session.terminal is not None,
            cols=columns,
            rows=rows,
            on_wait=lambda: session.tell(
                "this order has too many commands; waiting for one to end"
            ),
        ) as command:
            return await _converse(session, command)

    # -- forwards

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]]:
        """`ssh -L` and `-D`: the order's own ports, and nobody else's."""
        return self._tcp(dest_host, dest_port)

    async def _tcp(self, host: str, port: int) -> asyncssh.SSHTCPSession[bytes]:
        if host.lower() not in _LOOPBACK and not host.lower().startswith((PREFIX, "order-")):
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
                f"only ports of the order itself are forwarded; write localhost:{port}",
            )
        return SSHTCPStreamSession[bytes](await self._open(str(port)))

    def unix_connection_requested(
        self, dest_path: str
    ) -> Awaitable[asyncssh.SSHUNIXSession[bytes]]:
        return self._unix(dest_path)

    async def _unix(self, path: str) -> asyncssh.SSHUNIXSession[bytes]:
        if not path.startswith("/"):
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_CONNECT_FAILED, "a socket in the order is named by its whole path"
            )
        return SSHUNIXStreamSession[bytes](await self._open(path))

    async def _open(self, address: str) -> Callable[[Reader, Writer], Awaitable[None]]:
        """What carries the bytes, connected already: `ssh` is told at once where nothing answers."""
        stack = contextlib.AsyncExitStack()
        try:
            tunnel = await stack.enter_async_context(dial(self._execs, address))
        except NetError as error:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, str(error)) from error
        self._tunnels.add(stack)

        async def carry(reader: Reader, writer: Writer) -> None:
            await self._carry(stack, tunnel, reader, writer)

        return carry

    async def _carry(
        self, stack: contextlib.AsyncExitStack, tunnel: Tunnel, reader: Reader, writer: Writer
    ) -> None:
        self._tunnels.discard(stack)
        async with stack:
            with contextlib.suppress(NetError, OSError, asyncssh.Error):
                await splice(tunnel, reader, writer, writer.channel.wait_closed())
            writer.close()

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """`ssh -R`: the protocol has no words for a refusal, so the next session has them."""
        self._note = (
            "ports of your own machine are not offered to an order (ssh -R); "
            "copy the data in, or let the order connect out"
        )
        return False

    async def close(self) -> None:
        """End what was opened for the connection and never began."""
        for stack in self._tunnels:
            await stack.aclose()
        self._tunnels.clear()


async def serve_ssh(connection: socket.socket, execs: Execs, files: SshFiles) -> None:
    """One connection from beginning to end; cancelling it tells `ssh` that the machine was lost."""
    door = Door(execs)
    public = asyncssh.read_private_key(files.client_key).export_public_key("openssh")
    try:
        server = await asyncssh.run_server(
            connection,
            server_factory=lambda: door,
            server_host_keys=[str(files.host_key)],
            authorized_client_keys=asyncssh.import_authorized_keys(public.decode()),
            password_auth=False,
            kbdint_auth=False,
            gss_host=None,
            encoding=None,
            line_editor=False,
            agent_forwarding=False,
            x11_forwarding=False,
            compression_algs=None,
            window=_WINDOW,
            login_timeout=LOGIN_SECONDS,
            tcp_keepalive=False,
        )
    except (asyncssh.Error, OSError, TimeoutError):
        connection.close()
        return
    try:
        await server.wait_closed()
    except asyncio.CancelledError:
        server.disconnect(asyncssh.DISC_CONNECTION_LOST, "the machine that runs the order is lost")
        await server.wait_closed()
        raise
    finally:
        await door.close()


# -- what is asked for


def _argv(session: SshSession) -> list[str]:
    if session.is_sftp:
        return [TOOL, "sftp-server"]
    return [TOOL, "login", *_pieces(session.command)]


def _pieces(command: str) -> list[str]:
    """Words short enough for a request; a character is at most four bytes."""
    step = _MAX_WORD // 4
    return [command[start : start + step] for start in range(0, len(command), step)]


def _environment(session: SshSession) -> tuple[tuple[str, str], ...]:
    """What the order may know of the terminal here: its type, and the language."""
    found = {
        name: value
        for name, value in session.variables.items()
        if (name == "LANG" or name.startswith("LC_")) and len(name) + len(value) <= _MAX_VARIABLE
    }
    if session.terminal is not None:
        found["TERM"] = session.terminal[:_MAX_VARIABLE] or "dumb"
    return tuple(sorted(found.items()))


# -- its bytes


async def _converse(session: SshSession, command: ExecStream) -> int:
    """Carry input and output until the command ends; its exit code. Raises: NetError, OSError."""
    feeding = asyncio.ensure_future(_feed(session, command))
    try:
        while (piece := await command.read()) is not None:
            stream, data = piece
            await session.write(data, is_error=stream == ERR)
        return await command.wait()
    finally:
        # Where it failed, the command's own end says why, or nobody reads the input any more.
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _feed(session: SshSession, command: ExecStream) -> None:
    while True:
        match await session.next():
            case Resized(columns=columns, rows=rows):
                await command.resize(columns, rows)
            case Signalled(number=number):
                await command.signal(number)
            case b"":
                await command.write_eof()
            case data:
                await command.write(data)

"""`dbc forward` and `dbc jupyter`: ports of an order, on this machine's loopback."""

import asyncio
import contextlib
import errno
import secrets
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.failure import UserError
from deepbrain.cli.output import emit, say
from deepbrain.cli.renter.orders import ORDER, reaching
from deepbrain.primitives.ids import OrderId

if TYPE_CHECKING:
    from deepbrain.cli.keys import Chosen
    from deepbrain.cli.renter.reach import Reach
    from deepbrain.cli.ssh.execs import Execs
    from deepbrain.net.session import ExecStream

LOOPBACK: Final = "127.0.0.1"
JUPYTERS: Final = ("jupyter-lab", "jupyter-notebook")
START_SECONDS: Final = 60.0

_NOT_FOUND: Final = 127
_POLL_SECONDS: Final = 0.3
_MAX_WORDS: Final = 4096


@dataclass(frozen=True, slots=True)
class Pair:
    """A port here (0: any) and one in the order."""

    local: int
    remote: int


class PortPair(click.ParamType[Pair]):
    """`8888`, `8080:80`, or `:80` for any free port here."""

    name = "port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Pair:
        text = str(value)
        local, colon, remote = text.partition(":")
        if not colon:
            remote = local
        numbers = [local or "0", remote]
        if not all(word.isascii() and word.isdigit() and len(word) <= 5 for word in numbers):
            self.fail(f"{text!r} is no port; write 8888, or 8080:80 for port 80 as 8080 here")
        pair = Pair(int(numbers[0]), int(numbers[1]))
        if pair.local > 0xFFFF or not 0 < pair.remote <= 0xFFFF:
            self.fail(f"{text!r} is no port; ports go from 1 to 65535")
        return pair


PORTS: Final = PortPair()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON once the ports are open.")
@click.argument("order", type=ORDER)
@click.argument("ports", metavar="[LOCAL:]PORT...", type=PORTS, nargs=-1, required=True)
def forward(as_json: bool, order: OrderId, ports: tuple[Pair, ...]) -> None:
    """Bring ports of a running order to this machine.

    \b
    dbc forward 7 8888          port 8888 of the order, as http://127.0.0.1:8888
    dbc forward 7 8080:80 6006  several; the first is another port here

    Only this machine reaches them, and only ports of the order itself are reached. Ctrl-C ends it.
    """
    choices = Choices.current()
    block_on(_forward(choices, choices.chosen(), order, ports, as_json=as_json))


@click.command()
@click.option("--port", default=0, type=click.IntRange(0, 0xFFFF), metavar="PORT",
              help="Port here (default: any free one).")  # fmt: skip
@click.argument("order", type=ORDER)
def jupyter(port: int, order: OrderId) -> None:
    """Start Jupyter in a running order, and bring it here.

    Prints the address to open. Notebooks lie in the order's /workspace; Ctrl-C ends Jupyter.
    """
    choices = Choices.current()
    block_on(_jupyter(choices, choices.chosen(), order, port))


# -- ports


class Forwarding:
    """The connections of one command; the session is opened again when it was lost."""

    def __init__(self, reach: "Reach") -> None:
        self._reach = reach
        self._opening = asyncio.Lock()
        self._execs: Execs | None = None
        self._told: set[str] = set()

    async def execs(self) -> "Execs":
        """Raises: NetError, RpcError, NodeUnreachable."""
        from deepbrain.cli.ssh.execs import Execs

        async with self._opening:
            session = await self._reach.session()
            if self._execs is None or self._execs.session is not session:
                self._execs = Execs(session)
            return self._execs

    async def connect(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection. What goes wrong is said once, and ends this one alone."""
        from deepbrain.cli.ssh.tunnel import dial, splice
        from deepbrain.net.errors import ConnectionLost
        from deepbrain.primitives.errors import DeepBrainError

        try:
            async with dial(await self.execs(), str(port)) as tunnel:
                await splice(tunnel, reader, writer)
        except ConnectionLost as error:
            self._reach.lost()
            self._say(str(error))
        except DeepBrainError as error:
            self._say(str(error))
        except OSError:
            return  # the program here went away
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _say(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            say(sentence)

    @contextlib.asynccontextmanager
    async def open(self, order: OrderId, pair: Pair) -> AsyncIterator[int]:
        """The port here, as long as it is open. Raises: UserError: it is taken."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.connect(pair.remote, reader, writer)

        try:
            server = await asyncio.start_server(serve, LOOPBACK, pair.local)
        except OSError as error:
            raise UserError(_why_not(order, pair, error)) from error
        try:
            port: int = server.sockets[0].getsockname()[1]
            yield port
        finally:
            server.close()


def _why_not(order: OrderId, pair: Pair, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        why = "is taken on this machine"
    elif error.errno == errno.EACCES:
        why = "needs root on this machine"
    else:
        why = f"cannot be opened ({(error.strerror or str(error)).lower()})"
    return f"port {pair.local} {why}; write `dbc forward {order} :{pair.remote}` for any free one"


async def _forward(
    choices: Choices, chosen: "Chosen", order: OrderId, pairs: tuple[Pair, ...], *, as_json: bool
) -> None:
    from deepbrain.cli.ssh.tunnel import ensure_own_ports

    async with reaching(choices, chosen, order) as reach, contextlib.AsyncExitStack() as opened:
        forwarding = Forwarding(reach)
        ensure_own_ports((await forwarding.execs()).session)
        found = []
        for pair in pairs:
            local = await opened.enter_async_context(forwarding.open(order, pair))
            url = f"http://{LOOPBACK}:{local}"
            found.append({"order": order, "port": pair.remote, "local": local, "url": url})
        if as_json:
            emit(found)
        else:
            for entry in found:
                click.echo(f"{entry['url']}\tport {entry['port']} of order {order}")
            say("Ctrl-C ends it")
        await _until_told()


async def _until_told() -> None:
    """Until Ctrl-C or SIGTERM."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, told.set)
    try:
        await told.wait()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


# -- Jupyter


class _Jupyter:
    """Jupyter in the order, which ends with this object's block."""

    def __init__(self, command: "ExecStream") -> None:
        self._command = command
        self.last_words = b""
        self.ended = asyncio.ensure_future(self._drain())

    async def _drain(self) -> int:
        while (piece := await self._command.read()) is not None:
            self.last_words = (self.last_words + piece[1])[-_MAX_WORDS:]
        return await self._command.wait()


async def _jupyter(choices: Choices, chosen: "Chosen", order: OrderId, port: int) -> None:
    from deepbrain.cli.ssh.tunnel import ensure_own_ports

    async with reaching(choices, chosen, order) as reach, contextlib.AsyncExitStack() as opened:
        forwarding = Forwarding(reach)
        execs = await forwarding.execs()
        ensure_own_ports(execs.session)
        token, remote = secrets.token_hex(24), 20_000 + secrets.randbelow(40_000)
        running = await _start_jupyter(opened, execs, order, remote, token)
        local = await opened.enter_async_context(forwarding.open(order, Pair(port, remote)))
        click.echo(f"http://{LOOPBACK}:{local}/?token={token}")
        say("Ctrl-C ends Jupyter; what was saved stays in /workspace")
        stopped = asyncio.ensure_future(_until_told())
        try:
            await asyncio.wait({stopped, running.ended}, return_when=asyncio.FIRST_COMPLETED)
            if running.ended.done():
                raise UserError(f"Jupyter ended: {_last_line(running.last_words)}")
        finally:
            stopped.cancel()
            await asyncio.gather(stopped, return_exceptions=True)


async def _start_jupyter(
    opened: contextlib.AsyncExitStack, execs: "Execs", order: OrderId, port: int, token: str
) -> _Jupyter:
    """Jupyter, once it answers. Raises: UserError: the image has none, or it does not come up."""
    options = [
        "--no-browser", "--allow-root", f"--ip={LOOPBACK}", f"--port={port}", "--port-retries=0",
    ]  # fmt: skip
    for program in JUPYTERS:
        running = _Jupyter(
            await opened.enter_async_context(
                execs.run([program, *options], env=(("JUPYTER_TOKEN", token),))
            )
        )
        opened.callback(running.ended.cancel)
        if await _answers(execs, port, running):
            return running
        if not running.ended.done():
            raise UserError(f"{program} did not answer within {START_SECONDS:.0f} s")
        if running.ended.result() != _NOT_FOUND:
            raise UserError(f"{program} ended: {_last_line(running.last_words)}")
    raise UserError(
        f"the image of order {order} has no Jupyter; add it to the image, or install it with "
        f"`dbc exec {order} pip install jupyterlab` where the order has a network"
    )


async def _answers(execs: "Execs", port: int, running: _Jupyter) -> bool:
    """Whether somebody listens at the port before Jupyter ends or time is up."""
    from deepbrain.cli.ssh.tunnel import dial
    from deepbrain.net.errors import ConnectionLost, NetError

    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while not running.ended.done() and asyncio.get_running_loop().time() < deadline:
        try:
            async with dial(execs, str(port)):
                return True
        except ConnectionLost:
            raise
        except NetError:
            await asyncio.wait({running.ended}, timeout=_POLL_SECONDS)
    return False


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return "".join(char if char.isprintable() else "�" for char in lines[-1])

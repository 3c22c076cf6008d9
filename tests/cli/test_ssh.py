"""SSH as it ends on the renter's side: what the protocol allows beyond what `ssh` itself uses."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import click
import pytest
from tests.cli.tooled import Front, front
from tests.provider.house import eventually

from deepbrain.cli.failure import UserError
from deepbrain.cli.renter.orders import arguments
from deepbrain.cli.ssh.execs import PLACES, Execs
from deepbrain.cli.ssh.forward import PORTS, Pair
from deepbrain.cli.ssh.gateway import Place, run_gateway
from deepbrain.cli.ssh.keys import SshFiles
from deepbrain.cli.ssh.tunnel import dial, splice
from deepbrain.net.session import Session
from deepbrain.net.transport import CLOSED_BROKEN
from deepbrain.primitives.ids import AccountId, OrderId


async def test_signals_of_the_protocol_arrive(tmp_path: Path) -> None:
    script = "trap 'echo got usr1' USR1; trap 'echo got term; exit 3' TERM; echo on; while :; do sleep 0.02; done"
    async with front(tmp_path) as made, made.connect() as connection:
        process = await connection.create_process(script)
        assert await process.stdout.readline() == b"on\n"
        process.send_signal("USR1")
        assert await process.stdout.readline() == b"got usr1\n"
        process.send_signal("NONSENSE")
        process.send_signal("TERM")
        assert await process.stdout.readline() == b"got term\n"
        await process.wait_closed()
        assert process.exit_status == 3


async def test_each_direction_of_a_tunnel_ends_by_itself(tmp_path: Path) -> None:
    got = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"greeting")
        writer.write_eof()
        got.set_result(await reader.read())
        writer.close()

    async with front(tmp_path) as made, made.connect() as connection:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await connection.open_connection("localhost", port)
        assert await reader.read() == b"greeting"
        writer.write(b"x" * 300_000)
        writer.write_eof()
        assert await asyncio.wait_for(got, 10) == b"x" * 300_000
        writer.close()
    server.close()


async def test_a_slow_service_is_given_all_before_its_tunnel_ends(tmp_path: Path) -> None:
    got = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await asyncio.sleep(0.5)
        got.set_result(len(await reader.read()))
        writer.close()

    async with front(tmp_path) as made:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
        async with dial(made.execs, str(server.sockets[0].getsockname()[1])) as tunnel:
            source = asyncio.StreamReader()
            source.feed_data(b"x" * 3_000_000)
            source.feed_eof()
            await splice(tunnel, source, Nowhere())
        assert await got == 3_000_000
    server.close()


async def test_what_was_sent_before_a_close_is_delivered(tmp_path: Path) -> None:
    """As `ssh -L` does it when the program behind it has sent all and goes."""
    got = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        got.set_result(len(await reader.read()))
        writer.close()

    async with front(tmp_path) as made, made.connect() as connection:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
        port = server.sockets[0].getsockname()[1]
        _, writer = await connection.open_connection("localhost", port)
        writer.write(b"x" * 1_500_000)
        writer.write_eof()
        writer.close()
        assert await asyncio.wait_for(got, 10) == 1_500_000
    server.close()


async def test_an_endless_service_ends_with_its_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepbrain.cli.ssh.tunnel.DELIVERY_SECONDS", 0.5)
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"tick" * 1000)
                await writer.drain()
        ended.set()

    async with front(tmp_path) as made, made.connect() as connection:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await connection.open_connection("localhost", port)
        assert await reader.read(4) == b"tick"
        writer.close()
        await asyncio.wait_for(ended.wait(), 10)
    server.close()


class Nowhere:
    def write(self, data: bytes, /) -> None:
        return

    async def drain(self) -> None:
        return

    def write_eof(self) -> None:
        return


async def test_commands_beyond_the_places_wait_for_one(tmp_path: Path) -> None:
    async with front(tmp_path) as made, made.connect() as connection:
        first = [await connection.create_process("echo on; cat") for _ in range(PLACES)]
        for process in first:
            assert await process.stdout.readline() == b"on\n"
        late = await connection.create_process("echo late")
        assert b"too many commands; waiting" in await late.stderr.readline()
        first[0].stdin.write_eof()
        assert await asyncio.wait_for(late.stdout.read(), 10) == b"late\n"
        for process in first[1:]:
            process.terminate()


async def test_places_that_others_hold_are_waited_for_too(tmp_path: Path) -> None:
    told = []
    async with front(tmp_path) as made:
        others = [await made.session.exec(["cat"]) for _ in range(16)]
        waiting = asyncio.create_task(_first_line(made.execs, told.append))
        await asyncio.sleep(0.6)
        assert not waiting.done()
        assert told == [None], "said once"
        await others[0].close()
        assert await asyncio.wait_for(waiting, 10) == (1, b"here\n")
        for other in others[1:]:
            await other.close()


async def _first_line(execs: Execs, told) -> tuple[int, bytes] | None:
    async with execs.run(["echo", "here"], on_wait=lambda: told(None)) as command:
        return await command.read()


async def test_only_sftp_is_a_subsystem_and_only_our_key_a_key(tmp_path: Path) -> None:
    async with front(tmp_path) as made, made.connect() as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process(subsystem="netconf")
        async with connection.start_sftp_client() as sftp:
            assert await sftp.realpath(b".") == str(made.home.sandbox._tenant(7).volume).encode()
        stranger = made.files.directory / "stranger"
        stranger.write_bytes(
            asyncssh.generate_private_key("ssh-ed25519").export_private_key("openssh")
        )
        with pytest.raises(asyncssh.PermissionDenied):
            async with made.connect(stranger):
                pass


async def test_forwards_are_told_at_once_where_nothing_answers(tmp_path: Path) -> None:
    async with front(tmp_path) as made, made.connect() as connection:
        for host, port, words in (
            ("localhost", 1, "nothing answers at port 1 of this order"),
            ("192.0.2.1", 80, "only ports of the order itself"),
            ("metadata", 80, "only ports of the order itself"),
        ):
            with pytest.raises(asyncssh.ChannelOpenError, match=words):
                await connection.open_connection(host, port)
        with pytest.raises(asyncssh.ChannelOpenError, match="nothing answers"):
            await connection.open_unix_connection("/no/such/socket")
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("", 0, "localhost", 22)


async def test_a_lost_machine_ends_connections_with_its_reason(tmp_path: Path) -> None:
    async with front(tmp_path) as made, made.connect() as connection:
        process = await connection.create_process("echo on; cat")
        await process.stdout.readline()
        for task in made.serving:
            task.cancel()
        await process.wait_closed()
        assert process.exit_status is None
        assert "the machine that runs the order is lost" in made.ends[0]


async def test_a_session_that_is_closed_leaves_no_command(tmp_path: Path) -> None:
    async with front(tmp_path) as made, made.connect() as connection:
        process = await connection.create_process("echo on; cat")
        assert await process.stdout.readline() == b"on\n"
        tenant = made.home.sandbox._tenant(7)
        assert [one for one in tenant.sessions if one.live]
        process.close()
        await process.wait_closed()
        await eventually(lambda: not [one for one in tenant.sessions if one.live], 10)


@pytest.mark.parametrize("text", ["8888", "8080:80", ":80"])
def test_ports_are_read(text: str) -> None:
    wanted = {"8888": Pair(8888, 8888), "8080:80": Pair(8080, 80), ":80": Pair(0, 80)}
    assert PORTS.convert(text, None, None) == wanted[text]


@pytest.mark.parametrize("text", ["", "0", "x", "80:", "1:2:3", "65536", "-1", "8:0", "٣"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="is no port"):
        PORTS.convert(text, None, None)


def test_a_dash_dash_is_no_command() -> None:
    assert arguments(("--", "echo", "hi")) == ("echo", "hi")
    assert arguments(("echo", "--", "hi")) == ("echo", "--", "hi")
    assert arguments(("--",)) == ()


def test_a_gateway_belongs_to_one_network_key_and_order(tmp_path: Path) -> None:
    files = SshFiles(tmp_path)
    alice, bob = (AccountId(bytes([i]) * 32) for i in (1, 2))
    names = {
        Place.of(files, url, account, OrderId(order)).name
        for url in ("ws://a", "ws://b")
        for account in (alice, bob)
        for order in (1, 11)
    }
    assert len(names) == 8
    assert max(map(len, names)) < 40


@contextlib.asynccontextmanager
async def gateway(made: Front) -> AsyncIterator[tuple[Place, "asyncio.Task[None]"]]:
    """A gateway in this process, over the session of `made`."""
    place = Place(made.files, "7-x.sock")

    @contextlib.asynccontextmanager
    async def session() -> AsyncIterator[Session]:
        yield made.session

    task = asyncio.create_task(run_gateway(place, place.listen(), session))
    try:
        yield place, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def enter(place: Place) -> socket.socket:
    connection = place.connect()
    assert connection is not None
    connection.setblocking(False)
    assert await asyncio.get_running_loop().sock_recv(connection, 2) == b"+\n"
    return connection


async def test_a_shell_outlives_the_connection_to_the_machine(tmp_path: Path) -> None:
    async with front(tmp_path) as made, gateway(made) as (place, task):
        async with made.over(await enter(place)) as connection:
            process = await connection.create_process("echo on; cat")
            assert await process.stdout.readline() == b"on\n"
            made.session._connection.close(CLOSED_BROKEN, "a cable was pulled")
            process.stdin.write(b"still here\n")
            assert await asyncio.wait_for(process.stdout.readline(), 20) == b"still here\n"
            again = await connection.run("echo again")
            assert again.stdout == b"again\n"
        assert not task.done()


async def test_a_gateway_that_nobody_uses_ends_with_its_connection(tmp_path: Path) -> None:
    async with front(tmp_path) as made, gateway(made) as (place, task):
        (await enter(place)).close()
        await asyncio.sleep(0.5)  # until it has noticed
        made.session._connection.close(CLOSED_BROKEN, "a cable was pulled")
        await asyncio.wait_for(task, 20)
        assert place.connect() is None, "the next proxy starts a new one"


async def test_a_gateway_ends_with_its_order(tmp_path: Path) -> None:
    async with front(tmp_path) as made, gateway(made) as (place, task):
        async with made.over(await enter(place)) as connection:
            process = await connection.create_process("echo on; cat")
            await process.stdout.readline()
            await made.session.stop()
            await process.wait_closed()
            assert not task.done(), "while somebody is connected"
        await asyncio.wait_for(task, 20)
        assert not list(made.files.directory.glob("*.sock"))


async def test_a_gateway_that_cannot_open_says_why_and_leaves_room(tmp_path: Path) -> None:
    place = Place(SshFiles(tmp_path), "7-x.sock")

    @contextlib.asynccontextmanager
    async def refuse() -> AsyncIterator[Session]:
        raise UserError("order 7 has ended")
        yield

    listener = place.listen()
    waiting = place.connect()
    assert waiting is not None
    await run_gateway(place, listener, refuse)
    assert waiting.recv(100) == b"-order 7 has ended\n"
    listener.close()
    assert place.connect() is None
    waiting.close()

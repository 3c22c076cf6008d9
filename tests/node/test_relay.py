"""The relay: real endpoints use it, nobody gets more of it than is theirs, nothing breaks it."""

import asyncio
import contextlib
import json
import os
import socket
import time
import urllib.request

import pytest
from tests.node.relaying import (
    Client,
    People,
    attach_raw,
    attached,
    auth,
    knocking,
    new_pair,
    relay,
    url,
)
from tests.provider.house import eventually
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from deepbrain.net import rendezvous
from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.errors import NetError, Refused, Unreachable
from deepbrain.node.relay import rendezvous as served
from deepbrain.node.relay import wire
from deepbrain.node.relay.limits import Rate, Standing

MIB = 1 << 20


@contextlib.asynccontextmanager
async def endpoint(**options):
    made = await IrohEndpoint.bind(os.urandom(32), hosts=("127.0.0.1",), **options)
    try:
        yield made
    finally:
        await made.close()


async def echo(machine):
    """Answer whoever comes, for ever."""

    async def one(incoming):
        with contextlib.suppress(NetError):
            connection = await incoming.complete(5)
            while True:
                stream = await connection.accept()
                await stream.write(await stream.read_exactly(5))
                await stream.finish()

    async with asyncio.TaskGroup() as group:
        while (incoming := await machine.accept()) is not None:
            group.create_task(one(incoming))


async def ask(connection) -> bytes:
    stream = await connection.open()
    await stream.write(b"hello")
    return await stream.read_exactly(5)


@contextlib.asynccontextmanager
async def serving(machine):
    task = asyncio.create_task(echo(machine))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


# Real endpoints.


async def test_a_machine_is_reached_through_each_relay_it_visits():
    async with relay() as one, relay() as two, endpoint() as machine:
        visits = contextlib.AsyncExitStack()
        async with visits, serving(machine):
            for server in (one, two):
                found = await rendezvous.find(url(server))
                visit = await visits.enter_async_context(rendezvous.visiting(machine, found))
                seen = await rendezvous.look(visit)
                assert seen == machine.addresses[0]
            for server in (one, two):
                async with endpoint() as renter:  # one that was there once knows a direct path
                    connection = await renter.dial(machine.key, [url(server)])
                    assert connection.remote == machine.key
                    assert await ask(connection) == b"hello"
                    connection.close()
                    assert server.hub.keys.of(renter.key, 0).sent > 1000


async def test_a_dead_relay_keeps_nobody_from_a_living_one():
    async with relay() as living, endpoint() as machine, endpoint() as renter:
        found = await rendezvous.find(url(living))
        async with rendezvous.visiting(machine, found), serving(machine):
            started = time.monotonic()
            way = ["http://127.0.0.1:9", "127.0.0.1:9", url(living)]
            connection = await renter.dial(machine.key, way)
            assert await ask(connection) == b"hello"
            assert time.monotonic() - started < 3


async def test_a_machine_that_visits_no_more_is_not_reached():
    async with relay() as server, endpoint() as machine, endpoint() as renter:
        with pytest.raises(Unreachable):
            await renter.dial(machine.key, [url(server)], timeout=1)
        assert server.hub.keys.of(renter.key, 0).sent > 0


async def test_only_real_relays_are_found(monkeypatch):
    with pytest.raises(Unreachable, match="no relay answers"):
        await rendezvous.find("http://127.0.0.1:9")

    async def nonsense(reader, writer):
        await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + b'{"key": "00", "port": "x"}')
        writer.close()

    async def drip(reader, writer):
        """Never enough, and never too late for the next byte."""
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.2)
        writer.close()

    monkeypatch.setattr(rendezvous, "PAGE_SECONDS", 1.0)
    for misbehave in (nonsense, drip):
        listener = await asyncio.start_server(misbehave, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with asyncio.timeout(3):
            with pytest.raises(Unreachable, match="no relay answers"):
                await rendezvous.find(f"http://127.0.0.1:{port}")
        listener.close()
        await asyncio.sleep(0.5)  # the connection's end is noticed at its next byte


async def test_a_machine_is_knocked_at_from_outside_and_only_its_owners_address(monkeypatch):
    monkeypatch.setattr(served, "KNOCK_SECONDS", 0.7)
    async with relay() as server, endpoint() as machine, endpoint() as asker, serving(machine):
        found = await rendezvous.find(url(server))
        async with rendezvous.visiting(asker, found) as visit:
            addresses = (machine.addresses[0], "127.0.0.1:9", "192.0.2.7:4001")
            verdicts = await rendezvous.knock(visit, machine.key, addresses)
            assert [verdict.name for verdict in verdicts] == ["ANSWERS", "SILENT", "NOT_ASKED"]
            with pytest.raises(Refused, match="just now"):
                await rendezvous.knock(visit, machine.key, addresses)


async def test_the_rendezvous_keeps_its_key_over_a_restart_and_its_file_is_private(tmp_path):
    from deepbrain.node.relay.server import _seed

    assert _seed(tmp_path) == _seed(tmp_path)
    assert (tmp_path / "relay.key").stat().st_mode & 0o077 == 0


# Keys and frames.


async def test_a_number_that_is_free_in_tcp_and_taken_in_udp_is_not_chosen(monkeypatch):
    bind, taken = IrohEndpoint.bind, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    async def bind_after_another(seed, port, *rest, **options):
        if taken.getsockname()[1] == 0:
            taken.bind(("127.0.0.1", port))
        return await bind(seed, port, *rest, **options)

    monkeypatch.setattr(IrohEndpoint, "bind", bind_after_another)
    with taken:
        async with relay() as server:
            assert server.port != taken.getsockname()[1]


async def test_datagrams_go_to_the_key_they_name_and_say_from_whom():
    async with relay() as server, attached(server) as alice, attached(server) as bob:
        await alice.send(bob.key, b"one datagram")
        assert await bob.data() == (alice.key, b"one datagram")
        batch = bytes((wire.SEND_BATCH,)) + alice.key + b"\1" + b"\0\4" + b"fourfour"
        await bob.socket.send(batch)
        frame = await alice.next(wire.RECEIVED_BATCH)
        assert frame == bytes((wire.RECEIVED_BATCH,)) + bob.key + batch[33:]
        await alice.socket.send(wire.ping(b"12345678"))
        assert await alice.next(wire.PONG) == wire.pong(b"12345678")


async def test_who_was_written_to_hears_that_the_writer_is_gone():
    async with relay() as server, attached(server) as alice:
        async with attached(server) as bob:
            await bob.send(alice.key, b"hi")
            await alice.data()
        assert await alice.next(wire.GONE) == wire.gone(bob.key)


async def test_a_key_must_be_proven():
    """Control: the same with its own key is let in."""
    mine, yours = new_pair(), new_pair()
    async with relay() as server:
        async with knocking(server) as (socket_, challenge):
            await socket_.send(auth(mine, challenge, key=bytes(yours.public)))
            assert (await socket_.recv())[0] == wire.DENIES
            with pytest.raises(ConnectionClosed):
                await socket_.recv()
        async with knocking(server) as (socket_, challenge):
            await socket_.send(auth(mine, os.urandom(16)))  # an old challenge's answer
            assert (await socket_.recv())[0] == wire.DENIES
        async with knocking(server) as (socket_, _):
            await socket_.send(bytes((wire.SEND,)) + bytes(32) + b"\0early")
            assert (await socket_.recv())[0] == wire.DENIES
        assert list(server.hub.attached()) == []
        async with attached(server, mine):
            assert [key for key, _ in server.hub.attached()] == [mine.public]


async def test_the_newest_connection_of_a_key_hears_and_a_third_ends_the_first():
    pair = new_pair()
    async with relay() as server, attached(server) as sender, attached(server, pair) as first:
        async with attached(server, pair) as second:
            assert await first.next(wire.STATUS) == wire.status(wire.SAME_KEY)
            await sender.send(second.key, b"for the newest")
            assert await second.data() == (sender.key, b"for the newest")
            async with attached(server, pair):
                with pytest.raises(ConnectionClosed):
                    await first.next(wire.RECEIVED)
        await eventually(lambda: not server.hub.is_attached(pair.public))


OVERLONG = bytes((wire.SEND,)) + bytes(32) + b"\0" + bytes(1 << 16)
HOSTILE = {
    "an empty message": b"",
    "an unknown type": b"\x63abc",
    "a frame of the relay's own": wire.gone(bytes(32)),
    "a send without data": bytes((wire.SEND,)) + bytes(32) + b"\0",
    "a batch without data": bytes((wire.SEND_BATCH,)) + bytes(32) + b"\0\0\1",
    "half a key": bytes((wire.SEND,)) + bytes(7),
    "a short ping": b"\x09abc",
    "a frame that is too long": OVERLONG,
    "text": "text",
}


@pytest.mark.parametrize("sent", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_frame_that_is_none_ends_its_connection_and_no_other(sent):
    async with relay() as server, attached(server) as alice, attached(server) as bob:
        async with attached(server) as rude:
            await rude.socket.send(sent)
            with pytest.raises(ConnectionClosed):
                async with asyncio.timeout(5):
                    await rude.next(wire.RECEIVED)
        await alice.send(bob.key, b"still here")
        assert await bob.data() == (alice.key, b"still here")


async def test_fragments_are_refused():
    async with relay() as server, attached(server) as rude:
        await rude.socket.send([bytes((wire.SEND,)), bytes(32), b"\0abc"])
        with pytest.raises(ConnectionClosed):
            await rude.next(wire.RECEIVED)


@pytest.mark.parametrize(
    "sent",
    [b"\x00" * 100, os.urandom(4000), b"GET / HTTP/1.1\r\nX: " + b"y" * 10_000 + b"\r\n\r\n",
     b"POST /relay HTTP/1.1\r\n\r\n", b"GET /relay HTTP/1.1\r\n\r\n"],
    ids=["zeros", "noise", "a long header", "a post", "no upgrade"],
)  # fmt: skip
async def test_what_is_no_request_is_closed(sent):
    async with relay() as server, attached(server) as alice:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        async with asyncio.timeout(8):  # what has no end is cut after 5 s
            await reader.read()
        writer.close()
        await alice.send(alice.key, b"to myself")
        assert await alice.data() == (alice.key, b"to myself")


async def test_other_versions_of_the_protocol_are_not_spoken():
    from websockets.asyncio.client import connect

    async with relay() as server:
        address = f"ws://127.0.0.1:{server.port}{wire.PATH}"
        for offered in (["iroh-relay-v1"], None):
            with pytest.raises(InvalidStatus):
                async with connect(address, subprotocols=offered):
                    pass


# What each may use.


async def test_half_open_connections_are_few_and_end_soon():
    async with relay(handshake_seconds=0.5, unproven_per_address=8) as server:
        opened = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        await eventually(lambda: server.hub.connections == 8)
        assert server.hub.refused == 12
        with pytest.raises((OSError, InvalidMessage)):
            async with attached(server):
                pass
        await eventually(lambda: server.hub.connections == 0, seconds=4)
        async with attached(server):  # and then there is room again
            pass
        for one in opened:
            one.close()


async def test_connections_of_an_address_are_bounded():
    async with relay(per_address=3, unproven_per_address=3) as server:
        held = 0
        async with contextlib.AsyncExitStack() as stack:
            with pytest.raises((OSError, InvalidMessage)):
                for _ in range(4):
                    await stack.enter_async_context(attached(server))
                    held += 1
            # The relay's own rendezvous comes and goes from this address too.
            assert 1 <= held <= 3
            assert server.hub.connections <= 3


async def test_the_silent_are_cut_and_who_answers_pings_stays():
    async with (
        relay(ping_seconds=0.3, silence_seconds=1.5) as server,
        attached(server) as alive,
        attached(server, ping_interval=None) as dead,
    ):
        loop = asyncio.create_task(alive.next(wire.RECEIVED))
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(6):
                await dead.socket.recv(decode=False)  # the ping, unanswered
                while True:
                    await dead.socket.recv(decode=False)
        assert not loop.done()
        loop.cancel()


async def flood(client: Client, to: bytes, seconds: float) -> int:
    """Send as fast as the relay takes it; how many bytes it took."""
    sent, until = 0, time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while time.monotonic() < until:
                await client.send(to, bytes(1200))
                sent += 1200
    client.socket.transport.abort()  # a goodbye would wait behind what the relay does not take
    return sent


async def test_a_flood_over_one_key_is_slowed_down_and_hurts_nobody():
    limit = Rate(per_second=200_000, burst=100_000, per_day=1 << 40)
    rates = {Standing.STRANGER: limit, Standing.OWN: limit}
    async with (
        relay(rates=rates, strangers_of_address=Rate(1 << 30, 1 << 30, 1 << 40)) as server,
        attached(server) as rude,
        attached(server) as a,
        attached(server) as b,
    ):
        flooding = asyncio.create_task(flood(rude, a.key, 3))
        told = asyncio.create_task(rude.next(wire.STATUS))
        delays = []
        for _ in range(20):
            started = time.monotonic()
            await b.send(b.key, b"x")
            await b.data()
            delays.append(time.monotonic() - started)
            await asyncio.sleep(0.05)
        await flooding
        took = server.hub.keys.of(rude.key, 0).sent
        assert took < 100_000 + 3.5 * 200_000 + 300_000, "burst, rate, and what was under way"
        assert sorted(delays)[10] < 0.1
        assert await told == wire.status(wire.RATE_LIMITED)


async def test_strangers_of_one_address_share_an_allowance():
    wide = Rate(per_second=1 << 30, burst=1 << 30, per_day=1 << 40)
    rates = {Standing.STRANGER: wide, Standing.OWN: wide}
    narrow = Rate(per_second=100_000, burst=50_000, per_day=1 << 40)
    async with relay(rates=rates, strangers_of_address=narrow) as server:
        stack = contextlib.AsyncExitStack()
        async with stack:
            clients = [await stack.enter_async_context(attached(server)) for _ in range(5)]
            await asyncio.gather(*(flood(one, one.key, 2) for one in clients))
            total = sum(server.hub.keys.of(one.key, 0).sent for one in clients)
            assert total < 50_000 + 2.5 * 100_000 + 5 * 300_000
            assert server.hub.addresses.of("127.0.0.1", 0).sent == total


async def test_standing_gives_more():
    people = People()
    few, many = Rate(20_000, 20_000, 1 << 40), Rate(1 << 30, 1 << 30, 1 << 40)
    rates = dict.fromkeys(Standing, few) | {Standing.RENTING: many}
    machine, stranger = new_pair(), new_pair()
    people.standings[machine.public] = Standing.RENTING
    async with (
        relay(people, rates=rates) as server,
        attached(server, machine) as known,
        attached(server, stranger) as unknown,
    ):
        await eventually(lambda: server.hub.standing(machine.public) is Standing.RENTING)
        took = await flood(known, known.key, 1)
        refused = await flood(unknown, unknown.key, 1)
        assert took > 10 * server.hub.keys.of(unknown.key, 0).sent, refused


async def test_a_slow_reader_is_dropped_and_nothing_is_kept_for_it():
    people = People()
    people.everybody = Standing.RENTING
    pair = new_pair()
    async with relay(people, queue_bytes=256 * 1024, stalled_seconds=1.0) as server:
        with contextlib.closing(await attach_raw(server, pair)):
            async with attached(server) as sender:
                [link] = [one for one in server.hub._all if one.key == pair.public]
                flooding = asyncio.create_task(flood(sender, bytes(pair.public), 4))
                waiting = 0
                while server.hub.is_attached(pair.public) and not flooding.done():
                    if link._transport is not None:
                        waiting = max(waiting, link._transport.get_write_buffer_size())
                    await asyncio.sleep(0.01)
                await flooding
                assert 64 * 1024 < waiting <= 256 * 1024 + 100
                await eventually(lambda: not server.hub.is_attached(pair.public), 15)
                assert server.hub.keys.of(pair.public, 0).dropped > MIB


async def test_the_days_budget_leaves_a_trickle():
    from deepbrain.node.relay.limits import DAY_SECONDS, TRICKLE
    from deepbrain.node.relay.meter import Meter

    meter = Meter(Rate(per_second=1000, burst=1000, per_day=5000), 0.0)
    assert meter.take(1000, 0.0) == 0
    assert meter.take(1000, 0.0) == pytest.approx(1.0)
    assert meter.take(4000, 100.0) > 0
    assert meter.take(TRICKLE, 200.0) == pytest.approx(TRICKLE / TRICKLE - 1000 / TRICKLE)
    assert meter.take(1000, 1 + DAY_SECONDS) == 0
    assert meter.today == 1000


async def test_meters_are_shown_to_this_machine_and_name_the_keys():
    async with relay() as server, attached(server) as alice, attached(server) as bob:
        await alice.send(bob.key, b"counted")
        await bob.data()

        def fetch(page: str) -> str:
            with urllib.request.urlopen(url(server) + page, timeout=5) as response:
                return response.read().decode()

        shown = await asyncio.to_thread(fetch, "/metrics")
        assert "deepbrain_relay_connections 3" in shown
        assert f'deepbrain_relay_received_bytes_total{{key="{bob.key.hex()}"}} 41' in shown
        assert set(json.loads(await asyncio.to_thread(fetch, "/rendezvous"))) == {"key", "port"}
        status, _ = server._page("/metrics", "192.0.2.1")
        assert status == 404

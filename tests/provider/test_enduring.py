"""A command outlives its renter's connection for a while, and nothing of it is lost or doubled."""

import asyncio

import pytest
from tests.net.ends import KINDS
from tests.provider.house import BOB, eventually, house

from deepbrain.net.errors import NetError, RefusalCode, Refused
from deepbrain.net.frames import expect_reply
from deepbrain.net.lasting import WINDOW
from deepbrain.net.messages import Again, Begin, Resumed, StreamName
from deepbrain.net.stream import HIGH_WATER
from deepbrain.net.transport import CLOSED_BROKEN
from deepbrain.primitives.units import U64
from deepbrain.provider import enduring

both = pytest.mark.parametrize("kind", KINDS)


def _break(session) -> None:
    """As when the network is gone: nobody said goodbye."""
    session._connection.close(CLOSED_BROKEN, "cut by the test")


def _live(home, order: int = 1) -> int:
    return sum(one.live for one in home.sandbox._tenants[order].sessions)


@both
async def test_a_command_goes_on_over_another_connection(kind, tmp_path):
    async with house(kind, tmp_path) as home:
        session = await home.running(1, "sleep", "9")
        async with await session.exec(["cat"]) as command:
            got, sent = bytearray(), bytearray()
            for number in range(40):
                piece = b"%d " % number * 3000
                await command.write(piece)
                sent += piece
                if number % 9 == 4:
                    _break(session)
            await command.write_eof()
            async with asyncio.timeout(20):
                while (part := await command.read()) is not None:
                    got += part[1]
            assert bytes(got) == bytes(sent)
            assert await command.wait() == 0
        assert (await session.status()).order == 1, "the session goes on, too"


@both
async def test_many_commands_of_one_session_share_the_new_connection(kind, tmp_path):
    async with house(kind, tmp_path) as home:
        session = await home.running(1, "sleep", "9")
        commands = [await session.exec(["cat"]) for _ in range(8)]
        _break(session)
        for number, command in enumerate(commands):
            await command.write(b"%d" % number)
        async with asyncio.timeout(20):
            for number, command in enumerate(commands):
                assert await command.read() == (1, b"%d" % number)
        for command in commands:
            await command.close()


@both
async def test_a_clean_close_kills_at_once(kind, tmp_path):
    async with house(kind, tmp_path) as home:
        session = await home.running(1, "sleep", "9")
        await session.exec(["cat"])
        await eventually(lambda: _live(home) == 1)
        session.close()
        await eventually(lambda: _live(home) == 0, seconds=2)


async def test_nobody_comes_back_and_the_command_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(enduring, "KEEP_SECONDS", 0.4)
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "sleep", "9")
        command = await session.exec(["cat"])
        session._reopen = _never
        _break(session)
        await asyncio.sleep(0.2)
        assert _live(home) == 1
        await eventually(lambda: _live(home) == 0, seconds=2)
        await command.close()


async def _never():
    raise NetError("the network is gone")


async def test_commands_that_nobody_comes_back_to_make_place(tmp_path):
    async with house("fake", tmp_path) as home:
        killed = await home.running(1, "sleep", "9")
        left = [await killed.exec(["cat"]) for _ in range(14)]
        killed._reopen = _never
        _break(killed)
        await eventually(lambda: all(kept.timer for kept in home.agent.enduring._kept.values()))
        again = await home.session(1)
        new = [await again.exec(["cat"]) for _ in range(12)]
        for command in new:
            await command.write(b"here")
            assert await command.read() == (1, b"here")
        assert _live(home) <= 16
        for command in (*left, *new):
            await command.close()


async def test_what_a_command_prints_meanwhile_waits_and_is_bounded(tmp_path):
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "sleep", "9")
        reopen, session._reopen = session._reopen, _never
        async with await session.exec(["flood", "400"]) as command:
            await asyncio.sleep(0.05)
            _break(session)
            await asyncio.sleep(0.5)
            [kept] = home.agent.enduring._kept.values()
            waiting = sum(map(len, kept.lasting._queue)) + sum(map(len, kept.lasting._sent))
            assert waiting <= WINDOW
            assert kept.lasting._written <= WINDOW + HIGH_WATER, "it does not wait for its reader"
            session._reopen = reopen
            size = 0
            async with asyncio.timeout(20):
                while (part := await command.read()) is not None:
                    size += len(part[1])
            assert size == 400 * 65536
            assert size > WINDOW + HIGH_WATER, "it never had to wait"


async def test_only_the_renter_of_the_order_comes_back_to_it(tmp_path):
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "sleep", "9")
        other = await home.running(2, "sleep", "9")
        command = await session.exec(["cat"])
        [(_, name)] = home.agent.enduring._kept
        # Neither from another order, nor by another session of the same one.
        for session_ in (other, await home.session(1)):
            with pytest.raises(Refused) as caught:
                stream = await session_._ask(Again(name=name, received=U64(0)))
                await expect_reply(stream, Resumed)
            assert caught.value.code is RefusalCode.NOT_NOW
        with pytest.raises(Refused):
            await home.session(1, who=BOB)
        await command.write(b"still mine")
        assert await command.read() == (1, b"still mine")
        await command.close()


async def test_lasting_streams_are_bounded_and_their_names_are_taken_once(tmp_path):
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "sleep", "9")
        names = [StreamName(bytes([number]) * 16) for number in range(33)]
        held = [await session._ask(Begin(name=name)) for name in names[:32]]
        await eventually(lambda: home.agent.enduring.of_order(1) == 32)
        for name, reason in ((names[0], "name"), (names[32], "too many")):
            with pytest.raises(Refused, match=reason):
                await expect_reply(await session._ask(Begin(name=name)), Resumed)
        for stream in held:
            await stream.reset()
        await eventually(lambda: home.agent.enduring.of_order(1) == 0)


async def test_the_newest_carrier_counts(tmp_path):
    """As when a renter is back before the machine knows that the old connection is dead."""
    async with house("fake", tmp_path) as home:
        session = await home.running(1, "sleep", "9")
        async with await session.exec(["cat"]) as command:
            await command.write(b"one")
            assert await command.read() == (1, b"one")
            old = session._connection
            opened = await session._reopen()
            session._connection = opened.connection
            old._end("silent")  # and its other end, the machine's, hears nothing of it
            await command.write(b"two")
            async with asyncio.timeout(5):
                assert await command.read() == (1, b"two")

"""Hold what a machine gives to one order: every connection, every stream, and bytes nobody asked for.

`hold`: as many streams as the transport gives on four connections, each filled as far as it goes and
left. `slow`: one byte a second of a request, on every stream. `spam`: statuses asked for as fast as the
machine answers. `unread`: the whole log asked for on many streams, and never read.
"""

import asyncio
from typing import Any

from tests.hostile.attacker import Aim, attack, endpoints, tried

from deepbrain.net.endpoint import IrohConnection
from deepbrain.net.errors import NetError, Refused
from deepbrain.net.frames import expect_reply, request_bytes
from deepbrain.net.messages import Logs, LogsFrom, State, Status
from deepbrain.net.stream import Stream
from deepbrain.primitives.units import U64

CONNECTIONS = 4
STREAMS = 90
"""Nearly what the transport gives on each."""
FILLING = 4 << 20


async def main(aim: Aim) -> dict[str, Any]:
    async with endpoints(CONNECTIONS) as keys:
        connections = [await aim.proven(key) for key in keys]
        work = {"hold": hold, "slow": slow, "spam": spam, "unread": unread}[aim.how]
        return await work(aim, connections)


async def hold(aim: Aim, connections: list[IrohConnection]) -> dict[str, Any]:
    streams = [await each.open() for each in connections for _ in range(STREAMS)]

    async def fill(stream: Stream) -> None:
        async with asyncio.timeout(aim.seconds):
            # A message of 64 KiB is promised, and much more sent than any message may have.
            await stream.write((1 << 16).to_bytes(4, "little") + bytes([9]))
            await asyncio.sleep(aim.seconds / 2)
            await stream.write(bytes(FILLING))

    filled = await asyncio.gather(*(tried(fill(stream)) for stream in streams))
    return {"streams": len(streams), "filled": sum(filled)}


async def slow(aim: Aim, connections: list[IrohConnection]) -> dict[str, Any]:
    streams = [await each.open() for each in connections for _ in range(STREAMS // 2)]
    ended = 0

    async def drip(stream: Stream) -> None:
        nonlocal ended
        async with asyncio.timeout(aim.seconds):
            try:
                await stream.write((100).to_bytes(4, "little"))
                while True:
                    await stream.write(b"\x05")
                    await asyncio.sleep(0.5)
            except NetError:
                ended += 1

    await asyncio.gather(*(tried(drip(stream)) for stream in streams))
    return {"streams": len(streams), "ended": ended}


async def spam(aim: Aim, connections: list[IrohConnection]) -> dict[str, Any]:
    answered = refused = 0
    until = asyncio.get_running_loop().time() + aim.seconds

    async def ask(connection: IrohConnection) -> None:
        async with asyncio.timeout_at(until):
            while True:
                await once(connection)

    async def once(connection: IrohConnection) -> None:
        nonlocal answered, refused
        async with await connection.open() as stream:
            await stream.write(request_bytes(Status(follow=False)))
            try:
                await expect_reply(stream, State)
                answered += 1
            except Refused:
                refused += 1

    await asyncio.gather(*(tried(ask(each)) for each in connections for _ in range(20)))
    return {"answered": answered, "refused": refused}


async def unread(aim: Aim, connections: list[IrohConnection]) -> dict[str, Any]:
    asked = 0
    streams = [await each.open() for each in connections for _ in range(aim.count // CONNECTIONS)]
    for stream in streams:
        await stream.write(request_bytes(Logs(offset=U64(0), follow=True)))
        await expect_reply(stream, LogsFrom)
        asked += 1
    await asyncio.sleep(aim.seconds)
    return {"asked": asked}


if __name__ == "__main__":
    attack(main)

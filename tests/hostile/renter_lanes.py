"""Take more than one's share by bulk over several connections.

`gaps`: as many striped streams as the machine takes, each with a copy that begins, and then every piece
that may be sent but the next. `many`: as many connections for lanes as it lets in.
"""

import asyncio
import struct
from typing import Any

from tests.hostile.attacker import Aim, attack, endpoints, tried

from deepbrain.net.endpoint import IrohConnection
from deepbrain.net.frames import expect_reply, request_bytes
from deepbrain.net.messages import CopyIn, Done, Scope, StreamName, Stripe
from deepbrain.net.striped import PIECE, WINDOW
from deepbrain.primitives.units import U8

_HEAD = struct.Struct("<BQI")


async def main(aim: Aim) -> dict[str, Any]:
    return await {"gaps": gaps, "many": many}[aim.how](aim)


async def gaps(aim: Aim) -> dict[str, Any]:
    async with endpoints(1) as keys:
        connection = await aim.proven(keys[0])
        streams = [hold(connection, number, aim.seconds) for number in range(aim.count)]
        return {"taken": sum(await asyncio.gather(*(tried(stream) for stream in streams)))}


async def hold(connection: IrohConnection, number: int, seconds: float) -> None:
    stream = await connection.open()
    try:
        await stream.write(request_bytes(Stripe(name=StreamName(number.to_bytes(16, "big")))))
        await expect_reply(stream, Done)
        request = request_bytes(CopyIn(dest="."))
        await stream.write(_HEAD.pack(0, 0, len(request)) + request)
        for piece in range(2, WINDOW):
            await stream.write(_HEAD.pack(0, piece, PIECE) + bytes(PIECE))
        await asyncio.sleep(seconds)
    finally:
        await stream.reset()


async def many(aim: Aim) -> dict[str, Any]:
    async with endpoints(1) as keys:
        first = await aim.proven(keys[0])
        ended = asyncio.create_task(first.wait_closed())
        lane = U8(Scope.LANE.value)
        opened = [await aim.proven(keys[0], scopes=lane) for _ in range(aim.count)]
        closed = [asyncio.create_task(each.wait_closed()) for each in opened]
        await asyncio.sleep(1)
        left = sum(not each.done() for each in closed)
        return {
            "opened": len(opened),
            "left": left,
            "first": "closed" if ended.done() else "open",
        }


if __name__ == "__main__":
    attack(main)

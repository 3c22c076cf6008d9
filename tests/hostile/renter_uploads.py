"""Uploads that lie, that are many, and that never end.

The order's manifest names an image of bytes that nobody has: whatever arrives is wrong. `lies`: sizes and
digests that are not the manifest's. `many`: a thousand at once. `endless`: one that stops before its end,
over and over, each time for all the machine takes.
"""

import asyncio
import hashlib
import os
from typing import Any

from tests.hostile.attacker import Aim, attack, endpoints, tried

from deepbrain.net.endpoint import IrohConnection
from deepbrain.net.errors import NetError, Refused
from deepbrain.net.frames import expect_reply, request_bytes
from deepbrain.net.messages import Digest, Done, Have, PutBlob
from deepbrain.net.stream import Stream
from deepbrain.primitives.units import U64

NOBODY_HAS = Digest(hashlib.sha256(b"nobody has the bytes of this image").digest())
PIECE = os.urandom(1 << 20)


async def main(aim: Aim) -> dict[str, Any]:
    async with endpoints(1) as keys:
        connection = await aim.proven(keys[0])
        return await {"lies": lies, "many": many, "endless": endless}[aim.how](aim, connection)


async def put(connection: IrohConnection, digest: Digest, size: int) -> str:
    """What the machine says to an upload of `size` bytes."""
    try:
        async with asyncio.timeout(30):
            stream, offset = await begin(connection, digest, size)
            await send(stream, size - offset)
            await expect_reply(stream, Done)
            return "done"
    except Refused as refusal:
        return str(refusal)
    except (NetError, TimeoutError) as error:
        return f"lost: {error}"


async def begin(connection: IrohConnection, digest: Digest, size: int) -> tuple[Stream, int]:
    stream = await connection.open()
    try:
        await stream.write(request_bytes(PutBlob(sha256=digest, size=U64(size))))
        have = await expect_reply(stream, Have)
    except BaseException:
        await stream.reset()  # or the transport gives no more of them
        raise
    return stream, int(have.offset)


async def send(stream: Stream, left: int) -> None:
    while left > 0:
        await stream.write(PIECE[:left])
        left -= len(PIECE)


async def lies(aim: Aim, connection: IrohConnection) -> dict[str, Any]:
    return {
        "another digest": await put(connection, Digest(bytes(32)), 1000),
        "more than is taken": await put(connection, NOBODY_HAS, 1 << 40),
        "the largest size": await put(connection, NOBODY_HAS, (1 << 64) - 1),
        "other bytes": await put(connection, NOBODY_HAS, 3 << 20),
        "nothing": await put(connection, NOBODY_HAS, 0),
    }


async def many(aim: Aim, connection: IrohConnection) -> dict[str, Any]:
    """Each is cut where it is, or by the next."""
    begun = 0

    async def one() -> None:
        nonlocal begun
        async with asyncio.timeout(20):
            stream, offset = await begin(connection, NOBODY_HAS, 4 << 20)
            begun += 1
            await tried(send(stream, min(1 << 20, (4 << 20) - 1 - offset)))
            await stream.reset()

    await asyncio.gather(*(tried(one()) for _ in range(aim.count)))
    return {"tried": aim.count, "begun": begun}


async def endless(aim: Aim, connection: IrohConnection) -> dict[str, Any]:
    """All but the last byte of an image; and then nothing, for `seconds`."""
    stream, offset = await begin(connection, NOBODY_HAS, aim.count)
    await send(stream, aim.count - 1 - offset)
    ended = asyncio.create_task(stream.read_some())
    done, _ = await asyncio.wait([ended], timeout=aim.seconds)
    return {"held": not done}


if __name__ == "__main__":
    attack(main)

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
from deepbrain.primitives.units import U64

NOBODY_HAS = Digest(hashlib.sha256(b"nobody has the bytes of this image").digest())
PIECE = os.urandom(1 << 20)


async def main(aim: Aim) -> dict[str, Any]:
    async with endpoints(1) as keys:
        connection = await aim.proven(keys[0])
        return await {"lies": lies, "many": many, "endless": endless}[aim.how](aim, connection)


async def put(
    connection: IrohConnection, digest: Digest, size: int, send: int | None = None
) -> str:
    """What the machine says to an upload of `size` bytes of which `send` come."""
    stream = await connection.open()
    try:
        async with asyncio.timeout(30):
            await stream.write(request_bytes(PutBlob(sha256=digest, size=U64(size))))
            have = await expect_reply(stream, Have)
            left = (size if send is None else send) - int(have.offset)
            while left > 0:
                await stream.write(PIECE[:left])
                left -= len(PIECE)
            if send is not None and send < size:
                return "waits"
            await expect_reply(stream, Done)
            return "done"
    except Refused as refusal:
        return str(refusal)
    except (NetError, TimeoutError) as error:
        return f"lost: {error}"


async def lies(aim: Aim, connection: IrohConnection) -> dict[str, Any]:
    return {
        "another digest": await put(connection, Digest(bytes(32)), 1000),
        "more than is taken": await put(connection, NOBODY_HAS, 1 << 40),
        "the largest size": await put(connection, NOBODY_HAS, (1 << 64) - 1),
        "other bytes": await put(connection, NOBODY_HAS, 3 << 20),
        "nothing": await put(connection, NOBODY_HAS, 0),
    }


async def many(aim: Aim, connection: IrohConnection) -> dict[str, Any]:
    outcomes = await asyncio.gather(
        *(tried(put(connection, NOBODY_HAS, 4 << 20, 1 << 20)) for _ in range(aim.count))
    )
    return {"tried": len(outcomes)}


async def endless(aim: Aim, connection: IrohConnection) -> dict[str, Any]:
    """All but the last byte of the largest image there may be; and then nothing, for `seconds`."""
    said = await put(connection, NOBODY_HAS, aim.count, aim.count - 1)
    ended = asyncio.create_task(connection.wait_closed())
    await asyncio.wait([ended], timeout=aim.seconds)
    ended.cancel()
    return {"said": said}


if __name__ == "__main__":
    attack(main)

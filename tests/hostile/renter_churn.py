"""Open and drop sessions, over and over: in peace, in the middle of a request, and by vanishing."""

import asyncio
import contextlib
from typing import Any

from tests.hostile.attacker import Aim, attack, endpoints, tried

from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.frames import request_bytes
from deepbrain.net.messages import Exec, Logs, Status
from deepbrain.primitives.units import U16, U64

HOSTS = 16
"""Each of another address: one alone is slowed down soon."""


async def main(aim: Aim) -> dict[str, Any]:
    opened = 0
    async with contextlib.AsyncExitStack() as stack:
        places = [endpoints(1, f"127.0.0.{10 + i}") for i in range(HOSTS)]
        keys = [(await stack.enter_async_context(place))[0] for place in places]
        for turn in range(aim.count // HOSTS):
            came = await asyncio.gather(*(tried(visit(aim, key, turn)) for key in keys))
            opened += sum(came)
    return {"opened": opened}


async def visit(aim: Aim, key: IrohEndpoint, turn: int) -> None:
    async with asyncio.timeout(10):
        connection = await aim.proven(key)
        try:
            match turn % 4:
                case 1:
                    stream = await connection.open()
                    await stream.write(request_bytes(Status(follow=True)))
                case 2:
                    stream = await connection.open()
                    await stream.write(request_bytes(Logs(offset=U64(0), follow=True))[:3])
                case 3 if turn % 16 == 3:
                    stream = await connection.open()
                    await stream.write(request_bytes(Exec(
                        argv=("sleep", "60"), env=(), cwd="", tty=False, cols=U16(1), rows=U16(1)
                    )))  # fmt: skip
        finally:
            connection.close()


if __name__ == "__main__":
    attack(main)

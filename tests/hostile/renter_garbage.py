"""What is no message: lengths that lie, depths that do not end, bytes of chance; before and behind a proof.

`--count` of each kind, on streams of their own. `huge` promises a message of 256 MiB and sends it.
"""

import asyncio
import os
import random
from collections.abc import Iterator
from typing import Any

from tests.hostile.attacker import Aim, attack, endpoints, tried

from deepbrain.net.endpoint import IrohConnection
from deepbrain.net.frames import framed, request_bytes
from deepbrain.net.messages import CopyIn, CopyOut, Exec, Logs, PutManifest, Status, Stop
from deepbrain.primitives.units import U16, U64

HUGE = 256 << 20


async def main(aim: Aim) -> dict[str, Any]:
    async with endpoints(1) as keys:
        connection = await aim.proven(keys[0])
        if aim.how == "huge":
            return await huge(aim, connection)
        sent = await behind(aim, connection)
    async with endpoints(4) as keys:
        for kind in kinds(random.Random(1)):
            await asyncio.gather(*(before(aim, key, kind) for key in keys))
            sent += len(keys)
    return {"sent": sent}


def kinds(rng: random.Random) -> Iterator[bytes]:
    whole = request_bytes(
        Exec(
            argv=("sh", "-c", "true"),
            env=(("A", "b"),),
            cwd="",
            tty=False,
            cols=U16(1),
            rows=U16(1),
        )
    )
    yield b"\xff\xff\xff\xff" + os.urandom(5000)
    yield b"\x00\x00\x00\x00"
    yield framed(b"\xff" * 64)
    yield framed(b"\x03" * 60_000)  # options in options, as deep as a message is long
    yield framed(b"\x06" + b"\xfe\xff\xff\xff" * 1000)  # vectors of a thousand million
    yield framed(bytes([2]) + b"\x02\x00\x03\x00" + os.urandom(40_000))
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"\x16\x03\x01" + os.urandom(300)
    yield whole[:-1]
    yield whole + os.urandom(3000)
    yield request_bytes(CopyOut(paths=("../" * 1000,), changed_only=False))
    yield request_bytes(CopyIn(dest="../../../../etc")) + os.urandom(2048)
    yield request_bytes(Logs(offset=U64((1 << 64) - 1), follow=False))
    yield request_bytes(PutManifest(manifest=os.urandom(40_000)))
    for request in (Status(follow=False), Stop()):
        damaged = bytearray(request_bytes(request))
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        yield bytes(damaged)
    for size in (1, 3, 4, 5, 100, 4096, 65_536, 300_000):
        yield rng.randbytes(size)


async def behind(aim: Aim, connection: IrohConnection) -> int:
    async def send(data: bytes) -> None:
        async with asyncio.timeout(5):
            stream = await connection.open()
            await stream.write(data)
            await stream.finish()
            while await stream.read_some():
                continue

    sent = 0
    for seed in range(aim.count):
        every = list(kinds(random.Random(seed)))
        await asyncio.gather(*(tried(send(data)) for data in every))
        sent += len(every)
    return sent


async def before(aim: Aim, key: Any, data: bytes) -> None:
    async def send() -> None:
        async with asyncio.timeout(6):
            connection = await aim.dial(key)
            stream = await connection.open()
            await stream.write(data)
            await stream.finish()
            await connection.wait_closed()

    await tried(send())


async def huge(aim: Aim, connection: IrohConnection) -> dict[str, Any]:
    sent = 0

    async def send() -> None:
        nonlocal sent
        stream = await connection.open()
        await stream.write(HUGE.to_bytes(4, "little"))
        for _ in range(HUGE // (1 << 20) - 1):
            await stream.write(bytes(1 << 20))
            sent += 1 << 20
        await asyncio.sleep(aim.seconds)

    await tried(send())
    return {"sent": sent}


if __name__ == "__main__":
    attack(main)

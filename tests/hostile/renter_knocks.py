"""Knock and do not come in, ten thousand times: handshakes begun and left, or done and then silence.

`half-open`: the first packets of a thousand real handshakes, each with a connection id of its own, sent
again and again from many addresses; no answer is ever given. `silent`: whole handshakes from many keys, and then nothing.
`hello`: the one question that needs no proof, and away. `--seconds` is how long the attacker waits.
"""

import asyncio
import contextlib
import random
import socket
from typing import Any

from tests.hostile.attacker import Aim, attack, endpoints, tried

from deepbrain.net.endpoint import IrohConnection, IrohEndpoint
from deepbrain.net.errors import NetError
from deepbrain.net.frames import expect_reply, request_bytes
from deepbrain.net.messages import Greeting, Hello

SOURCES = 200
"""Addresses that half-open handshakes come from."""
HANDSHAKES = 1000
AT_ONCE = 100
KEYS = 40


async def main(aim: Aim) -> dict[str, Any]:
    match aim.how:
        case "half-open":
            return await half_open(aim)
        case "silent":
            return await silent(aim)
    return await hello(aim)


async def half_open(aim: Aim) -> dict[str, Any]:
    packets = await first_packets(aim)
    host, _, port = aim.address.rpartition(":")
    senders = [_socket(f"127.0.{1 + i // 200}.{1 + i % 200}") for i in range(SOURCES)]
    answered = 0
    for i in range(aim.count):
        sender = senders[random.randrange(SOURCES)]
        with contextlib.suppress(BlockingIOError):
            sender.sendto(packets[i % len(packets)], (host, int(port)))
        answered += _take(sender)
        if i % 40 == 39:
            await asyncio.sleep(0.02)  # two thousand a second
    await asyncio.sleep(0.5)
    answered += sum(_take(sender) for sender in senders)
    for sender in senders:
        sender.close()
    return {"sent": aim.count, "handshakes": len(packets), "answered": answered}


def _socket(host: str) -> socket.socket:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((host, 0))
    sender.setblocking(False)
    return sender


def _take(sender: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while sender.recv(65536):
            count += 1
    return count


async def first_packets(aim: Aim) -> list[bytes]:
    """The first packets of so many handshakes with the machine, dialled into a hole."""
    found: dict[bytes, bytes] = {}
    wanted = min(aim.count, HANDSHAKES)
    hole = _socket("127.0.0.1")
    hole.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    address = f"127.0.0.1:{hole.getsockname()[1]}"

    def collect() -> None:
        with contextlib.suppress(BlockingIOError):
            while packet := hole.recv(65536):
                if packet[0] & 0xF0 == 0xC0:  # a long header, of type Initial
                    found.setdefault(packet[6 : 6 + packet[5]], packet)

    async def knock(endpoint: IrohEndpoint) -> None:
        await tried(endpoint.dial(aim.machine, [address], timeout=0.15))

    asyncio.get_running_loop().add_reader(hole, collect)
    async with endpoints(8) as dialling:
        while len(found) < wanted:
            chosen = [random.choice(dialling) for _ in range(AT_ONCE)]
            await asyncio.gather(*(knock(endpoint) for endpoint in chosen))
    asyncio.get_running_loop().remove_reader(hole)
    hole.close()
    return list(found.values())[:wanted]


async def silent(aim: Aim) -> dict[str, Any]:
    """So many whole handshakes, at once as many as the machine lets stand there."""
    in_turn, held = asyncio.Semaphore(AT_ONCE), []

    async def stand(endpoint: IrohEndpoint) -> bool:
        async with in_turn:
            try:
                connection: IrohConnection = await endpoint.dial(
                    aim.machine, [aim.address], aim.seconds
                )
            except NetError:
                return False
        held.append(connection)
        return True

    async with endpoints(KEYS // 2) as some, endpoints(KEYS // 2, "127.0.0.2") as others:
        keys = some + others
        stood = await asyncio.gather(*(stand(keys[i % KEYS]) for i in range(aim.count)))
        await asyncio.sleep(1)
    return {"dialled": aim.count, "stood": sum(stood)}


async def hello(aim: Aim) -> dict[str, Any]:
    async def ask(endpoint: IrohEndpoint) -> bool:
        connection = await endpoint.dial(aim.machine, [aim.address], aim.seconds)
        try:
            async with asyncio.timeout(5):
                stream = await connection.open()
                await stream.write(request_bytes(Hello()))
                await expect_reply(stream, Greeting)
        finally:
            connection.close()
        return True

    asked = greeted = 0
    until = asyncio.get_running_loop().time() + aim.seconds
    async with endpoints(10) as keys:
        while asked < aim.count and asyncio.get_running_loop().time() < until:
            asked += len(keys)
            greeted += sum(await asyncio.gather(*(tried(ask(key)) for key in keys)))
    return {"asked": asked, "greeted": greeted}


if __name__ == "__main__":
    attack(main)

"""What a relay costs: 1,000 idle clients, and bytes passed from one to another.

The relay runs in a process of its own with its usual bounds, but for the allowances: nobody is limited.
The clients come from many addresses of the loopback, because one address has few connections.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.node.relaying import Client, auth, new_pair
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from deepbrain.net.messages import Access
from deepbrain.net.transport import TransportKey
from deepbrain.node.relay import wire
from deepbrain.node.relay.limits import Rate, RelayLimits, Standing
from deepbrain.node.relay.server import RelayConfig, RelayServer

IDLE: Final = 1000
PER_ADDRESS: Final = 25
WATCH_SECONDS: Final = 20.0
PASSED: Final = 256 << 20
FRAME: Final = 48 << 10


class Everybody:
    """Nobody looks anybody up."""

    async def machines(self, keys: Sequence[TransportKey]) -> list[Standing]:
        return [Standing.RENTING for _ in keys]

    async def holds(self, key: TransportKey, access: Access) -> bool:
        return False


async def serve() -> None:
    """A relay until standard input ends; says its port."""
    wide = dict.fromkeys(Standing, Rate(1 << 40, 1 << 40, 1 << 50))
    config = RelayConfig(
        host="127.0.0.1", port=0, chain="", data=None, limits=RelayLimits(rates=wide)
    )
    server = RelayServer(config, Everybody())
    await server.start()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


@contextlib.contextmanager
def relay() -> Iterator[tuple[int, int]]:
    """Its process and its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.relay"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.stdin.close()


async def client(port: int, number: int) -> Client:
    source = f"127.0.{number // PER_ADDRESS // 250}.{2 + number // PER_ADDRESS % 250}"
    socket = await connect(
        f"ws://127.0.0.1:{port}{wire.PATH}",
        subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
        compression=None,
        ping_interval=None,
        local_addr=(source, 0),
    )
    challenge = await socket.recv()
    assert isinstance(challenge, bytes)
    pair = new_pair()
    await socket.send(auth(pair, challenge[1:]))
    assert await socket.recv() == wire.confirms()
    return Client(socket, pair)


def rss(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def cpu(pid: int) -> float:
    """Seconds it has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def idle(pid: int, port: int) -> dict[str, float]:
    before = rss(pid)
    clients = [await client(port, number) for number in range(IDLE)]
    answering = [asyncio.create_task(one.next(wire.RECEIVED)) for one in clients]
    await asyncio.sleep(2)
    began, used = time.monotonic(), cpu(pid)
    await asyncio.sleep(WATCH_SECONDS)
    spent = (cpu(pid) - used) / (time.monotonic() - began)
    grown = rss(pid) - before
    for task in answering:
        task.cancel()
    await asyncio.gather(*answering, return_exceptions=True)
    for one in clients:
        one.socket.transport.abort()
    return {
        "relay_idle_kb": round(grown / IDLE / 1000, 1),
        "relay_idle_cpu_percent": round(100 * spent, 2),
    }


async def passing(port: int) -> dict[str, float]:
    sender, receiver = await client(port, 0), await client(port, 1)
    payload = bytes(FRAME)

    async def send() -> None:
        for _ in range(PASSED // FRAME):
            await sender.send(receiver.key, payload)

    sending = asyncio.create_task(send())
    began, got = time.monotonic(), 0
    last = began
    with contextlib.suppress(TimeoutError):
        while got < PASSED // FRAME:
            async with asyncio.timeout(1.0):
                await receiver.data()
            got += 1
            last = time.monotonic()
    await sending
    for one in (sender, receiver):
        one.socket.transport.abort()
    return {"relay_mb_per_s": round(got * FRAME / (last - began) / 1e6, 1)}


def measure() -> dict[str, float]:
    with relay() as (pid, port):
        figures = asyncio.run(idle(pid, port))
        return figures | asyncio.run(passing(port))


if __name__ == "__main__":
    asyncio.run(serve())

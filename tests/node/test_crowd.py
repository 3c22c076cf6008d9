"""A thousand subscribers, and one that never reads: blocks come when they should, and memory is bounded."""

import asyncio
import contextlib
import json
import resource
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import pytest
from tests.node.world import hexed

from deepbrain.pallets.timestamp import Timestamp

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.timeout(180)]

CROWD = 1000
INTERVAL = 0.5
MIB = 1 << 20
MEMORY = 150 * MIB
"""What a node with a thousand subscribers may take, all of it."""


@contextlib.asynccontextmanager
async def node_process() -> AsyncIterator[tuple[int, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deepbrain.node", "--rpc-port", "0", "--interval", str(INTERVAL),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        yield process.pid, line.split("rpc=ws://")[1].split()[0]
    finally:
        process.terminate()
        assert await process.wait() == 0


def resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


async def subscriber(http: aiohttp.ClientSession, url: str, method: str, *params: Any) -> Any:
    socket = await http.ws_connect(f"http://{url}/", autoping=True, max_msg_size=0)
    await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    assert "result" in json.loads((await socket.receive()).data)
    return socket


async def block_times(socket: Any, seconds: float) -> list[float]:
    """Seconds between one head and the next, as a subscriber sees them."""
    gaps: list[float] = []
    end, last = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        await socket.receive()
        now = time.monotonic()
        if last:
            gaps.append(now - last)
        last = now
    return gaps


async def idle(socket: Any) -> None:
    """Takes what comes, and does nothing with it."""
    async for _ in socket:
        pass


async def never_reads(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Subscribes to all there is, and never looks at its socket again."""
    host, port = url.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    asked = [["chainHead_v1_follow", [True]], ["chain_subscribeAllHeads", []]] * 2
    asked += [["state_subscribeStorage", [[hexed(Timestamp.now.key_of())]]]] * 100
    asked += [["state_getMetadata", []]] * 400
    for number, (method, params) in enumerate(asked):
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        mask = b"\0\0\0\0"
        head = bytes((0x81, 0x80 | len(body))) if len(body) < 126 else (
            bytes((0x81, 0x80 | 126)) + len(body).to_bytes(2, "big")
        )  # fmt: skip
        writer.write(head + mask + body.encode())
    return reader, writer


async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Raises: TimeoutError: the node still keeps the connection."""
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while await reader.read(MIB):
                pass
    writer.close()


async def test_a_crowd_that_listens_and_one_that_never_reads() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        async with (
            node_process() as (pid, url),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            watching = await subscriber(http, url, "chain_subscribeNewHeads")
            alone = await block_times(watching, 8)
            deaf = await never_reads(url)
            crowd = [
                await subscriber(http, url, "chain_subscribeFinalizedHeads") for _ in range(CROWD)
            ]
            listening = [asyncio.create_task(idle(socket)) for socket in crowd]
            among = await block_times(watching, 15)
            memory = resident(pid)
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
            await ends(*deaf)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    told = f"alone {median(alone):.3f} s, among {median(among):.3f} s, worst {max(among):.3f} s"
    assert len(among) >= 20, told
    assert median(among) <= 1.1 * median(alone), told
    assert max(among) <= 2 * INTERVAL, told
    assert memory <= MEMORY, f"{memory / MIB:.0f} MiB"
    sys.stdout.write(f"{told}; {memory / MIB:.0f} MiB\n")

"""What bulk does on a long path: one connection against several, in turns, in both directions.

A machine's agent (chain and sandbox in memory, everything that moves bytes the real thing) and its renter
are 80 ms apart on a path of 25 MB/s, first without and then with a half per cent of lost packets. Each
round uploads a workspace and fetches results of the same size.
"""

import asyncio
import io
import json
import os
import random
import statistics
import sys
import tarfile
import tempfile
import time
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Final

from tests.net.distance import FAR, NEAR, apart
from tests.net.distance import Path as Distance

from deepbrain.net import lanes
from deepbrain.net.access import Grant
from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.messages import (
    PROTOCOL_VERSION,
    Digest,
    Manifest,
    Network,
    Salt,
    Stage,
    Workspace,
)
from deepbrain.net.session import Session
from deepbrain.primitives.ids import AccountId, MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import U8, U32, U64, BlockNumber
from deepbrain.provider.fake import FakeChain
from deepbrain.provider.identity import AgentConfig, Capacity
from deepbrain.provider.loop import Agent
from deepbrain.sandbox.fake import FakeProcess, FakeSandbox
from deepbrain.sandbox.sandbox import Mode

RENTER: Final = "//Alice"
PORT: Final = 4001
SEED: Final = bytes(range(32))
RTT: Final = 0.08
RATE: Final = 25e6
BYTES: Final = {0.0: 96 << 20, 0.005: 12 << 20}
"""How much each way, by the share of lost packets."""
ROUNDS: Final = 3
IMAGE: Final = b"an image"
"""Nobody looks into it."""


def workspace(size: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("data")
        member.size = size
        tar.addfile(member, io.BytesIO(random.Random(size).randbytes(size)))
    return out.getvalue()


def manifest(size: int, order: int) -> Manifest:
    tar = workspace(size)
    return Manifest(
        version=U8(PROTOCOL_VERSION),
        salt=Salt(order.to_bytes(Salt.SIZE, "big")),
        image=Digest(sha256(IMAGE).digest()),
        argv=("make", str(size)),
        env=(),
        workdir="",
        pull="",
        workspace=Workspace(sha256=Digest(sha256(tar).digest()), size=U64(len(tar)), files=U32(1)),
        out=(),
        tty=False,
        network=Network.NONE,
    )


async def _make(process: FakeProcess) -> int:
    (process.volume / "result").write_bytes(os.urandom(int(process.argv[1])))
    return 0


async def serve(size: int, orders: int) -> None:
    """A machine that has these orders, until standard input ends."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        sandbox = FakeSandbox({"make": _make}, mode=Mode.GVISOR, root=data / "tenants")
        archive = data / "image.tar"
        archive.write_bytes(IMAGE)
        await sandbox.import_image(archive, sha256(IMAGE).hexdigest(), "python")
        chain = FakeChain()
        renter = AccountId(Keypair.from_uri(RENTER).public)
        for order in range(1, orders + 1):
            chain.place(order, renter, manifest(size, order).hash(), seconds=3600)
        endpoint = await IrohEndpoint.bind(SEED, port=PORT, hosts=(FAR,))
        capacity = Capacity(units=4, cpu_milli=4000, memory_bytes=1 << 30, disk_bytes=1 << 30)
        agent = Agent(
            machine=MachineId(endpoint.key),
            config=AgentConfig(
                chain="", controller="//Bob", port=0, capacity=capacity, addresses=()
            ),
            data=data,
            chain=chain,
            sandbox=sandbox,
            endpoint=endpoint,
        )
        running = asyncio.create_task(agent.run())
        sys.stdout.write(f"{endpoint.key.hex()}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        running.cancel()
        await asyncio.wait([running])
        await endpoint.close()


async def rent(machine: MachineId, size: int, order: int) -> dict[str, float]:
    """Bytes a second up and down, of one order."""
    endpoint = await IrohEndpoint.bind(os.urandom(32), hosts=(NEAR,))
    grant = Grant(FakeChain().genesis, machine, OrderId(order), BlockNumber(1000))
    asked, pair = manifest(size, order), Keypair.from_uri(RENTER)
    with tempfile.NamedTemporaryFile() as tar:
        tar.write(workspace(size))
        tar.flush()
        async with await Session.open(endpoint, [f"{FAR}:{PORT}"], grant, pair) as session:
            await session.put_manifest(asked)
            assert asked.workspace is not None
            began = time.perf_counter()
            await session.put_blob(Path(tar.name), asked.workspace.sha256)
            up = size / (time.perf_counter() - began)
            async for status in session.watch():
                if status.stage is Stage.EXITED:
                    break
            began, got = time.perf_counter(), 0
            async for chunk in session.copy_out(["result"]):
                got += len(chunk)
            assert got >= size
            down = size / (time.perf_counter() - began)
    await endpoint.close()
    return {"up": up, "down": down}


async def compare(machine: MachineId, size: int) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {"one": [], "several": []}
    far = lanes.FAR_SECONDS
    for order in range(1, 2 * ROUNDS + 1):
        kind = ("one", "several")[order % 2]
        lanes.FAR_SECONDS = inf if kind == "one" else far  # type: ignore[misc]
        found[kind].append(await rent(machine, size, order))
        print(f"far: {kind}: {found[kind][-1]}", file=sys.stderr)
    return found


def measure_path(loss: float, size: int) -> dict[str, list[dict[str, float]]]:
    program = [sys.executable, "-m", "bench.far"]
    with apart(Distance(rtt=RTT, loss=loss, rate=RATE)) as (near, far):
        pipes = {"stdin": -1, "stdout": -1}
        with far.start([*program, "serve", str(size)], **pipes) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            try:
                machine = server.stdout.readline().strip()
                with near.start([*program, "rent", str(size), machine], stdout=-1) as renter:
                    said, _ = renter.communicate()
            finally:
                server.stdin.close()
    return dict(json.loads(said))


def measure() -> dict[str, float]:
    figures = {}
    for loss, size in BYTES.items():
        found = measure_path(loss, size)
        name = "lossy" if loss else "long"
        for way in ("up", "down"):
            middle = {
                kind: statistics.median(each[way] for each in rounds)
                for kind, rounds in found.items()
            }
            figures[f"{name}_{way}_one_mb_per_s"] = round(middle["one"] / 1e6, 2)
            figures[f"{name}_{way}_mb_per_s"] = round(middle["several"] / 1e6, 2)
            figures[f"{name}_{way}_ratio"] = round(middle["several"] / middle["one"], 2)
    return figures


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(int(sys.argv[2]), 2 * ROUNDS))
    elif sys.argv[1:2] == ["rent"]:
        key = MachineId(bytes.fromhex(sys.argv[3]))
        print(json.dumps(asyncio.run(compare(key, int(sys.argv[2])))))
    else:
        print(json.dumps(measure(), indent=1))

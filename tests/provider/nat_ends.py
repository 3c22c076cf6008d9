"""The two ends for tests between NATs, each a process in its own network namespace.

    python -m tests.provider.nat_ends machine DIR URL     a whole agent; its chain and sandbox are fakes
    python -m tests.provider.nat_ends echo URL [SECONDS]  the first echo of a command, then the path taken
    python -m tests.provider.nat_ends type URL SECONDS    lines to `cat`, and what comes back

Each prints JSON, one object a line.
"""

import asyncio
import json
import os
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.provider.house import ALICE, IMAGE, IMAGE_DIGEST, PROGRAMS, make_agent, manifest_of

from deepbrain.cli.renter.reach import _learn_own_address
from deepbrain.net.access import Grant
from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.errors import NetError
from deepbrain.net.messages import Stage
from deepbrain.net.session import ExecStream, Session
from deepbrain.primitives.ids import AccountId, MachineId, OrderId
from deepbrain.primitives.keys import Keypair, Scheme
from deepbrain.primitives.units import BlockNumber
from deepbrain.provider.fake import DEFAULT_GENESIS, FakeChain
from deepbrain.sandbox.fake import FakeSandbox
from deepbrain.sandbox.sandbox import Mode

SEED = sha256(b"the machine of the NAT tests").digest()
MACHINE = MachineId(Keypair.from_seed(SEED, Scheme.ED25519).public)
PORT = 4001
LAN = f"192.168.1.10:{PORT}"
ORDER = 1
MANIFEST = manifest_of("sleep", "900")


def say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


async def machine(data: Path, relay: str) -> None:
    """Serve until killed."""
    chain = FakeChain()
    chain.named_relays = (relay,)
    sandbox = FakeSandbox(PROGRAMS, mode=Mode.GVISOR, root=data / "tenants", grace=0.3)
    archive = data / "image.tar"
    await asyncio.to_thread(archive.write_bytes, IMAGE)
    await sandbox.import_image(archive, IMAGE_DIGEST.hex(), "python")
    agent = make_agent(await IrohEndpoint.bind(SEED, PORT), data, chain, sandbox, (LAN,))
    chain.place(ORDER, AccountId(ALICE.public), MANIFEST.hash(), seconds=900)
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run())
        while relay not in chain.announced:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
        say(attached=chain.announced)


async def session(relay: str) -> tuple[IrohEndpoint, Session]:
    """A renter's, as `dbc` makes it."""
    endpoint = await IrohEndpoint.bind(os.urandom(32))
    grant = Grant(
        genesis=DEFAULT_GENESIS,
        machine=MACHINE,
        order=OrderId(ORDER),
        last_block=BlockNumber(1000),
    )
    opened = await Session.open(endpoint, [LAN, relay], grant, ALICE)
    return endpoint, opened


async def running(relay: str) -> tuple[IrohEndpoint, Session, ExecStream]:
    endpoint, opened = await session(relay)
    await opened.put_manifest(MANIFEST)
    async for status in opened.watch():
        if status.stage is Stage.RUNNING:
            break
    return endpoint, opened, await opened.exec(["cat"])


async def echo(relay: str, seconds: float = 4.0) -> None:
    """The path is watched for so long, or until it is a direct one."""
    began = time.monotonic()
    endpoint, opened, command = await running(relay)
    await command.write(b"hello")
    assert await command.read() == (1, b"hello")
    say(seconds=round(time.monotonic() - began, 3), direct=opened.is_direct)
    learning = asyncio.create_task(_learn_own_address(endpoint, [relay]))
    for _ in range(int(10 * seconds)):
        if opened.is_direct:
            break
        await asyncio.sleep(0.1)
    say(seconds=round(time.monotonic() - began, 3), direct=opened.is_direct)
    learning.cancel()
    await command.close()
    opened.close()
    await endpoint.close()


async def type_lines(relay: str, seconds: float) -> None:
    """Four lines a second; says each second how many went and came, and at the end whether all did."""
    endpoint, opened, command = await running(relay)
    got, sent = bytearray(), bytearray()

    async def read() -> None:
        while (part := await command.read()) is not None:
            got.extend(part[1])

    reading = asyncio.create_task(read())
    learning = asyncio.create_task(_learn_own_address(endpoint, [relay]))
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        line = f"line {number} {'x' * 200}\n".encode()
        await command.write(line)
        sent += line
        number += 1
        if number % 4 == 0:
            say(sent=len(sent), got=len(got), direct=opened.is_direct)
        await asyncio.sleep(0.25)
    await command.write_eof()
    try:
        async with asyncio.timeout(60):
            await reading
    except (NetError, TimeoutError) as error:
        say(lost=str(error))
    learning.cancel()
    say(whole=bytes(got) == bytes(sent), sent=len(sent), got=len(got))
    opened.close()
    await endpoint.close()


def main() -> None:
    match sys.argv[1:]:
        case ["machine", data, relay]:
            asyncio.run(machine(Path(data), relay))
        case ["echo", relay, *seconds]:
            asyncio.run(echo(relay, *map(float, seconds)))
        case ["type", relay, seconds]:
            asyncio.run(type_lines(relay, float(seconds)))
        case _:
            sys.exit("machine DIR URL, echo URL [SECONDS], or type URL SECONDS")


if __name__ == "__main__":
    main()

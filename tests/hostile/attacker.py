"""What every program that attacks a machine begins with: where it is, and what was rented there."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from deepbrain.net.access import Grant
from deepbrain.net.endpoint import IrohConnection, IrohEndpoint
from deepbrain.net.errors import NetError
from deepbrain.net.frames import expect_reply, request_bytes
from deepbrain.net.messages import Granted, Greeting, Hello
from deepbrain.primitives.ids import MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import BlockNumber
from deepbrain.provider.fake import DEFAULT_GENESIS

MALLORY = Keypair.from_uri("//Mallory")


@dataclass(frozen=True, slots=True)
class Aim:
    machine: MachineId
    address: str
    order: int
    block: int
    count: int
    seconds: float
    how: str

    def grant(self, **changes: Any) -> Grant:
        fields = {
            "genesis": DEFAULT_GENESIS, "machine": self.machine, "order": OrderId(self.order),
            "last_block": BlockNumber(self.block + 1000),
        }  # fmt: skip
        return Grant(**(fields | changes))

    async def dial(self, endpoint: IrohEndpoint) -> IrohConnection:
        return await endpoint.dial(self.machine, [self.address])

    async def proven(
        self, endpoint: IrohEndpoint, who: Keypair = MALLORY, **changes: Any
    ) -> IrohConnection:
        """A connection that the machine takes for the renter's; nothing beats on it."""
        connection = await self.dial(endpoint)
        stream = await connection.open()
        access = self.grant(**changes).proven(endpoint.key, who)
        await stream.write(request_bytes(Hello()) + request_bytes(access))
        await expect_reply(stream, Greeting)
        await expect_reply(stream, Granted)
        await stream.close()
        return connection


@contextlib.asynccontextmanager
async def endpoints(count: int, host: str = "127.0.0.1") -> AsyncIterator[list[IrohEndpoint]]:
    """So many keys."""
    made = [await IrohEndpoint.bind(os.urandom(32), hosts=(host,)) for _ in range(count)]
    try:
        yield made
    finally:
        for endpoint in made:
            await endpoint.close()


async def tried(work: Awaitable[object]) -> bool:
    """Whether it went well; that the machine ends it is what an attacker expects."""
    try:
        await work
    except (NetError, TimeoutError):
        return False
    return True


def attack(work: Callable[[Aim], Awaitable[dict[str, Any]]]) -> None:
    """Carry an attack out, and print what came of it as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--machine", type=MachineId.from_hex, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--order", type=int, default=0)
    parser.add_argument("--block", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--how", default="")
    aim = Aim(**vars(parser.parse_args()))

    async def run() -> dict[str, Any]:
        return await work(aim)

    sys.stdout.write(json.dumps(asyncio.run(run())) + "\n")

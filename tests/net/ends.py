"""Two connected ends on either network, for the tests that must hold on both."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.fake import FakeNetwork
from deepbrain.net.transport import Connection, Endpoint

KINDS = ("fake", "iroh")


class Net:
    """Binds endpoints of one kind and closes them all at the end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._fake = FakeNetwork()
        self._endpoints: list[Endpoint] = []

    async def bind(self, seed: bytes | None = None, host: str = "127.0.0.1") -> Endpoint:
        """An endpoint on `host`; in memory each has a host of its own."""
        seed = seed or os.urandom(32)
        if self.kind == "fake":
            endpoint: Endpoint = await self._fake.bind(seed)
        else:
            endpoint = await IrohEndpoint.bind(seed, hosts=(host,))
        self._endpoints.append(endpoint)
        return endpoint

    async def close(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()


@dataclass
class Pair:
    net: Net
    dialler: Endpoint
    listener: Endpoint
    near: Connection
    far: Connection


@asynccontextmanager
async def connected(kind: str) -> AsyncIterator[Pair]:
    net = Net(kind)
    dialler, listener = await net.bind(), await net.bind()
    try:
        yield await connect(net, dialler, listener)
    finally:
        await net.close()


async def connect(net: Net, dialler: Endpoint, listener: Endpoint) -> Pair:
    import asyncio

    async def answer() -> Connection:
        incoming = await listener.accept()
        assert incoming is not None
        return await incoming.complete(5)

    task = asyncio.create_task(answer())
    near = await dialler.dial(listener.key, listener.addresses)
    return Pair(net, dialler, listener, near, await task)

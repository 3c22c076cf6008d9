"""A whole market in this process: a real node, real streams, agents over fake sandboxes."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from deepbrain.cli.chain import Choices
from deepbrain.cli.provider.machine import Listing, Owners, address_record, enlist, hardware_of
from deepbrain.client import Client
from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.node.node import Node, NodeConfig, load_spec
from deepbrain.node.rpc.server import Bind
from deepbrain.node.signatures import InlineSignatures
from deepbrain.pallets.machines import Isolation, Network
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.keys import Keypair, Scheme
from deepbrain.primitives.units import MicroUsd
from deepbrain.provider.identity import AgentConfig
from deepbrain.provider.inventory import Inventory
from deepbrain.provider.loop import Agent
from deepbrain.provider.onchain import OnChain
from deepbrain.sandbox.fake import FakeProcess, FakeSandbox
from deepbrain.sandbox.sandbox import TOOL, Mode, SandboxError
from deepbrain.sandbox.sandbox import Network as SandboxNetwork

ALICE, BOB = Keypair.from_uri("//Alice"), Keypair.from_uri("//Bob")
IMAGE = b"a fake image"
INVENTORY = Inventory("Fake CPU", 4, 4 << 30, 8 << 30)


async def _job(process: FakeProcess) -> int:
    """Print what is in the workspace, leave a result, end with the code given."""
    names = sorted(
        path.relative_to(process.volume).as_posix() for path in process.volume.rglob("*")
    )
    process.out(f"workspace: {' '.join(names)}\n".encode())
    process.err(f"GREETING={process.env.get('GREETING', '')}\n".encode())
    await asyncio.sleep(0.05)
    (process.volume / "model.bin").write_bytes(b"weights")
    return int(process.argv[1])


async def _serve(process: FakeProcess) -> int:
    process.out(b"serving\n")
    await process.signals.get()
    process.out(b"told to stop\n")
    return 7


async def _hog(process: FakeProcess) -> int:
    raise MemoryError


async def _tool(process: FakeProcess) -> int:
    """The one question of the tenant's tool that the command asks by itself."""
    _, question, path = process.argv
    if question != "is-directory":
        return 125
    return 0 if (process.volume / path).is_dir() else 1


PROGRAMS = {"job": _job, "serve": _serve, "hog": _hog, TOOL: _tool}


class Broken(FakeSandbox):
    """A machine that takes orders and cannot start them."""

    async def start(self, order: int) -> None:
        raise SandboxError("the sandbox is broken")


@dataclass
class Provider:
    id: MachineId
    agent: Agent
    endpoint: IrohEndpoint
    chain: OnChain
    task: "asyncio.Task[None]"

    async def vanish(self) -> None:
        """As a power cut: no more answers, nothing said to the chain."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.endpoint.close()


@dataclass
class Market:
    node: Node
    home: Path
    client: Client
    providers: list[Provider] = field(default_factory=list)

    @property
    def choices(self) -> Choices:
        return Choices(self.url, "//Alice")

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.node.server.port}"

    async def provider(
        self,
        *,
        price: int = 20_000,
        kind: type[FakeSandbox] = FakeSandbox,
        mode: Mode = Mode.GVISOR,
        isolation: Isolation = Isolation.GVISOR,
        network: Network = Network.NONE,
        listen: bool = True,
    ) -> Provider:
        number = len(self.providers)
        seed = os.urandom(32)
        data = self.home / f"provider-{number}"
        data.mkdir()
        endpoint = await IrohEndpoint.bind(seed, hosts=("127.0.0.1",))
        port = int(endpoint.addresses[0].rpartition(":")[2])
        key = Keypair.from_seed(seed, Scheme.ED25519)
        address = address_record([f"127.0.0.1:{port}"])
        listing = Listing(
            key,
            hardware_of(INVENTORY, INVENTORY.capacity()),
            isolation,
            network,
            MicroUsd(price),
            address,
        )
        await enlist(self.client, listing, Owners.alone(BOB))
        (data / "sandbox").mkdir()
        sandbox = kind(
            PROGRAMS,
            root=data / "sandbox",
            mode=mode,
            network=SandboxNetwork[network.name],
            grace=0.5,
        )
        archive = data / "image.tar"
        archive.write_bytes(IMAGE)
        await sandbox.import_image(archive, sha256(IMAGE).hexdigest(), "base")
        chain = OnChain(self.url, listing.id, BOB)
        config = AgentConfig(
            chain=self.url, controller="//Bob", port=port, capacity=INVENTORY.capacity(),
            genesis=self.client.genesis_hash,
        )  # fmt: skip
        agent = Agent(listing.id, config, data, chain, sandbox, endpoint)
        task = asyncio.create_task(agent.run() if listen else asyncio.sleep(3600))
        found = Provider(listing.id, agent, endpoint, chain, task)
        if not listen:
            await endpoint.close()
        self.providers.append(found)
        return found


@contextlib.asynccontextmanager
async def open_market(home: Path) -> AsyncIterator[Market]:
    config = NodeConfig(spec=load_spec("dev"), data=None, bind=Bind(port=0), interval=0.2)
    node = Node(config, signatures=InlineSignatures())
    await node.start()
    async with await Client.connect(f"ws://127.0.0.1:{node.server.port}") as client:
        market = Market(node, home, client)
        try:
            yield market
        finally:
            for provider in market.providers:
                await provider.vanish()
                await provider.chain.disconnect()
    await node.stop()

"""A provider made of fakes, and its renter, on either network."""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tests.net.ends import Net

from deepbrain.net.access import Grant
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
from deepbrain.net.transport import Endpoint
from deepbrain.primitives.ids import AccountId, MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import U8, U32, U64, BlockNumber
from deepbrain.provider.fake import FakeChain
from deepbrain.provider.identity import AgentConfig, Capacity
from deepbrain.provider.loop import Agent
from deepbrain.sandbox.fake import FakeProcess, FakeSandbox
from deepbrain.sandbox.sandbox import Mode

ALICE = Keypair.from_uri("//Alice")
BOB = Keypair.from_uri("//Bob")
IMAGE = b"a fake image"
IMAGE_DIGEST = Digest(sha256(IMAGE).digest())
CAPACITY = Capacity(units=4, cpu_milli=4000, memory_bytes=1 << 30, disk_bytes=1 << 30)


async def _flood(process: FakeProcess) -> int:
    for _ in range(int(process.argv[1])):
        process.out(bytes(65536))
        await asyncio.sleep(0)
    await asyncio.sleep(1)
    return 0


async def _files(process: FakeProcess) -> int:
    """Print what is in the workspace, and leave a result."""
    names = sorted(str(path.relative_to(process.volume)) for path in process.volume.rglob("*"))
    process.out("\n".join(names).encode() + b"\n")
    await asyncio.sleep(0.02)
    (process.volume / "model.bin").write_bytes(b"weights")
    return 0


async def _wait_term(process: FakeProcess) -> int:
    process.out(b"ready\n")
    await process.signals.get()
    process.err(b"told to stop\n")
    return 7


PROGRAMS = {"flood": _flood, "files": _files, "wait-term": _wait_term}


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def manifest_of(*argv: str, workspace: bytes | None = None, salt: int = 1, **changes) -> Manifest:
    named = None
    if workspace is not None:
        digest = Digest(sha256(workspace).digest())
        named = Workspace(sha256=digest, size=U64(len(workspace)), files=U32(1))
    manifest = Manifest(
        version=U8(PROTOCOL_VERSION),
        salt=Salt(bytes([salt]) * 32),
        image=IMAGE_DIGEST,
        argv=argv,
        env=(),
        workdir="",
        pull="",
        workspace=named,
        out=(),
        tty=False,
        network=Network.NONE,
    )
    return manifest.but(**changes)


@dataclass
class House:
    net: Net
    data: Path
    chain: FakeChain
    sandbox: FakeSandbox
    agent: Agent
    sessions: list[Session] = field(default_factory=list)
    renters: list[Endpoint] = field(default_factory=list)
    task: "asyncio.Task[None] | None" = None

    @property
    def machine(self) -> MachineId:
        return self.agent.machine

    def place(self, order: int, manifest: Manifest, *, who: Keypair = ALICE, seconds: int = 60):
        self.chain.place(order, AccountId(who.public), manifest.hash(), seconds=seconds)

    def grant(self, order: int, **changes) -> Grant:
        fields = {
            "genesis": self.chain.genesis,
            "machine": self.machine,
            "order": OrderId(order),
            "last_block": BlockNumber(self.chain.block + 1000),
        }
        return Grant(**(fields | changes))

    async def session(self, order: int, who: Keypair = ALICE, **changes) -> Session:
        endpoint = await self.net.bind()
        self.renters.append(endpoint)
        session = await Session.open(
            endpoint, self.agent.endpoint.addresses, self.grant(order, **changes), who
        )
        self.sessions.append(session)
        return session

    async def wait_stage(self, session: Session, *stages: Stage):
        async with asyncio.timeout(10), aclosing(session.watch()) as statuses:
            async for status in statuses:
                if status.stage in stages:
                    return status
        raise AssertionError("the stage never came")

    async def running(self, order: int, *argv: str, **kwargs) -> Session:
        manifest = manifest_of(*argv)
        self.place(order, manifest, **kwargs)
        session = await self.session(order)
        await session.put_manifest(manifest)
        await self.wait_stage(session, Stage.RUNNING)
        return session

    def start(self) -> None:
        self.task = asyncio.create_task(self.agent.run())

    async def stop(self) -> None:
        """As SIGTERM does: nothing of the tenants is touched."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self.task = None


def make_agent(
    endpoint: Endpoint,
    data: Path,
    chain: FakeChain,
    sandbox: FakeSandbox,
    addresses: tuple[str, ...] = (),
) -> Agent:
    config = AgentConfig(
        chain="", controller="//Bob", port=0, capacity=CAPACITY, addresses=addresses
    )
    return Agent(
        machine=MachineId(endpoint.key),
        config=config,
        data=data,
        chain=chain,
        sandbox=sandbox,
        endpoint=endpoint,
    )


@asynccontextmanager
async def house(kind: str, data: Path, *, with_image: bool = True) -> AsyncIterator[House]:
    net = Net(kind)
    chain = FakeChain()
    sandbox = FakeSandbox(PROGRAMS, mode=Mode.GVISOR, root=data / "tenants", grace=0.3)
    if with_image:
        archive = data / "image.tar"
        archive.write_bytes(IMAGE)
        await sandbox.import_image(archive, IMAGE_DIGEST.hex(), "python")
    agent = make_agent(await net.bind(), data, chain, sandbox)
    made = House(net, data, chain, sandbox, agent)
    made.start()
    try:
        yield made
    finally:
        for session in made.sessions:
            session.close()
        await made.stop()
        await net.close()
        await sandbox.close()


async def eventually(check: Callable[[], object], seconds: float = 5) -> None:
    """Wait until `check` holds."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)

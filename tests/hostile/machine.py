"""A whole provider in a process of its own, to be attacked: the real agent, real streams, a real sandbox.

Only the chain is in memory, and obeys the test: one JSON object a line on standard input, one answer a
line on standard output. `--weaken` switches a defence off, by its name in `WEAKENED` or as
`module:NAME=number`, so that a test can show that the attack works where nothing stops it.
"""

import argparse
import asyncio
import contextlib
import importlib
import json
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.provider.house import manifest_of

from deepbrain.net import frames
from deepbrain.net.access import Grant
from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.messages import Digest, Manifest, OrderStatus, Stage
from deepbrain.net.session import Session
from deepbrain.net.stream import Stream
from deepbrain.primitives.ids import AccountId, Hash, MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import BlockNumber
from deepbrain.provider import admission, requests, upload
from deepbrain.provider.fake import DEFAULT_GENESIS, FakeChain
from deepbrain.provider.identity import (
    AgentConfig,
    Capacity,
    load_or_make_key,
    machine_id,
    read_seed,
)
from deepbrain.provider.loop import Agent
from deepbrain.provider.quiet import Quiet
from deepbrain.sandbox.baseimage import build
from deepbrain.sandbox.open import open_sandbox

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
ALICE, MALLORY = Keypair.from_uri("//Alice"), Keypair.from_uri("//Mallory")
CAPACITY = Capacity(
    units=4, cpu_milli=2000, memory_bytes=1024 * MIB, disk_bytes=1024 * MIB, pids=1024
)
IMAGE_LIMIT = 64 * MIB


# -- the process


def _no_proof_checks() -> None:
    admission.ensure_usable = lambda *_: None
    admission.ensure_signed = lambda *_: None


def _uploads_outlive_their_orders() -> None:
    async def never(_self: object, _order: int) -> None:
        await asyncio.Event().wait()

    requests.Service._until_past_upload = never  # type: ignore[method-assign]


def _what_is_written_is_buffered() -> None:
    async def pour(chunks: AsyncIterator[bytes], stream: Stream) -> None:
        waiting: asyncio.Queue[bytes] = asyncio.Queue()

        async def drain() -> None:
            while True:
                await stream.write(await waiting.get())

        draining = asyncio.create_task(drain())
        try:
            async for chunk in chunks:
                waiting.put_nowait(chunk)
        finally:
            draining.cancel()

    requests._pour = pour


def _a_loud_log() -> None:
    Quiet.filter = lambda *_: True  # type: ignore[method-assign, assignment]


def _messages_of_any_length() -> None:
    frames.read_frame.__defaults__ = (1 << 40,)
    frames.read_request.__defaults__ = (1 << 40,)


def _any_digest_is_right() -> None:
    class Agreeable(bytes):
        def __ne__(self, _: object) -> bool:
            return False

        def __eq__(self, _: object) -> bool:
            return True

        __hash__ = bytes.__hash__

    class Hashing:
        def update(self, _: bytes) -> None: ...

        def digest(self) -> bytes:
            return Agreeable()

    upload.hashlib = type("hashlib", (), {"sha256": Hashing})  # type: ignore[assignment]


WEAKENED: dict[str, Callable[[], None]] = {
    "proofs": _no_proof_checks,
    "uploads": _uploads_outlive_their_orders,
    "writes": _what_is_written_is_buffered,
    "log": _a_loud_log,
    "frames": _messages_of_any_length,
    "digests": _any_digest_is_right,
}

EVERYTHING_OFF = (
    *WEAKENED,
    "deepbrain.provider.doorstep:PLACES=100000",
    "deepbrain.provider.doorstep:PLACES_PER_ADDRESS=100000",
    "deepbrain.provider.doorstep:CROWDED=100000",
    "deepbrain.provider.doorstep:KNOCKS_AT_ONCE=100000",
    "deepbrain.provider.pace:BURST=100000",
    "deepbrain.provider.gate:STREAMS_PER_ORDER=100000",
    "deepbrain.provider.gate:REQUEST_SECONDS=600",
    "deepbrain.provider.gate:LANES_PER_ORDER=100000",
    "deepbrain.provider.requests:EXECS_PER_ORDER=100000",
    "deepbrain.sandbox.tenants:MAX_EXECS=100000",
)
"""A machine without a bound."""


def weaken(what: str) -> None:
    """Switch one defence off."""
    if what in WEAKENED:
        WEAKENED[what]()
        return
    place, _, value = what.partition("=")
    module, _, name = place.partition(":")
    found = importlib.import_module(module)
    assert hasattr(found, name), f"there is no {place}"
    setattr(found, name, type(getattr(found, name))(float(value)))


async def serve(data: Path) -> None:
    sandbox = await open_sandbox(data)
    archive = data / "image.tar"
    digest = build(archive, python=False)
    await sandbox.import_image(archive, digest, "shell")
    archive.unlink()
    chain = FakeChain()
    key = load_or_make_key(data)
    endpoint = await IrohEndpoint.bind(read_seed(data / "machine.key"), hosts=("127.0.0.1",))
    own = frozenset(AccountId(pair.public) for pair in (ALICE, MALLORY))
    config = AgentConfig(
        chain="", controller="//Bob", port=0, capacity=CAPACITY, own=own, image_bytes=IMAGE_LIMIT
    )
    agent = Agent(machine_id(key), config, data, chain, sandbox, endpoint)
    running = asyncio.create_task(agent.run())
    _say({
        "machine": agent.machine.hex(), "address": endpoint.addresses[0], "image": digest,
        "mode": sandbox.report.mode.value,
    })  # fmt: skip
    async for command in _commands():
        _say(await _obey(command, chain, agent))
    running.cancel()
    await asyncio.wait([running])
    await endpoint.close()
    for state in await sandbox.list():
        await sandbox.destroy(state.order)
    await sandbox.close()


async def _obey(command: dict[str, Any], chain: FakeChain, agent: Agent) -> dict[str, Any]:
    match command["do"]:
        case "place":
            renter, manifest = AccountId.from_hex(command["renter"]), Hash.from_hex(command["hash"])
            chain.place(command["order"], renter, manifest, seconds=command["seconds"])
        case "end":
            chain.end(command["order"])
        case "block":
            chain.make_block()
        case "facts":
            return facts(agent)
    return {"block": chain.block}


def facts(agent: Agent) -> dict[str, Any]:
    """What the attacks must not make grow."""
    status = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split(":")[0]: line.split()[1] for line in status if line.startswith("Vm")}
    deleted = 0
    descriptors = list(Path("/proc/self/fd").iterdir())
    for path in descriptors:
        with contextlib.suppress(OSError):
            if path.readlink().name.endswith("(deleted)"):
                deleted += path.stat().st_blocks * 512
    return {
        "rss": int(kib["VmRSS"]) * 1024,
        "peak": int(kib["VmHWM"]) * 1024,
        "fds": len(descriptors),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "unproven": agent._gate.unproven,
        "deleted_bytes": deleted,
    }


async def _commands() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    events = asyncio.get_running_loop()
    await events.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weaken", action="append", default=[])
    options = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)-7s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Quiet())
    for what in options.weaken:
        weaken(what)
    asyncio.run(serve(options.data))


# -- the test's end of it


@dataclass(frozen=True, slots=True)
class Facts:
    """See `facts`."""

    rss: int
    peak: int
    fds: int
    tasks: int
    threads: int
    unproven: int
    deleted_bytes: int


@dataclass
class Target:
    """The attacked machine, seen by the test."""

    data: Path
    machine: MachineId
    address: str
    image: str
    mode: str
    process: asyncio.subprocess.Process
    log: Path
    block: int = 1
    _endpoints: list[IrohEndpoint] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 10_000)))
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """To its end, cancelled or not: the next one would read its answer."""
        return await asyncio.shield(asyncio.ensure_future(self._ask(do, **more)))

    async def _ask(self, do: str, **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        async with self._asking:
            self.process.stdin.write(json.dumps({"do": do} | more).encode() + b"\n")
            line = await self.process.stdout.readline()
        assert line, f"the machine is dead: {self.log.read_text()[-3000:]}"
        answer: dict[str, Any] = json.loads(line)
        self.block = answer.get("block", self.block)
        return answer

    async def facts(self) -> Facts:
        return Facts(**await self.ask("facts"))

    def manifest(self, *argv: str, **changes: Any) -> Manifest:
        return manifest_of(*argv, **{"image": Digest.from_hex(self.image)} | changes)

    async def place(self, manifest: Manifest, who: Keypair = ALICE, seconds: int = 600) -> int:
        number = next(self._numbers)
        renter = AccountId(who.public).hex()
        await self.ask(
            "place", order=number, renter=renter, hash=manifest.hash().hex(), seconds=seconds
        )
        return number

    def grant(self, order: int, **changes: Any) -> Grant:
        fields = {
            "genesis": DEFAULT_GENESIS, "machine": self.machine, "order": OrderId(order),
            "last_block": BlockNumber(self.block + 1000),
        }  # fmt: skip
        return Grant(**(fields | changes))

    async def endpoint(self, host: str = "127.0.0.1") -> IrohEndpoint:
        endpoint = await IrohEndpoint.bind(os.urandom(32), hosts=(host,))
        self._endpoints.append(endpoint)
        return endpoint

    async def session(self, order: int, who: Keypair = ALICE, **changes: Any) -> Session:
        endpoint = await self.endpoint()
        return await Session.open(endpoint, [self.address], self.grant(order, **changes), who)

    async def running(self, *argv: str, who: Keypair = ALICE) -> tuple[int, Session]:
        manifest = self.manifest(*argv)
        order = await self.place(manifest, who)
        session = await self.session(order, who)
        await session.put_manifest(manifest)
        await until_stage(session, Stage.RUNNING)
        return order, session

    async def attack(self, program: str, *arguments: object, order: int = 0) -> dict[str, Any]:
        """Run one of the programs beside this file to its end; what it says of itself.

        It gives way to the machine: in the world they do not share cores.
        """
        words = [
            "nice", "-n", "4", sys.executable, "-m", f"tests.hostile.{program}", "--machine", self.machine.hex(),
            "--address", self.address, "--order", str(order), "--block", str(self.block),
            *map(str, arguments),
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *words, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        try:
            out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, f"{program} ended with {process.returncode}"
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    async def settled(self, before: Facts, seconds: float = 40) -> Facts:
        """The facts once descriptors and tasks are back where they were. Raises: AssertionError."""
        now = before
        try:
            async with asyncio.timeout(seconds):
                while True:
                    now = await self.facts()
                    if now.fds <= before.fds + 4 and now.tasks <= before.tasks and not now.unproven:
                        return now
                    await asyncio.sleep(0.1)
        except TimeoutError:
            files = self.open_files()
            raise AssertionError(
                f"not as before after {seconds} s: {before}, now {now} with {files}"
            ) from None

    def open_files(self) -> list[str]:
        """What the machine's descriptors are of."""
        descriptors = Path(f"/proc/{self.process.pid}/fd").iterdir()
        return sorted(str(descriptor.readlink()) for descriptor in descriptors)


async def eventually(check: Callable[[], object], seconds: float = 20) -> None:
    """Wait until `check` holds. Raises: TimeoutError."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)


async def until_stage(session: Session, *stages: Stage) -> OrderStatus:
    async with asyncio.timeout(30), aclosing(session.watch()) as statuses:
        async for status in statuses:
            if status.stage in stages:
                return status
    raise AssertionError(f"none of {stages} ever came")


@asynccontextmanager
async def attacked(place: Path, *weakened: str) -> AsyncIterator[Target]:
    """A machine that serves until the block ends."""
    data = place / "machine"
    data.mkdir()
    if os.geteuid() == 0:
        for path in (data, *list(data.parents)[:3]):
            path.chmod(0o711)
    log = place / "machine.log"
    words = [sys.executable, "-m", "tests.hostile.machine", "--data", str(data)]
    for what in weakened:
        words += ["--weaken", what]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *words, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    line = await process.stdout.readline()
    if not line:
        _refuse(log.read_text().strip().splitlines()[-1])
    said = json.loads(line)
    target = Target(
        data, MachineId.from_hex(said["machine"]), said["address"], said["image"], said["mode"],
        process, log,
    )  # fmt: skip
    try:
        yield target
    finally:
        for endpoint in target._endpoints:
            await endpoint.close()
        process.stdin.close()
        try:
            async with asyncio.timeout(30):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, log.read_text()[-3000:]


def _refuse(reason: str) -> None:
    if os.environ.get("REQUIRE_GVISOR"):
        pytest.fail(reason)
    pytest.skip(reason)


if __name__ == "__main__":
    main()

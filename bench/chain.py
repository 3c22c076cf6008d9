"""The chain under load: one node, 100,000 accounts, LMDB with fsync, root and history included.

*_per_s              a node in its own process, signed extrinsics over one WebSocket in batches of 100
all_but_signature_*  CPU of a node without its signatures, from the bytes of an extrinsic to the committed
                     block: decoding, validity, pool and its journal, execution, events, root, history
                     and the durable commit, kernel included; per transfer, divided by one sr25519
                     check made beside it
rent_vs_transfer     the same CPU of `rent.place`, divided by a transfer's, at 200 a block
transfer_us_*        the CPU itself in µs; `_by_rpc` with JSON-RPC in front of it, as in the `*_per_s`
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import aiohttp

from deepbrain.frame.calls import Call
from deepbrain.node.node import Node, NodeConfig, settle_memory
from deepbrain.node.rpc.server import Bind
from deepbrain.node.rpc.subscriptions import Peer
from deepbrain.node.signatures import Check
from deepbrain.node.solo import SoloEngine
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.machines import (
    Address,
    BondMessage,
    Hardware,
    Isolation,
    Machines,
    Network,
    bond_message,
)
from deepbrain.pallets.rent import Rent
from deepbrain.pallets.system import System
from deepbrain.primitives import ss58
from deepbrain.primitives.ids import AccountId, Hash, MachineId
from deepbrain.primitives.keys import Keypair, Scheme, verify
from deepbrain.primitives.units import PLANCK, U16, U32, Balance, MicroUsd, Seconds
from deepbrain.runtime.chainspec import ChainSpec
from deepbrain.runtime.extrinsic import Signing, sign
from deepbrain.runtime.version import SPEC_VERSION, TRANSACTION_VERSION

ACCOUNTS: Final = 100_000
SENDERS: Final = 2_000
BATCH: Final = 100
LOAD: Final = 12_000
"""Extrinsics of a throughput run."""
IN_FLIGHT: Final = 8
"""Batches sent ahead of their answers."""
MACHINES: Final = 32
CORES: Final = 500
IDLE_SECONDS: Final = 15.0

LOCAL: Final = Peer(local=True)


class People:
    """Who is in the chain: senders with keys, a provider, and many who only hold money."""

    def __init__(self) -> None:
        chance = random.Random(1)
        self.chance = chance
        self.senders = [Keypair.from_seed(chance.randbytes(32)) for _ in range(SENDERS)]
        self.provider = Keypair.from_uri("//Charlie")
        self.machines = [
            Keypair.from_seed(chance.randbytes(32), Scheme.ED25519) for _ in range(MACHINES)
        ]
        self.holders = [AccountId(chance.randbytes(32)) for _ in range(ACCOUNTS - SENDERS)]

    def spec(self) -> dict[str, Any]:
        """The dev chain with everybody in it."""
        text = (files("deepbrain.runtime") / "specs" / "dev.json").read_text()
        spec: dict[str, Any] = json.loads(text)
        balances = spec["genesis"]["balances"]
        for sender in self.senders:
            balances[sender.address()] = 10_000 * PLANCK
        for holder in self.holders:
            balances[ss58.encode(holder)] = 10 * PLANCK
        balances[self.provider.address()] = 10**9 * PLANCK
        return spec


class Signer:
    """Signs for one chain, and counts nonces."""

    def __init__(self, people: People, genesis: Hash) -> None:
        self.people = people
        self.genesis = genesis
        self.signing = Signing(int(SPEC_VERSION), int(TRANSACTION_VERSION), genesis)
        self.nonces: dict[AccountId, int] = {}
        self.turn = 0

    def sign(self, key: Keypair, call: Call) -> bytes:
        nonce = self.nonces.get(key.public, 0)
        self.nonces[key.public] = nonce + 1
        return sign(call, key, self.signing, nonce=nonce)

    def _sender(self) -> Keypair:
        self.turn += 1
        return self.people.senders[self.turn % SENDERS]

    def transfers(self, count: int) -> list[bytes]:
        choose = self.people.chance.choice
        return [
            self.sign(
                self._sender(),
                Balances.transfer_keep_alive.make(
                    dest=choose(self.people.holders), value=Balance(PLANCK // 1000)
                ),
            )
            for _ in range(count)
        ]

    def places(self, count: int) -> list[bytes]:
        return [self.sign(self._sender(), self._place()) for _ in range(count)]

    def _place(self) -> Call:
        machine = self.people.machines[self.turn % MACHINES]
        return Rent.place.make(
            machine=MachineId(machine.public),
            units=U16(1),
            seconds=Seconds(600),
            manifest_hash=Hash(self.people.chance.randbytes(32)),
            max_total=Balance(1000 * PLANCK),
            offer_version=U32(0),
            start_within=Seconds(600),
        )

    def bonds(self) -> list[bytes]:
        return [self.sign(self.people.provider, self._bond(key)) for key in self.people.machines]

    def _bond(self, key: Keypair) -> Call:
        owner, machine = self.people.provider.public, MachineId(key.public)
        message = BondMessage(machine=machine, stash=owner, controller=owner, nonce=U32(0))
        return Machines.bond.make(
            machine=machine,
            hardware=Hardware(
                gpu_model="",
                gpus=U16(0),
                gpu_memory_mib=U32(0),
                cpu_model="Bench",
                cpus=U16(CORES),
                memory_mib=U32(1 << 20),
                disk_mib=U32(1 << 20),
            ),
            isolation=Isolation.GVISOR,
            network=Network.NONE,
            price=MicroUsd(1000),
            address=Address(endpoints=(), relays=()),
            signature=key.sign(bond_message(self.genesis, message)),
        )


class NoSignatures:
    """Takes every signature as good: what is measured is all the rest."""

    async def verify(self, checks: Sequence[Check]) -> list[bool]:
        return [True] * len(checks)

    def close(self) -> None: ...


class Workshop:
    """A node in this process whose blocks are made one by one."""

    def __init__(self, people: People, data: Path) -> None:
        config = NodeConfig(spec=ChainSpec.parse(people.spec()), data=data, bind=Bind(port=0))
        self.node = Node(config, signatures=NoSignatures())
        self.signer = Signer(people, self.node.chain.genesis_hash)
        settle_memory()

    async def block(self, extrinsics: list[bytes], *, by_rpc: bool = False) -> float:
        """CPU seconds an extrinsic, from its bytes, or its JSON-RPC text, to the committed block."""
        texts = batches(extrinsics) if by_rpc else []
        before = time.process_time()
        if by_rpc:
            for text in texts:
                await self.node.table.answer(text, LOCAL)
        else:
            for at in range(0, len(extrinsics), BATCH):
                await self.node.pool.submit(extrinsics[at : at + BATCH])
        assert isinstance(self.node.engine, SoloEngine)
        await self.node.engine.seal()
        spent = time.process_time() - before
        self._check(len(extrinsics))
        return spent / len(extrinsics)

    def _check(self, expected: int) -> None:
        chain = self.node.chain
        records = chain.events(chain.head.number) or b""
        found = chain.executive(int(SPEC_VERSION)).runtime.events.decode(records)
        done = [r for r in found if type(r.event).__name__ == "ExtrinsicSuccess"]
        if len(done) != expected + 1:
            raise RuntimeError(f"{len(done) - 1} of {expected} extrinsics of a block succeeded")

    async def close(self) -> None:
        await self.node.stop()


def batches(extrinsics: list[bytes]) -> list[str]:
    """The texts of JSON-RPC batches."""
    calls = [
        {"jsonrpc": "2.0", "id": n, "method": "author_submitExtrinsic", "params": ["0x" + x.hex()]}
        for n, x in enumerate(extrinsics)
    ]
    return [json.dumps(calls[at : at + BATCH]) for at in range(0, len(calls), BATCH)]


def signature_check() -> float:
    """CPU seconds of one sr25519 check of a transfer's payload, median of nine rounds."""
    key, message = Keypair.from_uri("//Alice"), bytes(115)
    signature = key.sign(message)

    def once() -> float:
        before = time.process_time()
        for _ in range(100):
            verify(Scheme.SR25519, key.public, signature, message)
        return (time.process_time() - before) / 100

    return statistics.median(once() for _ in range(9))


class Samples:
    """CPU of blocks by kind. A check is measured beside each: a shared machine changes its speed."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self.checks: dict[str, list[float]] = {}

    def add(self, kind: str, seconds: float) -> None:
        self.spent.setdefault(kind, []).append(seconds)
        self.checks.setdefault(kind, []).append(signature_check())

    def per_check(self, kind: str) -> float:
        """The median of the CPU of a block's extrinsic, in signature checks."""
        pairs = zip(self.spent[kind], self.checks[kind], strict=True)
        return statistics.median(spent / check for spent, check in pairs)

    def micros(self, kind: str) -> float:
        return round(statistics.median(self.spent[kind]) * 1e6, 1)


async def ratios(people: People, directory: Path) -> dict[str, float]:
    workshop = Workshop(people, directory / "workshop")
    samples = Samples()
    try:
        await workshop.block(workshop.signer.bonds())
        signer, block = workshop.signer, workshop.block
        for _ in range(15):
            samples.add("200", await block(signer.transfers(200)))
            samples.add("rent", await block(signer.places(200)))
            samples.add("rpc", await block(signer.transfers(200), by_rpc=True))
        for _ in range(9):
            samples.add("2000", await block(signer.transfers(2000)))
    finally:
        await workshop.close()
    checks = [check for beside in samples.checks.values() for check in beside]
    return {
        "all_but_signature_ratio_200": round(samples.per_check("200"), 2),
        "all_but_signature_ratio_2000": round(samples.per_check("2000"), 2),
        "rent_vs_transfer_ratio": round(samples.per_check("rent") / samples.per_check("200"), 2),
        "transfer_us_200": samples.micros("200"),
        "transfer_us_200_by_rpc": samples.micros("rpc"),
        "transfer_us_2000": samples.micros("2000"),
        "rent_order_us_200": samples.micros("rent"),
        "sr25519_check_us": round(statistics.median(checks) * 1e6, 1),
    }


@contextmanager
def node_process(spec: Path, data: Path) -> Iterator[tuple[int, str]]:
    """A node of its own: its process id, and the address of its RPC."""
    options = ("--spec", spec, "--data", data, "--rpc-port", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "deepbrain.node", *options], stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        address = dict(part.split("=", 1) for part in line.split()[1:])["rpc"]
        yield process.pid, address.replace("ws:", "http:")
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout:
            process.stdout.close()


class Connection:
    """One WebSocket, calls in turn."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def call(self, method: str, *params: object) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        await self.socket.send_json(request)
        answer = await self.socket.receive_json()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    async def submit(self, texts: list[str]) -> None:
        """Send batches, `IN_FLIGHT` ahead of their answers."""
        for at, text in enumerate(texts):
            await self.socket.send_str(text)
            if at >= IN_FLIGHT:
                self._check(await self.socket.receive_json())
        for _ in range(min(IN_FLIGHT, len(texts))):
            self._check(await self.socket.receive_json())

    @staticmethod
    def _check(answers: list[dict[str, Any]]) -> None:
        refused = [answer["error"] for answer in answers if "error" in answer]
        if refused:
            raise RuntimeError(f"{len(refused)} extrinsics of a batch were refused: {refused[0]}")

    async def nonces(self, who: Sequence[AccountId]) -> dict[AccountId, int]:
        found: dict[AccountId, int] = {}
        for at in range(0, len(who), 500):
            part = who[at : at + 500]
            keys = ["0x" + System.account.key_of(one).hex() for one in part]
            (answer,) = await self.call("state_queryStorageAt", keys)
            for one, (_, value) in zip(part, answer["changes"], strict=True):
                info = System.account.decode(None if value is None else bytes.fromhex(value[2:]))
                found[one] = 0 if info is None else int(info.nonce)
        return found

    async def load(self, signer: Signer, extrinsics: list[bytes]) -> float:
        """Extrinsics a second, from the first byte sent to the last one final."""
        last = signer.people.senders[signer.turn % SENDERS].public
        texts = batches(extrinsics)
        started = time.perf_counter()
        await self.submit(texts)
        while (await self.nonces([last]))[last] < signer.nonces[last]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        elapsed = time.perf_counter() - started
        while (await self.nonces(list(signer.nonces))) != signer.nonces:
            if time.perf_counter() - started > elapsed + 30:
                raise RuntimeError("extrinsics were lost")
            await asyncio.sleep(0.1)
            elapsed = time.perf_counter() - started
        return len(extrinsics) / elapsed


async def throughput(people: People, directory: Path) -> dict[str, float]:
    spec = directory / "bench.json"
    spec.write_text(json.dumps(people.spec()))
    with node_process(spec, directory / "node"):
        pass  # makes block 0: what that took is not what a running node takes
    with node_process(spec, directory / "node") as (pid, address):
        async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
            connection = Connection(socket)
            genesis = Hash.from_hex(await connection.call("chain_getBlockHash", 0))
            signer = Signer(people, genesis)
            await connection.submit(batches(signer.bonds()))
            warm = signer.transfers(SENDERS)
            await connection.load(signer, warm)
            resident = memory_mb(pid)
            transfers = [await connection.load(signer, signer.transfers(LOAD)) for _ in range(3)]
            rents = await connection.load(signer, signer.places(LOAD))
        loaded = memory_mb(pid)
        await asyncio.sleep(3)
        before, started = cpu_seconds(pid), time.perf_counter()
        await asyncio.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(pid) - before) / (time.perf_counter() - started)
    return {
        "transfers_per_s": round(statistics.median(transfers)),
        "rent_orders_per_s": round(rents),
        "node_rss_mb_100k_accounts": round(resident, 1),
        "node_rss_mb_after_load": round(loaded, 1),
        "idle_cpu_percent": round(100 * idle, 2),
    }


def memory_mb(pid: int) -> float:
    """Resident memory of a process, pages of its database included."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def measure() -> dict[str, float]:
    people = People()
    with tempfile.TemporaryDirectory(prefix="deepbrain-bench-") as name:
        directory = Path(name)
        figures = asyncio.run(ratios(people, directory))
        return figures | asyncio.run(throughput(people, directory))

"""A real node in this process, people who sign, and a bare JSON-RPC client."""

import asyncio
import itertools
import json
from contextlib import asynccontextmanager

import aiohttp

from deepbrain.node.node import Node, NodeConfig, load_spec
from deepbrain.node.rpc.server import Bind
from deepbrain.node.signatures import InlineSignatures
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
from deepbrain.primitives.ids import AccountId, Hash, MachineId
from deepbrain.primitives.keys import Keypair, Scheme
from deepbrain.primitives.units import PLANCK, U16, U32, Balance, MicroUsd
from deepbrain.runtime.extrinsic import Signing, sign
from deepbrain.runtime.version import SPEC_VERSION, TRANSACTION_VERSION

DEV = load_spec("dev")
SECONDS = 10.0

_keys = {}


def key(name, scheme=Scheme.SR25519):
    if (name, scheme) not in _keys:
        _keys[name, scheme] = Keypair.from_uri(f"//{name}", scheme)
    return _keys[name, scheme]


def account(name):
    return key(name).public


class Wallet:
    """Signs for one chain, and counts nonces."""

    def __init__(self, genesis: Hash) -> None:
        self.signing = Signing(int(SPEC_VERSION), int(TRANSACTION_VERSION), genesis)
        self.nonces = {}

    def sign(self, name, call, nonce=None, **kwargs):
        if nonce is None:
            nonce = self.nonces.get(name, 0)
            self.nonces[name] = nonce + 1
        return sign(call, key(name), self.signing, nonce=nonce, **kwargs)

    def transfer(self, name, to="Dave", amount=PLANCK, **kwargs):
        return self.sign(name, transfer_call(account(to), amount), **kwargs)


def transfer_call(to: AccountId, amount: int):
    return Balances.transfer_keep_alive.make(dest=to, value=Balance(amount))


def machine_id() -> MachineId:
    return MachineId(key("Machine", Scheme.ED25519).public)


def bond_call(genesis: Hash, owner="Charlie"):
    machine = machine_id()
    message = BondMessage(
        machine=machine, stash=account(owner), controller=account(owner), nonce=U32(0)
    )
    return Machines.bond.make(
        machine=machine,
        hardware=Hardware(
            gpu_model="",
            gpus=U16(0),
            gpu_memory_mib=U32(0),
            cpu_model="Reference",
            cpus=U16(8),
            memory_mib=U32(16384),
            disk_mib=U32(100_000),
        ),
        isolation=Isolation.GVISOR,
        network=Network.NONE,
        price=MicroUsd(1000),
        address=Address(endpoints=(), relays=()),
        signature=key("Machine", Scheme.ED25519).sign(bond_message(genesis, message)),
    )


class RpcClient:
    """One WebSocket; answers by id, notifications by subscription."""

    def __init__(self, socket) -> None:
        self.socket = socket
        self.ids = itertools.count(1)
        self.queue = {}
        self.batches = []

    async def call(self, method, *params):
        answer = await self.ask(method, *params)
        assert "error" not in answer, answer
        return answer["result"]

    async def error(self, method, *params):
        return (await self.ask(method, *params))["error"]

    async def ask(self, method, *params):
        identity = next(self.ids)
        await self.socket.send_json(
            {"jsonrpc": "2.0", "id": identity, "method": method, "params": list(params)}
        )
        while True:
            frame = await self._receive()
            if isinstance(frame, dict) and frame.get("id") == identity:
                return frame

    async def next(self, subscription):
        while not self.queue.get(subscription):
            await self._receive()
        return self.queue[subscription].pop(0)

    async def until(self, subscription, last):
        """Every value up to the one that `last` holds for."""
        seen = []
        while not seen or not last(seen[-1]):
            seen.append(await self.next(subscription))
        return seen

    async def _receive(self):
        async with asyncio.timeout(SECONDS):
            message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, message
        frame = json.loads(message.data)
        if isinstance(frame, list):
            self.batches.append(frame)
        elif "method" in frame:
            value = frame["params"]
            self.queue.setdefault(value["subscription"], []).append(value["result"])
        return frame


@asynccontextmanager
async def running_node(data=None, *, interval=60.0, spec=DEV, **kwargs):
    config = NodeConfig(spec=spec, data=data, bind=Bind(port=0), interval=interval, **kwargs)
    node = Node(config, signatures=InlineSignatures())
    opened_at = node.chain.head.number
    await node.start()
    try:
        async with asyncio.timeout(SECONDS):
            while node.chain.head.number == opened_at:  # noqa: ASYNC110  the first block comes at once
                await asyncio.sleep(0.005)
        yield node
    finally:
        await node.stop()


@asynccontextmanager
async def connected(node):
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{node.server.port}/", max_msg_size=0) as socket,
    ):
        yield RpcClient(socket)


def is_final(status):
    return isinstance(status, dict) and "finalized" in status


def hexed(data: bytes) -> str:
    return "0x" + data.hex()

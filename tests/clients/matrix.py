"""The outside clients that must work against our node as they are, and what each must show.

Each runs in a process of its own, from a lock file of its own, against a real node, and tells step by
step what it saw; `check` judges that in one place, and the chain's own state has the last word.
"""

import asyncio
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.installed import (
    CACHE,
    ROOT,
    CannotRun,
    alone,
    environment,
    is_current,
    mark_current,
)
from tests.node.world import DEV, Wallet, bond_call, hexed, machine_id, running_node
from tests.validators.chain import lone_validator

from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import PLANCK, Balance

HERE = Path(__file__).parent
SECONDS = 180
NODE_MAJOR = 20

SIGNER_SEED = hashlib.sha256(b"a renter with an outside client").digest()
SIGNER, DEST = Keypair.from_seed(SIGNER_SEED), Keypair.from_uri("//somebody else")


@dataclass(frozen=True)
class Client:
    """One client, and the steps it takes beyond those that all must take."""

    name: str
    driver: str
    """What takes it through the steps; `upgrade_…` beside it takes it through an upgrade."""
    legacy: bool = False
    more: tuple[str, ...] = ()

    @property
    def is_python(self) -> bool:
        return self.driver.endswith(".py")


SCHEMES = ("ed25519", "ecdsa")
CLIENTS = (
    Client("@polkadot/api", "drive_polkadot_js.mjs", more=(*SCHEMES, "token_error", "batch_interrupted", "stale")),
    Client("polkadot-api over chainHead", "drive_papi.mjs", more=(*SCHEMES, "token_error", "runtime_api")),
    Client("polkadot-api over legacy", "drive_papi.mjs", legacy=True, more=(*SCHEMES, "token_error", "runtime_api")),
    Client("dedot over chainHead", "drive_dedot.mjs", more=(*SCHEMES, "token_error")),
    Client("dedot over legacy", "drive_dedot.mjs", legacy=True, more=(*SCHEMES, "token_error")),
    Client("substrate-interface", "drive_python.py", more=("mortal", "ed25519", "stale")),
    Client("async-substrate-interface", "drive_python.py", more=("mortal", "token_error", "stale", "runtime_api")),
)  # fmt: skip


@dataclass
class World:
    """What was true of the chain before and after a client's visit."""

    chain: str
    genesis: str
    accounts: int
    free: int = 1000 * PLANCK
    orders: list[str] = field(default_factory=list)
    received: int = 0


# -- Getting the clients: once for each lock file.


def javascript() -> Path:
    """Where the JavaScript clients are installed, beside their drivers. Raises: CannotRun."""
    node = shutil.which("node")
    found = subprocess.run([node, "--version"], capture_output=True, text=True) if node else None
    if found is None or int(found.stdout.strip("v\n").split(".")[0]) < NODE_MAJOR:
        raise CannotRun(f"Node.js {NODE_MAJOR} or newer is needed, with npm")
    place, lock = CACHE / "clients-js", HERE / "js" / "package-lock.json"
    place.mkdir(parents=True, exist_ok=True)
    with alone(place):
        if not is_current(place, lock):
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(HERE / "js" / name, place)
            subprocess.run(["npm", "ci", "--silent", "--no-progress"], cwd=place, check=True)
            mark_current(place, lock)
        for source in (HERE / "js").glob("*.mjs"):
            copy = place / source.name
            if not copy.exists() or copy.read_bytes() != source.read_bytes():
                shutil.copy(source, copy)
    return place


def command_of(client: Client, driver: str) -> tuple[list[str], Path]:
    """How a driver is started, and where; installs the client first."""
    if client.is_python:
        return [str(environment(client.name)), str(HERE / driver), client.name], ROOT
    place = javascript()
    return ["node", str(place / driver)], place


# -- Driving one.


@asynccontextmanager
async def _solo(interval: float) -> AsyncIterator[Any]:
    own = (SIGNER.public, Balance(1000 * PLANCK))
    spec = replace(DEV, balances=(*DEV.balances, own))
    async with running_node(spec=spec, interval=interval) as node:
        yield node


@asynccontextmanager
async def _cometbft(interval: float) -> AsyncIterator[Any]:
    own = {SIGNER.address(): 1000 * PLANCK}
    with tempfile.TemporaryDirectory(prefix="clients-") as base:
        milliseconds = round(interval * 300)  # it waits for each, and solo for none
        async with lone_validator(Path(base), interval_ms=milliseconds, balances=own) as (node, _):
            yield node


ENGINES = {"solo": _solo, "cometbft": _cometbft}


@asynccontextmanager
async def node_for_clients(
    interval: float, engine: str = "solo"
) -> AsyncIterator[tuple[Any, dict[str, str]]]:
    """A node with a machine to rent, and what a driver needs to know of it."""
    async with ENGINES[engine](interval) as node:
        bond = Wallet(node.chain.genesis_hash).sign("Charlie", bond_call(node.chain.genesis_hash))
        await node.pool.submit([bond])
        while not _reading(node, lambda block: machine_id() in block.machines.machines):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield (
            node,
            {
                "url": f"ws://127.0.0.1:{node.server.port}",
                "signer": "0x" + SIGNER_SEED.hex(),
                "signer_address": SIGNER.address(),
                "dest": DEST.address(),
                "machine": hexed(machine_id()),
            },
        )


async def drive(client: Client, engine: str = "solo") -> tuple[dict[str, Any], World]:
    """What the client saw, and the world it was in. Raises: CannotRun; AssertionError: it ended badly."""
    command, where = await asyncio.to_thread(command_of, client, client.driver)
    async with node_for_clients(1.0, engine) as (node, config):
        accounts = _reading(node, lambda block: len(list(block.system.account.keys())))
        world = World(node.chain.spec.name, str(node.chain.genesis_hash), accounts)
        seen = await run_driver(command, where, config | {"legacy": client.legacy})
        orders = _reading(node, lambda block: list(block.rent.orders_of.under(SIGNER.public)))
        world.orders = [str(order) for order, _ in orders]
        world.received = _reading(
            node, lambda block: int(block.system.account_of(DEST.public).data.free)
        )
        return seen, world


async def drive_through_upgrade(
    client: Client, upgrade: Callable[[Any], Awaitable[object]]
) -> dict[str, Any]:
    """What the client saw of an upgrade, which is made once it says that it is ready, and how many
    connections it made.
    """
    driver = client.driver.replace("drive_", "upgrade_")
    command, where = await asyncio.to_thread(command_of, client, driver)
    async with node_for_clients(interval=0.5) as (node, config):
        serve, connections = node.server._serve_socket, 0

        async def counted(request: Any) -> Any:
            nonlocal connections
            connections += 1
            return await serve(request)

        node.server._serve_socket = counted
        seen = await run_driver(
            command, where, config | {"legacy": client.legacy}, lambda: upgrade(node)
        )
        found: dict[str, Any] = seen["upgrade"]
        return found | {"connections": connections}


async def run_driver(
    command: list[str],
    where: Path,
    config: dict[str, Any],
    when_ready: Callable[[], Awaitable[object]] | None = None,
) -> dict[str, Any]:
    """What a driver tells at its end. Raises: AssertionError: it ended badly; TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        *command, json.dumps(config), cwd=where,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(SECONDS):
            if when_ready is not None:
                while (line := await process.stderr.readline()) not in (b"", b"ready\n"):
                    pass
                assert line, "the driver ended before it was ready"
                await when_ready()
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()[-2000:]
    assert out, errors.decode()[-2000:]
    seen: dict[str, Any] = json.loads(out.splitlines()[-1])  # clients may say something before
    return seen


def _reading(node: Any, read: Callable[[Any], Any]) -> Any:
    with node.chain.snapshot() as state:
        executive = node.chain.executive(node.chain.spec_version())
        return read(executive.runtime.at(state, node.chain.head.hash))


# -- Judging what it saw. Each raises AssertionError.


def _connect(seen: Any, world: World) -> None:
    assert seen["chain"] == world.chain
    assert seen["genesis"] == world.genesis
    assert seen["spec_version"] == 1, seen
    properties = {"ss58Format": 42, "tokenDecimals": 15, "tokenSymbol": "DBC"}
    assert seen.get("properties", properties) == properties


def _constants(seen: Any, world: World) -> None:
    assert seen == {"ss58": 42, "block_hash_count": 4096}


def _value(seen: Any, world: World) -> None:
    assert seen["number"] >= 1


def _map(seen: Any, world: World) -> None:
    assert seen["free"] == str(world.free)


def _keys(seen: Any, world: World) -> None:
    assert seen == {"count": world.accounts, "unique": world.accounts}


def _subscriptions(seen: Any, world: World) -> None:
    assert len(seen["heads"]) == len(seen["finalized"]) == len(seen["storage"]) == 3
    assert seen["heads"] == sorted(seen["heads"])
    assert len(set(seen["heads"])) >= 2
    assert max(seen["finalized"]) - min(seen["finalized"]) == 2
    assert sorted(set(seen["storage"])) == seen["storage"]


def _done(seen: Any, *events: str) -> None:
    """An extrinsic that succeeded, with these events among its own."""
    assert seen["success"], seen["error"]
    assert seen["error"] is None
    assert seen["events"][-2:] == [
        "TransactionPayment.TransactionFeePaid",
        "System.ExtrinsicSuccess",
    ]
    for event in events:
        assert seen["events"].count(event) == events.count(event), seen["events"]


def _priced(seen: Any) -> None:
    assert int(seen["estimated"]) == int(seen["paid"]) > 0


def _transfer(seen: Any, world: World) -> None:
    _done(seen, "Balances.Transfer")
    _priced(seen)
    assert str(seen["data"]["Transfer"]["to"]) == DEST.address()
    assert str(seen["data"]["Transfer"]["amount"]).replace(",", "") == str(3 * PLANCK)


def _sent(seen: Any, world: World) -> None:
    _done(seen, "Balances.Transfer")


def _remarked(seen: Any, world: World) -> None:
    _done(seen, "System.Remarked")
    _priced(seen)


def _historic(seen: Any, world: World) -> None:
    assert seen == {"before": "0", "after": str(3 * PLANCK)}


def _place(seen: Any, world: World) -> None:
    _done(seen, "Balances.Held", "Rent.OrderPlaced")
    _priced(seen)
    assert seen["data"]["OrderPlaced"]["machine"] == hexed(machine_id())


def _double_map(seen: Any, world: World) -> None:
    assert seen["orders"] == world.orders != []


def _failed(seen: Any, name: str) -> None:
    assert not seen["success"]
    assert seen["error"]["name"] == name
    assert seen["events"] == ["TransactionPayment.TransactionFeePaid", "System.ExtrinsicFailed"]
    _priced(seen)


def _module_error(seen: Any, world: World) -> None:
    _failed(seen, "OfferChanged")
    assert seen["error"].get("pallet", "Rent") == "Rent"
    assert "offer was edited" in seen["error"].get("docs", "the offer was edited")


def _token_error(seen: Any, world: World) -> None:
    _failed(seen, "FundsUnavailable")


def _batch(seen: Any, world: World) -> None:
    items = ["Utility.ItemCompleted"] * 2
    _done(seen, "Balances.Transfer", "System.Remarked", *items, "Utility.BatchCompleted")
    _priced(seen)


def _batch_interrupted(seen: Any, world: World) -> None:
    _done(seen, "Utility.BatchInterrupted")


def _stale(seen: Any, world: World) -> None:
    assert "Invalid Transaction" in seen["refused"]


def _runtime_api(seen: Any, world: World) -> None:
    assert seen["nonce"] >= 1
    assert seen.get("versions", [14, 15, 16]) == [14, 15, 16]


COMMON: dict[str, Callable[[Any, World], None]] = {
    "connect": _connect,
    "constants": _constants,
    "value": _value,
    "map": _map,
    "keys": _keys,
    "subscriptions": _subscriptions,
    "transfer": _transfer,
    "historic": _historic,
    "immortal": _sent,
    "long_payload": _remarked,
    "place": _place,
    "double_map": _double_map,
    "module_error": _module_error,
    "batch": _batch,
}
"""What every client must do."""
MORE: dict[str, Callable[[Any, World], None]] = {
    "mortal": _sent,
    "ed25519": _sent,
    "ecdsa": _sent,
    "token_error": _token_error,
    "batch_interrupted": _batch_interrupted,
    "stale": _stale,
    "runtime_api": _runtime_api,
}


def judge(client: Client, seen: dict[str, Any], world: World) -> dict[str, str]:
    """Step by step `pass`, or what is wrong."""
    verdicts = {}
    steps = [*COMMON, *client.more]
    for step in steps:
        try:
            assert step in seen, "the client never got there"
            assert "error" not in seen[step] or "success" in seen[step], seen[step]["error"]
            (COMMON | MORE)[step](seen[step], world)
            verdicts[step] = "pass"
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            verdicts[step] = f"fail: {error!r}"[:1000]
    # Three of the first transfer, and one each of those after it that went to the same account.
    sent = 3 + sum(step in ("immortal", "mortal", "batch", *SCHEMES) for step in steps)
    arrived = world.received == sent * PLANCK
    verdicts["state"] = "pass" if arrived else f"fail: {world.received} arrived, not {sent} DBC"
    return verdicts

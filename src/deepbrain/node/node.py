"""A node put together: store, chain, pool, engine, RPC; started and stopped as one."""

import asyncio
import gc
import json
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from deepbrain.node.chain import Chain
from deepbrain.node.comet.home import COMETBFT, CometConfig
from deepbrain.node.engine import Engine
from deepbrain.node.errors import NodeError
from deepbrain.node.examiner import HeadExaminer
from deepbrain.node.journal import PoolJournal
from deepbrain.node.ledger import NodeLedger
from deepbrain.node.metrics import Meter, served
from deepbrain.node.pool import Pool
from deepbrain.node.relay.child import RelayChild, RelayChoice
from deepbrain.node.rpc.relays import RelaysRpc
from deepbrain.node.rpc.server import Bind, Limits, RpcServer
from deepbrain.node.rpc.system import Company
from deepbrain.node.rpc.table import rpc_table
from deepbrain.node.signatures import Signatures, signatures_for
from deepbrain.node.solo import SoloEngine
from deepbrain.primitives import keys
from deepbrain.primitives.ids import AccountId
from deepbrain.runtime.chainspec import BadChainSpec, ChainSpec
from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.memory import MemoryStore
from deepbrain.state.store import Retention, Store

log = logging.getLogger(__name__)

ANNOUNCE_SECONDS: Final = 8.0
"""How often our own extrinsics are shown to the engine again."""


COUNT_SECONDS: Final = 5.0
"""How often CometBFT is asked for the number of its peers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """How a node runs. Times in seconds."""

    spec: ChainSpec
    data: Path | None
    """Where the chain is kept; None keeps it in memory."""
    bind: Bind = field(default_factory=Bind)
    interval: float = 1.0
    """Between empty blocks of the solo engine; CometBFT goes by the chain spec."""
    comet: CometConfig | None = None
    """Runs CometBFT in place of the solo engine."""
    archive: bool = False
    author: AccountId | None = None
    """Who makes the blocks of the solo engine; the root account, or nobody, by default."""
    limits: Limits = field(default_factory=Limits)
    relay: RelayChoice = field(default_factory=RelayChoice)
    metrics: str = ""
    """`HOST:PORT` where Prometheus may ask; empty: nowhere."""


class Node:
    """One running node."""

    def __init__(self, config: NodeConfig, *, signatures: Signatures | None = None) -> None:
        """Raises: NodeError, StoreError, InvalidKey: it cannot start; one sentence each."""
        keys.self_test()
        self.store = _open_store(config)
        try:
            engine = SoloEngine.name if config.comet is None else COMETBFT
            self.chain = Chain(self.store, config.spec, engine)
            self.config = replace(config, spec=self.chain.spec)
            self._signatures = signatures or signatures_for(_cores())
            self.pool = Pool(HeadExaminer(self.chain), self._signatures)
            self.ledger = NodeLedger(self.chain, self.pool)
            self.engine = self._make_engine()
        except BaseException:
            self.store.close()
            raise
        self.pool.on_admitted = self.engine.announce
        self.relay: RelayChild | None = None
        relays = RelaysRpc(self._relay_port, config.relay.urls)
        self._peers: int | None = None
        company = Company(
            config.comet is not None, lambda: self._peers or 0, lambda: self.engine.live
        )
        self.table = rpc_table(self.chain, self.pool, version("deepbrain"), relays, company)
        self._serving = ExitStack()
        self.server = RpcServer(self.table, config.bind, config.limits)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the port and make blocks. Raises: NodeError: the port or the disk cannot be had."""
        try:
            await self.server.start()
            if self.config.data is not None:
                journal = PoolJournal(self.config.data / "pool.journal", self.pool.own)
                await self.pool.restore(journal)
            self.relay = RelayChild(self.config.relay, self._own_url(), self.config.data)
            self.relay.start()
            if self.config.metrics:
                self._serving.enter_context(served(self.config.metrics, self._meter()))
        except BaseException:
            await self.stop()
            raise
        self._tasks = [
            asyncio.create_task(self.engine.run(), name="engine"),
            asyncio.create_task(self._announce_again(), name="announce"),
        ]
        comet = self.config.comet
        if comet is not None and comet.metrics:
            self._tasks.append(asyncio.create_task(self._count_peers(comet.metrics), name="peers"))
        settle_memory()

    async def wait(self) -> None:
        """Until the node fails. Raises: NodeError, StoreError: why it must stop; anything: a bug."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Close the ports, finish the block that is being written, close the store."""
        if self.relay is not None:
            await self.relay.stop()
        await self.server.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._serving.close)
        await asyncio.to_thread(self.ledger.close)
        self.pool.close()
        self._signatures.close()
        self.store.close()

    def _make_engine(self) -> Engine:
        """Raises: NodeError: CometBFT is not here, or has nowhere to live."""
        config = self.config
        if config.comet is None:
            return SoloEngine(self.ledger, _author(config), interval=config.interval)
        if config.data is None:
            raise NodeError("Under CometBFT the chain is kept on disk: name a --data directory.")
        # Its messages cost a megabyte and some milliseconds that a solo node need not spend.
        from deepbrain.node.comet.engine import CometEngine

        return CometEngine(
            self.chain,
            self.ledger,
            self.pool,
            config.data / "comet",
            config.comet,
            archive=config.archive,
        )

    def _meter(self) -> Meter:
        return Meter(
            self.chain,
            self.pool,
            self.ledger,
            self.engine,
            data=self.config.data,
            peers=lambda: self._peers,
        )

    def _relay_port(self) -> int | None:
        return self.config.relay.port or (None if self.relay is None else self.relay.port)

    def _own_url(self) -> str:
        """Where a process of this machine reaches the RPC port."""
        host = self.config.bind.host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
        return (
            f"ws://[{host}]:{self.server.port}"
            if ":" in host
            else f"ws://{host}:{self.server.port}"
        )

    async def _count_peers(self, place: str) -> None:
        from deepbrain.node.comet.peers import count_peers

        while True:
            self._peers = await count_peers(place)
            await asyncio.sleep(COUNT_SECONDS)

    async def _announce_again(self) -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_SECONDS)
            self.engine.announce(self.pool.own())


async def run_until(node: Node, stop: asyncio.Event, ready: Callable[[Node], None]) -> None:
    """Run a node until `stop` is set. Raises: NodeError, StoreError: it could not go on."""
    await node.start()
    ready(node)
    try:
        await _first(node.wait(), stop.wait())
    finally:
        await node.stop()


async def _first(*waits: Awaitable[object]) -> None:
    """Until one of them ends; its exception, if it has one, is raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def load_spec(name: str) -> ChainSpec:
    """A chain spec of ours by name, or from a JSON file. Raises: NodeError."""
    try:
        return ChainSpec.parse(read_spec(name))
    except (ValueError, KeyError, TypeError, AttributeError, BadChainSpec) as error:
        raise NodeError(f"The chain spec {name} cannot be used: {error}.") from error


def read_spec(name: str) -> dict[str, Any]:
    """The file of a chain spec, as it is written. Raises: NodeError: there is none, or it is no JSON."""
    ours = files("deepbrain.runtime") / "specs" / f"{name}.json"
    try:
        text = ours.read_text() if name.isalnum() and ours.is_file() else Path(name).read_text()
        parsed: dict[str, Any] = json.loads(text)
    except OSError as error:
        raise NodeError(
            f"There is no chain spec {name}: name dev, mainnet or a JSON file that exists."
        ) from error
    except ValueError as error:
        raise NodeError(f"The chain spec {name} cannot be used: {error}.") from error
    return parsed


def _open_store(config: NodeConfig) -> Store:
    retention = Retention(states=None, proofs=256) if config.archive else Retention()
    if config.data is None:
        return MemoryStore(retention=retention)
    return LmdbStore(config.data / "chain", retention=retention)


def _author(config: NodeConfig) -> AccountId:
    return config.author or config.spec.root or AccountId(bytes(32))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def settle_memory() -> None:
    """What is loaded by now stays: the collector need not look at it again, nor often at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 1000)

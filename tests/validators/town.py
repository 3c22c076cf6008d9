"""Validators, each in a network namespace of its own, on one switch that can be cut in two.

    validator 1   10.77.0.1 ──┐
    validator 2   10.77.0.2 ──┤ switch
    …                         │
    validator n   10.77.0.n ──┘

Every node is a real one with its own CometBFT, started as an operator starts it, and started again only
when a test says so. Namespaces have no names and processes end with `down`, so nothing stays behind.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from tests.hostile.world import IP, Place
from tests.validators.chain import spec_file

from deepbrain.node.comet.home import CometHome, ConsensusKeys
from deepbrain.sandbox.netns import CLONE_NEWNET

ROOT = Path(__file__).resolve().parents[2]
RPC, P2P, COMET_RPC = 9944, 26656, 26657
START_SECONDS = 60.0
BLOCKS_SECONDS = 90.0
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


def _inside(place: Place) -> Callable[[], None]:
    """What puts a child there, and ends it with us: a killed test leaves no validators behind.

    `Place.start` would tie it to a thread that ends at once.
    """
    (descriptor,) = place.namespace.fds

    def enter() -> None:
        if _libc.setns(descriptor, CLONE_NEWNET) or _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
            os._exit(99)

    return enter


@dataclass
class Validator:
    """One node at its place."""

    number: int
    place: Place
    data: Path
    spec: Path
    keys: ConsensusKeys
    peers: list[str] = field(default_factory=list)
    module: str = "deepbrain.node"
    more: tuple[str, ...] = ()
    """Further options of the node."""
    env: Mapping[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None
    _session: aiohttp.ClientSession | None = None

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def peer(self) -> str:
        return f"{self.keys.node_id}@{self.address}:{P2P}"

    @property
    def log(self) -> Path:
        return self.data.with_suffix(".log")

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        assert not self.up
        argv = [
            *(
                sys.executable,
                "-m",
                self.module,
                "--spec",
                str(self.spec),
                "--data",
                str(self.data),
            ),
            *("--rpc-port", str(RPC), "--engine", "cometbft", "--private"),
            *("--p2p", f"{self.address}:{P2P}", "--comet-rpc", f"{self.address}:{COMET_RPC}"),
            *(part for peer in self.peers for part in ("--peer", peer)),
            *self.more,
        ]
        self.process = self.run_beside(argv, self.log)

    def run_beside(self, argv: Sequence[str], log: Path) -> "subprocess.Popen[str]":
        """A program on this host."""
        with log.open("a") as out:
            return subprocess.Popen(
                argv,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env=os.environ | self.env,
                preexec_fn=_inside(self.place),
            )

    def signal(self, number: int) -> None:
        """Send the node a signal, and wait for its end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)

    def kill(self) -> None:
        """The node and its CometBFT are gone at once, as with the plug pulled."""
        comet = self.comet()
        self.signal(signal.SIGKILL)
        if comet is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(comet, signal.SIGKILL)
            wait_gone(comet)

    def stop(self) -> None:
        if self.up:
            self.signal(signal.SIGTERM)

    def comet(self) -> int | None:
        """The process of its CometBFT."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            pids = children.read_text().split()
        except OSError:
            return None
        for pid in map(int, pids):
            with contextlib.suppress(OSError):
                if b"cometbft" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                    return pid
        return None

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    # What its node tells, asked from its own place: a cut switch hides nothing from the test.

    def _factory(self, address: object) -> socket.socket:
        made: socket.socket = self.place.run(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        )
        return made

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(socket_factory=self._factory)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(10)
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def batch(self, *calls: tuple[str, Sequence[object]]) -> list[dict[str, Any]]:
        """Answers to JSON-RPC calls. Raises: aiohttp.ClientError, TimeoutError: nobody answers."""
        frames = [
            {"jsonrpc": "2.0", "id": at, "method": method, "params": params}
            for at, (method, params) in enumerate(calls)
        ]
        async with self.session().post(f"http://127.0.0.1:{RPC}/", json=frames) as answer:
            found = await answer.json(content_type=None)
        return sorted(found, key=lambda one: one["id"])

    async def call(self, method: str, *params: object) -> object:
        (answer,) = await self.batch((method, list(params)))
        assert "error" not in answer, answer
        return answer["result"]

    async def height(self) -> int:
        """The number of its last block; -1 where it does not answer."""
        try:
            header = await self.call("chain_getHeader")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return -1
        assert isinstance(header, dict)
        return int(header["number"], 16)

    async def comet_rpc(self, path: str) -> dict[str, object]:
        async with self.session().get(f"http://{self.address}:{COMET_RPC}{path}") as answer:
            found: dict[str, object] = await answer.json(content_type=None)
            return found


def wait_gone(pid: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


class Town:
    """The switch, and who hangs on it."""

    def __init__(
        self,
        base: Path,
        count: int,
        *,
        interval_ms: int = 1000,
        more: tuple[str, ...] = (),
        balances: Mapping[str, int] | None = None,
        **constants: Mapping[str, object],
    ):
        """`more`: further options of every node."""
        self._more = more
        self.base = base
        self.switch = Place("switch")
        self.switch.sh(IP, "link", "set", "lo", "up")
        for bridge in ("one", "other"):
            self.switch.sh(IP, "link", "add", bridge, "type", "bridge")
            self.switch.sh(IP, "link", "set", bridge, "up")
        self.spec = base / "chain.json"
        keys = [CometHome(self._data(n) / "comet").ensure_keys() for n in range(1, count + 1)]
        spec = spec_file(
            [each.key for each in keys], interval_ms=interval_ms, balances=balances, **constants
        )
        self.spec.write_text(json.dumps(spec))
        self.validators = [self._settle(number, each) for number, each in enumerate(keys, 1)]
        self._introduce()
        self.others: list[Validator] = []
        """Nodes that came later."""

    def _data(self, number: int) -> Path:
        return self.base / f"validator-{number}"

    def _settle(self, number: int, keys: ConsensusKeys) -> Validator:
        place = Place(f"validator {number}")
        place.sh(IP, "link", "set", "lo", "up")
        port = f"v{number}"
        command = (IP, "link", "add", port, "type", "veth", "peer", "name", "eth0")
        target = place.namespace
        self.switch.run(
            lambda: subprocess.run(
                [*command, "netns", target.path], pass_fds=target.fds, check=True
            )
        )
        self.switch.sh(IP, "link", "set", port, "master", "one", "up")
        place.sh(IP, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        place.sh(IP, "link", "set", "eth0", "up")
        return Validator(number, place, self._data(number), self.spec, keys, more=self._more)

    def _introduce(self) -> None:
        for one in self.validators:
            one.peers = [other.peer for other in self.validators if other is not one]

    def newcomer(self, number: int, keys: ConsensusKeys | None = None) -> Validator:
        """A node that is not among the first; it has a key of its own unless one is given."""
        own = CometHome(self._data(number) / "comet").ensure_keys() if keys is None else keys
        node = self._settle(number, own)
        node.peers = [other.peer for other in self.validators]
        self.others.append(node)
        return node

    @property
    def all(self) -> list[Validator]:
        return [*self.validators, *self.others]

    def __getitem__(self, number: int) -> Validator:
        """A validator by its number, from 1."""
        return self.validators[number - 1]

    def cut(self, *away: int) -> None:
        """These can reach only each other from now on."""
        for number in away:
            self.switch.sh(IP, "link", "set", f"v{number}", "master", "other")

    def heal(self) -> None:
        for one in self.all:
            self.switch.sh(IP, "link", "set", f"v{one.number}", "master", "one")

    async def start(self, *numbers: int) -> None:
        """Start these, or all, and wait until each has made blocks."""
        started = [self[number] for number in numbers] or self.validators
        for one in started:
            one.start()
        await self.reach(2, *started)

    async def reach(self, height: int, *who: Validator, seconds: float = BLOCKS_SECONDS) -> None:
        """Wait until these, or all, are at a height."""
        nodes = who or tuple(self.validators)
        deadline = time.monotonic() + seconds
        while True:
            heights = [await one.height() for one in nodes]
            if min(heights) >= height:
                return
            for one in nodes:
                assert one.process is None or one.up, f"{one.number} ended: {one.said()[-3000:]}"
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"at {heights} instead of {height} after {seconds} s\n{self.logs()}"
                )
            await asyncio.sleep(0.1)

    async def grow(self, blocks: int, *who: Validator, seconds: float = BLOCKS_SECONDS) -> float:
        """Wait for so many more blocks at these; the seconds it took."""
        began = time.monotonic()
        nodes = who or tuple(one for one in self.validators if one.up)
        await self.reach(
            max([await one.height() for one in nodes]) + blocks, *nodes, seconds=seconds
        )
        return time.monotonic() - began

    async def roots(self, height: int, *who: Validator) -> set[tuple[object, object]]:
        """Hash and state root of a block, as these, or all that are up, have it."""
        nodes = who or tuple(one for one in self.all if one.up)
        found = set()
        for one in nodes:
            digest = await one.call("chain_getBlockHash", height)
            header = await one.call("chain_getHeader", digest)
            assert isinstance(header, dict), f"{one.number} has no block {height}"
            found.add((digest, header["stateRoot"]))
        return found

    async def agree(self, *who: Validator) -> int:
        """See that all of these have the same blocks, up to the lowest head; that height."""
        nodes = who or tuple(one for one in self.all if one.up)
        height = min([await one.height() for one in nodes])
        for number in range(max(1, height - 50), height + 1):
            assert len(await self.roots(number, *nodes)) == 1, f"they differ at block {number}"
        return height

    def logs(self) -> str:
        return "\n".join(f"== {one.number}\n{one.said()[-2000:]}" for one in self.all)

    async def down(self) -> None:
        for one in self.all:
            await one.close()
            if one.process is not None and one.up:
                one.process.send_signal(signal.SIGTERM)
        for one in self.all:
            if one.process is not None:
                try:
                    one.process.wait(15)
                except subprocess.TimeoutExpired:
                    one.kill()
        for place in (self.switch, *(one.place for one in self.all)):
            place.namespace.close()


@asynccontextmanager
async def town(count: int, *, started: bool = True, **how: Any) -> AsyncIterator[Town]:
    """A town that makes blocks; afterwards nothing of it is left."""
    base = Path(tempfile.mkdtemp(prefix="validators-"))
    made = Town(base, count, **how)
    try:
        if started:
            await made.start()
        yield made
    except BaseException:
        sys.stderr.write(made.logs())
        raise
    finally:
        await made.down()
        shutil.rmtree(base, ignore_errors=True)


async def eventually(
    what: Callable[[], Awaitable[bool]],
    seconds: float = 30.0,
    why: str = "it does not come to pass",
) -> None:
    """Wait until `what` holds."""
    deadline = time.monotonic() + seconds
    while not await what():
        assert time.monotonic() < deadline, why
        await asyncio.sleep(0.1)

"""A node and a machine that joined, each at its place between the NATs of `tests.hostile.streets`."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.leftovers import Leftovers
from tests.e2e.network import DBC, Done
from tests.hostile.streets import NODE_TO_PROVIDER, NODE_TO_RENTER, RELAY, Streets
from tests.hostile.world import Place
from tests.net import distance

RPC = 9944


@dataclass(frozen=True)
class Distant:
    """A renter, and far away from it a node and a provider on one host."""

    renter: Place
    public: Place

    @property
    def provider(self) -> Place:
        return self.public


@dataclass
class Town:
    """The streets with a node and a joined machine; `run` rents it."""

    streets: "Streets | Distant"
    base: Path
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)
    node_seen: tuple[str, str] = (NODE_TO_PROVIDER, NODE_TO_RENTER)
    """The node's addresses, as the provider and the renter see it."""
    joined_after: float = 0.0
    """Seconds from `dbc join` until it says that it serves."""

    @property
    def env(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("DBC_")}
        return ours | {"HOME": str(self.base), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, place: Place, *argv: str, log: str, **how: Any) -> "subprocess.Popen[str]":
        with (self.base / log).open("a") as file:
            how = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file} | how
            process = place.start(argv, env=self.env, cwd=self.base, **how)
        self.processes.append(process)
        return process

    def start_node(self) -> None:
        self.start(
            self.streets.public,
            *(sys.executable, "-m", "deepbrain.node", "--data", str(self.base / "node")),
            *("--rpc-host", "0.0.0.0", "--rpc-port", str(RPC), "--relay", str(RELAY)),
            *("--interval", "1"),
            log="node.log",
        )
        self.wait(lambda: "ready" in (self.base / "node.log").read_text(), 30, "no node")

    def join(self, *more: str) -> None:
        began = time.monotonic()
        node = ("--node", f"ws://{self.node_seen[0]}:{RPC}", "--wallet", "//Bob")
        asked = ("join", "-y", "--price", "0.01", "--data", str(self.base / "machine"), *more)
        process = self.start(self.streets.provider, *DBC, *node, *asked, log="join.log")
        said = self.base / "join.log"
        self.wait(
            lambda: "serving; Ctrl-C" in said.read_text() or process.poll() is not None,
            120,
            "the machine does not serve",
        )
        assert process.poll() is None, said.read_text()
        self.joined_after = time.monotonic() - began

    def dbc(self, *words: str, **how: Any) -> "subprocess.Popen[str]":
        """A renter's command."""
        node = ("--node", f"ws://{self.node_seen[1]}:{RPC}", "--wallet", "//Alice")
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        env = self.env | {"DBC_HOME": str(self.base / "renter")}
        process = self.streets.renter.start(
            [*DBC, *node, *words], env=env, cwd=self.base, **(pipes | how)
        )
        self.processes.append(process)
        return process

    def done(self, *words: str, timeout: float = 60) -> Done:
        began = time.monotonic()
        process = self.dbc(*words)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"dbc {' '.join(words)} hangs; it said: {out}{err}") from None
        return Done(process.returncode, out, err, time.monotonic() - began)

    def first_output(self, timeout: float = 60) -> float:
        """Seconds until a job's first line is here; the order is over afterwards."""
        began = time.monotonic()
        words = ("run", "-y", "--for", "60s", "--no-workspace", "--", "echo", "here I am")
        process = self.dbc(*words)
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.monotonic() - began
        _, err = process.communicate(timeout=timeout)
        assert line == "here I am\n", f"{line!r}: {err}\n{self.logs()}"
        assert process.returncode == 0, err
        return seconds

    def metrics(self) -> dict[str, float]:
        """What the relay says of itself, on its own host."""

        def fetch() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{RELAY}/metrics", timeout=5) as page:
                return str(page.read().decode())

        page = self.streets.public.run(fetch)
        pairs = (line.rsplit(" ", 1) for line in page.splitlines() if " " in line)
        return {name: float(value) for name, value in pairs}

    def relay_pid(self) -> int:
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    words = (path / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"deepbrain.node.relay" in words and os.fsencode(self.base / "node") in words:
                    return int(path.name)
        raise AssertionError("there is no relay")

    def relays(self) -> list[str]:
        """Those of the machine's record."""
        script = (
            "import asyncio, json, sys\n"
            "from deepbrain.client import Client\n"
            "from deepbrain.pallets.machines import Machines\n"
            "async def main():\n"
            "    async with await Client.connect(sys.argv[1]) as client:\n"
            "        found = [m async for _, m in client.at().entries(Machines.machines)]\n"
            "        print(json.dumps(list(found[0].address.relays)))\n"
            "asyncio.run(main())\n"
        )
        url = f"ws://{self.node_seen[1]}:{RPC}"
        out = self.streets.renter.run(
            lambda: subprocess.run(
                [sys.executable, "-c", script, url],
                capture_output=True, text=True, check=True, env=self.env, timeout=30,
            ).stdout
        )  # fmt: skip
        found: list[str] = json.loads(out)
        return found

    def logs(self) -> str:
        found = [*self.base.glob("*.log"), *(self.base / "machine").glob("agent.log")]
        return "\n".join(f"--- {path.name}\n{path.read_text()[-4000:]}" for path in found)

    def wait(self, holds: Any, seconds: float, complaint: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{complaint}\n{self.logs()}"
            time.sleep(0.1)

    def stop(self) -> None:
        """The machine first, then its node."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _clear(machine: Path, env: Mapping[str, str]) -> None:
    """End what is kept of the orders: an agent that stops leaves it to the next."""
    if (machine / "tenants").exists():
        argv = [sys.executable, "-m", "deepbrain.cli.provider.prepare", "clear", str(machine)]
        subprocess.run(argv, check=True, capture_output=True, env=dict(env), timeout=120)


@contextmanager
def town() -> Iterator[Town]:
    """A node and a machine that joined behind its NAT; afterwards nothing is left of them."""
    with contextlib.closing(Streets()) as streets, _inhabited(Town(streets, _base())) as made:
        yield made


@contextmanager
def distant(path: distance.Path) -> Iterator[Town]:
    """The same without NATs, and with `path` between the renter and both of them."""
    with distance.apart(path) as (near, far):
        made = Town(Distant(near, far), _base(), node_seen=("127.0.0.1", distance.FAR))
        with _inhabited(made, "--address", distance.FAR):
            yield made


def _base() -> Path:
    base = Path(tempfile.mkdtemp(prefix="dbc-nat-"))
    base.chmod(0o755)
    return base


@contextmanager
def _inhabited(made: Town, *more: str) -> Iterator[Town]:
    base = made.base
    leftovers = Leftovers.of(base)
    try:
        made.start_node()
        made.join(*more)
        yield made
    finally:
        made.stop()
        _clear(base / "machine", made.env)
        left = leftovers.found(patience=5.0)
        leftovers.clear()
        shutil.rmtree(base, ignore_errors=True)
    assert not left, "\n".join(left)

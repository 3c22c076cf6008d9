"""Whatever is killed, whenever: every order ends settled, every code is right, nothing is orphaned.

One network with four providers, a renter with its own key at each. A round is one short job and a few
kills at random moments of its life; rounds go side by side, so a killed node is a killed node for all.
`CHAOS_SEED` repeats a run's choices (not its timing).
"""

import asyncio
import contextlib
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.money import assert_conserved
from tests.e2e.network import AS_ROOT, ROOT, Network, network, require

from deepbrain.client import Client
from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.errors import NetError
from deepbrain.net.session import greet
from deepbrain.pallets.rent import Ended, Ending, Order, Rent
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.keys import Keypair

KILLS = int(os.environ.get("CHAOS_KILLS", "20"))
"""Of each kind."""
SEED = int(os.environ.get("CHAOS_SEED", "20"))
KINDS = ("node", "agent", "helper", "keeper", "cli")
RENTERS = ("//Charlie", "//Dave", "//Eve", "//Ferdie")
LIFE_SECONDS = 6.0
"""From pressing Enter to the last line of an undisturbed round, about."""
JOB_SECONDS = 2.0
ROUND_SECONDS = 100.0
LANDING_SECONDS = 3.0
"""Until a call that was submitted before a kill is in a block, or will never be."""
MAX_ROUNDS = 1000
"""Numbers of rounds; one that is tried again gets a number a hundred higher."""


@dataclass
class Round:
    """One job, and what is killed while it lives."""

    number: int
    kinds: tuple[str, ...]
    code: int
    rng: random.Random
    killed: set[str] = field(default_factory=set)
    missed: list[str] = field(default_factory=list)
    """What was to be killed and was not there in time."""
    order: int | None = None
    ended_with: int | None = None
    said: str = ""
    began: float = 0.0
    ended: float = 0.0


def rounds() -> list[Round]:
    """Each round has a kill that may change its outcome, and one or two that must not."""
    rng = random.Random(SEED)
    harsh = ["keeper", "cli"] * KILLS
    mild = ["node", "agent", "helper"] * KILLS
    rng.shuffle(harsh)
    rng.shuffle(mild)
    planned = [[kind] for kind in harsh]
    for at, kind in enumerate(mild):
        planned[at % len(planned)].append(kind)
    return [
        Round(number, tuple(kinds), rng.randrange(1, 100), random.Random(rng.random()))
        for number, kinds in enumerate(planned)
    ]


@dataclass
class Mayhem:
    """Workers that take rounds from one queue, a provider each."""

    net: Network
    left: "queue.Queue[Round]" = field(default_factory=queue.Queue)
    done: list[Round] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    node_killed_at: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def run(self, machines: list[str]) -> None:
        for each in rounds():
            self.left.put(each)
        workers = [
            threading.Thread(target=self._work, args=(number, machine, renter))
            for number, (machine, renter) in enumerate(zip(machines, RENTERS, strict=True), 1)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def _work(self, provider: int, machine: str, renter: str) -> None:
        while not self.faults:
            try:
                each = self.left.get_nowait()
            except queue.Empty:
                return
            try:
                self._await_machine(provider)
                self._play(each, provider, machine, renter)
                self.done.append(each)
                self._try_again(each)
            except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
                self.faults.append(f"round {each.number} {each.kinds}: {error!r}\n{each.said}")

    def write_down(self) -> None:
        """What happened, to the directory that `CHAOS_LOGS` names, where one is named."""
        if directory := os.environ.get("CHAOS_LOGS"):
            Path(directory).mkdir(exist_ok=True)
            rounds = (
                f"{each.number} {each.kinds} killed {sorted(each.killed)} order {each.order} "
                f"code {each.ended_with} of {each.code}\n{each.said}\n"
                for each in self.done
            )
            Path(directory, "rounds.log").write_text("".join(rounds))

    def _await_machine(self, provider: int) -> None:
        """A job can only be killed where one starts: wait out what the last round's kills broke."""
        entry = self.net.record()["machines"][provider - 1]
        deadline = time.monotonic() + 30
        while not asyncio.run(_answers(entry)):
            assert time.monotonic() < deadline, f"provider {provider} does not come back"
            time.sleep(0.1)

    def _try_again(self, each: Round) -> None:
        """A kill came too late, or what else was killed kept the job from starting."""
        if each.missed and each.number < MAX_ROUNDS:
            kinds, rng = tuple(each.missed), random.Random(each.rng.random())
            self.left.put(Round(each.number + 100, kinds, each.code, rng))

    def _play(self, each: Round, provider: int, machine: str, renter: str) -> None:
        before = orders_of(self.net, renter)
        each.began = time.monotonic()
        script = (
            f"import sys,time; print('start',flush=True); time.sleep({JOB_SECONDS}); "
            f"open('result','w').write('r'); print('end',flush=True); sys.exit({each.code})"
        )
        process = self.net.start("--wallet", renter, "run", "-y", "--for", "90s", "--machine", machine,
                                 "--into", f"out-{each.number}", "--no-workspace", "--",
                                 "python3", "-c", script)  # fmt: skip
        reader = threading.Thread(target=lambda: self._collect(each, process))
        reader.start()
        killers = [
            threading.Thread(target=self._kill, args=(each, kind, provider, process, reader))
            for kind in each.kinds
        ]
        for killer in killers:
            killer.start()
        for thread in (reader, *killers):
            thread.join(ROUND_SECONDS)
            if thread.is_alive():
                process.kill()
                raise AssertionError("the round does not end")
        each.ended_with, each.ended = process.returncode, time.monotonic()
        if any(each.began - 5 < at < each.ended for at in self.node_killed_at):
            each.killed.add("node")  # by whichever round: there is one node for all
        if "cli" in each.killed and "is placed" not in each.said:
            time.sleep(LANDING_SECONDS)
        new = sorted(orders_of(self.net, renter).keys() - before.keys())
        assert len(new) <= 1, "one order is held at a time"
        each.order = new[0] if new else None
        if "cli" in each.killed and each.order is not None:
            self._attach(each, renter)

    def _attach(self, each: Round, renter: str) -> None:
        """Go on with the order of a killed command, as soon as there is a node to ask."""
        deadline = time.monotonic() + 30
        while True:
            attached = self.net.dbc("--wallet", renter, "attach", str(each.order),
                                    "--into", f"attached-{each.number}", timeout=ROUND_SECONDS)  # fmt: skip
            each.ended_with = attached.code
            each.said += attached.err
            if "no node answers" not in attached.err or time.monotonic() > deadline:
                return

    def _collect(self, each: Round, process: "subprocess.Popen[str]") -> None:
        _, err = process.communicate()
        each.said += err

    def _kill(
        self, each: Round, kind: str, provider: int, process: "subprocess.Popen[str]",
        reader: threading.Thread,
    ) -> None:  # fmt: skip
        """Kill one thing at a random moment; a keeper lives only as long as its job."""
        if kind != "keeper":
            time.sleep(each.rng.uniform(0.5, LIFE_SECONDS))
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            pid = self._pid(kind, provider, process)
            if pid is not None:
                if kind == "keeper":
                    time.sleep(each.rng.uniform(0, JOB_SECONDS))
                    # What was seen first may have been the process that forked it.
                    pid = self._pid(kind, provider, process) or pid
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    break
                each.killed.add(kind)
                self.kills[kind] += 1
                if kind == "node":
                    self.node_killed_at.append(time.monotonic())
                return
            if kind in ("keeper", "cli") and not reader.is_alive():
                break
            time.sleep(0.02)
        each.missed.append(kind)

    def _pid(self, kind: str, provider: int, process: "subprocess.Popen[str]") -> int | None:
        match kind:
            case "node":
                return self.net.node()
            case "agent":
                return next((pid for pid, number in self.net.agents() if number == provider), None)
            case "helper":
                return next((pid for pid, number in self.net.helpers() if number == provider), None)
            case "keeper":
                return next((pid for pid, number in self.net.keepers() if number == provider), None)
            case _:
                return None if process.poll() is not None else process.pid


async def _answers(entry: Mapping[str, Any]) -> bool:
    endpoint = await IrohEndpoint.bind(os.urandom(32))
    try:
        await greet(endpoint, MachineId.from_hex(entry["machine"]), tuple(entry["addresses"]))
    except NetError:
        return False
    finally:
        await endpoint.close()
    return True


def orders_of(net: Network, renter: str) -> dict[int, Order]:
    """The orders of a key, at the newest block; the node may just be starting."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return asyncio.run(_orders_of(net.url, renter))
        except DeepBrainError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


async def _orders_of(url: str, renter: str) -> dict[int, Order]:
    account = Keypair.from_uri(renter).public
    async with await Client.connect(url) as client:
        at = client.at()
        numbers = [key[1] async for key, _ in at.entries(Rent.orders_of, account)]
        found = await at.get_many(Rent.orders, numbers)
        return {int(n): order for n, order in zip(numbers, found, strict=True) if order is not None}


@pytest.fixture(scope="module")
def victim() -> Iterator[Network]:
    """A network of its own, whose processes are killed."""
    with network(AS_ROOT, len(RENTERS)) as net:
        require(AS_ROOT, net.offers()[0]["isolation"], net.refusals())
        net.make_small()
        yield net
        if directory := os.environ.get("CHAOS_LOGS"):
            shutil.copytree(net.place / "logs", directory, dirs_exist_ok=True)


@pytest.mark.timeout(420)
def test_whatever_is_killed_every_run_ends_settled(victim: Network) -> None:
    machines = [entry["machine"][:12] for entry in victim.status()["machines"]]
    mayhem = Mayhem(victim)
    mayhem.run(machines)
    mayhem.write_down()
    assert not mayhem.faults, "\n".join(mayhem.faults)
    codes = dict(Counter(each.ended_with for each in mayhem.done))
    sys.stdout.write(f"kills {dict(mayhem.kills)}, codes {codes}\n")
    assert min(mayhem.kills[kind] for kind in KINDS) >= KILLS
    found: dict[int, Order] = {}
    for renter in RENTERS:
        found |= orders_of(victim, renter)
    wrong = [
        f"{complaint}\n{story(victim, each.order)}"
        for each in mayhem.done
        if (complaint := judge(each, found))
    ]
    assert not wrong, "\n\n".join(wrong)
    assert_conserved(victim)
    assert_no_orphans(victim, found)


def judge(each: Round, found: dict[int, Order]) -> str:
    """What is wrong with how a round ended; empty when nothing is."""
    order = None if each.order is None else found.get(each.order)
    told = f"round {each.number}: killed {sorted(each.killed)}, code {each.ended_with}: {each.said}"
    if order is None:
        # Killed before it placed anything; else it must have said why it did not.
        right = "cli" in each.killed or (each.ended_with == 125 and bool(each.killed))
        return "" if right else f"no order, and no reason. {told}"
    if not isinstance(order.status, Ended):
        return f"order {each.order} is not settled. {told}"
    bill = order.status.bill
    if int(bill.paid) + int(bill.burned) + int(bill.refunded) != int(order.held()):
        return f"the bill of order {each.order} is not exact. {told}"
    allowed = {each.code}
    if "keeper" in each.killed:
        allowed |= {123} if bill.used else {123, 125}
    if order.status.ending is Ending.EXITED and each.ended_with in (123, 125):
        return f"the chain says that the job exited, and the command that it was lost. {told}"
    if each.ended_with not in allowed:
        return f"allowed are {sorted(allowed)}. {told}"
    return ""


def story(net: Network, order: int | None) -> str:
    """Every line about an order: of agents, of root helpers, and of its keeper."""
    logs = [*(net.place / "logs").glob("provider-*.log")]
    logs += net.place.glob(f"provider-*/**/tenants/{order}/keeper.log")
    lines = [line for path in logs for line in path.read_text().splitlines()]
    marks = (f" order={order} ", "event=agent-ended", "event=started")
    return "\n".join(sorted(line for line in lines if any(mark in line for mark in marks)))


def assert_no_orphans(net: Network, found: dict[int, Order]) -> None:
    """Every order has ended: so nothing runs, and what is kept on disk belongs to an order."""
    net.wait_for(
        lambda: not net.keepers() and not net.sandboxes(), 45, "tenants run without an order"
    )
    for directory in net.place.glob("provider-*/**/tenants/*"):
        assert not directory.name.isdigit() or int(directory.name) in found, directory


@contextlib.contextmanager
def another_node(net: Network, data: Path, spec: str = "dev") -> Iterator[None]:
    """In place of the network's node one with other data or of another chain, at the same port."""
    orders_of(net, "//Alice")  # waits until the right one answers
    supervisor, node = int(net.record()["pid"]), net.node()
    assert node is not None
    os.kill(supervisor, signal.SIGSTOP)  # it would start that one again
    os.kill(node, signal.SIGKILL)
    port = net.url.rpartition(":")[2]
    command = [sys.executable, "-m", "deepbrain.node", "--spec", spec, "--data", str(data)]
    other = subprocess.Popen(
        [*command, "--rpc-port", port], env=net.env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline().startswith("ready")
        yield
    finally:
        other.terminate()
        other.communicate()
        os.kill(supervisor, signal.SIGCONT)


def test_a_node_that_is_empty_behind_or_on_another_chain_kills_no_tenant(victim: Network) -> None:
    old = victim.base / "old"
    _copy_stopped(victim, old)
    machine = victim.status()["machines"][0]["machine"][:12]
    script = (
        "import time\nfor i in range(28): print(i, flush=True); time.sleep(1)\n"
        "open('kept','w').write('k'); raise SystemExit(9)"
    )
    order = victim.expect("run", "-y", "-d", "--for", "5m", "--machine", machine, "--no-workspace",
                          "--", "python3", "-c", script).out.strip()  # fmt: skip
    [(keeper, _)] = victim.keepers()
    for data, spec in ((victim.base / "empty", "dev"), (old, "dev"), (_other_chain(victim), "")):
        with another_node(victim, data, spec or str(victim.base / "other.json")):
            time.sleep(4)  # blocks come, and the agent looks at each
            assert [pid for pid, _ in victim.keepers()] == [keeper], (
                f"{data.name} killed the tenant"
            )
    attached = victim.dbc("attach", order, "--into", "out", timeout=90)
    assert attached.code == 9, attached.err
    assert attached.out == "".join(f"{i}\n" for i in range(28)), "and it never paused"
    assert (victim.base / "out" / order / "kept").exists()
    assert_conserved(victim)


def _copy_stopped(net: Network, target: Path) -> None:
    """A copy of the node's directory as it was when the node was killed."""
    supervisor, node = int(net.record()["pid"]), net.node()
    assert node is not None
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(node, signal.SIGKILL)
    time.sleep(0.1)
    shutil.copytree(net.place / "node", target)
    os.kill(supervisor, signal.SIGCONT)
    orders_of(net, "//Alice")  # waits until the node answers again


def _other_chain(net: Network) -> Path:
    spec = (ROOT / "src/deepbrain/runtime/specs/dev.json").read_text()
    spec = re.sub(r'"micro_usd_per_dbc": \d+', '"micro_usd_per_dbc": 1234', spec)
    (net.base / "other.json").write_text(spec)
    return net.base / "another-chain"

"""`dbc doctor`: what this machine can do, found by trying.

A check looks at one thing and gives findings; whoever adds one adds it to `CHECKS`. The names of
findings are what scripts go by: they stay.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.output import emit, table
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.units import PLANCK, U16

if TYPE_CHECKING:
    from deepbrain.cli.provider.machine import Place
    from deepbrain.client import Client
    from deepbrain.provider.identity import AgentConfig
    from deepbrain.provider.inventory import Inventory
    from deepbrain.sandbox.checks import Finding

_LEAST_MEMORY: Final = 2 << 30
_LEAST_BALANCE: Final = PLANCK
"""A controller below one DBC should be given some: its calls cost about a ten-thousandth each."""
_CLOCK_SECONDS: Final = 60
_LEAST_PROGRESS_SECONDS: Final = 10.0
_INTERVALS: Final = 5
"""Without a block in so many intervals, the chain stands still."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at: this machine, and the provider that is set up on it, if one is."""

    choices: Choices
    place: "Place"
    config: "AgentConfig | None"
    node_data: Path | None = None
    """The directory of a node that is to be looked at, and no provider."""


Check = Callable[[Subject], "Iterable[Finding]"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--data", type=click.Path(path_type=Path),
              help="The machine's directory (default: the installed provider's, else ~/.dbc/machine).")  # fmt: skip
@click.option("--node-data", type=click.Path(path_type=Path), metavar="DIR",
              help="Look at a node with this directory instead, such as a validator's.")  # fmt: skip
def doctor(as_json: bool, data: Path | None, node_data: Path | None) -> int:
    """Check what this machine can do.

    Every isolation is tried by really running something in it; nothing is changed. Ends with 1 when
    something is missing that providing needs. In JSON each check has a name, ok, detail and hint.

    \b
    dbc doctor                                         a machine to rent out
    dbc doctor --node-data /var/lib/deepbrain-node     a node: keys, disk, ports, progress
    """
    subject = _subject(Choices.current(), data, node_data)
    checks = CHECKS if node_data is None else NODE_CHECKS
    findings = [finding for check in checks for finding in check(subject)]
    if as_json:
        emit([asdict(finding) for finding in findings])
    else:
        rows = [
            (
                "ok" if finding.ok else "--",
                finding.name,
                finding.detail,
                "" if finding.ok else finding.hint,
            )
            for finding in findings
        ]
        table("", ("", "what", "found", "what to do"), rows, "")
    return 0 if all(finding.ok for finding in findings) else 1


def _subject(choices: Choices, data: Path | None, node_data: Path | None = None) -> Subject:
    from deepbrain.cli.provider.host import place_of
    from deepbrain.provider.identity import AgentError

    place = place_of(data)
    if node_data is not None:
        return Subject(choices, place, None, node_data)
    try:
        return Subject(choices, place, place.load())
    except AgentError:
        return Subject(choices, place, None)


def _node(subject: Subject) -> "Iterable[Finding]":
    """The directory of a node, and what it needs of the host."""
    from deepbrain.cli.extras import ensure_installed
    from deepbrain.cli.validate.checks import node_checks

    ensure_installed("node")
    return () if subject.node_data is None else node_checks(subject.node_data)


def _machine(subject: Subject) -> "Iterator[Finding]":
    from deepbrain.provider.inventory import local_ips, take_inventory
    from deepbrain.sandbox.checks import Finding

    inventory = take_inventory(subject.place.sandbox)
    version = ".".join(map(str, sys.version_info[:3]))
    addresses = local_ips()
    yield Finding("Python", ok=True, detail=version)
    yield Finding("cores", ok=True, detail=f"{inventory.cpus} × {inventory.cpu_model}")
    yield Finding(
        "memory",
        inventory.memory_bytes >= _LEAST_MEMORY,
        quantity.size(inventory.memory_bytes),
        "2 GiB are the least",
    )
    yield from _gpus(inventory, subject.config)
    yield Finding(
        "addresses",
        bool(addresses),
        ", ".join(addresses) or "only the loopback",
        "connect this machine to a network",
    )


def _gpus(inventory: "Inventory", config: "AgentConfig | None") -> "Iterator[Finding]":
    """What stands between the GPUs of this machine and a tenant; nothing more where there are none."""
    from deepbrain.sandbox.checks import Finding
    from deepbrain.sandbox.gpu_checks import gpu_findings

    models = ", ".join(gpu.model for gpu in inventory.gpus) or "none; cores are offered"
    yield Finding("GPUs", not inventory.gpu_problem, inventory.gpu_problem or models, "see there")
    if not inventory.gpus:
        return
    for gpu in inventory.gpus:
        if gpu.unfit:
            yield Finding(
                f"GPU {gpu.uuid}", ok=False, detail=gpu.unfit, hint="do so, or keep it back"
            )
    yield from gpu_findings(inventory.driver)
    offered = config.capacity.devices if config is not None else ()
    yield Finding(
        "GPUs offered",
        len(offered) == len(inventory.gpus),
        ", ".join(offered) or "none",
        "run `dbc join` as root: it runs nvidia-smi inside the sandbox and says why one is not seen",
    )


def _sandbox(subject: Subject) -> "Iterable[Finding]":
    from deepbrain.cli.home import home
    from deepbrain.sandbox.checks import Finding, checks
    from deepbrain.sandbox.modes import choose_mode
    from deepbrain.sandbox.sandbox import SandboxError

    data = subject.place.sandbox
    # Beside our own things: a /tmp may be mounted without what a sandbox needs.
    scratch = Path(tempfile.mkdtemp(prefix="doctor-", dir=data if data.exists() else home()))
    scratch.chmod(0o711)
    try:
        report, _ = choose_mode(scratch)
    except (SandboxError, OSError) as error:
        hint = "run `make sandbox` in a checkout"
        return [*checks(data), Finding("isolation", ok=False, detail=str(error), hint=hint)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return checks(data, report)


def _budget(subject: Subject) -> "Iterator[Finding]":
    """Whether the disk still holds what was promised to tenants."""
    from deepbrain.provider.disk import DiskBudget
    from deepbrain.sandbox.checks import Finding

    if subject.config is None:
        return
    state = DiskBudget.of(subject.config.capacity).look(subject.place.sandbox)
    yield Finding(
        "disk budget",
        state.has_room,
        f"{quantity.size(subject.config.capacity.disk_bytes)} for tenants, {quantity.size(state.free)} free",
        "free some disk, or give tenants less with `dbc provider set --disk`; "
        "meanwhile no new orders are taken",
    )


def _chain(subject: Subject) -> "Iterable[Finding]":
    """The node, and what it says about this machine's clock, key and listing."""
    from deepbrain.sandbox.checks import Finding

    url = _url(subject)
    try:
        return block_on(_read_chain(subject, url))
    except DeepBrainError as error:
        return [Finding("node", ok=False, detail=f"{url}: not reached", hint=str(error))]


def _url(subject: Subject) -> str:
    if subject.choices.node is None and subject.config is not None:
        return subject.config.chain
    return subject.choices.url


async def _read_chain(subject: Subject, url: str) -> "list[Finding]":
    from deepbrain.sandbox.checks import Finding

    async with Choices(url, subject.choices.key).client() as client:
        head = await client.head()
        detail = f"{url}: {client.chain_name} at block {head.number}"
        found = [Finding("node", ok=True, detail=detail), await _clock(client)]
        found.append(await _progress(client))
        if subject.config is not None:
            found += await _standing(subject.place, subject.config, client)
    return found


async def _clock(client: "Client") -> "Finding":
    """Terms are counted by the chain and by the monotonic clock; a wrong clock only misleads people."""
    from deepbrain.pallets.timestamp import Timestamp
    from deepbrain.sandbox.checks import Finding

    now = await client.at().get(Timestamp.now)
    seconds = time.time() - int(now or 0) / 1000
    if seconds < -_CLOCK_SECONDS:
        detail = f"{quantity.span(int(-seconds))} behind the newest block"
        return Finding("clock", ok=False, detail=detail, hint="set it, and keep it right with NTP")
    if seconds > _CLOCK_SECONDS:
        detail = f"the newest block is {quantity.span(int(seconds))} old"
        return Finding("clock", ok=False, detail=detail, hint="set it with NTP, or see to the node")
    return Finding("clock", ok=True, detail="agrees with the newest block")


async def _progress(client: "Client") -> "Finding":
    """Whether blocks go on coming: two heads, one after the other."""
    from deepbrain.pallets.timestamp import Timestamp
    from deepbrain.sandbox.checks import Finding

    interval = 2 * int(await client.constant(Timestamp, "minimum_period")) / 1000
    seconds = max(_LEAST_PROGRESS_SECONDS, _INTERVALS * interval)
    heads, numbers = client.heads(), []
    try:
        async with asyncio.timeout(seconds):
            async for head in heads:
                numbers.append(int(head.number))
                if numbers[-1] > numbers[0]:
                    break
    except TimeoutError:
        hint = "see the node's log; a network stands still when a third of the votes are away"
        return Finding("progress", False, f"no new block in {seconds:.0f} s", hint)
    health = await client.request("system_health")
    if isinstance(health, dict) and health.get("isSyncing"):
        detail = f"block {numbers[-1]}, and catching up with the others"
        return Finding("progress", False, detail, "wait until it has, before anything relies on it")
    return Finding("progress", ok=True, detail=f"block {numbers[-1]} followed {numbers[0]}")


async def _standing(place: "Place", config: "AgentConfig", client: "Client") -> "list[Finding]":
    """The controller's money, the listing, and whether the machine answers."""
    from deepbrain.pallets.machines import Machines, status_of
    from deepbrain.pallets.system import System
    from deepbrain.provider.identity import controller_account
    from deepbrain.sandbox.checks import Finding

    account = await client.at().get(System.account, controller_account(config))
    free = 0 if account is None else int(account.data.free)
    balance = Finding(
        "controller",
        free >= _LEAST_BALANCE,
        f"has {quantity.dbc(free)} for its fees",
        "send it a few DBC with `dbc wallet send`",
    )
    machine = place.machine_id
    listed = await client.at().get(Machines.machines, machine)
    if listed is None:
        hint = "run `dbc provider bond` where the stash's key is, or `dbc join`"
        return [balance, Finding("listing", ok=False, detail="not on the chain", hint=hint)]
    status = status_of(listed, await client.at().get(Machines.rented, machine) or U16(0)).value
    listing = Finding(
        "listing", ok=True, detail=f"{status} at {quantity.usd(listed.price)} per hour"
    )
    reached = await _reached(place, config)
    return [balance, listing, *reached, *await _relayed(machine, listed.address.relays)]


async def _relayed(machine: MachineId, relays: Sequence[str]) -> "list[Finding]":
    """Whether the machine answers through the relays of its record; nothing where it has none."""
    from deepbrain.cli.provider.outside import answers_through
    from deepbrain.sandbox.checks import Finding

    if not relays:
        return []
    through = await answers_through(machine, relays)
    detail = f"answers through {through} of {len(relays)}"
    hint = "behind NAT nobody reaches it: is its agent running, and may it call out?"
    return [Finding("relays", through > 0, detail, hint)]


async def _reached(place: "Place", config: "AgentConfig") -> "list[Finding]":
    from deepbrain.net.transport import TransportKey
    from deepbrain.provider.identity import load_or_make_key
    from deepbrain.provider.inventory import check_reach
    from deepbrain.sandbox.checks import Finding

    key = TransportKey(load_or_make_key(place.agent).public)
    hint = "start the provider, and open this UDP port in the firewall"
    return [
        Finding(
            f"port {reach.address}",
            reach.answers,
            "answers from this host" if reach.answers else "does not answer from this host",
            hint,
        )
        for reach in await check_reach(key, config.addresses)
    ]


CHECKS: Final[tuple[Check, ...]] = (_machine, _sandbox, _budget, _chain)
"""Of a machine that is rented out."""
NODE_CHECKS: Final[tuple[Check, ...]] = (_node, _chain)
"""Of a node."""

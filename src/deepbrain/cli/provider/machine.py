"""This machine as a provider: made ready, placed on the chain, served."""

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from deepbrain.cli.failure import UserError
from deepbrain.cli.home import home
from deepbrain.cli.output import say
from deepbrain.cli.supervise import Program
from deepbrain.pallets.machines import (
    Address,
    BondMessage,
    Endpoint,
    Hardware,
    Ip4,
    Ip4Octets,
    Ip6,
    Ip6Octets,
    Isolation,
    Machine,
    Machines,
    Network,
    bond_message,
)
from deepbrain.primitives.ids import AccountId, MachineId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import U16, U32, MicroUsd
from deepbrain.provider.gpus import SeenGpu
from deepbrain.provider.identity import (
    AgentConfig,
    AgentError,
    Capacity,
    load_config,
    load_or_make_key,
)
from deepbrain.provider.inventory import Inventory
from deepbrain.sandbox.programs import get_programs

if TYPE_CHECKING:
    from deepbrain.client import Client
    from deepbrain.frame.calls import Call

AGENT_UID: Final = 51_998
"""Who the agent is where the helper is root: a user that nobody else is."""

FORCED_MODE: Final = "DBC_FORCE_MODE"
MODES: Final = ("auto", "gvisor", "gvisor-own", "process")
_MIB: Final = 1 << 20
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - private files, never on disk
_LOOK: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of a provider: the sandbox's, with the agent's own inside."""

    sandbox: Path
    settings: Path | None = None
    """The directory of `agent.json`, where it is not the agent's own."""
    uid: int = AGENT_UID
    gid: int = AGENT_UID

    @classmethod
    def joined(cls, data: Path | None) -> "Place":
        """The directory named, else the one that `dbc join` uses."""
        return cls((data or home() / "machine").absolute())

    @property
    def agent(self) -> Path:
        return self.sandbox / "agent"

    @property
    def has_key(self) -> bool:
        """Whether a machine was ever set up here."""
        return (self.agent / "machine.key").exists()

    @property
    def machine_id(self) -> MachineId:
        """Of the machine that serves here; its key is made where there is none yet."""
        return MachineId(load_or_make_key(self.agent).public)

    def load(self) -> AgentConfig:
        """Raises: AgentError: there is no provider here, or its settings are damaged."""
        return load_config(self.settings or self.agent)

    def make(self) -> None:
        """Both directories, the agent's belonging to the user it will be."""
        self.sandbox.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.agent.mkdir(mode=0o700, exist_ok=True)
        self.give_to_agent(self.agent)

    def give_to_agent(self, *paths: Path) -> None:
        if os.geteuid() == 0:
            for path in paths:
                os.chown(path, self.uid, self.gid)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a prepared directory can do."""

    mode: str
    refused: tuple[tuple[str, str], ...]
    network: Network = Network.NONE
    no_network: str = ""
    gpus: tuple[SeenGpu, ...] = ()
    """Those that a sandbox has seen."""
    no_gpus: tuple[str, ...] = ()

    @property
    def isolation(self) -> Isolation:
        """The chain's word for the mode. Raises: UserError: it may not be offered."""
        name = self.mode.replace("-", "_").upper()
        if name not in Isolation.__members__:
            raise UserError(f"machines that isolate by {self.mode} cannot be listed")
        return Isolation[name]

    def sentences(self) -> Iterator[str]:
        """Why it is not isolated better, one line each."""
        for mode, reason in self.refused:
            yield f"isolation {mode} is not used: {reason}"
        if self.network is Network.NONE:
            yield f"tenants have no network: {self.no_network}"
        yield from self.no_gpus


async def make_ready(place: Place, mode: str, image: Path | None = None) -> Ready:
    """Get what tenants run in, run the canaries, and unpack the base image.

    Raises: UserError, SandboxError: nothing can run here.
    """
    await get_programs(say, gvisor=mode != "process")
    place.make()
    out = await _prepare("ready", place, mode, *([] if image is None else [str(image)]))
    found: dict[str, Any] = json.loads(out)
    return Ready(
        found["mode"],
        tuple((name, reason) for name, reason in found["refused"]),
        Network[found["network"].upper()],
        found["no_network"],
        tuple(SeenGpu(**gpu) for gpu in found["gpus"]),
        tuple(found["no_gpus"]),
    )


async def clear(place: Place, mode: str = "auto") -> None:
    """End every tenant and remove what is kept of it. Raises: UserError: an agent works there."""
    if (place.sandbox / "tenants").exists():
        await _prepare("clear", place, mode)


def clear_now(place: Place) -> None:
    """As `clear`, for who runs no event loop."""
    asyncio.run(clear(place))


async def _prepare(action: str, place: Place, mode: str, *more: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "deepbrain.cli.provider.prepare",
            action,
            str(place.sandbox),
            *more,
        ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ) | mode_environment(mode),
        start_new_session=True,
    )
    out, err = await process.communicate()
    if process.returncode:
        lines = err.decode(errors="replace").strip().splitlines()
        raise UserError(lines[-1] if lines else "the sandbox could not be prepared")
    return out


def mode_environment(mode: str) -> dict[str, str]:
    return {} if mode == "auto" else {FORCED_MODE: mode}


def agent_program(place: Place, name: str, log: Path, mode: str) -> Program:
    """The agent; below a root helper where we are root."""
    agent = (
        *(sys.executable, "-m", "deepbrain.provider.agent"),
        *("--data", str(place.agent), "--sandbox", str(place.sandbox)),
    )
    helper = (
        *(sys.executable, "-m", "deepbrain.provider.helper"),
        *("--data", str(place.sandbox), "--uid", str(place.uid), "--gid", str(place.gid), "--"),
    )
    argv = (*helper, *agent) if os.geteuid() == 0 else agent
    return Program(name, argv, log, mode_environment(mode))


def closed_environment(addresses: Sequence[str]) -> dict[str, str]:
    """Keeps tenants from the machine's own `ip:port`s, which may be its router's."""
    from deepbrain.sandbox.network import CLOSED_VARIABLE

    hosts = [address.rpartition(":")[0] for address in addresses if "[" not in address]
    told = [*filter(None, [os.environ.get(CLOSED_VARIABLE)]), *hosts]
    return {CLOSED_VARIABLE: ",".join(dict.fromkeys(told))}


@contextlib.contextmanager
def passphrase_file(password: str | None) -> Iterator[dict[str, str]]:
    """The environment by which an agent opens its controller's key; in memory only, gone after."""
    _sweep_memory()
    if password is None:
        yield {}
        return
    path = _MEMORY / f"dbc-{secrets.token_hex(8)}"
    with _open_locked(path) as file:
        try:
            file.write(password)
            file.flush()
            if os.geteuid() == 0:
                os.chown(path, AGENT_UID, AGENT_UID)
            yield {"DBC_PASSPHRASE_FILE": str(path)}
        finally:
            path.unlink(missing_ok=True)


def _open_locked(path: Path) -> TextIO:
    """A new private file, locked for as long as it is open: so a sweep takes only what the killed left."""
    while True:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # a sweep came before the lock


def _sweep_memory() -> None:
    """Remove passwords of ours whose `join` was killed."""
    ours = {os.geteuid(), AGENT_UID} if os.geteuid() == 0 else {os.geteuid()}
    for left in _MEMORY.glob("dbc-*"):
        with contextlib.suppress(OSError), os.fdopen(os.open(left, _LOOK)) as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_uid in ours:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()


def hardware_of(inventory: Inventory, capacity: Capacity, seen: Sequence[SeenGpu] = ()) -> Hardware:
    """What the chain is told: a GPU that a sandbox has seen is a unit; where there is none, a core."""
    return Hardware(
        gpu_model=seen[0].model if seen else "",
        gpus=U16(len(seen)),
        gpu_memory_mib=U32(seen[0].memory_mib if seen else 0),
        cpu_model=inventory.cpu_model[:64],
        cpus=U16(inventory.cpus if seen else capacity.units),
        memory_mib=U32(capacity.memory_bytes // _MIB),
        disk_mib=disk_mib(capacity),
    )


def disk_mib(capacity: Capacity) -> U32:
    return U32(min(capacity.disk_bytes // _MIB, U32.MAX))


def part_of(capacity: Capacity, number: int) -> Capacity:
    """One of `number` equal parts, of at least one core."""
    units = max(1, capacity.units // number)
    return replace(
        capacity,
        units=units,
        cpu_milli=units * 1000,
        memory_bytes=capacity.memory_bytes // number,
        disk_bytes=capacity.disk_bytes // number,
        pids=max(256, capacity.pids // number),
        bandwidth_mbit=-(-capacity.bandwidth_mbit // number),
    )


def address_record(addresses: Sequence[str], relays: Sequence[str] = ()) -> Address:
    """The chain's form of `ip:port`s and relays' URLs. Raises: UserError: an address is none."""
    return Address(endpoints=tuple(_endpoint(text) for text in addresses), relays=tuple(relays))


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    try:
        ip, number = ipaddress.ip_address(host.strip("[]")), U16(int(port))
    except ValueError as error:
        raise UserError(f"{text} is no address; write 203.0.113.7:4001") from error
    if isinstance(ip, ipaddress.IPv4Address):
        return Ip4(ip=Ip4Octets(ip.packed), port=number)
    return Ip6(ip=Ip6Octets(ip.packed), port=number)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a machine is to be on the chain."""

    key: Keypair
    """The machine's own."""
    hardware: Hardware
    isolation: Isolation
    network: Network
    price: MicroUsd
    address: Address

    @property
    def id(self) -> MachineId:
        return MachineId(self.key.public)


@dataclass(frozen=True, slots=True)
class Owners:
    """Who may sign for a machine: the controller's key is at hand, the stash's perhaps."""

    controller: Keypair
    stash: AccountId
    unlock: Callable[[], Keypair] | None
    """Gives the stash's key; None where it is kept elsewhere."""

    @classmethod
    def alone(cls, pair: Keypair) -> "Owners":
        """One key is both."""
        return cls(pair, pair.public, lambda: pair)

    def stash_key(self, what: str) -> Keypair:
        """Raises: UserError: it is not here, and `what` needs it."""
        if self.unlock is None:
            raise UserError(
                f"only the stash may {what}: name its key with --stash, "
                "or use `dbc provider bond` where that key is"
            )
        return self.unlock()


async def set_controller(client: "Client", owners: Owners) -> None:
    """Have the controller act for the stash, both agreeing; nothing where it is so already, and then
    the stash's key is not asked for either. Raises: UserError: it is needed, and not here.
    """
    stash, controller = owners.stash, owners.controller
    if stash == controller.public:
        return
    if await client.at().get(Machines.controller_of, stash) == controller.public:
        return
    propose = Machines.propose_controller.make(controller=controller.public)
    await client.submit(propose, owners.stash_key("name a controller"))
    await client.submit(Machines.accept_stash.make(stash=stash), controller)


async def while_rented(
    client: "Client", place: Place, listing: Listing, capacity: Capacity
) -> tuple[Listing, Capacity]:
    """What may be listed and given to tenants now: while units are rented, the hardware stays as it was
    declared, though the free disk, say, is another by now.
    """
    at = client.at()
    found = await at.get(Machines.machines, listing.id)
    if found is None or not await at.get(Machines.rented, listing.id):
        return listing, capacity
    with contextlib.suppress(AgentError):
        before = load_config(place.agent).capacity
        capacity = replace(before, bandwidth_mbit=capacity.bandwidth_mbit)
    return replace(listing, hardware=found.hardware), capacity


async def enlist(client: "Client", listing: Listing, owners: Owners) -> bool:
    """Bond the machine, or bring its offer up to date; whether it was bonded anew.

    Raises: CallFailed: the chain refuses; UserError: it belongs to another stash, or the stash's key is
    needed and not here.
    """
    found = await client.at().get(Machines.machines, listing.id)
    if found is None:
        key = owners.stash_key("bond a machine")
        await client.submit(await _bond_call(client, listing, owners), key)
        return True
    if found.stash != owners.stash:
        raise UserError("this machine is bonded by another stash; `dbc leave` with its key first")
    for call in edits_by_stash(found, listing, owners):
        await client.submit(call, owners.stash_key("change the price, or declare more"))
    for call in edits_by_controller(found, listing, owners):
        await client.submit(call, owners.controller)
    return False


async def _bond_call(client: "Client", listing: Listing, owners: Owners) -> "Call":
    nonce = await client.at().get(Machines.bonds, listing.id)
    message = BondMessage(
        machine=listing.id,
        stash=owners.stash,
        controller=owners.controller.public,
        nonce=U32(0) if nonce is None else nonce,
    )
    return Machines.bond.make(
        machine=listing.id,
        hardware=listing.hardware,
        isolation=listing.isolation,
        network=listing.network,
        price=listing.price,
        address=listing.address,
        signature=listing.key.sign(bond_message(client.genesis_hash, message)),
    )


def edits_by_stash(found: Machine, wanted: Listing, owners: Owners) -> "list[Call]":
    """What only the stash may change: the price, and hardware where there is more of it now.

    Without the stash's key more memory or disk than was declared is no reason to stop: it is not
    declared then.
    """
    calls: list[Call] = []
    if not _controller_may_declare(found, declarable(found, wanted, owners), wanted):
        calls.append(_hardware_call(wanted, wanted.hardware))
    if found.price != wanted.price:
        calls.append(Machines.set_price.make(machine=wanted.id, price=wanted.price))
    return calls


def edits_by_controller(found: Machine, wanted: Listing, owners: Owners) -> "list[Call]":
    """What the controller may change: the network, the address, less hardware, and that it is open again."""
    calls: list[Call] = []
    hardware = declarable(found, wanted, owners)
    differs = (found.hardware, found.isolation) != (hardware, wanted.isolation)
    if differs and _controller_may_declare(found, hardware, wanted):
        calls.append(_hardware_call(wanted, hardware))
    if found.network is not wanted.network:
        calls.append(Machines.set_network.make(machine=wanted.id, network=wanted.network))
    # The agent itself keeps the relays right; where none are known here, its word stands.
    address = wanted.address.but(relays=wanted.address.relays or found.address.relays)
    if found.address != address:
        calls.append(Machines.set_address.make(machine=wanted.id, address=address))
    if found.paused:
        calls.append(Machines.resume.make(machine=wanted.id))
    return calls


def declarable(found: Machine, wanted: Listing, owners: Owners) -> Hardware:
    """The hardware to declare; without the stash's key no more memory and disk than before."""
    if owners.unlock is not None:
        return wanted.hardware
    return wanted.hardware.but(
        memory_mib=min(wanted.hardware.memory_mib, found.hardware.memory_mib),
        disk_mib=min(wanted.hardware.disk_mib, found.hardware.disk_mib),
    )


def _controller_may_declare(found: Machine, hardware: Hardware, wanted: Listing) -> bool:
    weaker = wanted.isolation.value >= found.isolation.value
    return weaker and hardware.is_within(found.hardware)


def _hardware_call(wanted: Listing, hardware: Hardware) -> "Call":
    return Machines.set_hardware.make(
        machine=wanted.id, hardware=hardware, isolation=wanted.isolation
    )


async def wait_served(client: "Client", machine: MachineId, seconds: float) -> None:
    """Return once the machine answers its own chain's renters. Raises: UserError: it does not."""
    from deepbrain.cli.renter.market import short, ways_to
    from deepbrain.cli.renter.reach import fresh_endpoint
    from deepbrain.net.errors import NetError
    from deepbrain.net.session import greet

    found = await client.at().get(Machines.machines, machine)
    if found is None:
        raise UserError(f"machine {short(machine)} is not on the chain; run `dbc join`")
    ways, trouble = ways_to(found.address), "it does not answer"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                try:
                    # A fresh endpoint each time: one that failed once keeps a dead path for a while.
                    async with fresh_endpoint() as endpoint:
                        greeting = await greet(endpoint, machine, ways, timeout=2.0)
                    if greeting.genesis == client.genesis_hash and greeting.block:
                        return
                    trouble = "it does not follow the chain yet"
                except NetError as error:
                    trouble = str(error)
                await asyncio.sleep(0.1)
    raise UserError(f"machine {short(machine)} does not serve: {trouble}")

"""This machine as a provider: what it has, where it is reached, its place on the chain."""

import ipaddress
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deepbrain.cli.failure import UserError
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
    bond_message,
)
from deepbrain.primitives.ids import AccountId, MachineId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import U16, U32, MicroUsd
from deepbrain.provider.identity import Capacity

if TYPE_CHECKING:
    from deepbrain.client import Client
    from deepbrain.frame.calls import Call
    from deepbrain.sandbox.sandbox import Mode

MAX_ENDPOINTS: Final = 4
_KEPT_MEMORY: Final = 512 << 20
"""Left to the host and to the agent."""
_KEPT_DISK: Final = 2 << 30
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Resources:
    """What of this machine is given to tenants."""

    cpus: int
    memory_bytes: int
    disk_bytes: int
    cpu_model: str

    def hardware(self) -> Hardware:
        """What the chain is told: a core is a unit. GPUs are listed once a sandbox has seen them."""
        return Hardware(
            gpu_model="",
            gpus=U16(0),
            gpu_memory_mib=U32(0),
            cpu_model=self.cpu_model[:64],
            cpus=U16(self.cpus),
            memory_mib=U32(self.memory_bytes // _MIB),
            disk_mib=U32(self.disk_bytes // _MIB),
        )

    def capacity(self) -> Capacity:
        return Capacity(
            units=self.cpus,
            cpu_milli=self.cpus * 1000,
            memory_bytes=self.memory_bytes,
            disk_bytes=self.disk_bytes,
        )

    def part(self, number: int) -> "Resources":
        """One of `number` equal parts, of at least one core."""
        return Resources(
            max(1, self.cpus // number),
            self.memory_bytes // number,
            self.disk_bytes // number,
            self.cpu_model,
        )


def resources_of(data: Path) -> Resources:
    """What this machine has, less what it needs itself; the disk is that of `data`.

    Raises: UserError: there is too little to offer anything.
    """
    memory = min(_memory_total(), _cgroup_memory()) - _KEPT_MEMORY
    disk = shutil.disk_usage(_existing(data)).free - _KEPT_DISK
    if memory < 256 * _MIB or disk < 1 << 30:
        raise UserError(
            "this machine has too little to offer: 768 MiB of memory and 3 GiB of free disk are needed"
        )
    return Resources(len(os.sched_getaffinity(0)), memory, disk, _cpu_model())


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _memory_total() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_memory() -> int:
    """The limit of our own control group; far above any machine where there is none."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return 1 << 60
    return int(text) if text.isdigit() else 1 << 60


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return " ".join(value.split())
    return os.uname().machine


def local_addresses() -> tuple[str, ...]:
    """The addresses by which this machine would be seen from outside; nothing is sent."""
    found = []
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((elsewhere, 9))
            except OSError:
                continue
            found.append(str(probe.getsockname()[0]))
    return tuple(found)


def address_record(hosts: Sequence[str], port: int) -> Address:
    """The record of hosts, each `ip` or `ip:port`. Raises: UserError: one is no IP address."""
    if len(hosts) > MAX_ENDPOINTS:
        raise UserError(f"a machine is listed under {MAX_ENDPOINTS} addresses at most")
    return Address(endpoints=tuple(_endpoint(host, port) for host in hosts), relays=())


def _endpoint(text: str, port: int) -> Endpoint:
    host, given = _split_port(text)
    try:
        ip = ipaddress.ip_address(host)
        number = U16(int(given)) if given else U16(port)
    except ValueError as error:
        raise UserError(f"{text} is no address; write 203.0.113.7 or 203.0.113.7:4001") from error
    if isinstance(ip, ipaddress.IPv4Address):
        return Ip4(ip=Ip4Octets(ip.packed), port=number)
    return Ip6(ip=Ip6Octets(ip.packed), port=number)


def _split_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    if text.count(":") == 1:
        host, _, given = text.partition(":")
        return host, given
    return text, ""


def reach_warning(hosts: Sequence[str], port: int) -> str | None:
    """Who cannot reach a machine that is listed under these addresses; `None` when all can."""
    addresses = [ipaddress.ip_address(_split_port(host)[0]) for host in hosts]
    if any(address.is_global for address in addresses):
        return None
    if all(address.is_loopback for address in addresses):
        return "only this machine itself can reach it: no other host will be able to rent it"
    return (
        f"only hosts of its own network can reach it ({', '.join(hosts)}); for others forward UDP "
        f"port {port} on the router and name the public address with --address"
    )


def isolation_of(mode: "Mode") -> Isolation:
    """The chain's word for a sandbox's mode. Raises: UserError: it may not be offered."""
    found = next((i for i in Isolation if i.name.lower().replace("_", "-") == mode.value), None)
    if found is None:
        raise UserError(f"machines that isolate by {mode.value} cannot be listed")
    return found


@dataclass(frozen=True, slots=True)
class Listing:
    """What a machine is to be on the chain."""

    key: Keypair
    """The machine's own."""
    hardware: Hardware
    isolation: Isolation
    price: MicroUsd
    address: Address

    @property
    def id(self) -> MachineId:
        return MachineId(self.key.public)


async def set_controller(client: "Client", stash: Keypair, controller: Keypair) -> None:
    """Have `controller` act for `stash`, both agreeing; nothing where it is so already."""
    if stash.public == controller.public:
        return
    now = await client.at().get(Machines.controller_of, stash.public)
    if now == controller.public:
        return
    await client.submit(Machines.propose_controller.make(controller=controller.public), stash)
    await client.submit(Machines.accept_stash.make(stash=stash.public), controller)


async def enlist(client: "Client", listing: Listing, stash: AccountId, controller: Keypair) -> bool:
    """Bond the machine, or bring its offer up to date; whether it was bonded anew.

    Raises: CallFailed: the chain refuses; UserError: it belongs to another stash.
    """
    found = await client.at().get(Machines.machines, listing.id)
    if found is None:
        await client.submit(await _bond_call(client, listing, stash, controller), controller)
        return True
    if found.stash != stash:
        raise UserError("this machine is bonded by another stash; `dbc leave` with its key first")
    for call in _edits(found, listing):
        await client.submit(call, controller)
    return False


async def _bond_call(
    client: "Client", listing: Listing, stash: AccountId, controller: Keypair
) -> "Call":
    nonce = await client.at().get(Machines.bonds, listing.id)
    message = BondMessage(
        machine=listing.id,
        stash=stash,
        controller=controller.public,
        nonce=U32(0) if nonce is None else nonce,
    )
    return Machines.bond.make(
        machine=listing.id,
        hardware=listing.hardware,
        isolation=listing.isolation,
        price=listing.price,
        address=listing.address,
        signature=listing.key.sign(bond_message(client.genesis_hash, message)),
    )


def _edits(found: Machine, wanted: Listing) -> "list[Call]":
    calls: list[Call] = []
    if (found.hardware, found.isolation) != (wanted.hardware, wanted.isolation):
        calls.append(
            Machines.set_hardware.make(
                machine=wanted.id, hardware=wanted.hardware, isolation=wanted.isolation
            )
        )
    if found.price != wanted.price:
        calls.append(Machines.set_price.make(machine=wanted.id, price=wanted.price))
    if found.address != wanted.address:
        calls.append(Machines.set_address.make(machine=wanted.id, address=wanted.address))
    if found.paused:
        calls.append(Machines.resume.make(machine=wanted.id))
    return calls

"""How an installed provider stands: from its files, its port and the chain. For `dbc provider status`."""

import subprocess
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import click

from deepbrain import __version__
from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices
from deepbrain.cli.provider.host import UNIT_NAME, Host, has_systemd
from deepbrain.cli.provider.hosting import running_jobs, served_version
from deepbrain.pallets.machines import Machines, status_of
from deepbrain.pallets.rent import Placed, Rent, Running
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.units import U16
from deepbrain.provider.disk import DiskBudget
from deepbrain.provider.identity import AgentConfig, controller_account

if TYPE_CHECKING:
    from deepbrain.client import Client


@dataclass(slots=True)
class Standing:
    machine: str
    release: str = __version__
    """The installed one."""
    serving: str = ""
    """The one that answers at the machine's port; empty: none."""
    service: str = ""
    """systemd's word for the service."""
    listing: str = ""
    """`open`, `full`, `paused`; empty: not on the chain, or the chain cannot be asked."""
    orders: dict[str, int] = field(default_factory=dict)
    jobs: int = 0
    """Jobs that run on this host."""
    units: int = 0
    rented: int = 0
    controller_free: str = ""
    """Planck, for fees."""
    disk_free: int = 0
    disk_budget: int = 0
    has_room: bool = True
    trouble: str = ""

    @property
    def serves(self) -> bool:
        return bool(self.serving and self.listing) and not self.trouble

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"serves": self.serves}


async def read_standing(choices: Choices, host: Host) -> Standing:
    """Raises: UserError, AgentError: nothing is set up here."""
    place = host.place()
    config = place.load()
    machine = place.machine_id
    disk = DiskBudget.of(config.capacity).look(place.sandbox)
    standing = Standing(
        machine=machine.hex(),
        serving=await served_version(place, config),
        service=_service(),
        jobs=len(running_jobs(place)),
        units=config.capacity.units,
        disk_free=disk.free,
        disk_budget=config.capacity.disk_bytes,
        has_room=disk.has_room,
    )
    try:
        async with Choices(choices.node or config.chain, choices.key).client() as client:
            await _ask_chain(client, machine, config, standing)
    except DeepBrainError as error:
        standing.trouble = str(error)
    return standing


async def _ask_chain(
    client: "Client", machine: MachineId, config: AgentConfig, standing: Standing
) -> None:
    from deepbrain.pallets.system import System

    at = client.at((await client.head()).hash)
    listed = await at.get(Machines.machines, machine)
    rented = await at.get(Machines.rented, machine) or U16(0)
    standing.rented = int(rented)
    standing.listing = "" if listed is None else status_of(listed, rented).value
    account = await at.get(System.account, controller_account(config))
    standing.controller_free = str(0 if account is None else int(account.data.free))
    numbers = [key[1] async for key, _ in at.entries(Rent.orders_on, machine)]
    states = {"placed": 0, "running": 0, "ended": 0}
    for order in await at.get_many(Rent.orders, numbers):
        match None if order is None else order.status:
            case Placed():
                states["placed"] += 1
            case Running():
                states["running"] += 1
            case _:
                states["ended"] += 1
    standing.orders = states


def _service() -> str:
    if not has_systemd():
        return ""
    command = ["systemctl", "is-active", UNIT_NAME]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def show(standing: Standing) -> None:
    """For people."""
    orders = ", ".join(f"{count} {state}" for state, count in standing.orders.items())
    room = "" if standing.has_room else ": too full for new orders"
    free, budget = quantity.size(standing.disk_free), quantity.size(standing.disk_budget)
    rows = [
        ("machine", standing.machine),
        ("release", f"{standing.release} installed, {standing.serving or 'none'} serves"),
        ("service", standing.service or "no systemd here"),
        ("listing", standing.listing or "not on the chain"),
        ("units", f"{standing.rented} of {standing.units} rented"),
        ("orders", orders),
        ("jobs", f"{standing.jobs} on this host"),
        ("disk", f"{free} free, {budget} for tenants{room}"),
        ("controller", f"{quantity.dbc(int(standing.controller_free or 0))} for its fees"),
        ("trouble", standing.trouble),
    ]
    for name, value in rows:
        if value:
            click.echo(f"{name:<12}{value}")

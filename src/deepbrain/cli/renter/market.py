"""What is offered: reading, ranking, `dbc gpus`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.failure import UserError
from deepbrain.cli.output import emit, table
from deepbrain.pallets.machines import Address, Ip4, Ip6, Isolation, Machine, Machines
from deepbrain.pallets.oracle import Oracle
from deepbrain.pallets.rent import Segment
from deepbrain.primitives import ss58
from deepbrain.primitives.ids import AccountId, MachineId
from deepbrain.primitives.units import U16, Balance, MicroUsd, Seconds

if TYPE_CHECKING:
    from deepbrain.client import At, Client

SHORT: Final = 12


@dataclass(frozen=True, slots=True)
class Offered:
    """A machine with what is free of it, at one block."""

    id: MachineId
    machine: Machine
    rented: int
    controller: AccountId

    @property
    def units(self) -> int:
        return int(self.machine.hardware.units())

    @property
    def free(self) -> int:
        return 0 if self.machine.paused else max(0, self.units - self.rented)

    @property
    def name(self) -> str:
        return short(self.id)

    @property
    def mode(self) -> str:
        return mode_name(self.machine.isolation)

    @property
    def network(self) -> str:
        return self.machine.network.name.lower()

    @property
    def unit_name(self) -> str:
        return "GPU" if self.machine.hardware.gpus else "core"

    @property
    def model(self) -> str:
        hardware = self.machine.hardware
        return hardware.gpu_model if hardware.gpus else hardware.cpu_model

    def serves(self, renter: AccountId | None) -> bool:
        """Whether its isolation allows it to run the renter's code."""
        if self.machine.isolation is Isolation.GVISOR:
            return True
        return renter in (self.machine.stash, self.controller)


@dataclass(frozen=True, slots=True)
class Market:
    """Every offer of one final block, cheapest first."""

    offers: tuple[Offered, ...]
    micro_usd_per_dbc: MicroUsd | None

    def cost(self, offer: Offered, units: int, seconds: int) -> Balance:
        """What is held for so much of it. Raises: UserError: no price of the token is known."""
        if self.micro_usd_per_dbc is None:
            raise UserError("the chain has no price of the token yet; wait until it has one")
        segment = Segment(
            seconds=Seconds(seconds),
            price=offer.machine.price,
            micro_usd_per_dbc=self.micro_usd_per_dbc,
        )
        return Balance(segment.worth(U16(units), seconds))

    def expect(self, prefix: str) -> Offered:
        """The machine whose id starts like this. Raises: UserError: none does, or several."""
        wanted = prefix.lower().removeprefix("0x")
        found = [offer for offer in self.offers if offer.id.hex().startswith(wanted)]
        if not wanted or not found:
            raise UserError(f"no machine is called {prefix}; `dbc gpus` lists them")
        if len(found) > 1:
            raise UserError(f"{prefix} is the beginning of {len(found)} machines; write more of it")
        return found[0]


async def read_market(client: "Client") -> Market:
    """Cost: every machine of the network."""
    final = await client.finalized()
    at = client.at(final.hash)
    machines = [entry async for entry in at.entries(Machines.machines)]
    rented = {machine: int(units) async for machine, units in at.entries(Machines.rented)}
    controllers = await _controllers(at, [machine.stash for _, machine in machines])
    quote = await at.get(Oracle.price)
    offers = [
        Offered(machine_id, machine, rented.get(machine_id, 0), controllers[machine.stash])
        for machine_id, machine in machines
    ]
    offers.sort(key=lambda offer: (offer.machine.price, offer.id))
    return Market(tuple(offers), None if quote is None else quote.micro_usd)


async def _controllers(at: "At", stashes: list[AccountId]) -> dict[AccountId, AccountId]:
    """Who acts for each stash: itself, unless it named another."""
    named = await at.get_many(Machines.controller_of, stashes)
    return {stash: controller or stash for stash, controller in zip(stashes, named, strict=True)}


def dial_addresses(address: Address) -> tuple[str, ...]:
    """`ip:port` of each endpoint, as streams are dialled."""
    return tuple(
        _ip_and_port(endpoint) for endpoint in address.endpoints if isinstance(endpoint, Ip4 | Ip6)
    )


def ways_to(address: Address) -> tuple[str, ...]:
    """All ways to a machine: its own addresses, and the relays that know it."""
    from deepbrain.client.client import is_relay_url

    relays = [url for url in address.relays if is_relay_url(url)]
    return (*dial_addresses(address), *relays)


def _ip_and_port(endpoint: Ip4 | Ip6) -> str:
    import ipaddress

    ip = ipaddress.ip_address(bytes(endpoint.ip))
    return f"[{ip}]:{endpoint.port}" if ip.version == 6 else f"{ip}:{endpoint.port}"


def short(machine: MachineId) -> str:
    """As much of a machine's id as people need; `Market.expect` takes it back."""
    return machine.hex()[:SHORT]


def mode_name(isolation: Isolation) -> str:
    """`gvisor-own` for `GVISOR_OWN`: the name that the sandbox uses too."""
    return isolation.name.lower().replace("_", "-")


@click.command()
@click.option("--gpu", metavar="MODEL", help="Only models with this in their name.")
@click.option("--all", "show_all", is_flag=True, help="Also what is paused or taken.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; prices in µUSD.")
def gpus(gpu: str | None, show_all: bool, as_json: bool) -> None:
    """List what is offered, cheapest first.

    A machine has equal units, one GPU (or, without GPUs, one core) with its share of cores, memory
    and disk. The price is per unit and hour.

    \b
    dbc gpus --gpu 4090
    dbc gpus --json | jq '.[0]'
    """
    choices = Choices.current()
    market = block_on(_read(choices))
    offers = [
        offer
        for offer in market.offers
        if (show_all or offer.free) and (gpu is None or gpu.lower() in offer.model.lower())
    ]
    if as_json:
        emit([_as_json(offer, market) for offer in offers])
        return
    head = (
        "machine",
        "unit",
        "free",
        "cores",
        "memory",
        "disk",
        "$/h",
        "DBC/h",
        "isolation",
        "network",
    )
    rows = [_row(offer, market) for offer in offers]
    table("offers", head, rows, "nothing is offered now; `dbc gpus --all` shows what is taken")


async def _read(choices: Choices) -> Market:
    async with choices.client() as client:
        return await read_market(client)


def _row(offer: Offered, market: Market) -> tuple[str, ...]:
    hardware, units = offer.machine.hardware, offer.units
    per_hour = "?" if market.micro_usd_per_dbc is None else market.cost(offer, 1, 3600)
    return (
        offer.name,
        offer.model or offer.unit_name,
        f"{offer.free}/{offer.units}" + (" paused" if offer.machine.paused else ""),
        str(max(1, int(hardware.cpus) // units)),
        quantity.size((int(hardware.memory_mib) << 20) // units),
        quantity.size((int(hardware.disk_mib) << 20) // units),
        quantity.usd(offer.machine.price).removeprefix("$"),
        per_hour if isinstance(per_hour, str) else quantity.about(per_hour),
        offer.mode,
        offer.network,
    )


def _as_json(offer: Offered, market: Market) -> dict[str, Any]:
    hardware = offer.machine.hardware
    known = market.micro_usd_per_dbc is not None
    return {
        "machine": offer.id.hex(),
        "model": offer.model,
        "unit": offer.unit_name,
        "units": offer.units,
        "free": offer.free,
        "paused": offer.machine.paused,
        "cpus": int(hardware.cpus),
        "memory_mib": int(hardware.memory_mib),
        "disk_mib": int(hardware.disk_mib),
        "gpu_memory_mib": int(hardware.gpu_memory_mib),
        "micro_usd_per_unit_hour": int(offer.machine.price),
        "planck_per_unit_hour": str(int(market.cost(offer, 1, 3600))) if known else None,
        "isolation": offer.mode,
        "network": offer.network,
        "stash": ss58.encode(offer.machine.stash),
        "addresses": list(dial_addresses(offer.machine.address)),
        "offer_version": int(offer.machine.offer_version),
    }

"""`dbc earnings`: what a machine's orders came to, by the chain."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices
from deepbrain.cli.provider.here import choices_here, machine_named
from deepbrain.pallets.rent import Ended, Rent
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.primitives.units import Seconds

DAY: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Earned:
    """Amounts in planck. `paid` went to the stash; `burned` is what the chain took of the rents."""

    machine: str
    orders: int
    unit_seconds: int
    paid: int
    burned: int
    day_orders: int
    """Billed orders that ended within the last 24 h."""
    day_paid: int
    running_orders: int
    running_worth: int
    """What those that run are worth so far, before the burned share."""

    def to_json(self) -> dict[str, Any]:
        """Amounts as strings: JSON readers round what is above 2**53."""
        money = ("paid", "burned", "day_paid", "running_worth")
        return asdict(self) | {name: str(getattr(self, name)) for name in money}


async def read_earned(choices: Choices, data: Path | None, machine: str | None) -> Earned:
    """Cost: the machine's open orders and those of the last day. Raises: UserError."""
    async with choices_here(choices, data).client() as client:
        found = await machine_named(client, data, machine)
        at = client.at((await client.head()).hash)
        now = Seconds(int(await at.get(Timestamp.service_ms) or 0) // 1000)
        total = await at.get(Rent.earnings, found)
        numbers = [key[1] async for key, _ in at.entries(Rent.orders_on, found)]
        orders = [order for order in await at.get_many(Rent.orders, numbers) if order is not None]
    endings = [order.status for order in orders if isinstance(order.status, Ended)]
    recent = [end.bill for end in endings if now - end.at < DAY and end.bill.used]
    running = [order for order in orders if order.is_open() and order.used(now)]
    return Earned(
        machine=found.hex(),
        orders=0 if total is None else int(total.orders),
        unit_seconds=0 if total is None else int(total.unit_seconds),
        paid=0 if total is None else int(total.paid),
        burned=0 if total is None else int(total.burned),
        day_orders=len(recent),
        day_paid=sum(int(bill.paid) for bill in recent),
        running_orders=len(running),
        running_worth=sum(int(order.worth(order.used(now))) for order in running),
    )


def show_earned(earned: Earned) -> None:
    """For people."""
    hours = f"{earned.unit_seconds / 3600:.1f} unit-hours"
    click.echo(f"machine     {earned.machine}")
    click.echo(f"in all      {quantity.dbc(earned.paid)} for {earned.orders} orders, {hours}")
    click.echo(f"burned      {quantity.dbc(earned.burned)}")
    click.echo(f"last day    {quantity.dbc(earned.day_paid)} for {earned.day_orders} orders")
    worth = f"{quantity.about(earned.running_worth)} DBC so far"
    click.echo(f"running     {earned.running_orders} orders, worth {worth}")

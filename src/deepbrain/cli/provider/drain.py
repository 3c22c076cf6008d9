"""`dbc drain`: no new orders, and the wait for those that run."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices
from deepbrain.cli.failure import UserError
from deepbrain.cli.output import say, waiting
from deepbrain.cli.provider.here import choices_here, edit_pause, machine_named, signer
from deepbrain.pallets.machines import Machines
from deepbrain.pallets.rent import Ended, Order, Placed, Rent
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.units import Seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepbrain.client import Client
    from deepbrain.primitives.keys import Keypair


@dataclass(frozen=True, slots=True)
class Load:
    """What is on a machine, by the chain."""

    open: tuple[int, ...]
    """Orders that wait or run."""
    kept: tuple[int, ...]
    """Orders whose results their renters may still fetch."""
    seconds: int
    """Until the last of the open ones is over at its term."""

    @property
    def sentence(self) -> str:
        numbers = ", ".join(map(str, self.open[:8])) + (", …" if len(self.open) > 8 else "")
        which = f"order {numbers} runs" if len(self.open) == 1 else f"orders {numbers} run"
        return f"{which}; the last is over in {quantity.span(self.seconds)}, unless it is extended"


async def read_load(client: "Client", machine: MachineId) -> Load:
    """At one block."""
    at = client.at((await client.head()).hash)
    now = int(await at.get(Timestamp.service_ms) or 0) // 1000
    numbers = sorted([key[1] async for key, _ in at.entries(Rent.orders_on, machine)])
    found = await at.get_many(Rent.orders, numbers)
    orders = [(int(n), order) for n, order in zip(numbers, found, strict=True) if order is not None]
    opened = [(n, order) for n, order in orders if order.is_open()]
    lasts = [_over_at(order) - now for _, order in opened]
    return Load(
        open=tuple(number for number, _ in opened),
        kept=tuple(number for number, order in orders if isinstance(order.status, Ended)),
        seconds=max([0, *lasts]),
    )


def _over_at(order: Order) -> int:
    """Service time of the end of its term, if it starts as late as it may."""
    waits = isinstance(order.status, Placed)
    return int(order.due(Seconds(0))) + (order.term() if waits else 0)


async def wait_drained(
    choices: Choices, data: Path | None, machine: str | None, until: Seconds | None
) -> None:
    """Raises: UserError: orders still run when the time is over."""
    unlock = signer(choices)
    async with choices_here(choices, data).client() as client:
        found = await machine_named(client, data, machine)
        await _pause(client, found, unlock)
        load = await read_load(client, found)
        try:
            async with asyncio.timeout(None if until is None else int(until)):
                with waiting("no new orders are taken") as show:
                    async for _ in client.heads():
                        load = await read_load(client, found)
                        if not load.open:
                            break
                        show(load.sentence)
        except TimeoutError:
            raise UserError(f"{load.sentence}: wait, or drain again later") from None
    say(f"nothing runs on machine {found.hex()[:12]}: it may be switched off; `dbc resume` after")
    if load.kept:
        say(
            "for a day after its end a renter may fetch an order's results, and cannot while the "
            f"machine is off; ended are {len(load.kept)}"
        )


async def _pause(client: "Client", found: MachineId, unlock: "Callable[[], Keypair]") -> None:
    """Also where it is paused already: from now on by a person, so that the agent leaves it so."""
    if await client.at().get(Machines.machines, found) is None:
        raise UserError("this machine is not on the chain; it may be switched off")
    await edit_pause(client, found, unlock, paused=True)

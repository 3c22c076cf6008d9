"""`dbc ps`, `attach`, `logs`, `stop`, `extend`, `bill`: orders, found on the chain by key."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.failure import NOT_STARTED, UserError
from deepbrain.cli.output import emit, say, table
from deepbrain.cli.renter import ending
from deepbrain.cli.renter.ending import bill_of, state_name
from deepbrain.cli.renter.market import mode_name, read_market, short
from deepbrain.cli.renter.wish import terms_of
from deepbrain.client.errors import CallFailed
from deepbrain.pallets.machines import Isolation, Machines
from deepbrain.pallets.rent import (
    BadTerm,
    Ended,
    Order,
    OrderEnded,
    OrderExtended,
    Placed,
    Rent,
)
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.primitives.ids import AccountId, OrderId
from deepbrain.primitives.units import Balance, Moment, Seconds

if TYPE_CHECKING:
    from deepbrain.cli.keys import Chosen
    from deepbrain.cli.renter.reach import Reach
    from deepbrain.cli.renter.rental import Renter
    from deepbrain.client import At, Client


class OrderNumber(click.ParamType[OrderId]):
    """An order's number, as `run` and `ps` show it."""

    name = "order"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> OrderId:
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            self.fail(f"{text!r} is no order's number; `dbc ps` lists them", param, ctx)
        return OrderId(int(text))


ORDER = OrderNumber()


def arguments(argv: Sequence[str]) -> tuple[str, ...]:
    """A command's words; a `--` that stands between them and the order's number is none of them."""
    return tuple(argv[1:] if argv and argv[0] == "--" else argv)


@dataclass(frozen=True, slots=True)
class Listed:
    """An order of ours, with the isolation of its machine."""

    id: OrderId
    order: Order
    isolation: Isolation | None


async def orders_of(client: "Client", account: AccountId) -> tuple[list[Listed], int]:
    """Every order of an account, and the service time. Cost: its orders."""
    head = await client.head()
    at = client.at(head.hash)
    numbers = [key[1] async for key, _ in at.entries(Rent.orders_of, account)]
    found = await at.get_many(Rent.orders, numbers)
    orders = [(i, order) for i, order in zip(numbers, found, strict=True) if order is not None]
    machines = await at.get_many(Machines.machines, [order.machine for _, order in orders])
    listed = [
        Listed(number, order, None if machine is None else machine.isolation)
        for (number, order), machine in zip(orders, machines, strict=True)
    ]
    now = await service_seconds(at)
    return sorted(listed, key=lambda entry: entry.id), now


async def service_seconds(at: "At") -> int:
    """The chain's service time, in which terms are counted."""
    milliseconds: Moment = await at.get(Timestamp.service_ms)
    return int(milliseconds) // 1000


async def expect_order(client: "Client", number: OrderId, account: AccountId) -> Order:
    """Raises: UserError: there is none of that number, or it is somebody else's."""
    order = await client.at().get(Rent.orders, number)
    if order is None:
        raise UserError(f"there is no order {number} (ended ones are kept for a day); see `dbc ps`")
    if order.renter != account:
        raise UserError(f"order {number} belongs to another key; name the right one with --wallet")
    return order


@click.command()
@click.option("-a", "--all", "show_all", is_flag=True, help="Also those that ended.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; amounts in planck.")
def ps(show_all: bool, as_json: bool) -> None:
    """List your orders.

    They are read from the chain: any machine that holds the key shows the same. Ended orders stay
    for a day.
    """
    choices = Choices.current()
    listed, now = block_on(_list(choices, choices.chosen().account))
    listed = [entry for entry in listed if show_all or entry.order.is_open()]
    if as_json:
        emit(
            [
                bill_of(entry.id, entry.order, now) | {"isolation": _mode(entry.isolation)}
                for entry in listed
            ]
        )
        return
    head = ("order", "state", "machine", "units", "used", "of", "due", "isolation")
    rows = [_row(entry, now) for entry in listed]
    table("orders", head, rows, "no open orders; `dbc ps --all` shows ended ones too")


@click.command()
@click.argument("order", type=ORDER)
@click.option("--into", type=click.Path(path_type=Path), default="dbc-out", show_default=True)
def attach(order: OrderId, into: Path) -> int:
    """Go on with an order where `run` left it.

    Prints all output from the beginning, waits for the end, brings the results. An upload that was
    cut off goes on where it stopped, on the machine where `run` began. Exit codes as of `run`.
    """
    choices = Choices.current()
    return block_on(_attach(choices, choices.chosen(), order, into))


@click.command()
@click.argument("order", type=ORDER)
@click.option("-f", "--follow", is_flag=True, help="Wait for more until the job ends.")
def logs(order: OrderId, follow: bool) -> None:
    """Print what an order's job printed.

    Standard output and error come back as the streams they were.
    """
    choices = Choices.current()
    block_on(_logs(choices, choices.chosen(), order, follow=follow))


@click.command()
@click.argument("order", type=ORDER)
def stop(order: OrderId) -> None:
    """End an order now and settle it.

    Nothing is billed from here on; the job gets SIGTERM and, 30 s later, SIGKILL. Log and files stay
    on the machine for a day: `dbc attach` brings them.
    """
    choices = Choices.current()
    block_on(_stop(choices, choices.chosen(), order))


@click.command()
@click.argument("order", type=ORDER)
@click.argument("more", type=quantity.SPAN)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def extend(order: OrderId, more: Seconds, yes: bool) -> None:
    """Give an order more time, at today's price.

    What was bought before keeps its price.

    \b
    dbc extend 7 30m
    """
    choices = Choices.current()
    block_on(_extend(choices, choices.chosen(), order, more, yes=yes))


@click.command()
@click.argument("order", type=ORDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; amounts in planck.")
def bill(order: OrderId, as_json: bool) -> None:
    """Show what an order cost, to the unit.

    paid + burned + refunded is exactly what was held.
    """
    choices = Choices.current()
    facts = block_on(_bill(choices, choices.chosen().account, order))
    if as_json:
        emit(facts)
        return
    for name in ("state", "machine", "isolation", "units", "exit_code"):
        if facts.get(name) is not None:
            click.echo(f"{name.replace('_', ' '):<10} {facts[name]}")
    used, term = quantity.span(facts["used_seconds"]), quantity.span(facts["term_seconds"])
    click.echo(f"{'used':<10} {used} of {term}")
    for name in ("held", "due_so_far", "paid", "burned", "refunded"):
        if name in facts:
            click.echo(f"{name.replace('_', ' '):<10} {quantity.dbc(int(facts[name]))}")


async def _list(choices: Choices, account: AccountId) -> tuple[list[Listed], int]:
    async with choices.client() as client:
        return await orders_of(client, account)


def _row(entry: Listed, now: int) -> tuple[str, ...]:
    order = entry.order
    used = order.used(Seconds(now))
    due = (
        order.status.bill.paid + order.status.bill.burned
        if isinstance(order.status, Ended)
        else order.worth(used)
    )
    return (
        str(int(entry.id)),
        state_name(order),
        short(order.machine),
        str(int(order.units)),
        quantity.span(used),
        quantity.span(order.term()),
        f"{quantity.about(due)} DBC",
        _mode(entry.isolation) or "?",
    )


def _mode(isolation: Isolation | None) -> str | None:
    return None if isolation is None else mode_name(isolation)


@contextlib.asynccontextmanager
async def renting(choices: Choices, chosen: "Chosen") -> "AsyncIterator[Renter]":
    """Client, endpoint and unlocked key, for the time of a command."""
    from deepbrain.cli.renter.reach import fresh_endpoint
    from deepbrain.cli.renter.rental import Renter

    async with choices.client() as client, fresh_endpoint() as endpoint:
        yield Renter(client, endpoint, chosen.unlock())


@contextlib.asynccontextmanager
async def reaching(choices: Choices, chosen: "Chosen", number: OrderId) -> "AsyncIterator[Reach]":
    """The way to the machine of one of our orders. Raises: UserError."""
    async with renting(choices, chosen) as renter:
        order = await expect_order(renter.client, number, chosen.account)
        yield renter.reach(number, order.machine)


async def _attach(choices: Choices, chosen: "Chosen", number: OrderId, into: Path) -> int:
    from deepbrain.cli.interrupts import Interrupted, Interrupts
    from deepbrain.cli.renter.deliver import NotStarted
    from deepbrain.cli.renter.follow import close_order, look_back
    from deepbrain.cli.renter.journal import find
    from deepbrain.cli.renter.rental import conclude, follow_to_the_end, resume

    async with renting(choices, chosen) as renter:
        order = await expect_order(renter.client, number, chosen.account)
        run = find(order.manifest_hash)
        with Interrupts().listening() as interrupts:
            reach = renter.reach(number, order.machine)
            if not order.is_open():
                return await conclude(reach, await look_back(reach), run, into)
            if isinstance(order.status, Placed):
                try:
                    reach = await resume(renter, number, order.machine, run, interrupts)
                except NotStarted as trouble:
                    await close_order(reach)
                    raise UserError(
                        f"order {number} did not start: {trouble}; it is closed and refunded",
                        NOT_STARTED,
                    ) from trouble
                except Interrupted:
                    return NOT_STARTED
            return await follow_to_the_end(reach, run, into, interrupts)


async def _logs(choices: Choices, chosen: "Chosen", number: OrderId, *, follow: bool) -> None:
    from deepbrain.cli.renter.reach import closing
    from deepbrain.cli.terminal import write_out

    async with reaching(choices, chosen, number) as reach:
        session = await reach.session()
        async with closing(session.logs(0, follow=follow)) as records:
            async for piece in records:
                write_out(piece.stream, piece.data)


async def _stop(choices: Choices, chosen: "Chosen", number: OrderId) -> None:
    async with choices.client() as client:
        order = await expect_order(client, number, chosen.account)
        if not order.is_open():
            raise UserError(f"order {number} has ended already; `dbc bill {number}` shows its bill")
        receipt = await client.submit(
            Rent.close.make(order=number, exit_code=None), chosen.unlock()
        )
        ended = receipt.one(OrderEnded).bill
    say(
        f"order {number} is stopped: {quantity.span(ended.used)} used, "
        f"paid {quantity.dbc(ended.paid)}, burned {quantity.dbc(ended.burned)}, "
        f"refunded {quantity.dbc(ended.refunded)}"
    )


async def _extend(
    choices: Choices, chosen: "Chosen", number: OrderId, more: Seconds, *, yes: bool
) -> None:
    async with choices.client() as client:
        order = await expect_order(client, number, chosen.account)
        market = await read_market(client)
        offer = market.expect(order.machine.hex())
        cost = market.cost(offer, int(order.units), int(more))
        if not yes:
            click.confirm(
                f"dbc: {quantity.span(more)} more for at most {quantity.dbc(cost)}?",
                abort=True,
                err=True,
            )
        # One unit of rounding: a joined segment is rounded once, and may come to a planck more.
        call = Rent.extend.make(order=number, seconds=more, max_total=Balance(int(cost) + 1))
        try:
            receipt = await client.submit(call, chosen.unlock())
        except CallFailed as error:
            if error.reason is BadTerm:
                terms = await terms_of(client)
                raise UserError(f"{terms} at a time, what was bought before included") from error
            raise
        held = receipt.one(OrderExtended).held
    say(f"order {number} may run {quantity.span(more)} longer; {quantity.dbc(held)} more are held")


async def _bill(choices: Choices, account: AccountId, number: OrderId) -> dict[str, Any]:
    async with choices.client() as client:
        order = await expect_order(client, number, account)
        machine = await client.at().get(Machines.machines, order.machine)
        now = await service_seconds(client.at())
    mode = None if machine is None else mode_name(machine.isolation)
    return ending.bill_of(number, order, now) | {"isolation": mode}

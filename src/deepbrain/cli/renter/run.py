"""`dbc run`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.failure import NOT_STARTED, UserError, explain
from deepbrain.cli.output import files_and_size, progress, say
from deepbrain.cli.terminal import is_terminal
from deepbrain.primitives.units import Balance, MicroUsd, Seconds

if TYPE_CHECKING:
    from deepbrain.cli.interrupts import Interrupts
    from deepbrain.cli.keys import Chosen
    from deepbrain.cli.renter.journal import Run
    from deepbrain.cli.renter.reach import Reach
    from deepbrain.cli.renter.rental import Deal, Package, Renter
    from deepbrain.cli.renter.wish import Wish
    from deepbrain.client import Client
    from deepbrain.client.workspace import Workspace


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("argv", metavar="COMMAND...", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--for",
    "term",
    type=quantity.SPAN,
    default="1h",
    show_default=True,
    help="Longest run time; unused seconds are refunded.",
)
@click.option(
    "--units",
    type=click.IntRange(1, 65535),
    default=1,
    show_default=True,
    help="GPUs (or cores, on machines without GPUs).",
)
@click.option("--gpu", metavar="MODEL", help="Only GPUs with this in their name.")
@click.option("--machine", metavar="ID", help="Only this machine (the beginning of its id).")
@click.option("--max-price", type=quantity.USD, metavar="USD", help="Most per unit and hour.")
@click.option(
    "--image",
    metavar="NAME|FILE",
    help="An image of the machine or of a registry, or an archive file of yours.",
)
@click.option(
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Set a variable; without a value yours is taken.",
)
@click.option(
    "--out",
    multiple=True,
    metavar="PATTERN",
    help="Bring back these files (default: all that are new or changed, but for what editors "
    "and shells leave: .vscode-server, .cache and the like).",
)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default="dbc-out",
    show_default=True,
    help="Results come into <into>/<order>/.",
)
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    default=".",
    help="Directory to send (default: the current one).",
)
@click.option("--no-workspace", is_flag=True, help="Send no files.")
@click.option(
    "--network",
    type=click.Choice(("none", "internet")),
    help="What the job can reach (default: what the machine offers).",
)
@click.option(
    "--start-within",
    type=quantity.SPAN,
    default="10m",
    show_default=True,
    help="How long the money waits for the machine to start.",
)
@click.option("-d", "--detach", is_flag=True, help="Leave once it runs; print the order's number.")
@click.option("-y", "--yes", is_flag=True, help="Agree to the price without being asked.")
def run(
    argv: tuple[str, ...], term: Seconds, units: int, gpu: str | None, machine: str | None,
    max_price: MicroUsd | None, image: str | None, env: tuple[str, ...], out: tuple[str, ...],
    into: Path, workspace: Path, no_workspace: bool, network: str | None, start_within: Seconds,
    detach: bool, yes: bool,
) -> int:  # fmt: skip
    """Rent a machine and run a command on it.

    The current directory is sent along (.gitignore and .dbcignore are honoured; .git, .env*, .ssh
    and .venv never leave), output is streamed, new files come back into dbc-out/<order>/. Without a
    COMMAND the image's own runs.

    \b
    dbc run --for 10m -- python3 train.py
    dbc run --gpu 4090 --units 2 --max-price 0.40 --env HF_TOKEN -- python3 train.py
    dbc run --for 1h --image ghcr.io/me/app:1.2 -- ./job
    dbc run -y --detach --image my.tar -- ./job ; dbc logs -f 7

    \b
    Ctrl-C asks: stop or detach. Exit code: the job's; 125 refused or not started,
    124 term over, 137 out of memory, 123 machine lost.
    """
    from deepbrain.cli.renter.wish import Wish, parse_env
    from deepbrain.pallets.machines import Network

    with _not_started():
        wish = Wish(
            argv=argv, seconds=term, units=units, gpu=gpu, machine=machine, max_price=max_price,
            image=image, env=parse_env(env), out=out, start_within=start_within,
            network=None if network is None else Network[network.upper()],
        )  # fmt: skip
        sent = None if no_workspace else _scan(workspace)
        chosen = Choices.current().chosen()
    return block_on(_run(Choices.current(), wish, sent, into, chosen, detach=detach, yes=yes))


@contextlib.contextmanager
def _not_started() -> Iterator[None]:
    """Whatever goes wrong here is a run that was refused or not started."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error), NOT_STARTED) from error
    except Exception as error:
        failure = explain(error)
        if failure is None:
            raise
        raise UserError(failure.sentence, NOT_STARTED) from error


def _scan(directory: Path) -> "Workspace":
    from deepbrain.client.workspace import scan

    workspace = scan(directory)
    for note in workspace.notes:
        say(note)
    return workspace


async def _run(
    choices: Choices,
    wish: "Wish",
    sent: "Workspace | None",
    into: Path,
    chosen: "Chosen",
    *,
    detach: bool,
    yes: bool,
) -> int:
    from deepbrain.cli.interrupts import Interrupts
    from deepbrain.cli.renter.journal import Run
    from deepbrain.cli.renter.reach import fresh_endpoint
    from deepbrain.cli.renter.rental import Renter, follow_to_the_end

    async with contextlib.AsyncExitStack() as stack:
        with _not_started():
            client = await stack.enter_async_context(choices.client())
            deal = await _agree(client, wish, sent, chosen, yes=yes)
            endpoint = await stack.enter_async_context(fresh_endpoint())
            renter = Renter(client, endpoint, chosen.unlock())
        interrupts = stack.enter_context(Interrupts().listening())
        entry = Run.begin()
        with entry.held():
            reach = await _start(renter, wish, deal, sent, entry, interrupts)
        if isinstance(reach, int):
            return reach
        if detach:
            say(f"order {reach.order} goes on: dbc attach {reach.order}")
            click.echo(str(int(reach.order)))
            return 0
        return await follow_to_the_end(reach, entry, into, interrupts)


async def _start(
    renter: "Renter",
    wish: "Wish",
    deal: "Deal",
    sent: "Workspace | None",
    entry: "Run",
    interrupts: "Interrupts",
) -> "Reach | int":
    """The running order; or the exit code, where somebody wished otherwise."""
    from deepbrain.cli.interrupts import Interrupted
    from deepbrain.cli.interrupts import Wish as Signal
    from deepbrain.cli.renter.rental import start_somewhere

    with _not_started():
        try:
            package = _package(wish, sent, entry)
            reach = await start_somewhere(renter, wish, deal, package, entry, interrupts)
        except Interrupted as interrupted:
            if interrupted.wish is Signal.DETACH:
                return 0
            entry.discard()
            say("stopped before the job ran; nothing is held")
            return NOT_STARTED
        except Exception:
            # With an order that may still be open, the journal is what `attach` goes on from.
            if entry.facts.get("order") is None:
                entry.discard()
            raise
    say(f"order {reach.order} runs on {reach.machine.hex()[:12]}")
    return reach


async def _agree(
    client: "Client", wish: "Wish", sent: "Workspace | None", chosen: "Chosen", *, yes: bool
) -> "Deal":
    """Choose machines, show the price and what is sent, ask once. Raises: UserError."""
    from deepbrain.cli.renter.market import read_market
    from deepbrain.cli.renter.rental import Deal, price_line
    from deepbrain.cli.renter.wish import candidates
    from deepbrain.pallets.rent import Rent

    market = await read_market(client)
    offers = candidates(market, wish, chosen.account)
    costs = [market.cost(offer, wish.units, int(wish.seconds)) for offer in offers]
    deal = Deal(offers, Balance(max(costs)))
    fee = await client.constant(Rent, "place_fee")
    await _ensure_affordable(client, chosen, Balance(int(costs[0]) + int(fee)))
    say(price_line(wish, offers[0], costs[0], deal.limit, fee))
    if sent is not None:
        say(f"sends {files_and_size(sent.files, sent.size)} from {sent.root}")
    if not yes:
        _ask(chosen)
    return deal


async def _ensure_affordable(client: "Client", chosen: "Chosen", needed: Balance) -> None:
    from deepbrain.pallets.system import System

    account = await client.at().get(System.account, chosen.account)
    free = Balance(0) if account is None else account.data.free
    if free < needed:
        raise UserError(
            f"{chosen.name} has {quantity.dbc(free)} free, and this needs {quantity.dbc(needed)}; "
            f"send some to {chosen.address}, or ask for less with --for or --units"
        )


def _ask(chosen: "Chosen") -> None:
    if not is_terminal():
        raise UserError("nobody can be asked here; pass -y to agree to the price beforehand")
    if not click.confirm(f"dbc: pay from {chosen.name}?", err=True):
        raise UserError("not agreed; nothing was placed")


def _package(wish: "Wish", sent: "Workspace | None", entry: "Run") -> "Package":
    """Everything that is sent, packed and hashed. Raises: WorkspaceError, UserError."""
    from deepbrain.cli.renter.rental import Package
    from deepbrain.cli.renter.wish import digest_of_file
    from deepbrain.client.workspace import pack

    packed = None
    if sent is not None:
        with progress("packing", sent.size) as advance:
            packed = pack(sent, entry.workspace, advance)
    image = wish.image_file
    return Package(packed, image, None if image is None else digest_of_file(image))

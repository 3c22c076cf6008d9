"""`dbc join`, `pause`, `leave`: this machine on the market."""

import asyncio
import contextlib
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.extras import ensure_installed
from deepbrain.cli.failure import UserError
from deepbrain.cli.output import emit, say
from deepbrain.primitives.ids import AccountId, MachineId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import MicroUsd, Seconds

if TYPE_CHECKING:
    from deepbrain.cli.keys import Chosen
    from deepbrain.cli.provider.machine import Listing, Owners, Place
    from deepbrain.client import Client
    from deepbrain.provider.identity import AgentConfig

DEFAULT_PORT: Final = 4001
SERVE_SECONDS: Final = 60.0
_DATA = click.option("--data", type=click.Path(path_type=Path),
                     help="The machine's directory (default: the installed provider's, else ~/.dbc/machine).")  # fmt: skip
_MACHINE = click.option("--machine", metavar="ID", help="Another machine of yours, by its id.")


@click.command()
@click.option(
    "--price",
    type=quantity.USD,
    required=True,
    metavar="USD",
    help="What a unit (a core) costs per hour, such as 0.02.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="UDP port that renters dial.",
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="IP[:PORT]",
    help="Where others reach it (default: its own addresses).",
)
@click.option(
    "--relay",
    "relays",
    multiple=True,
    metavar="URL",
    help="Relay to be reached through (default: those the node names).",
)
@click.option("--stash", metavar="NAME", help="Key that holds the bond and is paid, if another.")
@click.option(
    "--mode",
    type=click.Choice(("auto", "gvisor", "gvisor-own", "process")),
    default="auto",
    show_default=True,
    help="Isolation; auto is the best that works.",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Base image to offer (default: one made of this machine's files).",
)
@click.option(
    "--bandwidth",
    type=click.IntRange(0, 1 << 20),
    default=0,
    metavar="MBIT",
    help="Mbit/s that tenants get in all, each way (default: no limit).",
)
@click.option(
    "--image-cache",
    type=quantity.SIZE,
    metavar="SIZE",
    help="Disk for unpacked images, such as 50G (default: a tenth).",
)
@click.option(
    "--private-registries",
    is_flag=True,
    help="Let renters' images come from registries in your own networks too.",
)
@_DATA
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def join(
    price: MicroUsd, port: int, addresses: tuple[str, ...], relays: tuple[str, ...],
    stash: str | None, mode: str, image: Path | None, bandwidth: int, image_cache: int | None,
    private_registries: bool, data: Path | None, yes: bool,
) -> None:  # fmt: skip
    """Offer this machine: bond, list, serve.

    Runs until Ctrl-C; running it again brings price and addresses up to date and serves on. Jobs of
    renters survive a restart. As root, strangers are isolated by gVisor; otherwise the machine takes
    its owner's orders alone.

    \b
    dbc doctor                                  what this machine can do
    dbc --wallet main join --price 0.02
    dbc --wallet main join --price 0.02 --address 203.0.113.7 --stash savings
    """
    from deepbrain.cli.provider.machine import Place
    from deepbrain.cli.supervise import Post

    ensure_installed("provider")
    choices = Choices.current()
    chosen = choices.chosen()
    place = Place.joined(data)
    place.make()
    otherwise = f"another `dbc join` serves from {place.sandbox}; end it with Ctrl-C first"
    with Post(place.sandbox).held(otherwise):
        images = Images(image, image_cache or 0, private_registries)
        block_on(
            _join(
                choices, chosen, stash, place, price, port, addresses, relays, mode, images,
                bandwidth, yes=yes,
            )
        )  # fmt: skip


@click.command()
@_DATA
@_MACHINE
def pause(data: Path | None, machine: str | None) -> None:
    """Take no new orders.

    Orders that run go on. `dbc resume` takes new ones again.
    """
    found = block_on(_edit(Choices.current(), data, machine, paused=True))
    say(f"machine {found.hex()[:12]} is paused")


@click.command()
@_DATA
@_MACHINE
def resume(data: Path | None, machine: str | None) -> None:
    """Take new orders again."""
    found = block_on(_edit(Choices.current(), data, machine, paused=False))
    say(f"machine {found.hex()[:12]} takes new orders again")


@click.command()
@_DATA
@_MACHINE
@click.option("--until", type=quantity.SPAN, metavar="SPAN",
              help="Wait so long at most, such as 2h; ends with 1 when orders still run then.")  # fmt: skip
def drain(until: Seconds | None, data: Path | None, machine: str | None) -> None:
    """Take no new orders, and wait until those that run have ended.

    Then the machine may be switched off. Nobody's job is ended; Ctrl-C stops waiting, and the
    machine stays paused.
    """
    from deepbrain.cli.provider.drain import wait_drained

    block_on(wait_drained(Choices.current(), data, machine, until))


@click.command()
@_DATA
@_MACHINE
@click.option("--json", "as_json", is_flag=True, help="Print JSON; amounts in planck.")
def earnings(as_json: bool, data: Path | None, machine: str | None) -> None:
    """Show what a machine has earned.

    From the chain: what all its orders came to, those of the last day, and those that run.
    """
    from deepbrain.cli.provider.earned import read_earned, show_earned

    earned = block_on(read_earned(Choices.current(), data, machine))
    if as_json:
        emit(earned.to_json())
    else:
        show_earned(earned)


@click.command()
@_DATA
@_MACHINE
@click.option("--clear", is_flag=True, help="Also remove what is kept of its last orders.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def leave(data: Path | None, machine: str | None, clear: bool, yes: bool) -> None:
    """Withdraw this machine and get its bond back, with the stash's key.

    Only while nothing runs on it: `dbc drain` first. What is kept of the last orders, so that
    their renters can fetch it, stays in the machine's directory; --clear removes it.
    """
    choices = Choices.current()
    chosen = choices.chosen()
    if not yes:
        click.confirm("dbc: withdraw the machine from the network?", abort=True, err=True)
    if clear and machine is not None:
        raise UserError("--clear is for the machine of this directory; leave --machine away")
    found, bond = block_on(_leave(choices, chosen, data, machine))
    say(f"machine {found.hex()[:12]} has left; {quantity.dbc(bond)} of bond are back")
    if clear:
        from deepbrain.cli.provider.host import place_of

        block_on(_clear(place_of(data)))


@dataclass(frozen=True, slots=True)
class Images:
    """What `join` was told of images."""

    base: Path | None
    cache_bytes: int
    private_registries: bool


async def _join(
    choices: Choices, chosen: "Chosen", stash_name: str | None, place: "Place", price: MicroUsd,
    port: int, given: tuple[str, ...], relays: tuple[str, ...], mode: str, images: "Images",
    bandwidth: int, *, yes: bool,
) -> None:  # fmt: skip
    from dataclasses import replace

    from deepbrain.cli.keys import named
    from deepbrain.cli.provider import machine
    from deepbrain.provider.identity import AgentConfig, load_or_make_key
    from deepbrain.provider.inventory import dial_addresses, take_inventory

    say("trying which isolation works, and unpacking the base image")
    ready = await machine.make_ready(place, mode, images.base)
    for sentence in ready.sentences():
        say(sentence)
    controller, password = _unlock(chosen)
    stash_key = None if stash_name is None else named(stash_name)
    inventory = take_inventory(place.sandbox)
    capacity = replace(inventory.capacity(ready.gpus), bandwidth_mbit=bandwidth)
    try:
        addresses = dial_addresses(port, given)
    except ValueError as error:
        raise UserError(f"{error}; write --address 203.0.113.7 or 203.0.113.7:4001") from error
    listing = machine.Listing(
        load_or_make_key(place.agent),
        machine.hardware_of(inventory, capacity, ready.gpus),
        ready.isolation,
        ready.network,
        price,
        machine.address_record(addresses),
    )
    async with choices.client() as client:
        through = await _relays(client, relays, addresses)
        listing = replace(listing, address=machine.address_record(addresses, through))
        listing, capacity = await machine.while_rented(client, place, listing, capacity)
        owners = await _owners(client, stash_key, controller)
        if not await _is_listed(client, listing):
            await _agree(client, listing, owners.stash, yes=yes)
        await machine.set_controller(client, owners)
        if await machine.enlist(client, listing, owners):
            say(f"machine {listing.id.hex()} is bonded")
        config = AgentConfig(
            chain=choices.url, controller=_controller(chosen, place), port=port, capacity=capacity,
            genesis=client.genesis_hash, own=frozenset({owners.stash, controller.public}),
            addresses=addresses, relays=relays, image_cache_bytes=images.cache_bytes,
            private_registries=images.private_registries,
        )  # fmt: skip
        await _serve(client, listing, place, config, password, mode)


async def _relays(
    client: "Client", given: tuple[str, ...], addresses: tuple[str, ...]
) -> tuple[str, ...]:
    """The relays to list at once: those given, or those the node names, as far as they answer.

    Raises: UserError: one that is given is no URL.
    """
    from deepbrain.cli.provider.outside import usable_relays
    from deepbrain.client.client import is_relay_url
    from deepbrain.provider.attach import MAX_RELAYS, serves

    for url in given:
        if not is_relay_url(url):
            raise UserError(f"{url} is no relay's URL; write --relay http://203.0.113.5:9946")
    named = [url for url in given or await client.relays() if serves(url, addresses)]
    return await usable_relays(named[:MAX_RELAYS])


def _unlock(chosen: "Chosen") -> tuple[Keypair, str | None]:
    """The controller's key pair, and its password for the agent to open it with."""
    from deepbrain.cli.keys import read_passphrase, wallet

    if chosen.is_dev:
        return chosen.unlock(), None
    password = read_passphrase(f"Password of {chosen.name}")
    return wallet().unlock(chosen.name, password, dev=True), password


def _controller(chosen: "Chosen", place: "Place") -> str:
    """How the agent finds the controller's key: a copy, still sealed, that its user can read."""
    from deepbrain.cli.keys import wallet
    from deepbrain.provider.record import replace_file

    if chosen.is_dev:
        return chosen.name
    path = place.agent / "controller.json"
    replace_file(path, wallet().export_json(chosen.name).encode())
    path.chmod(0o600)
    return str(path)


async def _owners(client: "Client", named: "Chosen | None", controller: Keypair) -> "Owners":
    """Whose machine it is: that of the stash named, else of whom the controller acts for already."""
    from functools import cache

    from deepbrain.cli.provider.machine import Owners
    from deepbrain.pallets.machines import Machines

    if named is not None:
        return Owners(controller, named.account, cache(named.unlock))
    stash = await client.at().get(Machines.stash_of, controller.public)
    return Owners.alone(controller) if stash is None else Owners(controller, stash, None)


async def _is_listed(client: "Client", listing: "Listing") -> bool:
    from deepbrain.pallets.machines import Machines

    return await client.at().get(Machines.machines, listing.id) is not None


async def _agree(client: "Client", listing: "Listing", stash: AccountId, *, yes: bool) -> None:
    """Say what is held, and ask. Raises: Abort."""
    from deepbrain.pallets.machines import Machines
    from deepbrain.primitives import ss58

    hardware = listing.hardware
    units = int(hardware.units())
    each = await client.constant(Machines, "gpu_stake" if hardware.gpus else "core_stake")
    fee = await client.constant(Machines, "bond_fee")
    say(
        f"{units} units at {quantity.usd(listing.price)} per hour, isolation "
        f"{listing.isolation.name.lower().replace('_', '-')}, network "
        f"{listing.network.name.lower()}; holds {quantity.dbc(each * units)} "
        f"of {ss58.encode(stash)} as bond, fee {quantity.dbc(fee)}"
    )
    if not yes:
        click.confirm("dbc: bond this machine?", abort=True, err=True)


async def _serve(
    client: "Client", listing: "Listing", place: "Place", config: "AgentConfig",
    password: str | None, mode: str,
) -> None:  # fmt: skip
    """Run the agent until a signal comes, and say who can reach it."""
    from deepbrain.cli.provider.machine import (
        agent_program,
        closed_environment,
        passphrase_file,
        wait_served,
    )
    from deepbrain.cli.provider.outside import reach_sentences
    from deepbrain.cli.supervise import Child, Post
    from deepbrain.provider.identity import save_config

    save_config(place.agent, config)
    place.give_to_agent(*place.agent.iterdir())
    program = agent_program(place, "the agent", place.sandbox / "agent.log", mode)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    with passphrase_file(password) as environment:
        closed = closed_environment(config.addresses)
        program = replace(program, env={**program.env, **environment, **closed})
        child = Child(program, lambda: Post(place.sandbox).remember([child]))
        keeping = asyncio.create_task(child.keep())
        stopped = asyncio.create_task(stopping.wait())
        try:
            served = asyncio.create_task(wait_served(client, listing.id, SERVE_SECONDS))
            await asyncio.wait({served, keeping, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if served.done() and not keeping.done():
                with contextlib.suppress(UserError):
                    served.result()
                async for sentence in reach_sentences(
                    listing.id, config.addresses, listing.address.relays
                ):
                    say(sentence)
                say(f"serving; Ctrl-C ends it (jobs go on), log in {program.log}")
            await asyncio.wait({keeping, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
        finally:
            await child.stop()
            for task in (served, keeping, stopped):
                task.cancel()
            await asyncio.gather(served, keeping, stopped, return_exceptions=True)
    say("stopped serving; the machine stays listed: `dbc pause` or `dbc leave` take it off")


async def _clear(place: "Place") -> None:
    from deepbrain.cli.provider import machine

    await machine.clear(place)
    say(f"nothing of its orders is left in {place.sandbox}")


async def _edit(
    choices: Choices, data: Path | None, machine: str | None, *, paused: bool
) -> MachineId:
    from deepbrain.cli.provider.here import choices_here, edit_pause, machine_named, signer

    unlock = signer(choices)
    async with choices_here(choices, data).client() as client:
        found = await machine_named(client, data, machine)
        await edit_pause(client, found, unlock, paused=paused)
    return found


async def _leave(
    choices: Choices, chosen: "Chosen", data: Path | None, machine: str | None
) -> tuple[MachineId, int]:
    from deepbrain.cli.provider.here import choices_here, machine_named
    from deepbrain.pallets.machines import Machines, MachineUnbonded

    async with choices_here(choices, data).client() as client:
        found = await machine_named(client, data, machine)
        receipt = await client.submit(Machines.unbond.make(machine=found), chosen.unlock())
        return found, int(receipt.one(MachineUnbonded).bond)

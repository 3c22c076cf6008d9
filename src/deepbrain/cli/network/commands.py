"""`dbc network`: a whole network on this machine."""

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deepbrain.cli.chain import block_on
from deepbrain.cli.extras import ensure_installed
from deepbrain.cli.failure import UserError
from deepbrain.cli.home import forget_network, home, write_json
from deepbrain.cli.network.local import (
    READY_SECONDS,
    Network,
    Place,
    bring_down,
    detach,
    node_program,
    supervising,
)
from deepbrain.cli.network.ports import Ports
from deepbrain.cli.output import emit, say, table

if TYPE_CHECKING:
    from deepbrain.cli.provider.machine import Ready
    from deepbrain.client import Client

RENTER: Final = "//Alice"
PROVIDER: Final = "//Bob"
UNIT_DISK: Final = 4 << 30
"""Bytes per core of a local provider: ended orders keep theirs for a day."""
PRICE: Final = 20_000
"""µUSD per core and hour of a local provider."""
_DIR = click.option("--dir", "directory", type=click.Path(path_type=Path),
                    help="Where it lives (default: ~/.dbc/network).")  # fmt: skip


@click.group()
def network() -> None:
    """Run a whole network on this machine.

    A chain with dev keys, and providers that really run jobs: to try things, and for `make demo`.
    Its money is worth nothing.
    """


@network.command()
@click.option("--providers", type=click.IntRange(0, 16), default=1, show_default=True)
@click.option(
    "--validators",
    type=click.IntRange(0, 16),
    default=0,
    help="Have so many validators agree on blocks under CometBFT. [default: one node alone]",
)
@_DIR
@click.option(
    "--mode",
    type=click.Choice(("auto", "gvisor", "gvisor-own", "process")),
    default="auto",
    show_default=True,
    help="Isolation; auto is the best that works.",
)
@click.option("--rpc-port", type=click.IntRange(1, 65535), help="Port of the node.")
@click.option(
    "--image",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Base image (default: the one that is here, or one made now).",
)
@click.option("-d", "--detach", "away", is_flag=True, help="Leave it running.")
@click.option("--json", "as_json", is_flag=True, help="With --detach: print where things are.")
def up(
    providers: int, validators: int, directory: Path | None, mode: str, rpc_port: int | None,
    image: Path | None, away: bool, as_json: bool,
) -> None:  # fmt: skip
    """Start a node and providers, and wait until they can be rented.

    What dies is started again. Without --detach, Ctrl-C stops everything.

    \b
    dbc network up --detach --providers 2
    dbc network up --validators 4          as a real chain: three of four agree
    dbc gpus
    dbc run --for 5m -- python3 -c 'print(6 * 7)'
    """
    place = Place.chosen(directory)
    ensure_installed("node", "provider")
    if away:
        from deepbrain.sandbox.programs import get_programs

        # Whoever waits for it here may see what takes minutes, the first time.
        if providers:
            block_on(get_programs(say, gvisor=mode != "process"))
        if validators:
            block_on(_get_cometbft())
        argv = [sys.executable, "-m", "deepbrain.cli.main", "network", "up",
                "--providers", str(providers), "--validators", str(validators), "--dir", str(place.path), "--mode", mode]  # fmt: skip
        argv += [] if rpc_port is None else ["--rpc-port", str(rpc_port)]
        argv += [] if image is None else ["--image", str(image)]
        seconds = READY_SECONDS + 60 * providers + 10 * validators
        _show(block_on(detach(place, argv, seconds)), as_json=as_json)
        return
    with supervising(place), Ports() as ports:
        node = ports.for_node(rpc_port)
        block_on(_run(place, providers, validators, mode, node, ports, image))


@network.command()
@_DIR
def down(directory: Path | None) -> None:
    """Stop it. The chain stays on disk for the next `up`; jobs end, and their files go."""
    place = Place.chosen(directory)
    if block_on(_down(place)):
        say("stopped")
    else:
        say(f"no network runs in {place.path}")


@network.command()
@_DIR
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(directory: Path | None, as_json: bool) -> None:
    """Show what runs, and where."""
    place = Place.chosen(directory)
    record = place.ready()
    if record is None:
        raise UserError(f"no network runs in {place.path}; start one with `dbc network up`")
    if record["validators"]:
        _add_heights(record)
    _show(record, as_json=as_json)


async def _get_cometbft() -> None:
    """CometBFT, built once where it is not here."""
    from deepbrain.node.comet.program import get_cometbft

    await get_cometbft(say)


def _add_heights(record: dict[str, Any]) -> None:
    """How far each validator's node is, now."""
    from deepbrain.cli.network.validators import heights

    found = block_on(heights([one["node"] for one in record["validators"]]))
    for one, height in zip(record["validators"], found, strict=True):
        one["block"] = height


async def _down(place: Place) -> bool:
    there_was_one = await bring_down(place, say)
    if not there_was_one:
        await _clear(place)
    return there_was_one


async def _clear(place: Place) -> None:
    """Jobs of a network that is gone would run on until their latest end."""
    from deepbrain.cli.provider import machine

    for directory in sorted(place.path.glob("provider-*")):
        with contextlib.suppress(UserError):
            await machine.clear(machine.Place(directory))


def _show(record: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit(record)
        return
    say(f"the network runs: node {record['node']}, logs in {record['dir']}/logs")
    down_again = Place(Path(record["dir"])).command("down")
    say(f"rent with {record['renter']} (used by itself); stop with `{down_again}`")
    page = record["node"].replace("ws", "http", 1) + "/wallet"
    say(f"or sign with the wallet in your browser: {page}")
    for note in record["notes"]:
        say(note)
    if record["validators"]:
        table(
            "validators",
            ("validator", "node", "block"),
            [
                (
                    str(one["number"]),
                    one["node"],
                    "down" if one["block"] is None else str(one["block"]),
                )
                for one in record["validators"]
            ],
            "no validator",
        )
    rows = [
        (
            machine["machine"][:12],
            machine["isolation"],
            machine["network"],
            ", ".join(machine["addresses"]),
        )
        for machine in record["machines"]
    ]
    table("machines", ("machine", "isolation", "network", "addresses"), rows, "no machine")


async def _run(
    place: Place, providers: int, validators: int, mode: str, port: int, ports: Ports,
    image: Path | None,
) -> None:  # fmt: skip
    """Until a signal; or until something does not stay up."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    running = Network(place)
    try:
        nodes = await _start_nodes(running, place, validators, port, ports)
        await running.during(
            _until(stopping, _bring_up(running, place, providers, mode, nodes, image))
        )
        await running.during(_wait(stopping))
    finally:
        say("stopping")
        await running.stop()
        await _clear(place)
        forget_network(place.path)


async def _wait(stopping: asyncio.Event) -> None:
    await stopping.wait()


async def _until(stopping: asyncio.Event, work: Any) -> None:
    """`work` to its end, or until a signal came."""
    task, signalled = asyncio.ensure_future(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({task, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for pending in (task, signalled):
            pending.cancel()
        await asyncio.gather(task, signalled, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a network: the first one's URL, and those of the validators, if it has some."""

    url: str
    validators: list[str]


async def _start_nodes(
    running: Network, place: Place, validators: int, port: int, ports: Ports
) -> Nodes:
    relay = ports.for_relay()
    url = f"ws://127.0.0.1:{port}"
    if not validators:
        running.start(node_program(place, port, relay))
        return Nodes(url, [])
    from deepbrain.cli.network.validators import make_seats, seat_program

    await _get_cometbft()
    seats = make_seats(place, validators, port, ports)
    for seat in seats:
        running.start(seat_program(place, seat, seats, relay if seat is seats[0] else None))
    return Nodes(url, [seat.url for seat in seats])


async def _bring_up(
    running: Network, place: Place, providers: int, mode: str, nodes: Nodes, image: Path | None
) -> None:
    from deepbrain.cli.network.validators import heights
    from deepbrain.cli.provider import machine

    url = nodes.url
    places = [machine.Place(place.provider(number)) for number in range(1, providers + 1)]
    ready = [await machine.make_ready(each, mode, image) for each in places]
    async with await _connect(url) as client:
        # A machine that cannot isolate strangers serves its own people alone: then the renter is one.
        isolated = all(able.mode == "gvisor" for able in ready)
        controller = PROVIDER if isolated else RENTER
        machines = [
            await _provider(running, client, url, each, number, providers, mode, able, controller)
            for number, (each, able) in enumerate(zip(places, ready, strict=True), 1)
        ]
        for entry in machines:
            await machine.wait_served(client, entry.pop("id"), READY_SECONDS)
        reached = await heights(nodes.validators)
        record = {
            "node": url,
            "genesis": str(client.genesis_hash),
            "dir": str(place.path),
            "pid": os.getpid(),
            "renter": RENTER,
            "machines": machines,
            "validators": [
                {"number": number, "node": each, "block": height}
                for number, (each, height) in enumerate(
                    zip(nodes.validators, reached, strict=True), 1
                )
            ],
            "notes": list(ready[0].sentences()) if ready else [],
        }
    write_json(place.record, record)
    write_json(home() / "network.json", record)
    _show(record, as_json=False)


async def _connect(url: str) -> "Client":
    from deepbrain.client import Client

    return await Client.connect(url, seconds=READY_SECONDS)


async def _provider(
    running: Network,
    client: "Client",
    url: str,
    place: Any,
    number: int,
    of: int,
    mode: str,
    able: "Ready",
    controller_uri: str,
) -> dict[str, Any]:
    """List one machine and start its agent."""
    from deepbrain.cli.provider import machine
    from deepbrain.primitives.keys import Keypair
    from deepbrain.primitives.units import MicroUsd
    from deepbrain.provider.identity import AgentConfig, load_or_make_key, save_config
    from deepbrain.provider.inventory import take_inventory

    stash = Keypair.from_uri(PROVIDER)
    controller = Keypair.from_uri(controller_uri)
    owners = machine.Owners(controller, stash.public, lambda: stash)
    await machine.set_controller(client, owners)
    key = load_or_make_key(place.agent)
    inventory = take_inventory(place.sandbox)
    capacity = machine.part_of(inventory.capacity(), of)
    capacity = replace(capacity, disk_bytes=min(capacity.disk_bytes, capacity.units * UNIT_DISK))
    udp = _udp_port(place)
    addresses = (f"127.0.0.1:{udp}",)
    config = AgentConfig(chain=url, controller=controller_uri, port=udp, capacity=capacity,
                         genesis=client.genesis_hash, addresses=addresses,
                         private_registries=True)  # fmt: skip
    save_config(place.agent, config)
    place.give_to_agent(*place.agent.iterdir())
    listing = machine.Listing(
        key,
        machine.hardware_of(inventory, capacity),
        able.isolation,
        able.network,
        MicroUsd(PRICE),
        machine.address_record(addresses, await client.relays()),
    )
    await machine.enlist(client, listing, owners)
    log = place.sandbox.parent / "logs" / f"provider-{number}.log"
    running.start(machine.agent_program(place, f"provider {number}", log, mode))
    return {
        "id": listing.id,
        "machine": listing.id.hex(),
        "isolation": able.mode,
        "network": able.network.name.lower(),
        "addresses": list(addresses),
        "data": str(place.sandbox),
    }


def _udp_port(place: Any) -> int:
    """The port the machine had before, while it is free; another one else."""
    import socket

    from deepbrain.provider.identity import AgentError, load_config

    wanted = 0
    with contextlib.suppress(AgentError):
        wanted = load_config(place.agent).port
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104 - only to see whether it is free
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError("no UDP port is free on this machine")

"""`dbc provider`: a host that serves by itself, installed once; and bonding it from elsewhere."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.extras import ensure_installed
from deepbrain.cli.failure import UserError
from deepbrain.cli.output import emit, say
from deepbrain.cli.provider.serving import DEFAULT_PORT
from deepbrain.primitives.units import Balance, MicroUsd

if TYPE_CHECKING:
    from deepbrain.cli.provider.host import Host
    from deepbrain.cli.provider.machine import Place

DEFAULT_METRICS: Final = "127.0.0.1:9464"

_ADDRESS = click.option("--address", "addresses", multiple=True, metavar="IP[:PORT]",
                        help="Where others reach it (default: its own addresses).")  # fmt: skip
_DISK = click.option("--disk", type=quantity.SIZE, metavar="SIZE",
                     help="Disk that tenants get in all, such as 200G (default: 80 % of what is free).")  # fmt: skip
_BANDWIDTH = click.option("--bandwidth", type=click.IntRange(0, 1 << 20), metavar="MBIT",
                          help="Mbit/s that tenants get in all, each way (default, and 0: no limit).")  # fmt: skip
_IMAGE_CACHE = click.option("--image-cache", type=quantity.SIZE, metavar="SIZE",
                            help="Disk for unpacked images, such as 50G (default: a tenth).")  # fmt: skip
_PRIVATE = click.option("--private-registries/--public-registries", default=None,
                        help="Whether images may come from registries in your own networks (default: no).")  # fmt: skip
_METRICS = click.option("--metrics", metavar="IP:PORT",
                        help=f"Where Prometheus may ask, or 'off' (default: {DEFAULT_METRICS}).")  # fmt: skip


@click.group()
def provider() -> None:
    """Have this host serve by itself.

    The host keeps a controller's key that can start, close and pause, and little money for fees; the
    stash, which holds the bond and is paid, stays where you keep your keys.

    \b
    sudo dbc provider install --stash ADDRESS            on the host
    dbc --wallet savings provider bond bond.json --price 0.02      where the stash's key is
    """


@provider.command()
@click.option("--stash", required=True, metavar="ADDRESS", help="Who holds the bond and is paid.")
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True,
              help="UDP port that renters dial.")  # fmt: skip
@_ADDRESS
@_DISK
@_BANDWIDTH
@_METRICS
@_IMAGE_CACHE
@_PRIVATE
@click.option(
    "--data", type=click.Path(path_type=Path), help="Where tenants lie (default: /var/lib/dbc)."
)
@click.option("--user", default=None, metavar="NAME", help="The agent's user (default: dbc).")
@click.option("--mode", type=click.Choice(("auto", "gvisor", "gvisor-own", "process")), default="auto",
              show_default=True, help="Isolation; auto is the best that works.")  # fmt: skip
@click.option("--image", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Base image to offer (default: one made of this machine's files).")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def install(
    stash: str, port: int, addresses: tuple[str, ...], disk: int | None, bandwidth: int | None,
    metrics: str | None, image_cache: int | None, private_registries: bool | None, data: Path | None,
    user: str | None, mode: str, image: Path | None, dry_run: bool,
) -> None:  # fmt: skip
    """Set this host up to serve at every boot. Needs root.

    Makes a system user, /etc/dbc, /var/lib/dbc and a systemd service; keys that are there already
    stay. At the end it names the file by which the stash's owner bonds the machine.
    """
    from deepbrain.cli.keys import account_of
    from deepbrain.cli.provider import hosting
    from deepbrain.cli.provider.host import DEFAULT_DATA, DEFAULT_USER, Host, installed
    from deepbrain.provider.identity import AgentConfig
    from deepbrain.provider.inventory import dial_addresses, take_inventory

    ensure_installed("provider")
    if os.geteuid() != 0 and not dry_run:
        raise UserError("installing changes the host: run this with sudo (or see --dry-run)")
    former = installed()
    if former is not None and data is not None and str(data.absolute()) != former.data:
        raise UserError(f"a provider is installed in {former.data}; `dbc provider uninstall` first")
    host = Host(
        data=str((data or Path(former.data if former else DEFAULT_DATA)).absolute()),
        user=user or (former.user if former else DEFAULT_USER),
        mode=mode,
    )
    choices = Choices.current()
    try:
        found = dial_addresses(port, addresses)
    except ValueError as error:
        raise UserError(f"{error}; write --address 203.0.113.7 or 203.0.113.7:4001") from error
    asked = _metrics_address(metrics)
    wanted = AgentConfig(
        chain=choices.url,
        controller=str(host.controller),
        port=port,
        addresses=found,
        capacity=replace(
            hosting.with_disk(take_inventory(Path(host.data)).capacity(), disk),
            bandwidth_mbit=bandwidth or 0,
        ),
        stash=account_of(stash),
        metrics=DEFAULT_METRICS if asked is None else asked,
        image_cache_bytes=image_cache or 0,
        private_registries=bool(private_registries),
    )
    block_on(hosting.install(choices, host, wanted, image, dry_run=dry_run))


@provider.command("set")
@_DISK
@_BANDWIDTH
@_ADDRESS
@_METRICS
@_IMAGE_CACHE
@_PRIVATE
def set_(
    disk: int | None, bandwidth: int | None, addresses: tuple[str, ...], metrics: str | None,
    image_cache: int | None, private_registries: bool | None,
) -> None:  # fmt: skip
    """Change the installed provider: its disk, bandwidth, addresses, metrics, images.

    While units are rented the disk stays as it is: `dbc drain` first. Less of it is declared at once;
    more of it takes the stash's key: a new bond.json is written for it.
    """
    from deepbrain.cli.provider import hosting
    from deepbrain.cli.provider.host import expect_installed
    from deepbrain.provider.inventory import dial_addresses

    asked = (disk, bandwidth, addresses or None, metrics, image_cache, private_registries)
    if all(one is None for one in asked):
        raise UserError("nothing to set; see `dbc provider set --help`")
    host = expect_installed()
    try:
        found = dial_addresses(host.place().load().port, addresses) if addresses else ()
    except ValueError as error:
        raise UserError(f"{error}; write --address 203.0.113.7 or 203.0.113.7:4001") from error
    changes = hosting.Changes(
        disk, bandwidth, found, _metrics_address(metrics), image_cache, private_registries
    )
    work = hosting.change(Choices.current(), host, changes)
    block_on(work)


@provider.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--price", type=quantity.USD, required=True, metavar="USD",
              help="What a unit (a core) costs per hour, such as 0.02.")  # fmt: skip
@click.option("--fund", type=quantity.DBC, default="5", show_default=True, metavar="DBC",
              help="What the controller gets for its fees, if it has less than 1 DBC.")  # fmt: skip
@click.option("--replace-controller", is_flag=True,
              help="Let this host's controller take the place of the one the stash has.")  # fmt: skip
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def bond(file: Path, price: MicroUsd, fund: Balance, replace_controller: bool, yes: bool) -> None:
    """Bond the machine whose host wrote FILE, with the stash's key.

    Run it where the stash's key is: that key never has to be on the host. Run it again with another
    price, or with the host's new file, to bring the offer up to date.
    """
    from deepbrain.cli.provider import hosting
    from deepbrain.cli.provider.bonding import read_request

    choices = Choices.current()
    chosen, request = choices.chosen(), read_request(file)
    if chosen.account != request.stash:
        raise UserError(
            f"the host names another stash, and not {chosen.name}; use that key with --wallet, or "
            f"install with --stash {chosen.address}"
        )
    work = hosting.bond(choices, request, chosen.unlock, price, fund,
                        replace_controller=replace_controller, yes=yes)  # fmt: skip
    block_on(work)


@provider.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> int:
    """Say how the installed provider stands. Ends with 1 while it does not serve."""
    from deepbrain.cli.provider.host import expect_installed
    from deepbrain.cli.provider.standing import read_standing, show

    standing = block_on(read_standing(Choices.current(), expect_installed()))
    if as_json:
        emit(standing.to_json())
    else:
        show(standing)
    return 0 if standing.serves else 1


@provider.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as more is logged.")
@click.option("-n", "--lines", type=click.IntRange(0, 10**6), default=200, show_default=True)
@click.option("--order", type=click.IntRange(0), help="Only lines about this order.")
def logs(follow: bool, lines: int, order: int | None) -> NoReturn:
    """Show what helper and agent logged."""
    from deepbrain.cli.provider.host import UNIT_NAME, expect_installed, has_systemd

    expect_installed()
    if not has_systemd():
        raise UserError(
            "there is no systemd here: the log goes where whoever runs `dbc provider run` sends it"
        )
    command = ["journalctl", "-u", UNIT_NAME, "-o", "cat", "-n", str(lines)]
    command += ["-f"] if follow else ["--no-pager"]
    command += [] if order is None else ["--grep", f" order={order} "]
    os.execvp(command[0], command)  # noqa: S606


@provider.command()
def run() -> NoReturn:
    """Serve, in the foreground: what the service runs.

    Where there is no systemd, have whatever supervises your services run it as root.
    """
    from deepbrain.cli.provider.host import expect_installed
    from deepbrain.cli.provider.machine import closed_environment, mode_environment

    host = expect_installed()
    place = host.place()
    config = place.load()  # what is wrong is said here, before anything is started
    argv = run_command(host, place)
    environment = dict(os.environ) | mode_environment(host.mode)
    environment |= closed_environment(config.addresses)
    os.execve(argv[0], argv, environment)  # noqa: S606


@provider.command()
def upgrade() -> None:
    """Have a newly installed release take over; jobs go on.

    Install the release first (`pip install --upgrade`, or `git pull` in a checkout), then this.
    """
    from deepbrain.cli.provider import hosting
    from deepbrain.cli.provider.host import expect_installed

    block_on(hosting.upgrade(Choices.current(), expect_installed()))


@provider.command()
@click.option(
    "--purge", is_flag=True, help="Also remove the keys of machine and controller, and the user."
)
@click.option(
    "--force", is_flag=True, help="Though it is still bonded, or no node answers; keeps the keys."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def uninstall(purge: bool, force: bool, dry_run: bool, yes: bool) -> None:
    """Stop serving at boot and remove what was installed. Needs root.

    The machine must have left the network: `dbc leave` with the stash's key. With --force it may do so
    afterwards; its bond is held until then, and jobs that run here are lost.
    """
    from deepbrain.cli.provider import hosting
    from deepbrain.cli.provider.host import expect_installed
    from deepbrain.cli.provider.install import carry_out, removal_steps
    from deepbrain.cli.provider.machine import clear_now

    host = expect_installed()
    place = host.place()
    if force and purge:
        raise UserError("--force keeps the keys: purge when the machine has left the network")
    if not force:
        block_on(hosting.ensure_left(Choices.current(), place))
    if not (yes or dry_run):
        what = "with its keys" if purge else "and keep its keys"
        click.confirm(f"dbc: uninstall the provider of this host, {what}?", abort=True, err=True)
    carry_out(removal_steps(host, lambda: clear_now(place), purge=purge), dry_run=dry_run)
    if force and place.has_key:
        machine = place.machine_id.hex()[:12]
        say(
            f"if it is still bonded, get the bond back with the stash's key: dbc leave --machine {machine}"
        )


def run_command(host: "Host", place: "Place") -> list[str]:
    """The helper with its agent, as the service runs them."""
    python = sys.executable
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    password = Path(credentials) / host.password.name if credentials else host.password
    return [
        *(python, "-m", "deepbrain.provider.helper", "--data", str(place.sandbox)),
        *("--uid", str(place.uid), "--gid", str(place.gid), "--reach", str(host.etc)),
        *("--password", str(password), "--"),
        *(python, "-m", "deepbrain.provider.agent", "--data", str(place.agent)),
        *("--sandbox", str(place.sandbox), "--settings", str(host.etc)),
    ]


def _metrics_address(text: str | None) -> str | None:
    """Raises: UserError: it is no address."""
    from deepbrain.cli.provider.machine import address_record

    if text == "off":
        return ""
    if text is not None:
        address_record([text])
    return text

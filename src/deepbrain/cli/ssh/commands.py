"""`dbc ssh` and `ssh-config`: the system's own `ssh`, and how it finds an order."""

import os
import shutil
from pathlib import Path
from typing import Final, NoReturn

import click

from deepbrain.cli.chain import Choices
from deepbrain.cli.failure import UserError
from deepbrain.cli.output import say
from deepbrain.cli.renter.orders import ORDER, arguments
from deepbrain.cli.ssh.keys import PREFIX, SshFiles, config_block, ssh_files, ssh_options
from deepbrain.primitives.ids import OrderId

_CONFIG: Final = "~/.ssh/config"


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.argument("order", type=ORDER)
@click.argument("argv", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
def ssh(tty: bool, order: OrderId, argv: tuple[str, ...]) -> NoReturn:
    """Log in to a running order with `ssh`.

    \b
    dbc ssh 7                       a shell
    dbc ssh 7 -- 'ls | wc -l'       a command, run by the order's shell

    The image needs no SSH server. Exit codes are the command's, or 255. For `scp`, `rsync`, VS Code and
    all others see `dbc ssh-config`.
    """
    program = shutil.which("ssh")
    if program is None:
        raise UserError(
            "ssh is missing here; install the package openssh-client, "
            f"or use `dbc exec -it {order} sh`, which needs nothing"
        )
    options = [
        word
        for name, value in ssh_options(Choices.current(), ssh_files())
        for word in ("-o", f"{name}={value}")
    ]
    words = [*options, *(("-t",) if tty else ()), "--", f"{PREFIX}{order}", *arguments(argv)]
    os.execv(program, ["ssh", *words])  # noqa: S606 - words from us and from the caller, no shell


@click.command("ssh-config")
@click.option("--write", is_flag=True, help=f"Include it in {_CONFIG}, once for all orders.")
def ssh_config(write: bool) -> None:
    """Print what `ssh` needs to reach your orders.

    With it in ~/.ssh/config every tool that uses `ssh` reaches order 7 as the host dbc-7:

    \b
    ssh dbc-7
    scp model.npz dbc-7:
    rsync -a data/ dbc-7:data/
    ssh -L 8888:localhost:8888 dbc-7

    VS Code: "Connect to Host…", dbc-7. --node and --wallet before this command are kept in it.
    """
    choices, files = Choices.current(), ssh_files()
    block = config_block(choices, files)
    if not write:
        click.echo(block, nl=False)
        return
    files.config.write_text(block)
    config = Path(_CONFIG).expanduser()
    say(
        f"{_CONFIG} includes {files.config} now; `ssh {PREFIX}7` reaches order 7"
        if _include(config, files)
        else f"{files.config} is up to date, and {_CONFIG} includes it already"
    )


def _include(config: Path, files: SshFiles) -> bool:
    """Make the first line of a configuration include ours; whether it was not so before.

    First, because below a `Host` it would hold for that host only.
    """
    line = f'Include "{files.config}"\n'
    config.parent.mkdir(mode=0o700, exist_ok=True)
    found = config.read_text() if config.exists() else ""
    if line in found:
        return False
    new = config.with_name(f".{config.name}.dbc")
    new.touch(mode=0o600)
    if config.exists():
        new.chmod(config.stat().st_mode & 0o777)
    new.write_text(line + found)
    new.replace(config.resolve())
    return True

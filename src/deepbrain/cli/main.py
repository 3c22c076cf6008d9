"""The command `dbc`: which commands there are, by reader. No logic, and nothing heavy is imported.

The table holds each command's one-line help, so that `dbc --help` loads no command's module; a test
compares it with the command's own.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import click

from deepbrain.cli.failure import Failure, explain
from deepbrain.cli.output import say


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: the module that holds it, the name there, and its line in the help."""

    module: str
    name: str
    help: str


PANELS: Final[dict[str, dict[str, Entry]]] = {
    "Rent": {
        "gpus": Entry("renter.market", "gpus", "List what is offered, cheapest first."),
        "run": Entry("renter.run", "run", "Rent a machine and run a command on it."),
        "ps": Entry("renter.orders", "ps", "List your orders."),
        "attach": Entry("renter.orders", "attach", "Go on with an order where `run` left it."),
        "logs": Entry("renter.orders", "logs", "Print what an order's job printed."),
        "exec": Entry("renter.tenant", "exec_", "Run one more command in a running order."),
        "ssh": Entry("ssh.commands", "ssh", "Log in to a running order with `ssh`."),
        "ssh-config": Entry(
            "ssh.commands", "ssh_config", "Print what `ssh` needs to reach your orders."
        ),
        "forward": Entry(
            "ssh.forward", "forward", "Bring ports of a running order to this machine."
        ),
        "jupyter": Entry(
            "ssh.forward", "jupyter", "Start Jupyter in a running order, and bring it here."
        ),
        "cp": Entry("renter.tenant", "cp", "Copy files to or from a running or ended order."),
        "stop": Entry("renter.orders", "stop", "End an order now and settle it."),
        "extend": Entry("renter.orders", "extend", "Give an order more time, at today's price."),
        "bill": Entry("renter.orders", "bill", "Show what an order cost, to the unit."),
    },
    "Provide": {
        "doctor": Entry("doctor", "doctor", "Check what this machine can do."),
        "join": Entry("provider.serving", "join", "Offer this machine: bond, list, serve."),
        "pause": Entry("provider.serving", "pause", "Take no new orders."),
        "resume": Entry("provider.serving", "resume", "Take new orders again."),
        "drain": Entry(
            "provider.serving",
            "drain",
            "Take no new orders, and wait until those that run have ended.",
        ),
        "earnings": Entry("provider.serving", "earnings", "Show what a machine has earned."),
        "leave": Entry(
            "provider.serving",
            "leave",
            "Withdraw this machine and get its bond back, with the stash's key.",
        ),
        "provider": Entry("provider.commands", "provider", "Have this host serve by itself."),
    },
    "Validate": {
        "validate": Entry("validate.commands", "validate", "Be one of those who make the blocks."),
    },
    "Wallet": {
        "wallet": Entry("wallet", "wallet", "Make, list and use keys."),
    },
    "Network": {
        "network": Entry("network.commands", "network", "Run a whole network on this machine."),
        "export": Entry("export", "export", "Begin another chain with the state of one."),
        "replay": Entry("replay", "replay", "Execute every block again, and compare."),
    },
}

HIDDEN: Final = {
    "ssh-proxy": Entry(
        "ssh.proxy", "ssh_proxy", "Carry SSH between standard streams and an order."
    ),
}
"""For programs, not for people."""

_COMMANDS: Final = {name: entry for panel in PANELS.values() for name, entry in panel.items()}


class Panels(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name) or HIDDEN.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"deepbrain.cli.{entry.module}")
        command: click.Command = getattr(module, entry.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for panel, entries in PANELS.items():
            with formatter.section(panel):
                formatter.write_dl([(name, entry.help) for name, entry in entries.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            ctx.fail(f"there is no command {args[0]!r}; `dbc --help` lists them")


@click.group(cls=Panels, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deepbrain", prog_name="dbc")
@click.option(
    "--node",
    metavar="URL",
    envvar="DBC_NODE",
    help="WebSocket of a node. [env: DBC_NODE; default: the local network, else ws://127.0.0.1:9944]",
)
@click.option(
    "--wallet",
    "key",
    metavar="NAME",
    envvar="DBC_WALLET",
    help="Key to sign with: a wallet's name, or a dev key such as //Alice. [env: DBC_WALLET]",
)
@click.pass_context
def dbc(ctx: click.Context, node: str | None, key: str | None) -> None:
    """Rent GPUs by the second, or rent out your own.

    \b
    dbc network up --detach             a whole network on this machine
    dbc gpus                            what is offered, and its price
    dbc run --for 10m -- python3 train.py
    dbc bill 1                          what it cost, to the unit
    """
    ctx.obj = {"node": node, "key": key}


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line, and end the process with its exit code."""
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """The exit code of one command line; failures are one sentence on stderr."""
    try:
        outcome: Any = dbc.main(args, prog_name="dbc", standalone_mode=False)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.Abort as abort:
        if isinstance(abort.__context__, EOFError) and not sys.stdin.isatty():
            click.echo("\ndbc: nobody answers here; pass -y to agree beforehand", err=True)
            return 1
        click.echo("dbc: interrupted", err=True)
        return 130
    except click.ClickException as error:
        return _refuse(error)
    except BrokenPipeError:
        # Whoever read our output has enough of it; nothing may be flushed at exit either.
        sys.stdout = sys.stderr
        return 0
    except Exception as error:
        failure = explain(error)
        if failure is None:
            raise
        say(failure.sentence)
        return failure.code
    return outcome if isinstance(outcome, int) else 0


def _refuse(error: click.ClickException) -> int:
    """A wrong command line: what is wrong, and where the right form is written."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "dbc"
    message = error.format_message().rstrip(".")
    if isinstance(error, click.UsageError):
        message = f"{message[:1].lower()}{message[1:]}; see `{path} --help`"
    click.echo(f"dbc: {message}", err=True)
    return Failure.refused_code(path, error.exit_code)


if __name__ == "__main__":
    main()

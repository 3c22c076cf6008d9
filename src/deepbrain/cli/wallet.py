"""`dbc wallet`: keys, balances, transfers."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.failure import UserError
from deepbrain.cli.keys import account_of, read_passphrase, read_secret_file
from deepbrain.cli.keys import wallet as wallets
from deepbrain.cli.output import emit, say, table
from deepbrain.primitives import ss58
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import Balance

if TYPE_CHECKING:
    from deepbrain.frame.account import AccountInfo


@click.group()
def wallet() -> None:
    """Make, list and use keys.

    Keys are files in the form of polkadot{.js} wallets, below ~/.dbc/wallets: `export` one and
    import it in a wallet, or the other way round. Passwords and phrases are asked for, or read from
    the file that DBC_PASSPHRASE_FILE names; they never stand on a command line.
    """


@wallet.command()
@click.argument("name")
@click.option("--words", type=click.Choice(["12", "24"]), default="12", show_default=True)
def new(name: str, words: str) -> None:
    """Make a new key and show its phrase once.

    The phrase is the only backup: whoever has it has the money.
    """
    _ensure_free(name)
    password = read_passphrase("Choose a password", confirm=True)
    phrase = wallets().create(name, password, words=int(words))
    say("write these words down, on paper: they are the only backup and are not shown again")
    click.echo(phrase)
    say(f"{name} is {_address(wallets().account(name))}")


@wallet.command("import")
@click.argument("name")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--phrase-file",
    type=click.Path(path_type=Path),
    help="Read the phrase from here (such as /dev/stdin) instead of asking.",
)
def import_(name: str, file: Path | None, phrase_file: Path | None) -> None:
    """Keep a key that was made elsewhere.

    \b
    dbc wallet import main exported.json     a wallet's key file; its password is asked for
    dbc wallet import main                   a phrase, which is asked for
    """
    _ensure_free(name)
    if file is not None:
        text = _read(file)
        wallets().import_json(name, text, read_passphrase(f"Password of {file}"))
    else:
        pair = Keypair.from_phrase(_phrase(phrase_file))
        wallets().add(name, pair, read_passphrase("Choose a password", confirm=True))
    say(f"{name} is {_address(wallets().account(name))}")


@wallet.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Write here instead of to stdout.")
def export(name: str, out: Path | None) -> None:
    """Print a key's file as a wallet imports it, still sealed with its password."""
    text = wallets().export_json(name)
    if out is None:
        click.echo(text, nl=False)
        return
    with open(out, "x", opener=_private, encoding="utf-8") as file:
        file.write(text)


@wallet.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List the keys on this machine."""
    entries = wallets().entries()
    if as_json:
        emit(
            [
                {
                    "name": entry.name,
                    "address": None if entry.account is None else _address(entry.account),
                    "default": entry.is_default,
                    "encrypted": entry.is_encrypted,
                    "problem": entry.problem,
                }
                for entry in entries
            ]
        )
        return
    rows = [
        (
            ("* " if entry.is_default else "  ") + entry.name,
            entry.problem or (_address(entry.account) if entry.account is not None else ""),
        )
        for entry in entries
    ]
    table("", ("name", "address"), rows, "no key yet; make one with `dbc wallet new main`")


@wallet.command()
@click.argument("name")
def default(name: str) -> None:
    """Use this key where none is named."""
    wallets().choose_default(name)


@wallet.command()
@click.argument("name", required=False)
def address(name: str | None) -> None:
    """Print the address of a key (the default one's without a NAME)."""
    choices = Choices.current()
    click.echo(_address(account_of(name)) if name else choices.chosen().address)


@wallet.command()
@click.argument("who", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; amounts in planck.")
def balance(who: str | None, as_json: bool) -> None:
    """Show what an account (a NAME or an address) has, and what is held of it."""
    choices = Choices.current()
    account = account_of(who) if who else choices.chosen().account
    found = block_on(_read_account(choices, account))
    if as_json:
        emit(
            {
                "address": _address(account),
                "free": str(int(found.data.free)),
                "held": str(int(found.data.reserved)),
                "nonce": int(found.nonce),
            }
        )
        return
    click.echo(f"free  {quantity.dbc(found.data.free)}")
    click.echo(f"held  {quantity.dbc(found.data.reserved)}")


@wallet.command()
@click.argument("to")
@click.argument("amount", type=quantity.DBC)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def send(to: str, amount: Balance, yes: bool) -> None:
    """Send AMOUNT DBC to an address, or to a key of this machine."""
    choices = Choices.current()
    chosen, target = choices.chosen(), account_of(to)
    if not yes:
        click.confirm(
            f"Send {quantity.dbc(amount)} from {chosen.name} to {_address(target)}?",
            abort=True,
            err=True,
        )
    block = block_on(_send(choices, chosen.unlock(), target, amount))
    say(f"sent {quantity.dbc(amount)} to {_address(target)} in block {block}")


@wallet.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Delete a key for good: without its phrase, what it owns is lost."""
    account = wallets().account(name)
    if not yes:
        click.confirm(f"Delete {name} ({_address(account)}) for good?", abort=True, err=True)
    wallets().remove(name)


async def _read_account(choices: Choices, account: AccountId) -> "AccountInfo":
    from deepbrain.pallets.system import System

    async with choices.client() as client:
        found = await client.at().get(System.account, account)
    if found is None:
        raise UserError("the node does not know what an account is; it runs another chain")
    return found


async def _send(choices: Choices, pair: Keypair, target: AccountId, amount: Balance) -> int:
    from deepbrain.pallets.balances import Balances

    async with choices.client() as client:
        receipt = await client.submit(
            Balances.transfer_keep_alive.make(dest=target, value=amount), pair
        )
    return int(receipt.block.number)


def _ensure_free(name: str) -> None:
    """Before anybody is asked for a password."""
    if name in wallets().names():
        raise UserError(f"there is a key called {name} already; choose another name")


def _phrase(file: Path | None) -> str:
    if file is not None:
        return read_secret_file(file)
    answer: str = click.prompt("Phrase", hide_input=True, err=True)
    return answer


def _read(file: Path) -> bytes:
    from deepbrain.client.keystore import MAX_FILE_BYTES

    with file.open("rb") as source:
        return source.read(MAX_FILE_BYTES + 1)


def _private(path: str, flags: int) -> int:
    import os

    return os.open(path, flags, 0o600)


def _address(account: AccountId) -> str:
    return ss58.encode(account)

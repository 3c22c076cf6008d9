"""Which key signs, and how its password arrives: by prompt or by file, never on the command line."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from deepbrain.cli.failure import UserError
from deepbrain.cli.home import home, local_network, node_url
from deepbrain.client.keystore import Wallet
from deepbrain.primitives import ss58
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.keys import Keypair

PASSPHRASE_FILE: Final = "DBC_PASSPHRASE_FILE"  # noqa: S105 - its name, not it
_MAX_SECRET_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Chosen:
    """A key by its name, before anybody asked for its password."""

    name: str
    account: AccountId

    @property
    def is_dev(self) -> bool:
        return self.name.startswith("//")

    @property
    def address(self) -> str:
        return ss58.encode(self.account)

    def unlock(self) -> Keypair:
        """The key pair; asks for the password where there is one. Raises: InvalidKey, UserError."""
        if self.is_dev:
            return Keypair.from_uri(self.name)
        entry = next(entry for entry in wallet().entries() if entry.name == self.name)
        password = read_passphrase(f"Password of {self.name}") if entry.is_encrypted else ""
        return wallet().unlock(self.name, password, dev=True)


def wallet() -> Wallet:
    return Wallet(home() / "wallets")


def choose(name: str | None, node: str | None) -> Chosen:
    """The key named, else that of the local network where it is used, else the default wallet.

    Raises: UserError: there is none; InvalidKey.
    """
    chosen = name or _renter_of_local_network(node) or wallet().default()
    if chosen is None:
        raise UserError(
            "which key? make one with `dbc wallet new main`, or name one with --wallet"
            if not wallet().names()
            else "which key? name one with --wallet, or choose with `dbc wallet default NAME`"
        )
    return named(chosen)


def named(name: str) -> Chosen:
    """A wallet's key, or a dev key such as `//Alice`. Raises: InvalidKey, UserError."""
    if name.startswith("//") and "///" not in name:
        return Chosen(name, Keypair.from_uri(name).public)
    if "/" in name or " " in name:
        raise UserError(
            "a key is named, never spelled out: its phrase must not stand on a command line; "
            "use `dbc wallet import`"
        )
    return Chosen(name, wallet().account(name))


def account_of(text: str) -> AccountId:
    """An account by its address, its wallet's name or a dev key's. Raises: InvalidKey."""
    if text.startswith("//") or text in wallet().names():
        return named(text).account
    return ss58.decode(text)


def read_passphrase(label: str, *, confirm: bool = False) -> str:
    """From `DBC_PASSPHRASE_FILE`, else from the terminal. Raises: UserError: neither is there."""
    path = os.environ.get(PASSPHRASE_FILE)
    if path:
        return read_secret_file(Path(path))
    if not _has_terminal():
        raise UserError(f"there is no terminal to ask on; set {PASSPHRASE_FILE} to a file with it")
    answer: str = click.prompt(label, hide_input=True, confirmation_prompt=confirm, err=True)
    return answer


def read_secret_file(path: Path) -> str:
    """The first line of a file, which may be `/dev/fd/N`. Raises: UserError."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_SECRET_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read; make it a text file that you can read") from error
    return text.splitlines()[0].strip() if text.strip() else ""


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _renter_of_local_network(node: str | None) -> str | None:
    network = local_network()
    if network is None or network.get("node") != node_url(node):
        return None
    renter = network.get("renter")
    return str(renter) if renter is not None else None

"""Where `dbc` keeps its things, and which node a command talks to.

    ~/.dbc/wallets/          keystore files
    ~/.dbc/runs/             journals of runs, see `journal`
    ~/.dbc/network.json      the network on this machine that was started last

`DBC_HOME` moves all of it.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

from deepbrain.cli.failure import UserError

DEFAULT_NODE: Final = "ws://127.0.0.1:9944"


def home() -> Path:
    """The directory, made private if it is not there yet. Raises: UserError."""
    path = Path(os.environ.get("DBC_HOME") or Path.home() / ".dbc")
    return private_directory(path)


def private_directory(path: Path) -> Path:
    """Raises: UserError: it cannot be made."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be made ({(error.strerror or 'unknown reason').lower()}); "
            "set DBC_HOME to a directory you can write"
        ) from error
    return path


def write_json(path: Path, value: Any) -> None:
    """Replace a file, so that a reader sees the old or the new one, whole and on disk."""
    from deepbrain.provider.record import replace_file

    replace_file(path, json.dumps(value, indent=2).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """`None` where there is no file. Raises: UserError: it is not what we wrote."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged; remove it and try again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged; remove it and try again")
    return value


def local_network() -> dict[str, Any] | None:
    """The record of the network on this machine, running or not."""
    return read_json(home() / "network.json")


def forget_network(directory: Path) -> None:
    """Take the record away that the network in `directory` left; that of another one stays."""
    record = local_network()
    if record is not None and record.get("dir") == str(directory):
        (home() / "network.json").unlink(missing_ok=True)


def node_url(chosen: str | None) -> str:
    """`--node` or `DBC_NODE`, else the local network's, else the default port of this machine."""
    if chosen:
        return chosen
    network = local_network()
    return str(network["node"]) if network is not None and "node" in network else DEFAULT_NODE

"""What `dbc doctor` asks of a host that runs a node. Nothing is changed, and no secret is read out."""

import json
import os
import resource
import shutil
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from deepbrain.cli import quantity
from deepbrain.cli.validate.place import NODE_KEY, SETTINGS, SIGN_STATE, VALIDATOR_KEY
from deepbrain.sandbox.checks import Finding

LEAST_FREE: Final = 20 << 30
LEAST_FILES: Final = 8192
"""Every client is a descriptor, and so are CometBFT's tables and peers."""
DEFAULT_P2P: Final = "0.0.0.0:26656"
CONNECT_SECONDS: Final = 2.0


def node_checks(data: Path) -> Iterator[Finding]:
    """Findings about a node's directory and the host it is on."""
    yield _cometbft()
    yield _keys(data)
    yield _sign_state(data)
    yield _disk(data)
    yield _files()
    yield _port(data)


def _cometbft() -> Finding:
    from deepbrain.node.comet.program import VERSION, find_cometbft
    from deepbrain.node.errors import NodeError

    try:
        return Finding("CometBFT", ok=True, detail=f"{VERSION} at {find_cometbft()}")
    except NodeError as error:
        return Finding("CometBFT", False, "not here, or of another version", str(error))


def _keys(data: Path) -> Finding:
    """Whether the keys are there, and nobody else's to read."""
    open_to_others = []
    for name in (VALIDATOR_KEY, NODE_KEY):
        path = data / name
        try:
            mode = path.stat().st_mode & 0o777
        except FileNotFoundError:
            hint = f"make them with `dbc validate init --data {data}`, or restore your backup"
            return Finding("node keys", False, f"{path} is missing", hint)
        except OSError as error:
            hint = "run this as the node's user"
            return Finding("node keys", False, f"{path}: {(error.strerror or '').lower()}", hint)
        if mode & 0o077:
            open_to_others.append(f"{path} is {mode:04o}")
    hint = "make them 0600 with chmod, and think of who may have read them"
    detail = ", ".join(open_to_others) or "there, and nobody else can read them"
    return Finding("node keys", not open_to_others, detail, hint)


def _sign_state(data: Path) -> Finding:
    """Whether the validator remembers what it signed."""
    path = data / SIGN_STATE
    try:
        height = int(json.loads(path.read_bytes())["height"])
    except FileNotFoundError:
        hint = "start the node only when no other one has run with this key for some minutes"
        return Finding("sign state", False, f"{path} is missing", hint)
    except (OSError, ValueError, KeyError, TypeError):
        hint = "never copy one from a backup; if the key has been silent for minutes, remove it"
        return Finding("sign state", False, f"{path} cannot be read", hint)
    detail = f"last signed block {height}" if height else "has signed nothing yet"
    return Finding("sign state", ok=True, detail=detail)


def _disk(data: Path) -> Finding:
    # Where the directory is not made yet, its file system is that of the nearest one above.
    there = next((path for path in (data, *data.absolute().parents) if path.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    detail = f"{quantity.size(free)} free at {there}"
    return Finding("node disk", free >= LEAST_FREE, detail, "a node that has no room stops: 20 GiB")


def _files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = hard == resource.RLIM_INFINITY
    detail = "no limit" if endless else f"{hard} at most, in this shell"
    hint = f"allow {LEAST_FILES} or more: LimitNOFILE= of the service, or ulimit -n"
    return Finding("open files", endless or hard >= LEAST_FILES, detail, hint)


def _port(data: Path) -> Finding:
    """Whether peers can come in, or could once the node runs."""
    name, place = "p2p port", p2p_place(data)
    host, _, port_text = place.rpartition(":")
    host, port = host.strip("[]"), int(port_text)
    loopback = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    answers = _answers(loopback, port)
    if is_running(data):
        detail = f"{place} {'answers' if answers else 'does not answer'}, asked from this host"
        hint = "CometBFT is starting, or has ended: see the node's log"
        return Finding(name, answers, detail, hint)
    if answers:
        hint = "end it, or choose another port with --p2p"
        return Finding(name, False, f"{place} is taken by another program, the node is down", hint)
    return Finding(name, ok=True, detail=f"{place} is free, the node is down")


def p2p_place(data: Path) -> str:
    """Where CometBFT listens, by its settings; the default where the node has not run yet."""
    try:
        settings: Any = tomllib.loads((data / SETTINGS).read_text())
        place = str(settings["p2p"]["laddr"]).removeprefix("tcp://")
        if 0 < int(place.rpartition(":")[2]) < 1 << 16:
            return place
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return DEFAULT_P2P


def is_running(data: Path) -> bool:
    """Whether a node serves CometBFT from this directory."""
    from deepbrain.node.comet.home import SOCKET

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            # By a descriptor: the path may be longer than an address can be.
            directory = os.open(data / "comet", os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return False
        try:
            probe.connect(f"/proc/self/fd/{directory}/{SOCKET}")
        except OSError:
            return False
        finally:
            os.close(directory)
    return True


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS):
            return True
    except OSError:
        return False

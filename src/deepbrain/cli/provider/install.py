"""What `dbc provider install` changes on a host, one step after the other; and what `uninstall` takes back.

A step is told before it is done, `--dry-run` tells and does nothing. Each may be repeated: what is there
already stays, the keys above all.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepbrain.cli.failure import UserError
from deepbrain.cli.output import say
from deepbrain.cli.provider import unit
from deepbrain.cli.provider.host import CREDENTIAL, UNIT_NAME, UNITS, Host, has_systemd
from deepbrain.client.keystore import encrypt
from deepbrain.primitives.keys import Keypair, generate_phrase
from deepbrain.provider.identity import AgentConfig, load_or_make_key, save_config

_ETC_MODE: Final = 0o750
_READABLE: Final = 0o640
_ROOT_ALONE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Step:
    """One change: what it is, what is written or run, and how."""

    what: str
    shows: str
    do: Callable[[], None]


def carry_out(steps: Iterator[Step], *, dry_run: bool) -> None:
    """Tell each step, and do it unless it is a dry run. Raises: UserError; OSError."""
    for step in steps:
        say(f"{'would ' if dry_run else ''}{step.what}")
        for line in step.shows.strip().splitlines() if dry_run else ():
            say(f"  {line}")
        if not dry_run:
            step.do()


def prepare_steps(host: Host) -> Iterator[Step]:
    """User, directories and keys: what must be there before the isolation can be tried."""
    if not _has_user(host.user):
        command = (
            *("useradd", "--system", "--user-group", "--no-create-home"),
            *("--home-dir", host.data, "--shell", "/usr/sbin/nologin", host.user),
        )
        yield Step(f"make the system user {host.user}", " ".join(command), lambda: _run(*command))
    yield Step(
        f"make {host.etc} and {host.data}",
        f"{host.etc} 0750 root:{host.user}\n{host.data} 0711 root:root\n"
        f"{host.data}/agent 0700 {host.user}:{host.user}, with the machine's key",
        lambda: _make_directories(host),
    )
    if not host.controller.exists() or not host.password.exists():
        yield Step(
            f"make a controller's key in {host.controller}",
            f"{host.controller} 0640 root:{host.user}, sealed\n"
            f"{host.password} 0600 root:root, its password",
            lambda: _make_controller(host),
        )


def write_request(host: Host, text: str) -> None:
    """What the stash's owner takes along; no secret."""
    _write(host.bond, text, 0o644, 0)


def settings_step(host: Host, config: AgentConfig) -> Step:
    return Step(
        f"write {host.etc}/agent.json and {host.etc}/provider.json",
        f"node {config.chain}, UDP port {config.port}, addresses {', '.join(config.addresses)}, "
        f"{config.capacity.units} units, {config.capacity.disk_bytes >> 30} GiB of disk for tenants",
        lambda: _save(host, config),
    )


def service_steps(host: Host, *, command: tuple[str, ...]) -> Iterator[Step]:
    """The systemd unit, written and started; where there is no systemd, nothing."""
    if not has_systemd():
        return
    path = UNITS / UNIT_NAME
    text = unit_text(host, command)
    if not path.exists() or path.read_text() != text:
        yield Step(f"write {path}", text, lambda: _write_unit(path, text))
    yield Step(
        "start it now and at each boot",
        f"systemctl enable {UNIT_NAME}\nsystemctl restart {UNIT_NAME}",
        _start_service,
    )


def unit_text(host: Host, command: tuple[str, ...]) -> str:
    named = ("DBC_RUNSC", "DBC_TOOL", "DBC_ETC")
    environment = {name: os.environ[name] for name in named if name in os.environ}
    return unit.text(command, (CREDENTIAL, host.password), environment)


def removal_steps(host: Host, clear: Callable[[], None], *, purge: bool) -> Iterator[Step]:
    """End the service and forget the host; with `purge` the keys, the data and the user as well."""
    path = UNITS / UNIT_NAME
    if has_systemd() and path.exists():
        yield Step(
            "stop the service and take its unit away",
            f"systemctl disable --now {UNIT_NAME}\nrm {path}\nsystemctl daemon-reload",
            lambda: _remove_service(path),
        )
    yield Step(f"remove what is kept of orders in {host.data}", "", clear)
    if not purge:
        yield Step(
            f"remove {host.etc}/provider.json (keys and data stay; --purge removes them)",
            f"rm {host.etc}/provider.json",
            lambda: (host.etc / "provider.json").unlink(missing_ok=True),
        )
        return
    yield Step(
        f"remove {host.etc} and {host.data}, the machine's and the controller's keys with them",
        f"rm -r {host.etc} {host.data}",
        lambda: _purge(host),
    )
    if _has_user(host.user):
        yield Step(
            f"remove the user {host.user}",
            f"userdel {host.user}",
            lambda: _run("userdel", host.user),
        )


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _make_directories(host: Host) -> None:
    place = host.place()
    if place.uid == 0:
        raise UserError("the agent must not be root; name another --user")
    host.etc.mkdir(parents=True, exist_ok=True)
    os.chown(host.etc, 0, place.gid)
    host.etc.chmod(_ETC_MODE)
    place.make()
    place.sandbox.chmod(0o711)
    load_or_make_key(place.agent)
    place.give_to_agent(*place.agent.iterdir())


def _make_controller(host: Host) -> None:
    """A key of its own for this host: it needs no backup, the stash can name another at any time."""
    password = secrets.token_urlsafe(32)
    pair = Keypair.from_phrase(generate_phrase(24))
    _write(host.password, password + "\n", _ROOT_ALONE, 0)
    _write(host.controller, encrypt(pair, password, name="controller"), _READABLE, host.place().gid)


def _save(host: Host, config: AgentConfig) -> None:
    save_config(host.etc, config)
    host.save()
    for name in ("agent.json", "provider.json"):
        path = host.etc / name
        os.chown(path, 0, host.place().gid)
        path.chmod(_READABLE)


def _write(path: Path, text: str, mode: int, gid: int) -> None:
    """Replace a file of root's by rename, never readable by more than it will be."""
    partial = path.with_name(f".{path.name}.new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _ROOT_ALONE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchown(descriptor, 0, gid)
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)


def _write_unit(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _run("systemctl", "daemon-reload")


def _start_service() -> None:
    _run("systemctl", "enable", "--quiet", UNIT_NAME)
    _run("systemctl", "restart", UNIT_NAME)


def _remove_service(path: Path) -> None:
    _run("systemctl", "disable", "--now", "--quiet", UNIT_NAME)
    path.unlink(missing_ok=True)
    _run("systemctl", "daemon-reload")


def _purge(host: Host) -> None:
    """Only what is ours: the data may lie in a directory that holds more."""
    data = Path(host.data)
    for name in ("agent", "empty", "images", "incoming", "tenants"):
        shutil.rmtree(data / name, ignore_errors=not (data / name).exists())
    (data / "sandbox.lock").unlink(missing_ok=True)
    for name in ("agent.json", "bond.json", "controller.json", CREDENTIAL, "provider.json"):
        (host.etc / name).unlink(missing_ok=True)
    for directory in (data, host.etc):
        with contextlib.suppress(OSError):  # something of somebody else's is in it
            directory.rmdir()


def _run(*command: str) -> None:
    """Raises: UserError: the program is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"the program {command[0]} is missing; install it and try again") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"{' '.join(command)}: {said[-1] if said else 'it failed'}")

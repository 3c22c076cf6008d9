"""What `ssh` needs to know to reach an order, and the keys for it.

    ~/.dbc/ssh/host_ed25519    the key that our own end of each connection shows
    ~/.dbc/ssh/id_ed25519      the only key it lets in
    ~/.dbc/ssh/known_hosts     the first one's public half, as `ssh` wants it
    ~/.dbc/ssh/config          what `dbc ssh-config --write` includes
    ~/.dbc/ssh/*.sock          gateways that run, see `gateway`

Both keys never leave this machine: SSH ends here, and the way on is a stream of our own.
"""

import contextlib
import fcntl
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepbrain.cli.chain import Choices
from deepbrain.cli.home import home, private_directory

PREFIX: Final = "dbc-"
"""`ssh dbc-7` is order 7."""

_ALIAS: Final = "dbc"
"""Every order has the same host key: it is this machine's own."""


@dataclass(frozen=True, slots=True)
class SshFiles:
    """Raises of every use: OSError."""

    directory: Path

    @property
    def host_key(self) -> Path:
        return self.directory / "host_ed25519"

    @property
    def client_key(self) -> Path:
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def config(self) -> Path:
        return self.directory / "config"

    @property
    def log(self) -> Path:
        """Faults of gateways, which have no terminal."""
        return self.directory / "gateway.log"

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Alone among all processes of this user; the lock's descriptor, which a fork shares."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def ssh_files() -> SshFiles:
    """The files, with both keys made. Raises: UserError, OSError."""
    files = SshFiles(private_directory(home() / "ssh"))
    if not files.known_hosts.exists():
        with files.locked():
            if not files.known_hosts.exists():
                _make_keys(files)
    return files


def _make_keys(files: SshFiles) -> None:
    import asyncssh

    client, host = (asyncssh.generate_private_key("ssh-ed25519", comment="dbc") for _ in range(2))
    _write_private(files.client_key, client.export_private_key("openssh"))
    _write_private(files.host_key, host.export_private_key("openssh"))
    line = b" ".join((_ALIAS.encode(), *host.export_public_key("openssh").split()[:2]))
    _write_private(files.known_hosts, line + b"\n")  # last: it says that all are there


def _write_private(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    new.replace(path)


def ssh_options(choices: Choices, files: SshFiles) -> list[tuple[str, str]]:
    """Options of `ssh_config` for every order, as a file or `ssh -o` takes them."""
    return [
        ("ProxyCommand", f"{_command(choices)} ssh-proxy '%h'"),
        ("User", "root"),
        ("HostKeyAlias", _ALIAS),
        ("UserKnownHostsFile", _path(files.known_hosts)),
        ("StrictHostKeyChecking", "yes"),
        ("CheckHostIP", "no"),
        ("UpdateHostKeys", "no"),
        ("IdentityFile", _path(files.client_key)),
        ("IdentitiesOnly", "yes"),
        ("IdentityAgent", "none"),
        ("PreferredAuthentications", "publickey"),
        # The bytes are sealed once more on their way: the cheapest cipher is the best one here.
        ("Ciphers", "^aes128-gcm@openssh.com"),
        ("ForwardAgent", "no"),
        ("ForwardX11", "no"),
    ]


def config_block(choices: Choices, files: SshFiles) -> str:
    lines = [f"Host {PREFIX}*"]
    lines += [f"    {name} {value}" for name, value in ssh_options(choices, files)]
    return "\n".join(lines) + "\n"


def _command(choices: Choices) -> str:
    """How the user's shell starts this very `dbc`, whatever its path and environment are then.

    -P: a directory called deepbrain where somebody stands must not be run.
    """
    words = [sys.executable, "-P", "-m", "deepbrain.cli.main"]
    if os.environ.get("DBC_HOME"):
        words = ["env", f"DBC_HOME={home().resolve()}", *words]
    if choices.node:
        words += ["--node", choices.node]
    if choices.key:
        words += ["--wallet", choices.key]
    return shlex.join(words).replace("%", "%%")


def _path(path: Path) -> str:
    return '"' + str(path).replace("%", "%%") + '"'

"""The provider that `dbc provider install` sets up on a host: where everything of it lies.

    /etc/dbc/provider.json      data directory, user, isolation
    /etc/dbc/agent.json         the agent's settings
    /etc/dbc/controller.json    the controller's key, sealed
    /etc/dbc/controller.password        its password: root alone
    /etc/dbc/bond.json          what the stash's owner needs to bond the machine; no secret
    /var/lib/dbc/               tenants, images, the machine's key

`DBC_ETC` names another directory than `/etc/dbc`.
"""

import json
import os
import pwd
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from deepbrain.cli.failure import UserError
from deepbrain.cli.provider.machine import Place
from deepbrain.client.keystore import decrypt
from deepbrain.primitives.keys import Keypair
from deepbrain.provider.record import replace_file

UNIT_NAME: Final = "dbc-provider.service"
UNITS: Final = Path("/etc/systemd/system")
DEFAULT_DATA: Final = Path("/var/lib/dbc")
DEFAULT_USER: Final = "dbc"
CREDENTIAL: Final = "controller.password"


def etc() -> Path:
    return Path(os.environ.get("DBC_ETC") or "/etc/dbc")


@dataclass(frozen=True, slots=True)
class Host:
    """An installed provider, as `provider.json` describes it."""

    data: str
    user: str
    mode: str = "auto"

    @property
    def etc(self) -> Path:
        return etc()

    @property
    def bond(self) -> Path:
        return etc() / "bond.json"

    @property
    def controller(self) -> Path:
        return etc() / "controller.json"

    @property
    def password(self) -> Path:
        return etc() / CREDENTIAL

    def place(self) -> Place:
        """Raises: UserError: its user is gone."""
        try:
            user = pwd.getpwnam(self.user)
        except KeyError:
            raise UserError(
                f"the user {self.user} is gone; run `dbc provider install` again"
            ) from None
        return Place(Path(self.data), etc(), user.pw_uid, user.pw_gid)

    def save(self) -> None:
        replace_file(etc() / "provider.json", json.dumps(asdict(self), indent=1).encode())


def installed() -> Host | None:
    """The provider of this host, for root; None for others, who may not touch it.

    Raises: UserError: its description is damaged.
    """
    path = etc() / "provider.json"
    if os.geteuid() != 0 or not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        known = {field.name for field in fields(Host)}
        if not isinstance(found, dict) or not found.keys() <= known:
            raise ValueError
        return Host(**{name: str(value) for name, value in found.items()})
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged; run `dbc provider install` again") from error


def place_of(data: Path | None) -> Place:
    """The directory named, else the installed provider's, else the one that `dbc join` uses."""
    if data is None and (here := installed()) is not None:
        return here.place()
    return Place.joined(data)


def expect_installed() -> Host:
    """Raises: UserError: there is none, or we are not root."""
    if os.geteuid() != 0:
        raise UserError("the host's provider is root's: run this with sudo")
    host = installed()
    if host is None:
        raise UserError("no provider is installed on this host; run `dbc provider install`")
    return host


def unlock_controller(host: Host) -> Keypair:
    """Raises: UserError: its files cannot be read; InvalidKey."""
    try:
        password = host.password.read_text().strip()
        return decrypt(host.controller.read_bytes(), password)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read; see `dbc provider install`") from error


def has_systemd() -> bool:
    """Whether systemd runs this host: not merely whether its programs are there."""
    return Path("/run/systemd/system").is_dir()

"""Who a machine is: its transport key, its data directory, its configuration."""

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

from deepbrain.client.keystore import parse
from deepbrain.primitives.errors import DecodeError, DeepBrainError
from deepbrain.primitives.ids import AccountId, Hash, MachineId
from deepbrain.primitives.keys import Keypair, Scheme
from deepbrain.provider.record import newer, replace_file

SEED_BYTES: Final = 32


class AgentError(DeepBrainError):
    """The agent cannot run; the text is one sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the whole machine gives to tenants; an order of k of n units gets k/n of each.

    Where there are devices, a unit is one of them, and an order gets k whole ones.
    """

    units: int
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    pids: int = 4096
    log_bytes: int = 256 << 20
    devices: tuple[str, ...] = ()
    """GPUs that a sandbox has seen, by the names under which tenants are given them."""
    bandwidth_mbit: int = 0
    """Megabits a second, each way; 0: as much as there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """`agent.json`, written by `dbc join` beside the agent's data, by `dbc provider install` in `/etc`."""

    chain: str
    """Address of a node, such as `ws://127.0.0.1:9944`."""
    controller: str
    """The controller's keystore file, or a development URI such as `//Bob`."""
    port: int
    """UDP port that renters dial."""
    capacity: Capacity
    genesis: Hash | None = None
    """The only chain this machine serves; None: the first one it meets."""
    own: frozenset[AccountId] = field(default_factory=frozenset)
    """Accounts whose orders are the provider's own, and run in any isolation mode."""
    addresses: tuple[str, ...] = ()
    """`ip:port` under which renters are told to find this machine."""
    relays: tuple[str, ...] = ()
    """URLs of the relays to be reached through; none: those that the node names."""
    image_bytes: int = 16 << 30
    """The largest image a renter may hand over, or have fetched, as it is sent."""
    image_cache_bytes: int = 0
    """Disk for unpacked images; 0: a tenth of it."""
    stall_seconds: int = 30
    """After so long without a byte, a registry's connection is given up."""
    private_registries: bool = False
    """Whether images may come from registries in private networks, and on this machine."""
    stash: AccountId | None = None
    """Whose controller the agent agrees to be, where that was not settled when it was set up."""
    metrics: str = ""
    """`ip:port` where Prometheus may ask; empty: nowhere."""


def load_or_make_key(data: Path) -> Keypair:
    """The machine's ed25519 key from `<data>/machine.key`, made on first use, mode 0600.

    Raises: AgentError: the file is readable by others, or is not a key.
    """
    path = data / "machine.key"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SEED_BYTES).hex().encode())
            file.flush()
            os.fsync(file.fileno())
    return Keypair.from_seed(read_seed(path), Scheme.ED25519)


def read_seed(path: Path) -> bytes:
    """Raises: AgentError: the file is readable by others, or is not a key."""
    if path.stat().st_mode & 0o077:
        raise AgentError(f"{path} can be read by others; run `chmod 600` on it, and make a new key")
    try:
        seed = bytes.fromhex(path.read_text().strip())
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise AgentError(f"{path} is not a machine key; restore it, or remove it and join anew")
    return seed


def machine_id(key: Keypair) -> MachineId:
    return MachineId(key.public)


class DataLock:
    """Holds a data directory for this process alone, until the process ends."""

    def __init__(self, data: Path) -> None:
        """Raises: AgentError: another agent works there, or the directory cannot be written."""
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file: IO[str] = (data / "agent.lock").open("w")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise AgentError(
                f"another agent runs in {data}; stop it or use another --data"
            ) from error
        except OSError as error:
            raise AgentError(f"{data} cannot be written: {error.strerror}") from error

    def release(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def save_config(directory: Path, config: AgentConfig) -> None:
    fields: dict[str, Any] = asdict(config)
    for name in ("genesis", "stash"):
        fields[name] = None if fields[name] is None else fields[name].hex()
    fields["own"] = sorted(account.hex() for account in config.own)
    replace_file(directory / "agent.json", json.dumps(fields, indent=1).encode())


def load_config(directory: Path) -> AgentConfig:
    """Raises: AgentError: there is none, it is damaged, or a newer release wrote it."""
    path = directory / "agent.json"
    try:
        fields = json.loads(path.read_bytes())
        if unknown := fields.keys() - AgentConfig.__dataclass_fields__.keys():
            raise AgentError(newer(path, min(unknown)))
        genesis, stash = fields.pop("genesis"), fields.pop("stash", None)
        return AgentConfig(
            capacity=_capacity_of(fields.pop("capacity")),
            own=frozenset(AccountId.from_hex(account) for account in fields.pop("own")),
            addresses=tuple(fields.pop("addresses")),
            relays=tuple(fields.pop("relays", ())),
            genesis=None if genesis is None else Hash.from_hex(genesis),
            stash=None if stash is None else AccountId.from_hex(stash),
            **fields,
        )
    except FileNotFoundError as error:
        raise AgentError(f"{path} does not exist; run `dbc join` first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DecodeError) as error:
        raise AgentError(f"{path} is damaged; run `dbc join` again to write it anew") from error


def _capacity_of(fields: dict[str, Any]) -> Capacity:
    return Capacity(**{**fields, "devices": tuple(fields.get("devices", ()))})


def controller_account(config: AgentConfig) -> AccountId:
    """Whose fees are spent here; needs no password. Raises: AgentError; InvalidKey."""
    if config.controller.startswith("//"):
        return Keypair.from_uri(config.controller).public
    try:
        return parse(Path(config.controller).read_bytes()).account
    except OSError as error:
        raise AgentError(f"{error.filename} cannot be read; is it there, and yours?") from error

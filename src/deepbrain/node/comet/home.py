"""CometBFT's directory: genesis, keys and settings.

    <home>/config/{genesis.json, config.toml}         made again at every start
                  {node_key, priv_validator_key}.json made once; the second is what a validator votes with
    <home>/data/  its blocks, and priv_validator_state.json, the last thing it signed
    <home>/statesync/ chunks that it gets while it joins; empty at start
    <home>/abci.sock                                  where it meets the node

Genesis comes from the chain spec alone, so that all nodes of a chain have the same one; its validators
are those of our genesis state, told at InitChain. Never restore `data/` of a validator from a backup:
it would sign again what it has signed.
"""

import base64
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from deepbrain.frame.consensus import ConsensusAddress, ConsensusKey
from deepbrain.node.errors import NodeError
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.keys import SEED_BYTES, Keypair, Scheme
from deepbrain.runtime.extrinsic import MAX_EXTRINSIC
from deepbrain.runtime.runtime import Runtime

APP_VERSION: Final = 1
"""Of the talk between CometBFT and the node, in every header of CometBFT; the rules have their own."""
MAX_BLOCK: Final = 4 << 20
"""Bytes of a block of CometBFT, far above what our own limits let in: those decide."""
MAX_CHAIN_ID: Final = 50
TWIN_CHECK_BLOCKS: Final = 20
"""How far a node that has never signed looks back for signatures of its key."""

MAX_CHUNKS: Final = 16_384
"""Of a snapshot: 16 GiB of state, and half a megabyte of hashes."""

COMETBFT: Final = "cometbft"
"""The engine's name."""
SOCKET: Final = "abci.sock"
STATE_SYNC: Final = "statesync"
"""Where chunks are before the node has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSync:
    """Where a new node joins: by a snapshot of its peers' that a light client checks."""

    servers: tuple[str, ...]
    """CometBFT's RPC of two nodes or more, `HOST:PORT`; they need not be trusted."""
    height: int
    """A block that whoever starts the node trusts, and its hash, in hexadecimal."""
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CometConfig:
    """How CometBFT runs beside this node."""

    program: Path | None = None
    """None: it is looked for."""
    listen: str = "0.0.0.0:26656"
    """Where other nodes reach it."""
    peers: tuple[str, ...] = ()
    """Nodes to stay connected to, `ID@HOST:PORT`."""
    external: str = ""
    """`HOST:PORT` that others are told, where it is not what they see."""
    rpc: str = ""
    """`HOST:PORT` of its read-only RPC, for light clients and state sync; empty: none."""
    metrics: str = ""
    """`HOST:PORT` of its own metrics; empty: none."""
    sync: StateSync | None = None
    """How a node without blocks joins; None: it executes every block."""
    snapshot_interval: int = 1000
    """Blocks between the snapshots that others join by; 0: none."""
    private: bool = False
    """Whether the network is one machine or a private net: addresses may repeat, and are not gossiped."""


def chain_id(spec_id: str, genesis: Hash) -> str:
    """What CometBFT calls the chain. Raises: NodeError: the name of the spec is too long."""
    name = f"dbc-{spec_id}-{genesis.hex()[:16]}"
    if len(name) > MAX_CHAIN_ID:
        raise NodeError(
            f"The chain spec's id {spec_id} is too long for CometBFT: "
            f"use at most {MAX_CHAIN_ID - 21} characters."
        )
    return name


@dataclass(frozen=True, slots=True)
class ConsensusKeys:
    """Who this node is to CometBFT: what it votes with, and how its peers know it."""

    validator: Keypair
    node: Keypair

    @property
    def key(self) -> ConsensusKey:
        return ConsensusKey(self.validator.public)

    @property
    def address(self) -> ConsensusAddress:
        return ConsensusAddress.of(self.key)

    @property
    def node_id(self) -> str:
        """What stands before the `@` where others name this node as a peer."""
        return ConsensusAddress.of(ConsensusKey(self.node.public)).hex()


class CometHome:
    """One directory of CometBFT."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._config = path / "config"
        self._data = path / "data"

    def ensure_keys(self) -> ConsensusKeys:
        """Its keys, made where they are missing. Raises: NodeError: they are damaged."""
        for directory in (self.path, self._config, self._data):
            _make_private(directory)
        keys = ConsensusKeys(
            validator=_key_in(self._config / "priv_validator_key.json"),
            node=_key_in(self._config / "node_key.json"),
        )
        state = self._data / "priv_validator_state.json"
        if not state.exists():
            _write(state, {"height": "0", "round": 0, "step": 0})
        return keys

    def last_signed(self) -> int:
        """The height of the last vote signed here; 0: none. Raises: NodeError: it is damaged."""
        path = self._data / "priv_validator_state.json"
        try:
            return int(json.loads(path.read_bytes())["height"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NodeError(
                f"{path} is damaged, and without it this validator could sign twice: if its key has "
                "not signed for some minutes, remove the file and start again."
            ) from error

    def write(
        self, runtime: Runtime, name: str, config: CometConfig, *, may_join: bool = False
    ) -> None:
        """Make genesis and settings anew; `name` is the chain id. Raises: NodeError.

        `may_join`: the node has no blocks, and joins by a snapshot if its settings say so.
        """
        _write(self._config / "genesis.json", genesis_of(runtime, name), mode=0o644)
        target = int(runtime.spec.target_interval)
        first = self.last_signed() == 0
        shutil.rmtree(self.path / STATE_SYNC, ignore_errors=True)
        _make_private(self.path / STATE_SYNC)
        # Whoever signed the block that is trusted must still have something to lose.
        trust = max(1, evidence_seconds(runtime) // 2) if may_join else 0
        settings = settings_of(config, target, first=first, trust_seconds=trust)
        _replace(self._config / "config.toml", settings.encode())


def genesis_of(runtime: Runtime, name: str) -> dict[str, Any]:
    """CometBFT's genesis file."""
    constants = runtime.constants
    start = int(constants["Timestamp"]["genesis_time"])
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=start)
    return {
        "genesis_time": moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{start % 1000:03}Z",
        "chain_id": name,
        "initial_height": "1",
        "consensus_params": {
            "block": {"max_bytes": str(MAX_BLOCK), "max_gas": "-1"},
            "evidence": {
                "max_age_num_blocks": str(evidence_blocks(runtime)),
                "max_age_duration": str(evidence_seconds(runtime) * 10**9),
                "max_bytes": str(1 << 20),
            },
            "validator": {"pub_key_types": ["ed25519"]},
            "version": {"app": str(APP_VERSION)},
            "abci": {"vote_extensions_enable_height": "0"},
        },
        "app_hash": "",
    }


def evidence_seconds(runtime: Runtime) -> int:
    """How long evidence is good: as long as the stake that it is about is surely still held.

    Whoever unbonds goes on voting until the next election, so it is an era less than unbonding takes.
    """
    unbonding = int(runtime.constants["Validators"]["unbonding"])
    return max(1, unbonding - int(runtime.constants["Timestamp"]["era_length"]) // 1000)


def evidence_blocks(runtime: Runtime) -> int:
    """The blocks of that time."""
    return max(1, evidence_seconds(runtime) * 1000 // int(runtime.spec.target_interval))


def settings_of(config: CometConfig, target_ms: int, *, first: bool, trust_seconds: int = 0) -> str:
    """CometBFT's settings; what is not here has its default.

    A height takes as long as CometBFT waits after a commit, 0.05 s of gossip (0.2 s by its default), and
    what the network and the block itself need. `first`: this home has signed nothing yet, so a signature
    of its key in the last blocks is that of a twin. `trust_seconds`: how old a block may
    be that a joining node trusts; 0: this one does not join.
    """
    commit = max(target_ms - 120, 10)
    strict = not config.private
    sections: dict[str, dict[str, str | int | bool]] = {
        "": {
            "proxy_app": f"unix://{SOCKET}",
            "abci": "socket",
            "db_backend": "goleveldb",
            "log_level": "error",
            "log_format": "json",
            "genesis_file": "config/genesis.json",
            "priv_validator_key_file": "config/priv_validator_key.json",
            "priv_validator_state_file": "data/priv_validator_state.json",
            "node_key_file": "config/node_key.json",
            "filter_peers": False,
        },
        "rpc": {
            "laddr": f"tcp://{config.rpc}" if config.rpc else "",
            "unsafe": False,
            "max_body_bytes": 1_000_000,
        },
        "p2p": {
            "laddr": f"tcp://{config.listen}",
            "external_address": config.external,
            "persistent_peers": ",".join(config.peers),
            "persistent_peers_max_dial_period": "5s",
            "addr_book_strict": strict,
            "allow_duplicate_ip": config.private,
            "pex": strict,
            "flush_throttle_timeout": "10ms",
        },
        "mempool": {
            "type": "app",
            "broadcast": True,
            "max_tx_bytes": MAX_EXTRINSIC,
            "max_batch_bytes": 0,
            "seen_cache_size": 100_000,
            "reap_interval": "100ms",
            "reap_max_bytes": 65_536,
            "reap_max_gas": 0,
        },
        "statesync": _joins(config.sync, trust_seconds),
        "consensus": {
            "timeout_propose": "1s",
            "timeout_commit": f"{commit}ms",
            "peer_gossip_sleep_duration": "10ms",
            # The pool is ours, and CometBFT does not hear when something comes into it.
            "create_empty_blocks": True,
            "create_empty_blocks_interval": "0s",
            "double_sign_check_height": TWIN_CHECK_BLOCKS if first else 0,
        },
        "tx_index": {"indexer": "null"},
        "instrumentation": {
            "prometheus": bool(config.metrics),
            "prometheus_listen_addr": config.metrics,
        },
    }
    lines = ["# Made by the node at every start: change its options, not this file."]
    for section, values in sections.items():
        if section:
            lines += ["", f"[{section}]"]
        # JSON's strings, numbers and truth values are TOML's too.
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _joins(sync: StateSync | None, trust_seconds: int) -> dict[str, str | int | bool]:
    """How CometBFT joins, or that it does not."""
    if sync is None or not trust_seconds:
        return {"enable": False}
    return {
        "enable": True,
        "rpc_servers": ",".join(sync.servers),
        "trust_height": sync.height,
        "trust_hash": sync.hash,
        "trust_period": f"{trust_seconds}s",
        "discovery_time": "5s",
        "temp_dir": STATE_SYNC,
        "max_snapshot_chunks": MAX_CHUNKS,
    }


def _key_in(path: Path) -> Keypair:
    """The ed25519 key in a file of CometBFT's, made where there is none. Raises: NodeError."""
    try:
        secret = json.loads(path.read_bytes())["priv_key"]["value"]
        return Keypair.from_seed(base64.b64decode(secret)[:SEED_BYTES], Scheme.ED25519)
    except FileNotFoundError:
        seed = secrets.token_bytes(SEED_BYTES)
        pair = Keypair.from_seed(seed, Scheme.ED25519)
        public, secret = bytes(pair.public), seed + bytes(pair.public)
        _write(
            path,
            {
                "address": ConsensusAddress.of(ConsensusKey(public)).hex().upper(),
                "pub_key": {"type": "tendermint/PubKeyEd25519", "value": _base64(public)},
                "priv_key": {"type": "tendermint/PrivKeyEd25519", "value": _base64(secret)},
            },
        )
        return pair
    # What is in the file must not stand in the error.
    except (OSError, ValueError, KeyError, TypeError):
        raise NodeError(f"{path} is damaged: restore the key from your backup.") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NodeError(f"{directory} cannot be made: {error.strerror}.") from error


def _write(path: Path, value: Any, mode: int = 0o600) -> None:
    _replace(path, json.dumps(value, indent=2).encode() + b"\n", mode)


def _replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file, so that a reader sees the old or the new one. Raises: NodeError."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise NodeError(f"{path} cannot be written: {error.strerror}.") from error

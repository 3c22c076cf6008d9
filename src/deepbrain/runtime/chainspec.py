"""A chain's figures, from its spec file: who it is, its constants, and what is there at genesis.

The file is JSON, `runtime/specs/<id>.json`; whoever loads it passes the parsed dict. Money is in
planck, accounts are addresses, everything is checked here. Units of constants: see their pallets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from deepbrain.frame.consensus import MAX_VALIDATORS, ConsensusKey
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.units import Balance, MicroUsd, Moment
from deepbrain.scale.plain import NotPlain, from_plain
from deepbrain.state.store import MAX_KEY

_KEYS: Final = ("constants", "genesis", "id", "name", "target_interval_ms", "type")
_GENESIS_KEYS: Final = ("balances", "micro_usd_per_dbc", "raw", "root", "source", "validators")
_VALIDATOR_KEYS: Final = ("key", "stake", "stash")


class BadChainSpec(DeepBrainError):
    """A chain spec is not what it should be; the text says where."""


class ChainType(Enum):
    """What a chain is for, as wallets ask."""

    DEVELOPMENT = "Development"
    LOCAL = "Local"
    LIVE = "Live"


class GenesisValidator(NamedTuple):
    """One who makes blocks from the first on."""

    stash: AccountId
    """Who puts up the stake, out of its balance at genesis."""
    key: ConsensusKey
    stake: Balance


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSpec:
    """One chain."""

    id: str
    name: str
    type: ChainType
    target_interval: Moment
    """Milliseconds between blocks, as planned."""
    constants: Mapping[str, Mapping[str, Any]]
    """Pallet → constant → value as in the file; `runtime` gives them their types."""
    balances: tuple[tuple[AccountId, Balance], ...]
    """Who has what at genesis, in order of the file."""
    validators: tuple[GenesisValidator, ...]
    """Who makes blocks from the first on; none on a chain that one node makes alone."""
    root: AccountId | None
    """None: the chain has no root key from its first day."""
    micro_usd_per_dbc: MicroUsd
    source: Hash | None = None
    """The hash of the rules that block 0 names. None: that of the software at hand, so that another
    release makes another chain of it; a chain that is to outlive its first release names one."""
    raw: Mapping[bytes, bytes] | None = None
    """The state to begin with, as `export` wrote it; then nothing else of genesis is given."""

    @classmethod
    def parse(cls, file: Mapping[str, Any]) -> "ChainSpec":
        """Raises: BadChainSpec."""
        if tuple(sorted(file)) != _KEYS:
            raise BadChainSpec(f"a chain spec has exactly these keys: {', '.join(_KEYS)}")
        genesis = file["genesis"]
        if tuple(sorted(genesis)) != _GENESIS_KEYS:
            raise BadChainSpec(f"genesis has exactly these keys: {', '.join(_GENESIS_KEYS)}")
        balances = tuple(
            (from_json(AccountId, who, "genesis.balances"), from_json(Balance, amount, who))
            for who, amount in genesis["balances"].items()
        )
        return cls(
            id=from_json(str, file["id"], "id"),
            name=from_json(str, file["name"], "name"),
            type=ChainType(file["type"]),
            target_interval=from_json(Moment, file["target_interval_ms"], "target_interval_ms"),
            constants=file["constants"],
            balances=balances,
            validators=_validators(genesis["validators"]),
            root=_optional(AccountId, genesis["root"], "genesis.root"),
            micro_usd_per_dbc=from_json(
                MicroUsd, genesis["micro_usd_per_dbc"], "genesis.micro_usd_per_dbc"
            ),
            source=_optional(Hash, genesis["source"], "genesis.source"),
            raw=_raw(genesis),
        )


def _raw(genesis: Mapping[str, Any]) -> Mapping[bytes, bytes] | None:
    """Raises: BadChainSpec: it is malformed, or there is something else beside it."""
    raw = genesis["raw"]
    if raw is None:
        return None
    if genesis["balances"] or genesis["validators"] or genesis["root"] is not None:
        raise BadChainSpec("genesis.raw is a whole state: nothing else of genesis is given with it")
    found: dict[bytes, bytes] = {}
    for name, text in raw.items():
        key = from_json(bytes, name, "genesis.raw")
        if not 0 < len(key) <= MAX_KEY or key in found:
            raise BadChainSpec(f"genesis.raw: {name[:80]} is no key, or is there twice")
        found[key] = from_json(bytes, text, f"genesis.raw.{name[:80]}")
    return found


def _validators(entries: Sequence[Mapping[str, Any]]) -> tuple[GenesisValidator, ...]:
    """The validators of the file, in its order. Raises: BadChainSpec."""
    where = "genesis.validators"
    if len(entries) > MAX_VALIDATORS:
        raise BadChainSpec(f"{where}: there are at most {MAX_VALIDATORS}")
    found: list[GenesisValidator] = []
    for entry in entries:
        if tuple(sorted(entry)) != _VALIDATOR_KEYS:
            raise BadChainSpec(
                f"{where}: each has exactly these keys: {', '.join(_VALIDATOR_KEYS)}"
            )
        stash = from_json(AccountId, entry["stash"], f"{where}.stash")
        key = from_json(ConsensusKey, entry["key"], f"{where}.key")
        stake = from_json(Balance, entry["stake"], f"{where}.stake")
        if any(stash == each.stash or key == each.key for each in found):
            raise BadChainSpec(f"{where}: {entry['stash']} or its key is there twice")
        found.append(GenesisValidator(stash, key, stake))
    return tuple(found)


def _optional(hint: Any, value: Any, where: str) -> Any:
    return None if value is None else from_json(hint, value, where)


def from_json(hint: Any, value: Any, where: str) -> Any:
    """A value of the file as the type it stands for. Raises: BadChainSpec."""
    try:
        return from_plain(hint, value, where)
    except NotPlain as error:
        raise BadChainSpec(str(error)) from None

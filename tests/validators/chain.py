"""Chains with validators, for tests: the `local` spec with other keys and a quicker clock."""

import json
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.node.world import running_node

from deepbrain.frame.consensus import ConsensusKey
from deepbrain.node.comet.home import CometConfig, CometHome
from deepbrain.node.node import Node
from deepbrain.primitives import ss58
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import PLANCK
from deepbrain.runtime.chainspec import ChainSpec

STAKE = 100_000 * PLANCK


def stash(number: int) -> Keypair:
    """The stash of a validator, by its number from 1."""
    return Keypair.from_uri(f"//Validator//{number}")


def spec_file(
    keys: Sequence[ConsensusKey],
    *,
    interval_ms: int = 1000,
    balances: Mapping[str, int] | None = None,
    **constants: Mapping[str, object],
) -> dict[str, Any]:
    """A spec whose validators are those of `keys`; `constants` replace some, pallet by pallet."""
    spec: dict[str, Any] = json.loads(
        (files("deepbrain.runtime") / "specs" / "local.json").read_text()
    )
    spec["target_interval_ms"] = interval_ms
    spec["constants"].setdefault("Timestamp", {})["genesis_time"] = time.time_ns() // 10**6
    for pallet, figures in constants.items():
        spec["constants"].setdefault(pallet, {}).update(figures)
    spec["genesis"]["balances"] |= balances or {}
    for number, key in enumerate(keys, 1):
        who = ss58.encode(stash(number).public)
        spec["genesis"]["balances"][who] = 2 * STAKE
        spec["genesis"]["validators"].append({"stash": who, "key": str(key), "stake": STAKE})
    return spec


def free_ports(count: int) -> list[int]:
    """So many TCP ports of the loopback, below those that the system hands to clients."""
    found: list[int] = []
    with ExitStack() as taken:
        for port in range(21_000, 32_000):
            probe = taken.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no ports are free")


@asynccontextmanager
async def lone_validator(
    data: Path,
    *,
    interval_ms: int = 300,
    balances: Mapping[str, int] | None = None,
    **constants: Mapping[str, object],
) -> AsyncIterator[tuple[Node, ChainSpec]]:
    """A node in this process that is the one validator of its chain under CometBFT, and the spec."""
    keys = CometHome(data / "comet").ensure_keys()
    file = spec_file([keys.key], interval_ms=interval_ms, balances=balances, **constants)
    spec = ChainSpec.parse(file)
    (port,) = free_ports(1)
    comet = CometConfig(listen=f"127.0.0.1:{port}", private=True)
    async with running_node(data, spec=spec, comet=comet) as node:
        yield node, spec

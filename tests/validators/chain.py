"""Chains with validators, for tests: the `local` spec with other keys and a quicker clock."""

import json
import socket
import time
from contextlib import ExitStack, asynccontextmanager
from importlib.resources import files

from tests.node.world import running_node

from deepbrain.node.comet.home import CometConfig, CometHome
from deepbrain.primitives import ss58
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import PLANCK
from deepbrain.runtime.chainspec import ChainSpec

STAKE = 100_000 * PLANCK


def stash(number):
    """The stash of a validator, by its number from 1."""
    return Keypair.from_uri(f"//Validator//{number}")


def spec_file(keys, *, interval_ms=1000, stakes=None, balances=None, **constants):
    """A spec whose validators are those of `keys`; `constants` replace some, pallet by pallet."""
    spec = json.loads((files("deepbrain.runtime") / "specs" / "local.json").read_text())
    spec["target_interval_ms"] = interval_ms
    spec["constants"].setdefault("Timestamp", {})["genesis_time"] = time.time_ns() // 10**6
    for pallet, figures in constants.items():
        spec["constants"].setdefault(pallet, {}).update(figures)
    spec["genesis"]["balances"] |= balances or {}
    for number, key in enumerate(keys, 1):
        who = ss58.encode(stash(number).public)
        stake = STAKE if stakes is None else stakes[number - 1]
        spec["genesis"]["balances"][who] = stake + STAKE
        spec["genesis"]["validators"].append({"stash": who, "key": str(key), "stake": stake})
    return spec


def free_ports(count):
    """So many TCP ports of the loopback, below those that the system hands to clients."""
    found = []
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
async def lone_validator(data, *, interval_ms=300, **constants):
    """A node in this process that is the one validator of its chain under CometBFT, and the spec."""
    keys = CometHome(data / "comet").ensure_keys()
    spec = ChainSpec.parse(spec_file([keys.key], interval_ms=interval_ms, **constants))
    (port,) = free_ports(1)
    comet = CometConfig(listen=f"127.0.0.1:{port}", private=True)
    async with running_node(data, spec=spec, comet=comet) as node:
        yield node, spec

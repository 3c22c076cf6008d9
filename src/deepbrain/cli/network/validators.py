"""The validators of a network on this machine: one chain spec for all, a directory and ports for each.

    <dir>/chain.json            the spec: `local`, from now on, with their keys
    <dir>/validator-1/, …       data of each: the chain in `chain/`, CometBFT in `comet/`

The spec is made once: it is the chain. Ports may be others at each start.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepbrain.cli.failure import UserError
from deepbrain.cli.home import private_directory, read_json, write_json
from deepbrain.cli.network.local import Place
from deepbrain.cli.network.ports import FIRST_P2P_PORT, Ports
from deepbrain.cli.supervise import Program

if TYPE_CHECKING:
    from deepbrain.node.comet.home import ConsensusKeys

STAKE_DBC: Final = 100_000
BALANCE_DBC: Final = 1_000_000
ANSWER_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Seat:
    """One validator of the network."""

    number: int
    data: Path
    keys: "ConsensusKeys"
    rpc_port: int
    p2p_port: int

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.rpc_port}"

    @property
    def peer(self) -> str:
        return f"{self.keys.node_id}@127.0.0.1:{self.p2p_port}"


def make_seats(place: Place, count: int, rpc_port: int, ports: Ports) -> list[Seat]:
    """The seats of `count` validators, the first one's node at `rpc_port`.

    Raises: UserError: the network has another number of them, or too few ports are free.
    """
    from deepbrain.node.comet.home import CometHome

    private_directory(place.path)
    data = [place.path / f"validator-{number}" for number in range(1, count + 1)]
    keys = [CometHome(each / "comet").ensure_keys() for each in data]
    _ensure_spec(place, keys)
    rpc = [rpc_port, *ports.some(count - 1, rpc_port + 1)]
    p2p = ports.some(count, FIRST_P2P_PORT)
    return [Seat(at + 1, data[at], keys[at], rpc[at], p2p[at]) for at in range(count)]


def seat_program(place: Place, seat: Seat, seats: list[Seat], relay: int | None) -> Program:
    """The node of a seat; one of them serves the relay."""
    peers = [part for other in seats if other is not seat for part in ("--peer", other.peer)]
    relay_options = () if relay is None else ("--relay", str(relay), "--relay-host", "127.0.0.1")
    return Program(
        f"validator {seat.number}",
        (
            *(sys.executable, "-m", "deepbrain.node", "--spec", str(spec_of(place))),
            *("--data", str(seat.data), "--rpc-port", str(seat.rpc_port)),
            *("--engine", "cometbft", "--p2p", f"127.0.0.1:{seat.p2p_port}", "--private"),
            *peers,
            *relay_options,
        ),
        place.path / "logs" / f"validator-{seat.number}.log",
    )


def spec_of(place: Place) -> Path:
    """Where the network's chain spec is."""
    return place.path / "chain.json"


def stash_of(number: int) -> str:
    """The dev key whose stake is that of a validator."""
    return f"//Validator//{number}"


def _ensure_spec(place: Place, keys: "list[ConsensusKeys]") -> None:
    known = read_json(spec_of(place))
    if known is None:
        write_json(spec_of(place), _spec(keys))
        return
    theirs = [validator["key"] for validator in known["genesis"]["validators"]]
    if theirs != [str(each.key) for each in keys]:
        raise UserError(
            f"the network in {place.path} has {len(theirs)} validators; start it with "
            f"`--validators {len(theirs)}`, or remove the directory"
        )


def _spec(keys: "list[ConsensusKeys]") -> dict[str, Any]:
    from deepbrain.primitives import ss58
    from deepbrain.primitives.keys import Keypair
    from deepbrain.primitives.units import PLANCK
    from deepbrain.runtime.source import SOURCE

    local = files("deepbrain.runtime") / "specs" / "local.json"
    spec: dict[str, Any] = json.loads(local.read_text())
    spec["genesis"]["source"] = str(SOURCE)  # a later release goes on with this chain
    spec["constants"].setdefault("Timestamp", {})["genesis_time"] = time.time_ns() // 10**6
    for number, each in enumerate(keys, 1):
        stash = ss58.encode(Keypair.from_uri(stash_of(number)).public)
        spec["genesis"]["balances"][stash] = BALANCE_DBC * PLANCK
        spec["genesis"]["validators"].append(
            {"stash": stash, "key": str(each.key), "stake": STAKE_DBC * PLANCK}
        )
    return spec


async def heights(urls: list[str]) -> list[int | None]:
    """The last block of each node; None where it does not answer."""
    return list(await asyncio.gather(*map(_height, urls)))


async def _height(url: str) -> int | None:
    from deepbrain.client import Client
    from deepbrain.primitives.errors import DeepBrainError

    try:
        async with await Client.connect(url, seconds=ANSWER_SECONDS) as client:
            return (await client.finalized()).number
    except DeepBrainError:  # whatever it is, this node does not serve
        return None

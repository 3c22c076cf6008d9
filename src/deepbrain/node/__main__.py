"""`python -m deepbrain.node`: one node in this process, until it is told to stop."""

import argparse
import asyncio
import logging
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

from deepbrain.node import logs
from deepbrain.node.comet.home import COMETBFT, CometConfig, StateSync
from deepbrain.node.errors import NodeError
from deepbrain.node.node import Node, NodeConfig, load_spec, run_until
from deepbrain.node.relay.child import RelayChoice
from deepbrain.node.rpc.server import Bind
from deepbrain.primitives import ss58
from deepbrain.primitives.errors import InvalidKey
from deepbrain.state.errors import StoreError

DESCRIPTORS: Final = 8192
_HOST_PORT: Final = r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}"
_PLACE: Final = re.compile(_HOST_PORT)
_BLOCK_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")
_PEER: Final = re.compile(rf"[0-9a-f]{{40}}@{_HOST_PORT}")


def main() -> int:
    options = _parser().parse_args()
    logs.set_up(options.log, options.log_format)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    _open_many()
    try:
        asyncio.run(_run(options))
    except (NodeError, StoreError, InvalidKey) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _open_many() -> None:
    """Every client is a descriptor, and many systems allow a process 1,024 unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether an error is of our making: what strangers send that is no HTTP must not fill the log."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deepbrain.node", description=__doc__)
    parser.add_argument("--spec", default="dev", help="dev, mainnet, or a JSON file")
    parser.add_argument("--data", type=Path, help="data directory; in memory without it")
    parser.add_argument("--rpc-host", default="127.0.0.1")
    parser.add_argument("--rpc-port", type=int, default=9944, help="0 lets the system choose")
    parser.add_argument(
        "--rpc-origin", action="append", default=[], help="a web page's origin that may connect"
    )
    parser.add_argument("--archive", action="store_true", help="keep the state of every block")
    parser.add_argument(
        "--engine", default="solo", choices=("solo", COMETBFT),
        help="who orders extrinsics: this node alone, or validators under CometBFT",
    )  # fmt: skip
    solo = parser.add_argument_group("the solo engine")
    solo.add_argument("--interval", type=float, default=1.0, help="seconds between empty blocks")
    solo.add_argument("--author", help="address of the block maker")
    comet = parser.add_argument_group("CometBFT")
    comet.add_argument(
        "--cometbft", type=Path, metavar="PATH", help="the program, if it is elsewhere"
    )
    comet.add_argument(
        "--p2p",
        default="0.0.0.0:26656",
        metavar="HOST:PORT",
        help="where other nodes reach this one",
    )
    comet.add_argument(
        "--p2p-external", default="", metavar="HOST:PORT", help="what they are told, behind a NAT"
    )
    comet.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="ID@HOST:PORT",
        help="a node to stay connected to",
    )
    comet.add_argument(
        "--private", action="store_true", help="the network is this machine or a private one"
    )
    comet.add_argument(
        "--comet-rpc", default="", metavar="HOST:PORT",
        help="serve CometBFT's own RPC, for light clients and state sync; keep it on the loopback",
    )  # fmt: skip
    comet.add_argument(
        "--comet-metrics", default="", metavar="HOST:PORT", help="serve CometBFT's own metrics"
    )
    comet.add_argument(
        "--snapshot-interval", type=int, default=1000, metavar="BLOCKS",
        help="blocks between snapshots that new nodes join by; 0: none",
    )  # fmt: skip
    comet.add_argument(
        "--state-sync", default="", metavar="RPC,RPC",
        help="join by a snapshot: CometBFT's RPC of two nodes, HOST:PORT each",
    )  # fmt: skip
    comet.add_argument(
        "--trust-height", type=int, default=0, metavar="N", help="a block that you trust"
    )
    comet.add_argument("--trust-hash", default="", metavar="HEX", help="and its hash")
    parser.add_argument(
        "--relay", type=int, metavar="PORT", help="serve a relay on this port, TCP and UDP"
    )
    parser.add_argument("--relay-host", default="0.0.0.0")  # noqa: S104 - it is there to be reached
    parser.add_argument(
        "--relay-url", action="append", default=[], help="a relay that machines are told of"
    )
    parser.add_argument(
        "--metrics", default="", metavar="HOST:PORT",
        help="serve metrics for Prometheus, such as at 127.0.0.1:9465; keep it on the loopback",
    )  # fmt: skip
    parser.add_argument("--log-format", default="text", choices=logs.FORMATS)
    parser.add_argument("--log", default="warning", choices=("debug", "info", "warning", "error"))
    return parser


def _config(options: argparse.Namespace) -> NodeConfig:
    if not 0.01 <= options.interval <= 3600:
        raise NodeError("The --interval must be between 0.01 and 3600 seconds.")
    if not 0 <= options.rpc_port <= 65535:
        raise NodeError("The --rpc-port must be between 0 and 65535.")
    if options.relay is not None and not 0 <= options.relay <= 65535:
        raise NodeError("The --relay must be a port between 0 and 65535.")
    return NodeConfig(
        spec=load_spec(options.spec),
        data=options.data,
        bind=Bind(options.rpc_host, options.rpc_port, tuple(options.rpc_origin)),
        interval=options.interval,
        comet=_comet(options),
        archive=options.archive,
        metrics=_place(options, "metrics"),
        author=None if options.author is None else ss58.decode(options.author),
        relay=RelayChoice(
            port=options.relay, host=options.relay_host, urls=tuple(options.relay_url)
        ),
    )


def _comet(options: argparse.Namespace) -> CometConfig | None:
    if options.engine != COMETBFT:
        return None
    for peer in options.peer:
        if not _PEER.fullmatch(peer):
            raise NodeError(f"The --peer {peer[:100]} is not of the form ID@HOST:PORT.")
    return CometConfig(
        program=options.cometbft,
        listen=_place(options, "p2p"),
        external=_place(options, "p2p_external"),
        peers=tuple(options.peer),
        rpc=_place(options, "comet_rpc"),
        metrics=_place(options, "comet_metrics"),
        sync=_state_sync(options),
        snapshot_interval=options.snapshot_interval,
        private=options.private,
    )


def _place(options: argparse.Namespace, name: str) -> str:
    """An option that is a place, or empty. Raises: NodeError."""
    place: str = getattr(options, name)
    if place and not _PLACE.fullmatch(place):
        raise NodeError(
            f"The --{name.replace('_', '-')} {place[:100]} is not of the form HOST:PORT."
        )
    return place


def _state_sync(options: argparse.Namespace) -> StateSync | None:
    """Raises: NodeError: half of it is missing."""
    if not 0 <= options.snapshot_interval <= 1_000_000:
        raise NodeError("The --snapshot-interval must be between 0 and 1000000 blocks.")
    if not options.state_sync:
        return None
    servers = tuple(part.strip() for part in options.state_sync.split(","))
    if len(servers) < 2 or not all(map(_PLACE.fullmatch, servers)):
        raise NodeError("The --state-sync must name two nodes or more, as HOST:PORT,HOST:PORT.")
    if options.trust_height < 1 or not _BLOCK_HASH.fullmatch(options.trust_hash):
        raise NodeError(
            "A node joins at a block that you trust: give --trust-height and --trust-hash, as "
            "CometBFT's RPC of a node of yours has them at /commit."
        )
    return StateSync(servers=servers, height=options.trust_height, hash=options.trust_hash.upper())


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await run_until(Node(_config(options)), stop, _say_ready)


def _say_ready(node: Node) -> None:
    """One line on standard output: whoever started the node may go on."""
    host, head = node.config.bind.host, node.chain.head
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(
        f"ready rpc=ws://{shown}:{node.server.port} genesis={node.chain.genesis_hash} "
        f"head={head.number}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m deepbrain.node.relay --port 9946`: one relay in this process, until it is told to stop."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from deepbrain.net.watchdog import watchdog
from deepbrain.node.errors import NodeError
from deepbrain.node.relay.server import RelayConfig, RelayServer


def main() -> int:
    options = _parser().parse_args()
    logging.basicConfig(
        level=options.log.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        asyncio.run(_watched(options))
    except (NodeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deepbrain.node.relay", description=__doc__)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - it is there to be reached
    parser.add_argument("--port", type=int, default=9946, help="TCP and UDP")
    parser.add_argument("--chain", default="ws://127.0.0.1:9944", help="a node's address")
    parser.add_argument("--data", type=Path, help="where its key is kept; a new one without it")
    parser.add_argument("--leashed", action="store_true", help="end when standard input does")
    parser.add_argument("--log", default="warning", choices=("debug", "info", "warning", "error"))
    return parser


async def _watched(options: argparse.Namespace) -> None:
    async with watchdog():
        await _run(options)


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if options.leashed:
        loop.add_reader(0, lambda: None if os.read(0, 1) else stop.set())
    config = RelayConfig(
        host=options.host, port=options.port, chain=options.chain, data=options.data
    )
    server = RelayServer(config)
    await server.start()
    sys.stdout.write(f"ready port={server.port}\n")
    sys.stdout.flush()
    waits = [asyncio.create_task(server.wait()), asyncio.create_task(stop.wait())]
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in waits:
            task.cancel()
        await server.stop()


if __name__ == "__main__":
    raise SystemExit(main())

"""Start an agent: `python -m deepbrain.provider.agent --data DIR [--sandbox DIR] [--chain URL]`.

Under the root helper, `--sandbox` is the helper's directory and `--data` one inside it that belongs to
the agent's user; without a helper they may be the same. Everything else stands in `agent.json`, in DIR or
where `--settings` says. SIGTERM and SIGINT end it; tenants go on, and the next start finds them. The log,
on standard error, has one line per event and names the order.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from deepbrain.client.keystore import decrypt
from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.watchdog import watchdog
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.keys import Keypair
from deepbrain.provider import release
from deepbrain.provider.chain import Chain
from deepbrain.provider.identity import (
    AgentConfig,
    AgentError,
    DataLock,
    load_config,
    load_or_make_key,
    machine_id,
    read_seed,
)
from deepbrain.provider.logs import FORMATS, LOG_FORMAT, set_up
from deepbrain.provider.loop import Agent
from deepbrain.provider.metrics import served
from deepbrain.provider.onchain import on_chain
from deepbrain.provider.quiet import Quiet
from deepbrain.provider.record import Records
from deepbrain.sandbox.open import open_sandbox
from deepbrain.sandbox.remote import RemoteHost, inherited_socket

log = logging.getLogger("deepbrain.provider")

PASSPHRASE_FILE: Final = "DBC_PASSPHRASE_FILE"  # noqa: S105 - the variable's name


ACCEPT_SECONDS: Final = 5.0


def load_controller(config: AgentConfig) -> Keypair:
    """The key that declares and closes. A file with a password is opened by the one in the file that
    `DBC_PASSPHRASE_FILE` names. Raises: AgentError; InvalidKey.
    """
    if config.controller.startswith("//"):
        return Keypair.from_uri(config.controller)
    named = os.environ.get(PASSPHRASE_FILE)
    try:
        password = Path(named).read_text().rstrip("\n") if named else ""
        return decrypt(Path(config.controller).read_bytes(), password, dev=True)
    except OSError as error:
        raise AgentError(f"{error.filename} cannot be read; is it there, and yours?") from error


@contextlib.asynccontextmanager
async def opened(data: Path, sandbox_data: Path, config: AgentConfig) -> AsyncIterator[Agent]:
    """An agent with everything it needs, all of it closed at the end.

    Raises: AgentError, SandboxError, NetError, InvalidKey: it cannot start, for the reason given.
    """
    key = load_or_make_key(data)
    controller = load_controller(config)
    async with contextlib.AsyncExitStack() as stack:
        helper = inherited_socket()
        host = None if helper is None else RemoteHost(helper)
        sandbox = await open_sandbox(sandbox_data, host)
        stack.push_async_callback(sandbox.close)
        endpoint = await IrohEndpoint.bind(read_seed(data / "machine.key"), config.port)
        stack.push_async_callback(endpoint.close)
        chain = await stack.enter_async_context(
            on_chain(config.chain, machine_id(key), controller, config.genesis)
        )
        yield Agent(
            machine=machine_id(key),
            config=config,
            data=data,
            chain=chain,
            sandbox=sandbox,
            endpoint=endpoint,
            host_lost=None if host is None else host.lost,
        )


async def serve(data: Path, sandbox_data: Path, config: AgentConfig) -> None:
    """Run until SIGTERM or SIGINT. Raises: as `opened`."""
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel if running else lambda: None)
    async with (
        watchdog(),
        opened(data, sandbox_data, config) as agent,
        accepting(agent.chain, config),
    ):
        report = agent.sandbox.report
        for refused in report.refused:
            why = "isolation %s is not used: %s"
            log.warning(why, refused.mode.value, refused.reason, extra={"event": "isolation"})
        log.info(
            "machine %s listens on %s, isolation %s",
            agent.machine,
            ", ".join(agent.endpoint.addresses),
            report.mode.value,
            extra={"event": "started"},
        )
        with served(config.metrics, agent):
            await agent.run()


@contextlib.asynccontextmanager
async def accepting(chain: Chain, config: AgentConfig) -> AsyncIterator[None]:
    """Meanwhile agree to be the controller of the stash, as soon as it asks."""
    task = asyncio.create_task(_accept(chain, config.stash)) if config.stash is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


async def _accept(chain: Chain, stash: AccountId) -> None:
    trouble = ""
    while True:
        try:
            if await chain.accept(stash):
                return
        except DeepBrainError as error:
            if str(error) != trouble:  # once, and not every few seconds
                log.warning("the stash's wish cannot be answered yet: %s", error)
            trouble = str(error)
        await asyncio.sleep(ACCEPT_SECONDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 after a signal, 1 with one sentence when it cannot run; `release.OTHER`."""
    options = _parser().parse_args(arguments)
    set_up("agent", options.log, options.log_format)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Quiet())
    if release.is_other():
        log.warning("the helper is of another release: it has to begin anew first")
        return release.OTHER
    code = 0
    try:
        data = options.data.absolute()
        with DataLock(data):
            config = _chosen(load_config((options.settings or data).absolute()), options)
            Records(data).ensure_known()
            asyncio.run(serve(data, (options.sandbox or data).absolute(), config))
    except* (asyncio.CancelledError, KeyboardInterrupt):
        log.info("stopped; tenants go on", extra={"event": "stopped"})
    except* (DeepBrainError, OSError) as group:
        for error in leaves(group):
            log.error("%s", error, extra={"event": "ended"})
        code = 1
    return code


def _chosen(config: AgentConfig, options: argparse.Namespace) -> AgentConfig:
    """The configuration with what the command line says otherwise."""
    if options.chain is not None:
        config = replace(config, chain=options.chain)
    return config if options.port is None else replace(config, port=options.port)


def leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    """The errors inside a group, however deep."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepbrain.provider.agent", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the machine's data directory")
    parser.add_argument("--sandbox", type=Path, help="directory of images and tenants (DIR)")
    parser.add_argument("--settings", type=Path, help="directory of agent.json (DIR)")
    parser.add_argument("--chain", help="address of a node, in place of the one in agent.json")
    parser.add_argument("--port", type=int, help="UDP port, in place of the one in agent.json")
    parser.add_argument("--log", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument(
        "--log-format", default=os.environ.get(LOG_FORMAT, FORMATS[0]), choices=FORMATS
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""A relay put together: the port for frames, the rendezvous beside it, and the look at the chain."""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.errors import NetError
from deepbrain.net.rendezvous import ALPN_RENDEZVOUS
from deepbrain.node.errors import NodeError
from deepbrain.node.relay.hub import Hub
from deepbrain.node.relay.limits import RelayLimits, Standing
from deepbrain.node.relay.link import Link
from deepbrain.node.relay.register import ChainRegister, Register, keep_judging
from deepbrain.node.relay.rendezvous import Rendezvous

log = logging.getLogger(__name__)

CHOICES: Final = 20
"""Ports that are tried where the system may choose."""
SHOWN_KEYS: Final = 500
"""Keys whose bytes are shown, those that sent most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayConfig:
    """How a relay runs."""

    host: str = "0.0.0.0"  # noqa: S104 - it is there to be reached
    port: int
    """TCP for the relay, and the same number in UDP for the rendezvous; 0 lets the system choose."""
    chain: str
    """Address of a node that says who is who."""
    data: Path | None
    """Where its key is kept; None makes a new one each time."""
    limits: RelayLimits = field(default_factory=RelayLimits)


class RelayServer:
    """`start`, `wait` and `stop`, each once."""

    def __init__(self, config: RelayConfig, register: Register | None = None) -> None:
        self._config = config
        self._register = register
        self._own_register: ChainRegister | None = None
        self.hub = Hub(config.limits)
        self._listener: asyncio.Server | None = None
        self._endpoint: IrohEndpoint | None = None
        self._rendezvous: Rendezvous | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        if self._listener is None:
            return self._config.port
        return int(self._listener.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Raises: NodeError: a port or the key cannot be had."""
        try:
            await self._open_ports()
        except OSError as error:
            await self.stop()
            raise NodeError(
                f"The relay's port {self._config.host}:{self._config.port} cannot be opened "
                f"({os.strerror(error.errno or 0)}); stop what uses it or pass another --relay."
            ) from error
        except NetError as error:
            await self.stop()
            raise NodeError(f"The relay's rendezvous cannot start: {error}.") from error
        register = self._register
        if register is None:
            register = self._own_register = ChainRegister(self._config.chain)
        assert self._rendezvous is not None
        self._tasks = [
            asyncio.create_task(self.hub.sweep(), name="sweep"),
            asyncio.create_task(keep_judging(self.hub, register), name="judge"),
            asyncio.create_task(self._rendezvous.run(), name="rendezvous"),
        ]

    async def wait(self) -> None:
        """Until a part of it fails. Raises: whatever made it fail."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Close the ports and every connection."""
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._endpoint is not None:
            with contextlib.suppress(NetError):
                await self._endpoint.close()
        self.hub.cut_all()
        if self._own_register is not None:
            await self._own_register.close()

    async def _open_ports(self) -> None:
        """One number in TCP and in UDP: what the system chose in one may be taken in the other."""
        loop, tries = asyncio.get_running_loop(), 1 if self._config.port else CHOICES
        while True:
            self._listener = await loop.create_server(
                lambda: Link(self.hub, self._page),
                self._config.host,
                self._config.port,
                backlog=512,
            )
            tries -= 1
            try:
                return await self._bind_rendezvous()
            except NetError:
                if not tries:
                    raise
                self._listener.close()

    async def _bind_rendezvous(self) -> None:
        host = self._config.host
        inward = f"[{host}]" if ":" in host else host
        if ip_address(host).is_unspecified:
            inward = "[::1]" if ":" in host else "127.0.0.1"
        self._endpoint = await IrohEndpoint.bind(
            _seed(self._config.data),
            self.port,
            (host,),
            protocol=ALPN_RENDEZVOUS,
            relays=(f"http://{inward}:{self.port}",),
        )
        self.hub.judge_always(self._endpoint.key, Standing.OWN)
        self._rendezvous = Rendezvous(self._endpoint)

    def _page(self, path: str, host: str) -> tuple[HTTPStatus, str]:
        match path.partition("?")[0]:
            case "/":
                return HTTPStatus.OK, "a relay of DeepBrain\n"
            case "/ping" | "/generate_204":  # what iroh measures and probes with
                return HTTPStatus.OK if path == "/ping" else HTTPStatus.NO_CONTENT, ""
            case "/rendezvous" if self._endpoint is not None:
                page = {"key": self._endpoint.key.hex(), "port": self.port}
                return HTTPStatus.OK, json.dumps(page)
            case "/metrics" if _is_loopback(host):
                return HTTPStatus.OK, "".join(self._metrics())
            case _:
                return HTTPStatus.NOT_FOUND, "no such page\n"

    def _metrics(self) -> Iterator[str]:
        """For Prometheus, and for this machine alone: who talks how much is nobody else's to know."""
        yield f"deepbrain_relay_connections {self.hub.connections}\n"
        yield f"deepbrain_relay_refused_total {self.hub.refused}\n"
        rendezvous = 0 if self._rendezvous is None else self._rendezvous.connections
        yield f"deepbrain_rendezvous_connections {rendezvous}\n"
        meters = sorted(self.hub.keys.items(), key=lambda entry: -entry[1].sent)[:SHOWN_KEYS]
        for name in ("sent", "received", "dropped"):
            for key, meter in meters:
                count = getattr(meter, name)
                yield f'deepbrain_relay_{name}_bytes_total{{key="{key.hex()}"}} {count}\n'


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _seed(data: Path | None) -> bytes:
    """The key of the rendezvous: the same after a restart. Raises: OSError."""
    if data is None:
        return os.urandom(32)
    path = data / "relay.key"
    with contextlib.suppress(FileNotFoundError, ValueError):
        seed = bytes.fromhex(path.read_text())
        if len(seed) == 32:
            return seed
    seed = os.urandom(32)
    data.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    with open(draft, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(seed.hex())
    draft.replace(path)
    return seed

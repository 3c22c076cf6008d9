"""Endpoints over iroh: QUIC with both ends proven by their ed25519 keys.

No discovery service and no name lookups: a machine is dialled at its own addresses and through the
relays it names. (The default preset of iroh would do thousands of DNS lookups a minute; see ADR-0030.)
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final, Self, TypeVar

import iroh
from iroh import iroh_ffi

from deepbrain.net import fastsend, freeing
from deepbrain.net.errors import (
    ConnectionClosed,
    ConnectionLost,
    NetError,
    StreamReset,
    Unreachable,
)
from deepbrain.net.stream import Stream
from deepbrain.net.transport import (
    ALPN,
    CLOSED_CLEANLY,
    DIAL_SECONDS,
    TransportKey,
    is_relay,
)

T = TypeVar("T")

_ENDINGS: Final = (
    ("ApplicationClosed", "the other side closed it"),
    ("LocallyClosed", "it was closed here"),
    ("TimedOut", "nothing came for too long"),
)
_CLEAN: Final = f"ApplicationClose {{ error_code: {CLOSED_CLEANLY}, "
_SAID: Final = re.compile(r'reason: b"([ -~]{1,80})"')
"""The other side's own reason: a stranger's bytes, so only printable ones."""

_REFUSAL: Final = "refused to accept a new connection"

REFUSED_PAUSE_SECONDS: Final = 0.3
"""Between two knocks at a machine that refuses them for now."""

fastsend.apply()
freeing.apply()

ANYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 (a provider is there to be reached)
"""Every interface, in both address families."""

_FAILURES: Final = (iroh_ffi.IrohError, iroh_ffi.InternalError)

_CLOSE_SECONDS: Final = 1.0

_EXTERNAL: Final = 4
"""External addresses that peers are told at most; the newest count."""

_STAGGER_SECONDS: Final = 0.4
"""How much later each further relay is tried."""


class IrohStream:
    """The raw halves of one stream; `Stream` makes them safe to use."""

    __slots__ = ("_receive", "_send")

    def __init__(self, halves: Any) -> None:
        self._send = halves.send()
        self._receive = halves.recv()

    async def read(self, limit: int) -> bytes:
        return await _net(self._receive.read(limit))

    async def write(self, data: bytes) -> None:
        await _net(self._send.write_all(data))

    async def finish(self) -> None:
        await _net(self._send.finish())

    async def reset(self, code: int) -> None:
        await _net(self._send.reset(code))

    async def stop(self, code: int) -> None:
        await _net(self._receive.stop(code))


class IrohConnection:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._remote = TransportKey(connection.remote_id().to_bytes())

    @property
    def remote(self) -> TransportKey:
        return self._remote

    @property
    def remote_address(self) -> str:
        paths = self._connection.paths()
        chosen = [path.remote_addr for path in paths if path.is_selected]
        return str(chosen[0]) if chosen else ""

    @property
    def direct_address(self) -> str:
        paths = self._connection.paths()
        direct = [path.remote_addr for path in paths if path.is_ip and path.is_selected]
        return str(direct[0]) if direct else ""

    @property
    def round_trip(self) -> float:
        return float(self._connection.rtt() or 0) / 1000

    async def open(self) -> Stream:
        return Stream(IrohStream(await _net(self._connection.open_bi())))

    async def accept(self) -> Stream:
        return Stream(IrohStream(await _net(self._connection.accept_bi())))

    def allow_streams(self, count: int) -> None:
        self._connection.set_max_concurrent_bi_streams(count)

    def close(self, code: int = CLOSED_CLEANLY, reason: str = "") -> None:
        self._connection.close(code, reason.encode())

    async def wait_closed(self) -> str:
        return str(await self._connection.closed())


class IrohIncoming:
    def __init__(self, incoming: Any, remote_address: str) -> None:
        self._incoming = incoming
        self._remote_address = remote_address

    @property
    def remote_address(self) -> str:
        return self._remote_address

    async def complete(self, timeout: float) -> IrohConnection:
        try:
            async with asyncio.timeout(timeout):
                accepting = await self._incoming.accept()
                return IrohConnection(await accepting.connect())
        except (*_FAILURES, TimeoutError) as error:
            raise Unreachable("the handshake was not completed") from error

    async def prove_address(self) -> bool:
        try:
            if not self._remote_address or await self._incoming.remote_addr_validated():
                return True
            await self._incoming.retry()
        except _FAILURES:
            pass  # whoever knocked has gone
        return False

    async def refuse(self) -> None:
        try:
            await self._incoming.refuse()
        except _FAILURES:
            return  # whoever knocked has gone


class IrohEndpoint:
    """`IrohEndpoint.bind` makes one."""

    def __init__(self, endpoint: Any, relays: Iterable[str] = ()) -> None:
        self._endpoint = endpoint
        self._key = TransportKey(endpoint.id().to_bytes())
        self._relays = set(relays)
        self._external: list[str] = []

    @classmethod
    async def bind(
        cls,
        seed: bytes,
        port: int = 0,
        hosts: Sequence[str] = ANYWHERE,
        *,
        protocol: bytes = ALPN,
        relays: Sequence[str] = (),
    ) -> Self:
        """An endpoint whose key is made from a 32-byte ed25519 seed, for those who dial by `protocol`.

        It attaches itself to the nearest of `relays`, and to others while it has connections there.

        Binds UDP `port` (0: any) on each of `hosts`; an address family the machine does not have is
        left out. Raises: NetError: the port is in use, or no host could be bound.
        """
        failure: BaseException | None = None
        for chosen in _choices(hosts):
            try:
                return cls(await _bind(seed, port, chosen, protocol, relays), relays)
            except _FAILURES as error:
                failure = failure or error
        where = f"port {port}" if port else "any port"
        raise NetError(
            f"cannot listen on UDP {where}: it is in use, or not allowed; choose another port"
        ) from failure

    @property
    def key(self) -> TransportKey:
        return self._key

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._endpoint.bound_sockets())

    async def dial(
        self,
        peer: bytes,
        addresses: Sequence[str],
        timeout: float = DIAL_SECONDS,
        *,
        protocol: bytes = ALPN,
    ) -> IrohConnection:
        try:
            key = iroh.EndpointId.from_bytes(bytes(peer))
            direct = [address for address in addresses if not is_relay(address)]
            relays = [address for address in addresses if is_relay(address)]
            await self.use_relays(relays)
            by: list[str | None] = [*relays] or [None]
            ways = [iroh.EndpointAddr(key, relay, direct) for relay in by]
            async with asyncio.timeout(timeout):
                connection = IrohConnection(await self._first(ways, protocol))
        except (*_FAILURES, TimeoutError) as error:
            raise Unreachable(f"no answer from {_listed(addresses)}") from error
        connection.allow_streams(0)  # only the side that dials asks
        return connection

    async def _first(self, ways: Sequence[Any], protocol: bytes) -> Any:
        """The first connection of those that are tried, one after another and then side by side.

        Raises: one of `_FAILURES`: the last, when none works.
        """

        async def attempt(number: int) -> Any:
            await asyncio.sleep(number * _STAGGER_SECONDS)
            return await self._connect(ways[number], protocol)

        attempts = {asyncio.create_task(attempt(number)) for number in range(len(ways))}
        try:
            waiting = attempts
            while True:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None or not waiting:
                        return task.result()
        finally:
            for task in attempts:
                task.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def use_relays(self, urls: Iterable[str], token: str = "") -> None:
        for url in urls:
            if url not in self._relays:
                self._relays.add(url)
                config = iroh.RelayConfig(url=url, quic_port=None, auth_token=token or None)
                await _net(self._endpoint.insert_relay(config))

    async def note_external(self, address: str) -> None:
        if address and address not in self._external:
            self._external.append(address)
            await _net(self._endpoint.add_external_addr(address))
            if len(self._external) > _EXTERNAL:
                await _net(self._endpoint.remove_external_addr(self._external.pop(0)))

    async def _connect(self, target: Any, protocol: bytes) -> Any:
        """A machine with too many at its door says so at once; there may be room in a moment."""
        while True:
            try:
                return await self._endpoint.connect(target, protocol)
            except iroh_ffi.IrohError as error:
                if _REFUSAL not in str(error.message()):
                    raise
            await asyncio.sleep(REFUSED_PAUSE_SECONDS)

    async def accept(self) -> IrohIncoming | None:
        while (incoming := await self._endpoint.accept_next()) is not None:
            try:
                return IrohIncoming(incoming, _ip_and_port(await incoming.remote_addr()))
            except _FAILURES:
                continue  # it went away while it knocked
        return None

    async def close(self) -> None:
        if not self._endpoint.is_closed():
            # The farewells are sent at once; what is waited for is that nobody who is gone answers them.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._endpoint.close()


async def _bind(
    seed: bytes, port: int, hosts: Sequence[str], protocol: bytes, relays: Sequence[str]
) -> Any:
    builder: Any = iroh_ffi.EndpointBuilder()  # type: ignore[no-untyped-call]
    builder.apply_minimal()
    builder.relay_mode(iroh.RelayMode.custom_from_urls(list(relays)))
    builder.secret_key(seed)
    builder.alpns([protocol])
    for host in hosts:
        builder.bind_addr(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return await builder.bind()


def _choices(hosts: Sequence[str]) -> list[tuple[str, ...]]:
    """All hosts; then those of one family, for machines that lack the other."""
    four = tuple(host for host in hosts if ":" not in host)
    six = tuple(host for host in hosts if ":" in host)
    return [choice for choice in dict.fromkeys([tuple(hosts), four, six]) if choice]


async def _net(pending: Awaitable[T]) -> T:
    """Await a call into iroh; its failures become ours."""
    try:
        return await pending
    except iroh_ffi.IrohError as error:
        text = str(error.message())
        if text.startswith(("Reset", "Stopped")):
            raise StreamReset("the other side gave up on the stream") from error
        if _CLEAN in text:
            raise ConnectionClosed("the other side closed the connection") from error
        raise ConnectionLost(f"the connection was lost ({_short(text)})") from error
    except iroh_ffi.InternalError as error:
        raise ConnectionLost("the connection was lost (internal error)") from error


def _short(text: str) -> str:
    """Why a connection ended, in words where the library's text is a known one."""
    if not text:
        return "no reason given"
    for sign, words in _ENDINGS:
        if sign in text:
            said = _SAID.search(text)
            return f"{words}: {said[1]}" if said else words
    return text.splitlines()[0][:120]


def _ip_and_port(address: Any) -> str:
    return str(address.addr) if address.is_ip() else ""


def _listed(addresses: Sequence[str]) -> str:
    return ", ".join(addresses) if addresses else "anywhere: no address is known"

"""Keep a machine attached to relays, so that it is reached without an open port.

For each relay one visit to its rendezvous: it keeps the machine attached there, and tells the address
that the machine's NAT shows, which peers are then told to try. Relays that hold are announced on the
chain; one that is away for a while is not taken off at once, because it is usually just being restarted.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from deepbrain.net import rendezvous
from deepbrain.net.errors import NetError
from deepbrain.net.transport import Endpoint, host_of
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.provider.chain import Chain

log = logging.getLogger(__name__)

MAX_RELAYS: Final = 4
BEAT_SECONDS: Final = 8.0
"""How often a visit asks for its address: a relay that was restarted is noticed within the time of one
question more."""
RETRY_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
LIST_SECONDS: Final = 60.0
"""How often the node is asked which relays there are."""
ANNOUNCE_SECONDS: Final = 2.0
"""How often it is looked whether the record is right."""
ANNOUNCE_PAUSE_SECONDS: Final = 30.0
"""The least time between two announcements: each costs a fee."""
MISSED_SECONDS: Final = 600.0
"""How long a relay that does not answer stays in the record."""


class Attachment:
    """The machine's tie to one relay."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = ""
        """As the relay's rendezvous sees us; empty without, or where only the relay connects us."""
        self.attached_at: float | None = None
        """When it was last known to hold, by the event loop's clock."""
        self.holds = False

    async def keep(self, endpoint: Endpoint) -> None:
        """Visit the relay's rendezvous, again whenever the visit breaks; for ever."""
        failures = 0
        while True:
            try:
                relay = await rendezvous.find(self.url)
                async with rendezvous.visiting(endpoint, relay) as visit:
                    while True:
                        await self._note(endpoint, await rendezvous.look(visit))
                        failures = 0
                        await asyncio.sleep(BEAT_SECONDS)
            except NetError as error:
                if self.holds or not failures:
                    log.info("relay %s: %s", self.url, error, extra={"event": "relay-lost"})
                self.holds = False
                pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                await asyncio.sleep(pause)

    async def _note(self, endpoint: Endpoint, address: str) -> None:
        if not self.holds:
            seen = f", which sees us at {address}" if address else " only: no UDP comes through"
            log.info("attached to relay %s%s", self.url, seen, extra={"event": "relay"})
        self.holds, self.address = True, address
        self.attached_at = asyncio.get_running_loop().time()
        await endpoint.note_external(address)


class Attachments:
    """All of a machine's; `run` keeps them."""

    def __init__(
        self, endpoint: Endpoint, chain: Chain, given: Sequence[str], addresses: Sequence[str]
    ) -> None:
        """`given`: these relays and no others; none: those that the node names. `addresses`: where
        the machine says that it is dialled directly.
        """
        self._endpoint = endpoint
        self._chain = chain
        self._given = tuple(given)[:MAX_RELAYS]
        self._addresses = tuple(addresses)
        self._kept: dict[str, tuple[Attachment, asyncio.Task[None]]] = {}
        self._announced: tuple[str, ...] | None = None

    @property
    def all(self) -> tuple[Attachment, ...]:
        return tuple(attachment for attachment, _ in self._kept.values())

    async def run(self) -> None:
        """For ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_list(group))
                group.create_task(self._announce())
        finally:
            for _, task in self._kept.values():
                task.cancel()

    async def _follow_list(self, group: asyncio.TaskGroup) -> None:
        while True:
            wanted = self._given
            if not wanted:
                with suppress(DeepBrainError):
                    wanted = (await self._chain.relays())[:MAX_RELAYS]
            for url in wanted:
                if url not in self._kept and serves(url, self._addresses):
                    self._make_room(wanted)
                    attachment = Attachment(url)
                    task = group.create_task(attachment.keep(self._endpoint))
                    self._kept[url] = (attachment, task)
            await asyncio.sleep(LIST_SECONDS if self._kept else RETRY_SECONDS[2])

    def _make_room(self, wanted: Sequence[str]) -> None:
        """A relay that nobody names any more goes where there are too many."""
        for url in tuple(self._kept):
            if len(self._kept) >= MAX_RELAYS and url not in wanted:
                self._kept.pop(url)[1].cancel()

    async def _announce(self) -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_SECONDS)
            usable = self._usable()
            if usable == self._announced or not self._kept or (not usable and not self._announced):
                continue
            try:
                await self._chain.announce(usable)
                self._announced = usable
            except DeepBrainError as error:
                why = "the relays cannot be announced yet: %s"
                log.warning(why, error, extra={"event": "announce-failed"})
            await asyncio.sleep(ANNOUNCE_PAUSE_SECONDS)

    def _usable(self) -> tuple[str, ...]:
        """The relays that hold, or did a while ago."""
        since = asyncio.get_running_loop().time() - MISSED_SECONDS
        return tuple(
            one.url for one in self.all if one.attached_at is not None and one.attached_at > since
        )


def serves(url: str, addresses: Sequence[str]) -> bool:
    """Whether others can use this relay: one on the loopback is for networks on one machine."""
    host = urlsplit(url).hostname or ""
    is_local = host == "localhost" or _is_loopback(host)
    return not is_local or all(_is_loopback(host_of(address)) for address in addresses)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

"""Which of the relays that a machine names a renter's program talks to.

A machine's record is a stranger's: its relays would be asked by HTTP from the renter's own computer,
where a private address is a service of hers. So those are left out, unless her own node names them too.
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from deepbrain.cli.renter.market import ways_to
from deepbrain.net.transport import is_relay
from deepbrain.sandbox.addresses import is_near

if TYPE_CHECKING:
    from deepbrain.client import Client
    from deepbrain.pallets.machines import Address

RESOLVE_SECONDS: Final = 4.0


async def ways_for_renters(client: "Client", address: "Address") -> tuple[str, ...]:
    """All ways to a machine that the program of a renter may take."""
    ways = ways_to(address)
    relays = [way for way in ways if is_relay(way)]
    if not relays:
        return ways
    named = await client.relays()
    far = await asyncio.gather(*(_is_far(url) for url in relays))
    usable = {url for url, good in zip(relays, far, strict=True) if good} | set(named)
    return tuple(way for way in ways if not is_relay(way) or way in usable)


async def _is_far(url: str) -> bool:
    """Whether its host is on the internet, whatever its name resolves to now."""
    host = urlsplit(url).hostname or ""
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            answers: Sequence[tuple[object, ...]] = await asyncio.get_running_loop().getaddrinfo(
                host, None
            )
        return not any(is_near(ipaddress.ip_address(answer[4][0])) for answer in answers)  # type: ignore[index]
    except (OSError, ValueError):  # a time-out too; a scope, which only link-local addresses have
        return False

"""Who stands at the door before their proof is checked: few at once, and few and seldom of one address.

An address is an IPv4 address, or an IPv6 network of 64 bits: whoever holds one address of such a network
holds them all. What has no address (it comes through a relay) counts as one.
"""

import ipaddress
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

PLACES: Final = 64
"""Unproven connections at once."""
PLACES_PER_ADDRESS: Final = 16
RELAYED_PLACES: Final = 32
"""Of those whose address is not known."""
KNOCKS_PER_SECOND: Final = 20
"""Of one address, in the long run: each costs a handshake and a signature check."""
KNOCKS_AT_ONCE: Final = 40
CROWDED: Final = 16
"""From so many on, whoever knocks must show first that it receives at the address it claims."""

_NETWORK_BITS: Final = 64
_REMEMBERED: Final = 4096
"""Addresses that came lately."""


class Doorstep:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken: Counter[str] = Counter()
        self._busy_until: dict[str, float] = {}
        """Until when an address's knocks would take, at the pace that it may keep."""

    @property
    def count(self) -> int:
        """Connections whose proof was not checked yet."""
        return self._taken.total()

    @property
    def is_crowded(self) -> bool:
        return self.count >= CROWDED

    def has_room(self, remote_address: str) -> bool:
        """Whether one more may stand here who comes from `remote_address` (`ip:port`, or empty)."""
        origin = origin_of(remote_address)
        most = PLACES_PER_ADDRESS if origin else RELAYED_PLACES
        return self.count < PLACES and self._taken[origin] < most and not self._is_hasty(origin)

    def _is_hasty(self, origin: str) -> bool:
        ahead = self._busy_until.get(origin, 0.0) - self._clock()
        return ahead > (KNOCKS_AT_ONCE - 1) / KNOCKS_PER_SECOND

    def take(self, remote_address: str) -> None:
        """Take a place; there must be room."""
        origin = origin_of(remote_address)
        self._taken[origin] += 1
        if origin:
            self._note_knock(origin)

    def _note_knock(self, origin: str) -> None:
        now = self._clock()
        if len(self._busy_until) >= _REMEMBERED:
            self._busy_until = {
                one: until for one, until in self._busy_until.items() if until > now
            }
        if len(self._busy_until) >= _REMEMBERED:
            self._busy_until.clear()
        self._busy_until[origin] = (
            max(self._busy_until.get(origin, 0.0), now) + 1 / KNOCKS_PER_SECOND
        )

    def leave(self, remote_address: str) -> None:
        """Give a place back that was taken."""
        origin = origin_of(remote_address)
        self._taken[origin] -= 1
        if not self._taken[origin]:
            del self._taken[origin]


def origin_of(remote_address: str) -> str:
    """What one stranger cannot have many of; empty for what is no address."""
    host = remote_address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _NETWORK_BITS), strict=False))

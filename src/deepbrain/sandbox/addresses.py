"""Which addresses a process that serves strangers may connect to: the internet, and nothing nearer.

A renter names the registry that a provider's machine connects to. So neither the machine itself, nor
the networks it is in, nor any private address may be the target, whatever a name resolves to.
"""

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from deepbrain.sandbox.egress import NOT_PUBLIC

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_ROUTE_UP: Final = 0x1
_ROUTE_GATEWAY: Final = 0x2


class PrivateAddress(OSError):
    """All that a name resolves to is off limits."""


def is_outside(text: str) -> bool:
    """Whether an address is of the public internet, and neither this machine's nor its network's."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # with a scope: link-local
        return False
    inner = _inner(address)
    if not inner.is_global or inner.is_multicast or not address.is_global or _is_ours(inner):
        return False
    return not any(inner in network for network in (*NOT_PUBLIC, *attached_networks()))


def is_near(address: Address) -> bool:
    """Whether it is this machine, a network that it is in, or one that the internet does not reach."""
    inner = _inner(address)
    if isinstance(inner, ipaddress.IPv6Address) and not (inner.is_global and address.is_global):
        return True
    return _is_ours(inner) or any(
        inner in network for network in (*NOT_PUBLIC, *attached_networks())
    )


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, by any of the usual translations."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_ours(address: Address) -> bool:
    """An address that can be bound is one of this machine's."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def attached_networks() -> Iterator[Network]:
    """Networks that this machine reaches without a gateway."""
    for line in _lines("/proc/net/route")[1:]:
        fields = line.split()
        flags = int(fields[3], 16)
        if flags & _ROUTE_UP and not flags & _ROUTE_GATEWAY:
            base, mask = (int.from_bytes(bytes.fromhex(fields[n]), "little") for n in (1, 7))
            if mask:  # a default route through a tunnel has no gateway either
                yield ipaddress.IPv4Network((base, mask.bit_count()))
    for line in _lines("/proc/net/ipv6_route"):
        fields = line.split()
        length, flags = int(fields[1], 16), int(fields[8], 16)
        if length and flags & _ROUTE_UP and not flags & _ROUTE_GATEWAY:
            yield ipaddress.IPv6Network((bytes.fromhex(fields[0]), length), strict=False)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def admit_outside_only() -> None:
    """From now on no name resolves to anything else in this process.

    Whoever connects does so to what was resolved, so a name that changes its mind gains nothing.
    """
    resolve = socket.getaddrinfo

    def resolve_outside(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        answers = resolve(host, port, *more, **options)
        found = [answer for answer in answers if is_outside(str(answer[4][0]))]
        if not found:
            raise PrivateAddress(f"{host} is at a private address")
        return found

    socket.getaddrinfo = resolve_outside

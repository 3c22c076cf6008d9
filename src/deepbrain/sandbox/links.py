"""What the host's network looks like, and the pair of interfaces that joins a tenant to it."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from pathlib import Path
from typing import Any, Final

from deepbrain.sandbox.netns import NetworkNamespace
from deepbrain.sandbox.sandbox import SandboxError
from deepbrain.sandbox.volumes import find_program

PREFIX: Final = "dbc-"
"""How the host's end of every tenant's link begins."""

PROBE: Final = "dbcprobe"
"""The link to the listener of our own trials. It stands for the way outwards."""

PROBE_HOST, PROBE_BEYOND = IPv4Address("198.51.100.1"), IPv4Address("198.51.100.2")

POOLS: Final = tuple(
    IPv4Network(text)
    for text in ("10.213.208.0/20", "172.29.208.0/20", "192.168.208.0/20", "198.19.208.0/20")
)
"""Where tenants' /30 come from: the first pool that no network of the host covers; 1024 in each."""

INSIDE: Final = "eth0"
LEAST_MTU: Final = 576

_LIMIT: Final = "@"
_SYS: Final = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True)
class Link:
    """The host's end of a tenant's link."""

    name: str
    address: IPv4Address
    """The tenant's."""
    up: bool
    mbit: int = 0
    """What it may carry each way, in megabits a second; 0: no limit."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The host's network as it is now."""

    links: tuple[Link, ...]
    uplinks: tuple[str, ...]
    """Interfaces of the default routes."""
    near: tuple[IPv4Network, ...]
    """What is reached without a router: the host's own addresses and its neighbours'."""
    taken: tuple[IPv4Network, ...]
    """Every network that an address or a route of the host names."""
    mtu: int
    """Of the default route."""
    routes: bool
    """Whether the host forwards between all its interfaces already."""


def read_facts() -> Facts:
    """Raises: SandboxError: `ip` is missing, or fails."""
    interfaces = json.loads(run_ip("-d", "-j", "addr", "show"))
    routes = json.loads(run_ip("-j", "-4", "route", "show", "table", "all") or "[]")
    return facts_of(interfaces, routes, routes_already=_read(_SYS / "ipv4/ip_forward") == "1")


def facts_of(
    interfaces: Sequence[dict[str, Any]], routes: Sequence[dict[str, Any]], *, routes_already: bool
) -> Facts:
    """From what `ip -d -j addr` and `ip -j route show table all` print."""
    links, near = [], []
    for interface in interfaces:
        name = str(interface.get("ifname", ""))
        for network, address in _networks(interface):
            if name.startswith(PREFIX):
                other = IPv4Address(int(network.network_address) + 2)
                up, mbit = "UP" in interface.get("flags", ()), _mbit_of(interface)
                links.append(Link(name, other, up, mbit))
            elif name != PROBE:
                near += [network, IPv4Network(address)]
    taken = [link_network(link) for link in links]
    uplinks: list[str] = []
    for route in routes:
        hops = [route, *route.get("nexthops", ())]
        devices = [str(hop["dev"]) for hop in hops if "dev" in hop]
        if any(device == PROBE or device.startswith(PREFIX) for device in devices):
            continue
        if route.get("type", "unicast") != "unicast":
            continue
        if route["dst"] == "default":
            uplinks += [device for device in devices if device not in uplinks]
        else:
            taken.append(IPv4Network(route["dst"], strict=False))
            if route.get("scope") == "link":
                near.append(taken[-1])
    if any(interface.get("ifname") == PROBE for interface in interfaces):
        uplinks.append(PROBE)
    return Facts(
        links=tuple(sorted(links, key=lambda link: link.name)),
        uplinks=tuple(uplinks),
        near=tuple(collapse_addresses(near)),
        taken=tuple(collapse_addresses((*near, *taken))),
        mtu=_mtu(interfaces, routes, uplinks),
        routes=routes_already,
    )


def _mbit_of(interface: dict[str, Any]) -> int:
    """The limit is written in the alias, so that whoever makes the rules finds it."""
    _, mark, limit = str(interface.get("ifalias", "")).partition(_LIMIT)
    return int(limit.removesuffix("mbit")) if mark else 0


def link_network(link: Link) -> IPv4Network:
    return IPv4Network((int(link.address) & ~3, 30))


def _networks(interface: dict[str, Any]) -> Iterator[tuple[IPv4Network, IPv4Address]]:
    for entry in interface.get("addr_info", ()):
        if entry.get("family") == "inet" and "local" in entry:
            address = IPv4Address(entry["local"])
            # The other end, where it is a point-to-point link.
            there = IPv4Address(entry.get("address", entry["local"]))
            yield IPv4Network((there, int(entry["prefixlen"])), strict=False), address


def _mtu(
    interfaces: Sequence[dict[str, Any]], routes: Sequence[dict[str, Any]], uplinks: Sequence[str]
) -> int:
    """The least of the default routes' and of their interfaces'."""
    found = [int(entry["mtu"]) for entry in interfaces if entry.get("ifname") in uplinks]
    for route in routes:
        if route.get("dst") == "default":
            found += [int(metric["mtu"]) for metric in route.get("metrics", ()) if "mtu" in metric]
    return max(min(found, default=1500), LEAST_MTU)


def free_network(taken: Iterable[IPv4Network]) -> IPv4Network:
    """A /30 that nothing on the host overlaps; not the last one again, whose connections are remembered.

    Raises: SandboxError: there is none.
    """
    used = tuple(taken)
    for pool in POOLS:
        near = [network for network in used if network.overlaps(pool)]
        if any(network.supernet_of(pool) for network in near):
            continue
        candidates = list(pool.subnets(new_prefix=30))
        start = secrets.randbelow(len(candidates))
        for candidate in candidates[start:] + candidates[:start]:
            if not any(candidate.overlaps(network) for network in near):
                return candidate
    raise SandboxError("no private network is free on this host for another tenant")


def join_tenant(namespace: NetworkNamespace, alias: str, facts: Facts, mbit: int = 0) -> str:
    """Make the link of a tenant; its host's end has an address and is down. Returns its name.

    `alias` is for people: `ip link` shows it. No IPv6 at either end.

    Raises: SandboxError: the kernel refuses; nothing is left of it then.
    """
    network = free_network(facts.taken)
    name = PREFIX + secrets.token_hex(4)
    try:
        make_pair(namespace, name, network, facts.mtu)
        shown = f"{alias}{_LIMIT}{mbit}mbit" if mbit else alias
        run_ip("link", "set", "dev", name, "alias", shown)
    except (SandboxError, OSError) as error:
        remove_link(name)
        raise SandboxError(f"the tenant's network cannot be made: {error}") from error
    return name


def make_pair(namespace: NetworkNamespace, name: str, network: IPv4Network, mtu: int) -> None:
    """A pair of interfaces, `name` here and `eth0` in there, with the two addresses of a /30."""
    host, other = network.network_address + 1, network.network_address + 2
    pair = ("link", "add", "name", name, "mtu", str(mtu), "type", "veth", "peer", "name", INSIDE)
    run_ip(*pair, "mtu", str(mtu), "netns", namespace.path, fds=namespace.fds)
    _harden(name)
    run_ip("addr", "add", f"{host}/30", "dev", name)
    namespace.run(lambda: _configure(f"{other}/30", str(host)))


def _harden(name: str) -> None:
    """Before it is up: no IPv6, no address but its own, no redirects; forwarding, for this one."""
    settings = {
        f"ipv6/conf/{name}/disable_ipv6": "1",
        f"ipv4/conf/{name}/arp_ignore": "1",
        f"ipv4/conf/{name}/rp_filter": "1",
        f"ipv4/conf/{name}/accept_redirects": "0",
        f"ipv4/conf/{name}/send_redirects": "0",
        f"ipv4/conf/{name}/route_localnet": "0",
        f"ipv4/conf/{name}/forwarding": "1",
    }
    for setting, value in settings.items():
        path = _SYS / setting
        if path.exists() or not setting.startswith("ipv6"):
            path.write_text(value)


def _configure(address: str, gateway: str) -> None:
    """In the tenant's namespace. gVisor takes address and route over, and the kernel forgets them."""
    with suppress(FileNotFoundError):  # a kernel without IPv6
        (_SYS / f"ipv6/conf/{INSIDE}/disable_ipv6").write_text("1")
    commands = (
        f"addr add {address} dev {INSIDE}",
        "link set dev lo up",
        f"link set dev {INSIDE} up",
        f"route add default via {gateway} dev {INSIDE}",
    )
    run_ip("-batch", "-", lines=commands)


def links_called(alias: str) -> list[str]:
    """Links of tenants that were made with this alias."""
    return [
        str(entry["ifname"])
        for entry in json.loads(run_ip("-d", "-j", "link", "show") or "[]")
        if str(entry.get("ifalias", "")).partition(_LIMIT)[0] == alias
        and str(entry.get("ifname", "")).startswith(PREFIX)
    ]


def remove_link(name: str) -> None:
    """Both ends of it. Gone already is fine."""
    with suppress(SandboxError):
        run_ip("link", "del", "dev", name)


def set_link(name: str, *, up: bool) -> None:
    """Gone meanwhile is fine."""
    with suppress(SandboxError):
        run_ip("link", "set", "dev", name, "up" if up else "down")


def forwards(interface: str) -> bool:
    return _read(_SYS / f"ipv4/conf/{interface}/forwarding") == "1"


def set_forwarding(interface: str, *, on: bool) -> None:
    """Raises: SandboxError: it cannot be set."""
    try:
        (_SYS / f"ipv4/conf/{interface}/forwarding").write_text("1" if on else "0")
    except OSError as error:
        raise SandboxError(f"{interface} cannot be made to forward: {error.strerror}") from error


def run_ip(*arguments: str, fds: tuple[int, ...] = (), lines: Sequence[str] = ()) -> str:
    """`ip`, to its end. Raises: SandboxError: it is missing, or fails."""
    done = subprocess.run(
        [find_program("ip"), *arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
        pass_fds=fds,
        env={"PATH": os.defpath, "LC_ALL": "C"},
    )
    if done.returncode:
        raise SandboxError(done.stderr.strip()[:200] or f"ip {arguments[0]} failed")
    return done.stdout


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

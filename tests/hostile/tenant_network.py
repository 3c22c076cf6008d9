"""What a tenant tries over its network, from the strongest place: as root of its namespace, past gVisor.

Each attack answers whether it reached what it must not. `measure` runs all of them from a tenant's seat;
`rules_off` is the same seat where our rules and settings are missing: there they all must reach, or an
attack that is contained would show nothing.
"""

import contextlib
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from unittest import mock

from tests.hostile.world import (
    AGENT_PORT,
    CLOUD,
    GATEWAY,
    HOST_LAN,
    HOST_WAN,
    LAN_BOX,
    MAIL,
    METADATA,
    NEIGHBOUR,
    PORT,
    RESOLVER,
    ROUTER,
    WEB,
    World,
    sh,
)

from deepbrain.sandbox import egress, links
from deepbrain.sandbox.links import PREFIX, Facts
from deepbrain.sandbox.netns import NetworkNamespace
from deepbrain.sandbox.network import TenantNetwork
from deepbrain.sandbox.probe import ask_resolvers

SECONDS = 1.0
ETH_ARP, TUNNEL = 0x0806, 253


@dataclass
class Seat:
    """Where a tenant sits: its namespace, its link's name on the host, its address."""

    world: World
    namespace: NetworkNamespace
    link: str
    address: IPv4Address

    @property
    def gateway(self) -> str:
        return str(self.address - 1)

    @property
    def neighbour(self) -> "Seat":
        return self.world.seats[1]


# -- ways to reach somebody


def tcp(address: str, port: int = PORT) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as one:
        one.settimeout(SECONDS)
        try:
            one.connect((address, port))
            return one.recv(64) != b""
        except OSError:
            return False


def udp(address: str, port: int = PORT) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.settimeout(SECONDS)
        try:
            one.sendto(b"?", (address, port))
            return one.recv(64) != b""
        except OSError:
            return False


def ping(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as one:
        one.settimeout(SECONDS)
        body = struct.pack(">BBHHH", 8, 0, 0, 7, 1)
        total = sum(struct.unpack(f">{len(body) // 2}H", body))
        body = body[:2] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + body[4:]
        try:
            one.sendto(body, (address, 0))
            while True:  # others' answers are heard as well
                answer, sender = one.recvfrom(128)
                if sender[0] == address and answer[20] == 0:
                    return True
        except OSError:
            return False


def spoofed(source: str, address: str, port: int) -> None:
    """A datagram that says it comes from somebody else."""
    data = b"spoofed"
    datagram = struct.pack(">HHHH", 4242, port, 8 + len(data), 0) + data
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0,
        socket.inet_aton(source), socket.inet_aton(address),
    )  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as one:
        one.sendto(head + datagram, (address, port))


def arp(address: str, own: str) -> bool:
    """Whether the host answers to an address that is not this link's."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ARP)) as one:
        one.bind(("eth0", ETH_ARP))
        one.settimeout(SECONDS)
        mac = one.getsockname()[4]
        asked = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + mac + socket.inet_aton(own)
        one.send(
            b"\xff" * 6
            + mac
            + struct.pack(">H", ETH_ARP)
            + asked
            + bytes(6)
            + socket.inet_aton(address)
        )
        deadline = time.monotonic() + SECONDS
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                answer = one.recv(128)
                if answer[20:22] == b"\0\2" and answer[28:32] == socket.inet_aton(address):
                    return True
    return False


def other_protocol(seat: Seat) -> bool:
    """A tunnel's packets: what is inside of them no rule would see."""
    with seat.world.net.run(
        lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, TUNNEL)
    ) as there:
        there.settimeout(SECONDS)

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, TUNNEL) as one:
                one.sendto(b"tunnel", (WEB, 0))

        seat.namespace.run(send)
        try:
            return b"tunnel" in there.recv(128)
        except OSError:
            return False


def spoofing(seat: Seat, source: str, address: str, port: int, name: str) -> bool:
    seat.namespace.run(lambda: spoofed(source, address, port))
    time.sleep(SECONDS / 2)
    return (name, source) in seat.world.seen


def ipv6(seat: Seat, address: str) -> bool:
    def own() -> bool:
        for setting in ("accept_dad", "disable_ipv6"):
            Path("/proc/sys/net/ipv6/conf/eth0", setting).write_text("0")
        sh("ip", "-6", "addr", "replace", "fd78::2/64", "dev", "eth0", "nodad")
        sh("ip", "-6", "route", "replace", "default", "via", "fd78::1")
        return tcp(address)

    return seat.namespace.run(own)


def inwards(seat: Seat) -> bool:
    """From the LAN to something that the tenant serves."""
    listener = seat.namespace.run(lambda: socket.create_server((str(seat.address), 8080)))
    with listener:
        listener.settimeout(SECONDS)

        def dial() -> bool:
            with socket.socket() as one:
                one.settimeout(SECONDS)
                return one.connect_ex((str(seat.address), 8080)) == 0

        return bool(seat.world.lan.run(dial))


def transit(seat: Seat) -> bool:
    """Not the tenant's own: a neighbour takes the host for a router, since it forwards for tenants."""
    return bool(seat.world.net.run(lambda: tcp(LAN_BOX)))


def served(seat: Seat, way: Callable[[str, int], bool]) -> bool:
    return seat.namespace.run(lambda: way(str(seat.neighbour.address), PORT))


Attack = Callable[[Seat], bool]


def _by(way: Callable[..., bool], *target: str | int) -> Attack:
    return lambda seat: seat.namespace.run(lambda: way(*target))


ATTACKS: dict[str, Attack] = {
    "a box on the LAN by TCP": _by(tcp, LAN_BOX),
    "a box on the LAN by UDP": _by(udp, LAN_BOX),
    "a box on the LAN by ping": _by(ping, LAN_BOX),
    "the metadata address by TCP": _by(tcp, METADATA),
    "the metadata address by UDP": _by(udp, METADATA),
    "the host at its LAN address": _by(tcp, HOST_LAN),
    "the host at its public address": _by(tcp, HOST_WAN),
    "the host by ping": _by(ping, HOST_WAN),
    "the agent at the tenant's gateway": lambda seat: seat.namespace.run(
        lambda: udp(seat.gateway, AGENT_PORT)
    ),
    "the agent at the public address": _by(udp, HOST_WAN, AGENT_PORT),
    "the router": _by(tcp, GATEWAY),
    "the router at its public address": _by(tcp, ROUTER),
    "a cloud's public address for its hosts": _by(tcp, CLOUD),
    "a public neighbour on the provider's wire": _by(tcp, NEIGHBOUR),
    "another tenant by TCP": lambda seat: served(seat, tcp),
    "another tenant by UDP": lambda seat: served(seat, udp),
    "mail on port 25": _by(tcp, MAIL, 25),
    "mail on port 465": _by(tcp, MAIL, 465),
    "mail on port 587": _by(tcp, MAIL, 587),
    "IPv6 to the LAN": lambda seat: ipv6(seat, "fd77::10"),
    "IPv6 to the host": lambda seat: ipv6(seat, "fd77::2"),
    "the internet in a LAN box's name": lambda seat: spoofing(
        seat, "192.168.77.50", WEB, PORT, f"internet {WEB}"
    ),
    "the host in a LAN box's name": lambda seat: spoofing(
        seat, "192.168.77.51", HOST_LAN, PORT, f"host {HOST_LAN}"
    ),
    "the host's other addresses by ARP": lambda seat: seat.namespace.run(
        lambda: arp(HOST_LAN, str(seat.address))
    ),
    "a tunnel's protocol": other_protocol,
    "inwards, from the LAN": inwards,
    "transit through the host": transit,
}
ALLOWED: dict[str, Attack] = {
    "the web by TCP": _by(tcp, WEB),
    "the web by UDP": _by(udp, WEB),
    "the web by ping": _by(ping, WEB),
    "names": lambda seat: seat.namespace.run(
        lambda: ask_resolvers([IPv4Address(RESOLVER)], SECONDS).all
    ),
}


def measure(seat: Seat, *, patient: bool = False) -> dict[str, bool]:
    """What reaches. Who is `patient` tries again what does not: a busy machine loses packets.

    Two attacks configure the seat's IPv6; each may do so again.
    """
    found: dict[str, bool] = {}
    for _ in range(4 if patient else 1):
        missing = {name for name in ATTACKS | ALLOWED if not found.get(name)}
        found |= _measure(seat, missing)
    return found


def _measure(seat: Seat, wanted: Set[str]) -> dict[str, bool]:
    with ThreadPoolExecutor(8) as several:
        every = ATTACKS | ALLOWED
        tries = {name: several.submit(every[name], seat) for name in sorted(wanted)}
        return {name: found.result() for name, found in tries.items()}


@contextlib.contextmanager
def seats(world: World, network: TenantNetwork) -> Iterator[Seat]:
    """Two tenants' places; the second serves. IPv6 and spoofing are let through but for the table."""
    made = []
    for number in (1, 2):
        namespace = world.host.run(
            lambda number=number: network.attach(f"attacker-{number}", NetworkNamespace.current)
        )
        facts = world.host.run(links.read_facts)
        known = {seat.link for seat in made}
        link = next(link for link in facts.links if link.name not in known)
        made.append(Seat(world, namespace, link.name, link.address))
    world.seats = made
    name = made[0].link
    world.host.run(lambda: _loosen(name))
    world.lan.sh("ip", "-6", "route", "replace", "fd78::/64", "via", "fd77::2")
    with contextlib.ExitStack() as serving:
        for stream in (True, False):
            serving.enter_context(_serving(world, made[1], stream=stream))
        yield made[0]
    for number, seat in enumerate(made, 1):
        seat.namespace.close()
        world.host.run(lambda number=number: network.detach(f"attacker-{number}"))


def _loosen(name: str) -> None:
    """As if somebody had set the host's switches otherwise: the table alone must hold."""
    for setting, value in {
        f"ipv4/conf/{name}/rp_filter": "0",
        "ipv4/conf/lan0/forwarding": "1",
        f"ipv6/conf/{name}/disable_ipv6": "0",
        "ipv6/conf/all/forwarding": "1",
    }.items():
        Path("/proc/sys/net", setting).write_text(value)
    sh("ip", "-6", "addr", "replace", "fd78::1/64", "dev", name, "nodad")


def _serving(
    world: World, seat: Seat, *, stream: bool
) -> contextlib.AbstractContextManager[object]:
    script = (
        "import socket,sys\n"
        f"s=socket.create_server(('0.0.0.0',{PORT})) if {stream} else socket.socket(type=socket.SOCK_DGRAM)\n"
        f"{stream} or s.bind(('0.0.0.0',{PORT}))\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        f"  if {stream}: s.accept()[0].sendall(b'tenant')\n"
        "  else: s.sendto(b'tenant', s.recvfrom(99)[1])\n"
    )
    import sys

    process = seat.namespace.run(
        lambda: subprocess.Popen([sys.executable, "-I", "-S", "-c", script], stdout=subprocess.PIPE)
    )

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()
            process.communicate()

    return held()


def _only_masquerade(facts: Facts, *_: object) -> str:
    addresses = ", ".join(str(link.address) for link in facts.links)
    return (
        "chain leave { type nat hook postrouting priority srcnat; policy accept; "
        f'ip saddr {{ {addresses} }} oifname != "{PREFIX}*" masquerade\n}}\n'
    )


def _only_forwarding(name: str) -> None:
    Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("1")


@contextlib.contextmanager
def rules_off() -> Iterator[None]:
    """The same networks without the defence, for the controls."""
    with (
        mock.patch.object(egress, "render", _only_masquerade),
        mock.patch.object(links, "_harden", _only_forwarding),
    ):
        yield

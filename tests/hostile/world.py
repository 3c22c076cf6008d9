"""A provider's surroundings in network namespaces: a LAN, a metadata address, and an internet of two hosts.

    tenant ── host ──┬── lan box 192.168.77.10        (LAN 192.168.77.0/24)
                     ├── metadata 169.254.169.254     (on the LAN's wire)
                     └── router 203.0.113.1 ── internet: web 93.184.216.34, resolver 1.1.1.1, mail

The host has 192.168.77.2 and 203.0.113.2; its default route goes to the router. Every address answers
on TCP with its own name, and the resolver on UDP 53; so a probe sees whom it reached. Nothing here
touches the namespace that the tests run in, and everything is gone with the processes of the world.
"""

import contextlib
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepbrain.sandbox.netns import NetworkNamespace

WEB, RESOLVER, MAIL = "93.184.216.34", "1.1.1.1", "93.184.216.25"
ROUTER, CLOUD = "93.184.217.1", "168.63.129.16"
LAN_BOX, METADATA = "192.168.77.10", "169.254.169.254"
HOST_LAN, HOST_WAN, GATEWAY, NEIGHBOUR = "192.168.77.2", "203.0.113.2", "203.0.113.1", "203.0.113.9"
PORT = 80
MTU = 1400

IP = "ip"
AGENT_PORT = 4001


def sh(*argv: str, text: str | None = None, check: bool = True) -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


@dataclass
class Place:
    """One host of the world."""

    name: str
    namespace: NetworkNamespace = field(default_factory=NetworkNamespace)

    def run(self, work: Callable[[], Any]) -> Any:
        return self.namespace.run(work)

    def sh(self, *argv: str, text: str | None = None, check: bool = True) -> str:
        return str(self.run(lambda: sh(*argv, text=text, check=check)))

    def start(self, argv: Sequence[str], **how: Any) -> "subprocess.Popen[str]":
        """A process that lives here."""
        process: subprocess.Popen[str] = self.run(lambda: subprocess.Popen(argv, text=True, **how))
        return process


class World:
    def __init__(self) -> None:
        self.host, self.lan, self.net = Place("host"), Place("lan"), Place("internet")
        self._stop = threading.Event()
        self.seen: set[tuple[str, str]] = set()
        """Who received a datagram of whom: (name, address of the sender)."""
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.seats: list[Any] = []
        """Tenants, where a test has put some."""
        for place in (self.host, self.lan, self.net):
            place.sh(IP, "link", "set", "lo", "up")
            place.run(_no_waiting_for_duplicates)
        self._wire(self.lan, "lan0", [f"{LAN_BOX}/24", f"{METADATA}/32"], [f"{HOST_LAN}/24"])
        inner = [f"{GATEWAY}/24", f"{NEIGHBOUR}/24", f"{WEB}/32", f"{RESOLVER}/32", f"{MAIL}/32"]
        inner += [f"{ROUTER}/32", f"{CLOUD}/32"]
        self._wire(self.net, "wan0", inner, [f"{HOST_WAN}/24"])
        self.host.sh(IP, "route", "add", "default", "via", GATEWAY, "dev", "wan0")
        self.host.sh(IP, "route", "add", f"{METADATA}/32", "dev", "lan0")
        # As on a LAN where nobody filters: whoever the host forwards for gets his answers.
        self.lan.sh(IP, "route", "add", "default", "via", HOST_LAN)
        self.net.sh(IP, "route", "add", "192.168.77.0/24", "via", HOST_WAN)
        self._ipv6()
        for place, addresses in (
            (self.lan, (LAN_BOX, METADATA)),
            (self.net, (GATEWAY, NEIGHBOUR, WEB, RESOLVER, ROUTER, CLOUD)),
            (self.host, (HOST_LAN, HOST_WAN)),
        ):
            for address in addresses:
                self.answer(place, address, PORT, f"{place.name} {address}")
        self.answer(self.host, "0.0.0.0", AGENT_PORT, "host agent")
        for port in (25, 465, 587):
            self.answer(self.net, MAIL, port, "mail")
        self.resolve(self.net, RESOLVER)
        self.answer(self.net, RESOLVER, 53, "resolver")

    def _wire(self, other: Place, name: str, there: list[str], here: list[str]) -> None:
        """A cable between the host and another place."""
        peer = other.namespace
        command = (IP, "link", "add", name, "mtu", str(MTU), "type", "veth", "peer", "name", name)
        self.host.run(
            lambda: subprocess.run(
                [*command, "mtu", str(MTU), "netns", peer.path], pass_fds=peer.fds, check=True
            )
        )
        for place, addresses in ((self.host, here), (other, there)):
            for address in addresses:
                place.sh(IP, "addr", "add", address, "dev", name, "nodad")
            place.sh(IP, "link", "set", name, "up")

    def _ipv6(self) -> None:
        for place, last in ((self.host, 2), (self.lan, 10)):
            place.sh(IP, "-6", "addr", "add", f"fd77::{last}/64", "dev", "lan0", "nodad")
        self.answer(self.lan, "fd77::10", PORT, "lan fd77::10")
        self.answer(self.host, "fd77::2", PORT, "host fd77::2")

    def answer(self, place: Place, address: str, port: int, name: str) -> None:
        """Whoever connects is told `name`, and whoever sends a datagram, too."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def listen() -> tuple[socket.socket, socket.socket]:
            stream = socket.create_server((address, port), family=family)
            datagrams = socket.socket(family, socket.SOCK_DGRAM)
            with contextlib.suppress(OSError):  # the resolver has its own
                datagrams.bind((address, port))
            return stream, datagrams

        stream, datagrams = place.run(listen)
        body = f"HTTP/1.0 200 OK\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode()
        self._serve(stream, lambda one: _tell(one, body))
        self._serve(datagrams, lambda one: self._echo(one, name))

    def _echo(self, datagrams: socket.socket, name: str) -> None:
        _, sender = datagrams.recvfrom(4096)
        self.seen.add((name, sender[0]))
        datagrams.sendto(name.encode(), sender)

    def resolve(self, place: Place, address: str) -> None:
        """A name server: every name has the web server's address."""
        datagrams = place.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        datagrams.bind((address, 53))
        self._serve(datagrams, _name)

    def _serve(self, one: socket.socket, each: Callable[[socket.socket], None]) -> None:
        one.settimeout(0.2)
        self._sockets.append(one)

        def loop() -> None:
            while not self._stop.is_set():
                with contextlib.suppress(OSError):
                    each(one)

        thread = threading.Thread(target=loop, daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        for one in self._sockets:
            one.close()
        for place in (self.host, self.lan, self.net):
            place.namespace.close()


def _no_waiting_for_duplicates() -> None:
    for name in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/accept_dad").write_text("0")


def _tell(listener: socket.socket, body: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(1)
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


def _name(datagrams: socket.socket) -> None:
    query, sender = datagrams.recvfrom(4096)
    end = query.index(b"\0", 12) + 5
    kind = struct.unpack(">H", query[end - 4 : end - 2])[0]
    answers = kind in (1, 2)
    head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(kind == 1), 0, 0)
    record = struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(WEB)
    datagrams.sendto(head + query[12:end] + (record if kind == 1 and answers else b""), sender)


@contextlib.contextmanager
def world() -> Iterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.close()

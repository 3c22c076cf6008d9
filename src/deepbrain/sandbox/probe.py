"""What is reached from where this thread is: TCP, and an answer of a name server."""

import os
import selectors
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

SECONDS: Final = 2.0
_PORT: Final = 53
_QUESTION: Final = struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + b"\0" + struct.pack(">HH", 2, 1)
"""The name servers of the root, with recursion: what every resolver answers."""


@dataclass(frozen=True, slots=True)
class Reached:
    tcp: bool
    dns: bool

    @property
    def all(self) -> bool:
        return self.tcp and self.dns

    def __str__(self) -> str:
        words = {True: "works", False: "does not work"}
        return f"TCP {words[self.tcp]}, DNS {words[self.dns]}"


def ask_resolvers(resolvers: Sequence[IPv4Address], seconds: float = SECONDS) -> Reached:
    """Ask all of them at once, by TCP and by UDP; one answer of each kind is enough."""
    deadline, number = time.monotonic() + seconds, os.urandom(2)
    tcp = dns = False
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for address in resolvers:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                one = stack.enter_context(socket.socket(socket.AF_INET, kind))
                one.setblocking(False)
                if one.connect_ex((str(address), _PORT)) not in _BEGUN:
                    continue
                if kind == socket.SOCK_DGRAM:
                    try:
                        one.send(number + _QUESTION)
                    except OSError:
                        continue
                wanted = (
                    selectors.EVENT_WRITE if kind == socket.SOCK_STREAM else selectors.EVENT_READ
                )
                selector.register(one, wanted, one)
        while (
            not (tcp and dns) and selector.get_map() and (left := deadline - time.monotonic()) > 0
        ):
            for key, _ in selector.select(left):
                ready: socket.socket = key.data
                if ready.type == socket.SOCK_STREAM:
                    tcp |= ready.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                else:
                    dns |= _answered(ready, number)
                selector.unregister(ready)
    return Reached(tcp, dns)


_BEGUN: Final = (0, 115)
"""Connected, or EINPROGRESS."""


def _answered(one: socket.socket, number: bytes) -> bool:
    try:
        answer = one.recv(4096)
    except OSError:
        return False
    return len(answer) >= 12 and answer[:2] == number and answer[2] >> 7 == 1

"""The ports of a local network: each is chosen once, and kept while the network's supervisor lives.

A port is free to everybody while what listens there is started, or started again, so a second network
that comes up in that moment would take it. Hence a network reserves its ports by name, in the place of
names that every process of a network namespace shares.
"""

import contextlib
import socket
import sys
from typing import Final

from deepbrain.cli.failure import UserError

DEFAULT_PORT: Final = 9944
FIRST_P2P_PORT: Final = 26_656
# The chosen ports lie below those that the system hands to clients: one of ours that knocks at a node
# which is just being started again could be given the node's own port, and would keep it from coming back.
_OTHERS: Final = 1000
FIRST_RELAY_PORT: Final = DEFAULT_PORT + _OTHERS

_TCP: Final = (socket.SOCK_STREAM,)
_TCP_AND_UDP: Final = (socket.SOCK_STREAM, socket.SOCK_DGRAM)


class Ports(contextlib.AbstractContextManager["Ports"]):
    """What a supervisor has reserved; the end of its process, too, gives it back."""

    def __init__(self) -> None:
        self._reserved = contextlib.ExitStack()

    def __exit__(self, *_: object) -> None:
        self._reserved.close()

    def for_node(self, wanted: int | None) -> int:
        """The port asked for, else the usual one, else one near it. Raises: UserError: it is taken."""
        if wanted is None:
            return self.some(1, DEFAULT_PORT)[0]
        if not self._take(wanted, _TCP):
            raise UserError(
                f"port {wanted} is in use; stop what uses it or pass another --rpc-port"
            )
        return wanted

    def for_relay(self) -> int:
        """A port that is free in TCP and UDP. Raises: UserError: there is none."""
        return self.some(1, FIRST_RELAY_PORT, _TCP_AND_UDP)[0]

    def some(
        self, count: int, first: int, kinds: tuple[socket.SocketKind, ...] = _TCP
    ) -> list[int]:
        """So many ports of the loopback, from `first` on. Raises: UserError: fewer are free."""
        found: list[int] = []
        for port in range(first, min(first + _OTHERS, 1 << 16)):
            if len(found) == count:
                break
            if self._take(port, kinds):
                found.append(port)
        if len(found) < count:
            raise UserError(
                f"fewer than {count} of the ports from {first} on are free; "
                "end something that listens on many"
            )
        return found

    def _take(self, port: int, kinds: tuple[socket.SocketKind, ...]) -> bool:
        if not all(_is_free(port, kind) for kind in kinds):
            return False
        if sys.platform != "linux":  # has no such names; there, two may still start at once
            return True
        with contextlib.ExitStack() as stack:
            name = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            try:
                name.bind(f"\0deepbrain-port-{port}")
            except OSError:
                return False
            self._reserved.push(stack.pop_all())
        return True


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

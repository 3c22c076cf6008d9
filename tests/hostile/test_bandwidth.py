"""A tenant that takes all of the line: within its share, both ways, where a limit is named."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from tests.hostile.test_tenant_network import require_nft
from tests.hostile.world import WEB, World, world

from deepbrain.sandbox.netns import NetworkNamespace
from deepbrain.sandbox.network import TenantNetwork

pytestmark = pytest.mark.alone
MBIT = 40
PORT = 9000
SECONDS = 3.0
AT_ONCE = 0.7
"""Meanwhile what may come at once has come: a second's worth."""


@pytest.fixture(scope="module")
def place() -> Iterator[World]:
    require_nft()
    with world() as made:
        yield made


def flood(sender: socket.socket, until: float) -> None:
    with contextlib.suppress(OSError):
        while time.monotonic() < until:
            sender.send(bytes(1 << 16))
    with contextlib.suppress(OSError):
        sender.shutdown(socket.SHUT_WR)


def megabits(place: World, seat: NetworkNamespace, *, upwards: bool) -> float:
    """Per second, of one connection between the tenant and the internet."""
    with place.net.run(lambda: socket.create_server((WEB, PORT))) as listener:
        near = seat.run(lambda: socket.create_connection((WEB, PORT), timeout=5))
        far, _ = listener.accept()
    with near, far:
        sender, receiver = (near, far) if upwards else (far, near)
        for each in (sender, receiver):
            each.settimeout(5)
        began = time.monotonic()
        flooding = threading.Thread(target=flood, args=(sender, began + SECONDS))
        flooding.start()
        got, since = 0, began
        while data := receiver.recv(1 << 16):
            now = time.monotonic()
            got += len(data)
            if since == began and now > began + AT_ONCE:
                got, since = 0, now
            if now > began + SECONDS:
                break
        took = time.monotonic() - since
    flooding.join()
    return got * 8 / 1e6 / took


@pytest.mark.parametrize("upwards", [True, False])
def test_a_tenant_gets_its_share_of_the_line(place: World, upwards: bool) -> None:
    network = TenantNetwork()
    found = {}
    for mbit in (0, MBIT):
        alias = f"bandwidth-{mbit}"
        seat = place.host.run(
            lambda alias=alias, mbit=mbit: network.attach(alias, NetworkNamespace.current, mbit)
        )
        try:
            found[mbit] = megabits(place, seat, upwards=upwards)
        finally:
            seat.close()
            place.host.run(lambda alias=alias: network.detach(alias))
    assert found[0] > 4 * MBIT, "the control does not work: the line itself is slow"
    assert MBIT * 0.3 < found[MBIT] < MBIT * 1.5, found

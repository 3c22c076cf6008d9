"""A network's ports are its own for as long as it lives, also while its node is down."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepbrain.cli.failure import UserError
from deepbrain.cli.network import ports
from deepbrain.cli.network.ports import Ports


@contextlib.contextmanager
def listening(kind: socket.SocketKind = socket.SOCK_STREAM, port: int = 0) -> Iterator[int]:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        yield taken.getsockname()[1]


def test_a_port_in_use_is_said_and_another_is_chosen_where_none_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with listening() as port, Ports() as chosen:
        with pytest.raises(UserError, match=f"port {port} is in use.*--rpc-port"):
            chosen.for_node(port)
        monkeypatch.setattr(ports, "DEFAULT_PORT", port)
        assert chosen.for_node(None) > port


def test_the_usual_port_is_none_that_the_system_hands_to_clients() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with Ports() as chosen:
        found = [chosen.for_node(None), chosen.for_relay(), *chosen.some(3, ports.FIRST_P2P_PORT)]
    assert len(set(found)) == len(found)
    assert max(found) < first


def test_two_networks_that_start_at_once_choose_other_ports() -> None:
    with Ports() as one, Ports() as two:
        of_one = [one.for_node(None), one.for_relay(), *one.some(4, ports.FIRST_P2P_PORT)]
        of_two = [two.for_node(None), two.for_relay(), *two.some(4, ports.FIRST_P2P_PORT)]
        assert not set(of_one) & set(of_two)
        with pytest.raises(UserError, match="in use"):
            two.for_node(of_one[0])
        with listening(port=of_one[0]):
            pass  # its node listens there, and is killed
        with pytest.raises(UserError, match="in use"):
            two.for_node(of_one[0])
    with Ports() as three:
        assert three.for_node(of_one[0]) == of_one[0]


def test_a_killed_supervisor_keeps_no_port() -> None:
    code = (
        "from deepbrain.cli.network.ports import Ports\n"
        "ports = Ports(); print(ports.for_node(None), flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        with Ports() as chosen:
            with pytest.raises(UserError, match="in use"):
                chosen.for_node(port)
            other.kill()
            other.wait()
            assert chosen.for_node(port) == port


def test_a_relay_wants_its_number_in_tcp_and_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(socket.SOCK_DGRAM) as port, Ports() as chosen:
        monkeypatch.setattr(ports, "FIRST_RELAY_PORT", port)
        assert chosen.for_relay() > port


def test_where_too_few_are_free_that_is_said() -> None:
    with Ports() as chosen, pytest.raises(UserError, match="fewer than 3"):
        chosen.some(3, 65_534)

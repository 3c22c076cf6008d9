"""From `dbc run` to the internet and back: real processes, real gVisor, a whole network in a world."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from threading import Thread

import pytest
from tests.e2e.network import AS_ROOT, Network, network, require
from tests.e2e.packages import require_debian, write_debian, write_packages
from tests.hostile.test_tenant_network import require_nft
from tests.hostile.world import (
    AGENT_PORT,
    GATEWAY,
    HOST_LAN,
    HOST_WAN,
    LAN_BOX,
    MAIL,
    METADATA,
    NEIGHBOUR,
    PORT,
    RESOLVER,
    WEB,
    World,
    world,
)

from deepbrain.sandbox import egress, links

REACH = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reaches(target):
    kind, host, port = target
    with socket.socket(type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as one:
        one.settimeout(1.5)
        try:
            one.connect((host, port))
            kind == "udp" and one.send(b"?")
            return bool(one.recv(64))
        except OSError:
            return False
targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(targets)) as several:
    found = list(several.map(reaches, targets))
print(json.dumps([target for target, reached in zip(targets, found) if reached]))
"""
FETCH = (
    "import urllib.request as r; print(r.urlopen('http://example.com/', timeout=5).read().decode())"
)
OWN = (
    "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('1.1.1.1', 9)); "
    "print(s.getsockname()[0])"
)
SERVE = "import socket\ns = socket.create_server(('0.0.0.0', 8000))\nprint('serving', flush=True)\nwhile True: s.accept()[0].sendall(b'tenant')"

PACKAGES_PORT = 8080
PIP = f"""
set -e
export PIP_INDEX_URL=http://pypi.example.com:{PACKAGES_PORT}/simple/ PIP_TRUSTED_HOST=pypi.example.com
pip install --quiet greet
greet
python3 -c 'import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 0)'
ls -A /workspace
"""
APT = f"""
set -e
echo 'deb [trusted=yes] http://debian.example.com:{PACKAGES_PORT}/debian ./' > /etc/apt/sources.list
apt-get update
apt-get install -y greet
greet-deb
dpkg-query -W -f '${{Package}} ${{Status}}\n' greet greeting
stat -c %U /var/lib/apt/lists/partial
"""

CLOSED = [
    ["tcp", LAN_BOX, PORT], ["udp", LAN_BOX, PORT], ["tcp", METADATA, PORT], ["tcp", HOST_LAN, PORT],
    ["tcp", HOST_WAN, PORT], ["udp", HOST_WAN, AGENT_PORT], ["tcp", GATEWAY, PORT],
    ["tcp", NEIGHBOUR, PORT], ["tcp", MAIL, 25], ["tcp", MAIL, 587],
]  # fmt: skip
OPEN = [["tcp", WEB, PORT], ["udp", WEB, PORT]]


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    require_nft()
    with world() as made:
        yield made


@pytest.fixture(scope="module")
def net(here: World) -> Iterator[Network]:
    with network(AS_ROOT, 1, within=here.host.run) as made:
        require(AS_ROOT, made.offers()[0]["isolation"], made.refusals())
        yield made
    assert here.host.run(lambda: egress.run_nft("list", "ruleset")) == ""
    assert here.host.run(links.read_facts).links == ()
    assert not here.host.run(lambda: links.forwards("wan0"))


def job(net: Network, script: str, *words: str, options: tuple[str, ...] = ()) -> str:
    run = ("run", "-y", "--for", "5m", "--no-workspace", *options)
    return net.expect(*run, "--", "python3", "-c", script, *words).out.strip()


def reached(net: Network, *targets: list[object], options: tuple[str, ...] = ()) -> object:
    return json.loads(job(net, REACH, json.dumps(targets), options=options))


def test_a_job_fetches_from_the_internet_by_name(net: Network) -> None:
    assert net.offers()[0]["network"] == "internet"
    assert job(net, FETCH) == f"internet {WEB}"


@pytest.fixture(scope="module")
def shops(here: World) -> Iterator[None]:
    """An index of Python's packages and a repository of Debian's, on the internet."""
    place = Path(tempfile.mkdtemp(prefix="dbc-e2e-packages-"))
    write_packages(place)
    serve = partial(QuietFiles, directory=str(place))
    server = here.net.run(lambda: ThreadingTCPServer((WEB, PACKAGES_PORT), serve))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()
    shutil.rmtree(place)


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.mark.usefixtures("shops")
def test_pip_installs_from_an_index(net: Network) -> None:
    """In the image that machines make by themselves; nothing of it comes back with the results."""
    run = ("run", "-y", "--for", "5m", "--no-workspace", "--", "sh", "-c", PIP)
    assert net.expect(*run).out == "hello from a wheel\nTrue\n"


@pytest.mark.usefixtures("shops")
def test_apt_installs_from_a_repository(net: Network) -> None:
    """With its own `_apt` user for what it downloads, and a package that gives files to another user."""
    require_debian()
    image = net.base / "debian.tar"
    write_debian(image)
    run = (
        "run",
        "-y",
        "--for",
        "5m",
        "--no-workspace",
        "--image",
        str(image),
        "--",
        "sh",
        "-c",
        APT,
    )
    done = net.dbc(*run)
    assert done.code == 0, done.out + done.err
    assert "W: " not in done.out + done.err
    installed = "greet install ok installed\ngreeting install ok installed\n"
    assert done.out.endswith(f"hello from a package\n{installed}_apt\n")


def test_a_job_reaches_nothing_else(net: Network) -> None:
    assert reached(net, *OPEN, *CLOSED) == OPEN


def test_doctor_tries_it_and_says_so(net: Network, here: World) -> None:
    def finding() -> dict[str, object]:
        found = json.loads(net.dbc("doctor", "--json").out)
        (ours,) = [entry for entry in found if entry["name"] == "tenants' network"]
        return dict(ours)

    assert (finding()["ok"], finding()["detail"]) == (True, "internet: TCP and DNS work")
    here.net.sh("ip", "addr", "del", f"{RESOLVER}/32", "dev", "wan0")
    try:
        unwell = finding()
    finally:
        here.net.sh("ip", "addr", "add", f"{RESOLVER}/32", "dev", "wan0")
    assert unwell["ok"] is False
    assert "DNS does not work" in str(unwell["detail"])


def test_a_job_that_wants_no_network_has_none(net: Network) -> None:
    assert reached(net, *OPEN, *CLOSED, options=("--network", "none")) == []


def test_two_tenants_do_not_see_each_other(net: Network, here: World) -> None:
    order = served_by(net)
    try:
        address = net.expect("exec", order, "python3", "-c", OWN).out.strip()
        assert address in {str(link.address) for link in here.host.run(links.read_facts).links}
        target = ["tcp", address, 8000]
        control = net.expect("exec", order, "python3", "-c", REACH, json.dumps([target]))
        assert json.loads(control.out) == [target], (
            "the control does not work: nothing serves there"
        )
        assert reached(net, target) == []
    finally:
        net.expect("stop", order)


def test_rules_that_somebody_flushed_are_back_at_once(net: Network, here: World) -> None:
    order = served_by(net)
    try:
        here.host.run(lambda: egress.run_nft("flush", "ruleset"))
        wait_for_rules(here, 3)
        found = net.expect("exec", order, "python3", "-c", REACH, json.dumps(OPEN + CLOSED))
        assert json.loads(found.out) == OPEN
    finally:
        net.expect("stop", order)


def test_a_new_neighbourhood_is_closed_at_once(net: Network, here: World) -> None:
    """The host gets an address of another public network, as by DHCP: its neighbours are closed now."""
    order = served_by(net)
    try:
        assert net.expect("exec", order, "python3", "-c", REACH, json.dumps(OPEN)).out
        here.host.sh("ip", "addr", "add", "93.184.216.99/24", "dev", "lan0")
        time.sleep(1)
        found = net.expect("exec", order, "python3", "-c", REACH, json.dumps(OPEN))
        assert json.loads(found.out) == []
    finally:
        here.host.sh("ip", "addr", "del", "93.184.216.99/24", "dev", "lan0")
        net.expect("stop", order)


@pytest.mark.parametrize("victim", ["agents", "helpers"])
def test_a_tenants_network_outlives_agent_and_helper(
    net: Network, here: World, victim: str
) -> None:
    order = served_by(net)
    try:
        before = [pid for pid, _ in net.agents()]
        for pid, _ in getattr(net, victim)():
            os.kill(pid, signal.SIGKILL)
        net.wait_for(
            lambda: bool(net.agents()) and [pid for pid, _ in net.agents()] != before,
            30,
            "no agent",
        )
        net.wait_for(lambda: bool(execs(net, order)), 30, "the machine does not serve again")
        found = net.expect("exec", order, "python3", "-c", REACH, json.dumps(OPEN + CLOSED))
        assert json.loads(found.out) == OPEN
    finally:
        net.expect("stop", order)


def test_a_lost_keeper_leaves_no_link(net: Network, here: World) -> None:
    order = served_by(net)
    for pid, _ in net.keepers():
        os.kill(pid, signal.SIGKILL)
    net.wait_for(lambda: here.host.run(links.read_facts).links == (), 10, "its link stays")
    net.wait_for(lambda: not here.host.run(egress.is_there), 10, "its rules stay")
    net.dbc("stop", order)


def served_by(net: Network) -> str:
    """A running job that serves on port 8000; its order."""
    run = ("run", "-y", "--detach", "--for", "5m", "--no-workspace", "--", "python3", "-c", SERVE)
    order = net.expect(*run).out.strip()
    net.wait_for(lambda: "serving" in net.dbc("logs", order).out, 20, "the job does not serve")
    return order


def execs(net: Network, order: str) -> bool:
    return net.dbc("exec", order, "true").code == 0


def wait_for_rules(here: World, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not here.host.run(egress.is_there):
        assert time.monotonic() < deadline, "the rules do not come back"
        time.sleep(0.02)

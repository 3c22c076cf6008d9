"""What is wrong is said in one sentence, with the right code; nothing is half-done, nothing lost."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.money import assert_conserved, assert_settled
from tests.e2e.network import Done, Network
from tests.e2e.terminal import Terminal

from deepbrain.cli.provider.machine import Listing, Owners, address_record, enlist
from deepbrain.client import Client
from deepbrain.pallets.machines import Hardware, Isolation, Machines
from deepbrain.pallets.machines import Network as NetworkOffer
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.keys import Keypair, Scheme
from deepbrain.primitives.units import U16, U32, MicroUsd

PROVIDER = Keypair.from_uri("//Bob")
QUICK = ("--for", "60s", "--no-workspace")
HELLO = ("--", "python3", "-c", "print('hello')")


def assert_refused(done: Done, code: int, *words: str) -> None:
    """One sentence that names what is wrong, and no more."""
    assert done.code == code, (done.code, done.err)
    assert "Traceback" not in done.err + done.out, done.err
    for word in words:
        assert word in done.sentence, done.err


@contextmanager
def nothing_placed(net: Network) -> Iterator[None]:
    before = net.orders()
    yield
    assert net.orders() == before, "something was placed"


@contextmanager
def full_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own size at `path` (root only)."""
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", path], check=True
    )
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--image", "127.0.0.1:9/no-such"),
            ("does not have the image 127.0.0.1:9/no-such", "127.0.0.1:9 cannot be reached"),
        ),
        (("--image", "./no-such.tar"), ("./no-such.tar", "does not exist")),
        (("--max-price", "0.000001"), ("raise --max-price",)),
        (("--machine", "ffffffffffff"), ("no machine is called",)),
        (("--units", "60000"), ("--units",)),
        (("--gpu", "H900"), ("H900",)),
        (("--env", "NOT_SET_ANYWHERE"), ("NOT_SET_ANYWHERE",)),
        (("--for", "nonsense"), ("--for",)),
        (("--for", "3s"), ("rents for 10s to 60d", "--for")),
    ],
)
def test_what_cannot_be_had_is_refused(
    as_root: Network, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    with nothing_placed(as_root):
        done = as_root.dbc("run", "-y", *QUICK, *arguments, *HELLO)
        assert_refused(done, 125, *words)


def test_an_image_that_is_none_is_refused(as_root: Network) -> None:
    (as_root.base / "broken.tar").write_bytes(os.urandom(100_000))
    done = as_root.dbc("run", "-y", *QUICK, "--image", "broken.tar", *HELLO)
    assert_refused(done, 125, "image", "nothing is held")
    for order in as_root.orders()[-2:]:
        assert_settled(as_root.bill(order["order"]))
        assert as_root.bill(order["order"])["paid"] == "0"


def test_without_a_terminal_nobody_agrees(as_root: Network) -> None:
    with nothing_placed(as_root):
        assert_refused(as_root.dbc("run", *QUICK, *HELLO), 125, "-y")


def test_who_says_no_pays_nothing(as_root: Network) -> None:
    with nothing_placed(as_root), Terminal(as_root, "run", *QUICK, *HELLO) as terminal:
        terminal.expect("pay from")
        terminal.send("n\n")
        assert terminal.wait() == 125
        assert "nothing was placed" in terminal.seen


def test_an_offer_that_changes_while_one_thinks_is_not_taken(as_root: Network) -> None:
    machine = as_root.offers()[0]["machine"]
    asked = ("run", *QUICK, "--machine", machine[:12], *HELLO)
    with nothing_placed(as_root), Terminal(as_root, *asked) as terminal:
        terminal.expect("pay from")
        asyncio.run(_set_price(as_root.url, machine, 30_000))
        terminal.send("y\n")
        assert terminal.wait() == 125, terminal.seen
        assert "nothing is held" in terminal.seen
    asyncio.run(_set_price(as_root.url, machine, 20_000))


async def _set_price(url: str, machine: str, price: int) -> None:
    async with await Client.connect(url) as client:
        call = Machines.set_price.make(machine=MachineId.from_hex(machine), price=MicroUsd(price))
        await client.submit(call, PROVIDER, wait="finalized")


def test_who_has_too_little_is_told_what_it_needs(as_root: Network) -> None:
    secret = as_root.base / "passphrase"
    secret.write_text("correct horse battery\n")
    secret.chmod(0o600)
    env = {"DBC_PASSPHRASE_FILE": str(secret)}
    as_root.expect("wallet", "new", "poor", env=env)
    done = as_root.dbc("--wallet", "poor", "run", "-y", *QUICK, *HELLO, env=env)
    assert_refused(done, 125, "poor has", "free")


def test_a_machine_that_never_answers_gives_way_to_the_next(as_root: Network) -> None:
    """It is the cheapest, so it is asked first; nobody listens at its address."""
    asyncio.run(_list_ghost(as_root.url))
    try:
        done = as_root.dbc("run", "-y", *QUICK, *HELLO)
        assert (done.code, done.out) == (0, "hello\n"), done.err
        assert "trying" in done.err
        only = as_root.dbc("run", "-y", *QUICK, "--machine", GHOST.public.hex()[:12], *HELLO)
        assert_refused(only, 125, "nothing is held")
    finally:
        asyncio.run(_pause_ghost(as_root.url))
    assert_conserved(as_root)


GHOST = Keypair.from_seed(b"g" * 32, Scheme.ED25519)


async def _list_ghost(url: str) -> None:
    hardware = Hardware(gpu_model="", gpus=U16(0), gpu_memory_mib=U32(0), cpu_model="ghost",
                        cpus=U16(1), memory_mib=U32(1024), disk_mib=U32(4096))  # fmt: skip
    listing = Listing(GHOST, hardware, Isolation.GVISOR, NetworkOffer.NONE, MicroUsd(1),
                      address_record(["127.0.0.1:9"]))  # fmt: skip
    async with await Client.connect(url) as client:
        await enlist(client, listing, Owners.alone(PROVIDER))


async def _pause_ghost(url: str) -> None:
    async with await Client.connect(url) as client:
        call = Machines.pause.make(machine=MachineId(GHOST.public))
        await client.submit(call, PROVIDER, wait="finalized")


def test_a_machine_that_falls_silent_is_given_up(as_root: Network) -> None:
    """Stopped after it has greeted: another machine runs the job, and one order is held at a time."""
    cheapest = next(offer["machine"] for offer in as_root.offers() if not offer["paused"])
    process = as_root.start("run", "-y", "--start-within", "12s", *QUICK, *HELLO)
    assert process.stderr is not None
    stopped: list[int] = []
    try:
        for line in process.stderr:
            if "placing the order" in line and not stopped:
                records = as_root.record()["machines"]
                number = 1 + [entry["machine"] for entry in records].index(cheapest)
                stopped = [pid for pid, of in as_root.agents() if of == number]
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                break
        out, _ = process.communicate(timeout=100)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert stopped
    assert (process.returncode, out) == (0, "hello\n")
    assert_conserved(as_root)


@pytest.mark.parametrize("where", ["/", "home"])
def test_neither_root_nor_home_is_sent(as_root: Network, where: str) -> None:
    directory = "/" if where == "/" else str(as_root.base)  # HOME of the commands
    with nothing_placed(as_root):
        done = as_root.dbc("run", "-y", "--for", "60s", *HELLO, cwd=directory)
        assert_refused(done, 125, "director")


def test_one_directory_has_one_network(as_root: Network) -> None:
    again = as_root.dbc("network", "up", "--detach", "--dir", str(as_root.place))
    assert_refused(again, 1, "runs in", "dbc network down")
    node = _node(as_root, "--data", str(as_root.place / "node"), "--rpc-port", "0")
    assert node.returncode == 1
    assert len(node.stderr.strip().splitlines()) == 1, node.stderr
    assert re.search("in use|another", node.stderr)
    assert as_root.status()["node"] == as_root.url, "the first goes on"


def _node(net: Network, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deepbrain.node", *arguments]
    return subprocess.run(
        command, env=net.env, capture_output=True, text=True, timeout=30, check=False
    )


def test_a_port_in_use_is_named(as_root: Network, tmp_path: Path) -> None:
    port = as_root.url.rpartition(":")[2]
    up = as_root.dbc("network", "up", "--detach", "--dir", str(as_root.base / "second"),
                     "--rpc-port", port)  # fmt: skip
    assert_refused(up, 1, port, "in use")
    node = _node(as_root, "--data", str(tmp_path / "n"), "--rpc-port", port)
    assert node.returncode == 1
    assert port in node.stderr
    assert "Traceback" not in node.stderr


def test_a_corrupt_keystore_is_named(as_root: Network) -> None:
    wallets = as_root.base / "home" / "wallets"
    wallets.mkdir(parents=True, exist_ok=True)
    broken = wallets / "broken.json"
    broken.write_text('{"encoded": "bm90aGluZw", "encoding"')
    broken.chmod(0o600)
    try:
        done = as_root.dbc("--wallet", "broken", "run", "-y", *QUICK, *HELLO)
        assert_refused(done, 125, "broken")
        assert as_root.dbc("ps").code == 0, "other keys work on"
    finally:
        broken.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk can only be mounted by root")
def test_a_full_disk_of_the_renter_loses_nothing(as_root: Network) -> None:
    workspace = as_root.workspace("large", {"data.bin": os.urandom(6 << 20)})
    with full_disk(as_root.base / "small", 4) as disk:
        env = {"DBC_HOME": str(disk / "home"), "DBC_NODE": as_root.url, "DBC_WALLET": "//Alice"}
        with nothing_placed(as_root):
            done = as_root.dbc("run", "-y", "--for", "60s", "--workspace", str(workspace), *HELLO,
                               env=env)  # fmt: skip
            assert_refused(done, 125, "no room")
        script = "import os; open('big','wb').write(os.urandom(6<<20)); print('made')"
        done = as_root.dbc("run", "-y", *QUICK, "--into", str(disk / "out"), "--",
                           "python3", "-c", script)  # fmt: skip
        assert done.code == 0, done.err
        assert re.search("disk of .* is full", done.err), done.err
        order = as_root.orders()[-1]["order"]
        assert_settled(as_root.bill(order))
        assert not (disk / "out" / str(order)).exists(), "no half of a result"
    as_root.expect("attach", str(order), "--into", "later")
    assert (as_root.base / "later" / str(order) / "big").stat().st_size == 6 << 20


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk can only be mounted by root")
def test_a_full_disk_of_the_node_or_the_provider_is_named(as_root: Network) -> None:
    with full_disk(as_root.base / "tiny", 2) as disk:
        node = _node(as_root, "--data", str(disk / "node"), "--rpc-port", "0")
        assert node.returncode == 1
        assert "Traceback" not in node.stderr, node.stderr
        assert re.search("full|space|free", node.stderr), node.stderr
        up = as_root.dbc("network", "up", "--detach", "--dir", str(disk / "net"), timeout=100)
        assert_refused(up, 1)
        assert re.search("full|space|free|disk", up.sentence), up.err


def test_garbage_on_every_port_changes_nothing(as_root: Network) -> None:
    rpc = int(as_root.url.rpartition(":")[2])
    half = b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"method"'
    tls = b"\x16\x03\x01" + os.urandom(300)
    said = len(as_root.node_log())
    junk = [bytes(4096), os.urandom(65536), b"GET / HTTP/1.1\r\n\r\n", half, tls]
    for data in junk * 3:
        with socket.create_connection(("127.0.0.1", rpc), 5) as connection:
            connection.settimeout(0.2)
            try:
                connection.sendall(data)
                connection.recv(4096)
            except OSError:
                continue
    assert len(as_root.node_log()) == said, "strangers do not write our log"
    ports = [
        int(address.rpartition(":")[2])
        for entry in as_root.record()["machines"]
        for address in entry["addresses"]
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _ in range(2000):
            for port in ports:
                udp.sendto(os.urandom(1200), ("127.0.0.1", port))
    processes = [as_root.node(), *as_root.agents()]
    done = as_root.dbc("run", "-y", *QUICK, *HELLO)
    assert (done.code, done.out) == (0, "hello\n"), done.err
    assert [as_root.node(), *as_root.agents()] == processes, "nothing had to be started again"

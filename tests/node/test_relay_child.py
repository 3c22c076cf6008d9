"""A node with a relay: it tells of it, starts it again, and takes it along when it ends."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from deepbrain.client import Client
from deepbrain.client.client import is_relay_url, parse_relays
from deepbrain.net import rendezvous
from deepbrain.net.access import Grant, token_of
from deepbrain.net.errors import Unreachable
from deepbrain.primitives.ids import Hash, MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import BlockNumber


async def _node(tmp_path: Path) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deepbrain.node", "--data", str(tmp_path), "--rpc-port", "0"),
        *("--relay", "0", "--relay-host", "127.0.0.1", "--relay-url", "http://203.0.113.5:9946"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    return process, line.split("rpc=")[1].split()[0]


async def _named(client: Client) -> tuple[str, ...]:
    """The relays the node names, once its own is up."""
    async with asyncio.timeout(20):
        while len(relays := await client.relays()) < 2:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.1)
    return relays


async def _answers(url: str) -> bool:
    try:
        await rendezvous.find(url)
    except Unreachable:
        return False
    return True


def _relay_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    [relay] = [
        int(child)
        for child in children
        if b"deepbrain.node.relay" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return relay


async def _until(check, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.1)


async def test_a_node_names_its_relay_starts_it_again_and_takes_it_along(tmp_path):
    process, node = await _node(tmp_path)
    try:
        async with await Client.connect(node) as client:
            given, own = await _named(client)
            assert given == "http://203.0.113.5:9946"
            await _until(lambda: _answers(own))
            first = await rendezvous.find(own)
            os.kill(_relay_of(process.pid), signal.SIGKILL)
            await _until(lambda: _answers(own))
            assert await rendezvous.find(own) == first, "another key, or another port"
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def gone() -> bool:
        return not await _answers(own)

    await _until(gone)


async def test_a_proof_on_the_chain_makes_a_renter(tmp_path):
    """The register over a real node: who is nobody there stays a stranger."""
    from deepbrain.net.transport import TransportKey
    from deepbrain.node.relay.limits import Standing
    from deepbrain.node.relay.register import ChainRegister, parse_token

    process, node = await _node(tmp_path)
    register = ChainRegister(node)
    try:
        keys = [TransportKey(os.urandom(32)) for _ in range(300)]
        assert await register.machines(keys) == [Standing.STRANGER] * 300
    finally:
        await register.close()
        process.terminate()
        assert await process.wait() == 0
    grant = Grant(
        genesis=Hash(bytes(32)),
        machine=MachineId(bytes(range(32))),
        order=OrderId(7),
        last_block=BlockNumber(9),
    )
    access = grant.proven(TransportKey(keys[0]), Keypair.from_uri("//Alice"))
    assert parse_token(token_of(access)) == access
    assert parse_token("") is None
    assert parse_token("AAAA") is None
    assert parse_token("é" * 9) is None


@pytest.mark.parametrize(
    ("told", "relays"),
    [
        ({"port": 9946, "urls": []}, ("http://192.0.2.1:9946",)),
        ({"port": None, "urls": ["http://203.0.113.5:1"]}, ("http://203.0.113.5:1",)),
        ({"port": 9946, "urls": ["https://relay.example:9946"]}, ("https://relay.example:9946",)),
        ({"port": "9946", "urls": "http://a"}, ()),
        ({"port": 1 << 20, "urls": [1, None, "ftp://a", "http://", "http://a b", "x" * 999]}, ()),
        ([], ()),
        (None, ()),
    ],
)
def test_what_a_node_tells_of_relays_is_read_strictly(told, relays):
    assert parse_relays(told, "192.0.2.1") == relays


def test_urls_of_relays_are_plain():
    assert is_relay_url("http://[2001:db8::1]:9946")
    for bad in (
        "http://user:x@host",
        "http://host/?q",
        "http://host/#f",
        "ws://host",
        "http://h:x",
    ):
        assert not is_relay_url(bad), bad

"""A machine keeps itself attached to relays, and the chain says to which."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest
from tests.node.relaying import relay, url
from tests.provider.house import eventually

from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.provider import attach
from deepbrain.provider.attach import Attachments, serves
from deepbrain.provider.fake import FakeChain

LOCAL = ("127.0.0.1:4001",)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(attach, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(attach, "ANNOUNCE_SECONDS", 0.1)
    monkeypatch.setattr(attach, "ANNOUNCE_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(attach, "RETRY_SECONDS", (0.1, 0.2, 0.3))


@contextlib.asynccontextmanager
async def machine(chain, given=(), addresses=LOCAL):
    endpoint = await IrohEndpoint.bind(os.urandom(32), hosts=("127.0.0.1",))
    attachments = Attachments(endpoint, chain, given, addresses)
    task = asyncio.create_task(attachments.run())
    try:
        yield endpoint, attachments
    finally:
        task.cancel()
        await asyncio.wait([task])
        await endpoint.close()


async def test_it_attaches_to_what_the_node_names_and_announces_it():
    chain = FakeChain()
    async with relay() as one, relay() as two:
        chain.named_relays = (url(one), url(two))
        async with machine(chain) as (endpoint, attachments):
            await eventually(lambda: set(chain.announced) == {url(one), url(two)})
            assert one.hub.is_attached(endpoint.key)
            assert {each.address for each in attachments.all} == {endpoint.addresses[0]}


async def test_what_is_given_counts_more_than_what_the_node_names():
    chain = FakeChain()
    async with relay() as one, relay() as two:
        chain.named_relays = (url(one),)
        async with machine(chain, given=(url(two),)):
            await eventually(lambda: chain.announced == (url(two),))


async def _relay_process(data: Path, port: int) -> tuple[asyncio.subprocess.Process, int]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deepbrain.node.relay", "--host", "127.0.0.1"),
        *(
            "--port",
            str(port),
            "--chain",
            "ws://127.0.0.1:9",
            "--data",
            str(data),
            "--log",
            "error",
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, int((await process.stdout.readline()).removeprefix(b"ready port="))


async def test_a_relay_that_was_killed_is_found_again_and_stays_announced(tmp_path):
    chain = FakeChain()
    process, port = await _relay_process(tmp_path, 0)
    chain.named_relays = (f"http://127.0.0.1:{port}",)
    async with machine(chain) as (_, attachments):
        await eventually(lambda: chain.announced == chain.named_relays, seconds=15)
        process.kill()
        await process.wait()
        await eventually(lambda: not attachments.all[0].holds, seconds=15)
        process, _ = await _relay_process(tmp_path, port)
        await eventually(lambda: attachments.all[0].holds, seconds=15)
        assert chain.announced == chain.named_relays
    process.terminate()
    assert await process.wait() == 0


async def test_a_relay_that_stays_away_is_taken_off(monkeypatch):
    monkeypatch.setattr(attach, "MISSED_SECONDS", 1.0)
    chain = FakeChain()
    async with relay() as staying, relay() as going, machine(chain, (url(staying), url(going))):
        await eventually(lambda: len(chain.announced) == 2)
        await going.stop()
        await eventually(lambda: chain.announced == (url(staying),), seconds=20)


async def test_a_chain_that_is_away_is_told_later():
    chain = FakeChain()
    chain.silent = True
    async with relay() as one, machine(chain, (url(one),)):
        await asyncio.sleep(0.5)
        assert chain.announced == ()
        chain.silent = False
        await eventually(lambda: chain.announced == (url(one),))


def test_a_relay_on_the_loopback_serves_networks_on_one_machine_alone():
    assert serves("http://127.0.0.1:9946", LOCAL)
    assert serves("http://localhost:9946", LOCAL)
    assert not serves("http://127.0.0.1:9946", ("203.0.113.7:4001",))
    assert serves("http://203.0.113.5:9946", ("203.0.113.7:4001",))

"""What `join` and `doctor` say of how others reach a machine, over a real relay and real endpoints."""

import asyncio
import contextlib

from tests.net.ends import Net
from tests.node.relaying import relay, url
from tests.provider.house import house

from deepbrain.cli.provider import outside
from deepbrain.net import rendezvous
from deepbrain.primitives.ids import MachineId


@contextlib.asynccontextmanager
async def attached_to(home, server):
    found = await rendezvous.find(url(server))
    async with rendezvous.visiting(home.agent.endpoint, found) as visit:
        await rendezvous.look(visit)
        yield


async def _said(machine, addresses, relays) -> list[str]:
    return [one async for one in outside.reach_sentences(machine, addresses, relays)]


async def test_the_relay_says_what_answers_and_what_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(outside, "ATTACH_SECONDS", 0.0)
    async with relay() as server, house("iroh", tmp_path) as home, attached_to(home, server):
        here = home.agent.endpoint.addresses[0]
        said = await _said(home.machine, (here, "127.0.0.1:9"), (url(server),))
        assert said == [
            f"{here} answers from outside",
            "127.0.0.1:9 does not answer from outside: a firewall or a router is between",
            "reachable through 1 relay, which needs no open port",
        ]


async def test_a_machine_that_is_not_attached_is_said_not_to_be_reached(monkeypatch):
    monkeypatch.setattr(outside, "ATTACH_SECONDS", 0.0)
    async with relay() as server:
        nobody = MachineId(bytes(range(32)))
        assert await outside.answers_through(nobody, (url(server), "http://127.0.0.1:9")) == 0
        said = await _said(nobody, (), (url(server),))
        assert said == ["not reachable through any of 1 relays: see the agent's log"]


async def test_without_relays_each_address_is_tried_from_here():
    net = Net("iroh")
    listener = await net.bind()
    serving = asyncio.create_task(_accept(listener))
    said = await _said(MachineId(listener.key), (listener.addresses[0], "127.0.0.1:9"), ())
    assert "private address" in said[0]
    assert "does not answer" in said[1]
    serving.cancel()
    await asyncio.wait([serving])
    await net.close()


async def _accept(listener) -> None:
    while (incoming := await listener.accept()) is not None:
        await incoming.complete(5)


async def test_only_relays_that_answer_are_listed():
    async with relay() as server:
        good = url(server)
        assert await outside.usable_relays((good, "http://127.0.0.1:9")) == (good,)

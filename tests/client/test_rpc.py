"""The connection mends itself, keeps order, and never leaves a caller waiting for ever."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from deepbrain.client.errors import (
    ConnectionLost,
    InvalidExtrinsic,
    NodeUnreachable,
    RpcError,
    WrongChain,
)
from deepbrain.client.rpc import Rpc
from deepbrain.primitives.errors import DecodeError

Answer = Callable[[ServerConnection, dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def node(answer: Answer, port: int = 0) -> AsyncIterator[str]:
    async def serve_one(socket: ServerConnection) -> None:
        async for frame in socket:
            document = json.loads(frame)
            if isinstance(document, list):
                await socket.send(json.dumps([await result(request) for request in document]))
            else:
                await answer(socket, document)

    async with serve(serve_one, "127.0.0.1", port) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def result(request: dict[str, Any]) -> dict[str, Any]:
    if request["method"] == "fail":
        error = {"code": 1010, "message": "Invalid Transaction", "data": "Stale"}
        return {"jsonrpc": "2.0", "id": request["id"], "error": error}
    return {"jsonrpc": "2.0", "id": request["id"], "result": request["params"]}


async def echo(socket: ServerConnection, request: dict[str, Any]) -> None:
    await socket.send(json.dumps(await result(request)))


async def test_calls_batches_and_errors_find_their_callers() -> None:
    async with node(echo) as url, await Rpc.open(url) as rpc:
        answers = await asyncio.gather(*(rpc.call("echo", number) for number in range(20)))
        assert answers == [[number] for number in range(20)]
        first, second = await rpc.batch([("echo", [1]), ("fail", [])])
        assert first == [1]
        assert isinstance(second, InvalidExtrinsic)
        with pytest.raises(RpcError, match="Stale"):
            await rpc.call("fail")


async def test_a_port_without_a_node_is_one_sentence() -> None:
    with pytest.raises(NodeUnreachable, match=r"connection refused.*network up"):
        await Rpc.open("ws://127.0.0.1:1", seconds=0.3)
    with pytest.raises(NodeUnreachable, match="ws://host:port"):
        await Rpc.open("nonsense", seconds=0.3)


async def test_something_that_is_not_a_node_is_told_apart() -> None:
    async def garbage(socket: ServerConnection, _: dict[str, Any]) -> None:
        await socket.send("hello")

    async def greet(rpc: Rpc) -> None:
        await rpc.greeting_call("system_chain")

    async with node(garbage) as url:
        with pytest.raises(DecodeError, match="not a DeepBrain node"):
            await Rpc.open(url, greet, seconds=2)


async def test_a_repeatable_call_survives_a_broken_connection() -> None:
    broken = asyncio.Event()

    async def flaky(socket: ServerConnection, request: dict[str, Any]) -> None:
        if broken.is_set():
            await echo(socket, request)
        else:
            broken.set()
            await socket.close()

    async with node(flaky) as url, await Rpc.open(url) as rpc:
        assert await rpc.call("echo", 7) == [7]


async def test_a_call_on_a_connection_that_has_just_broken_leaves_time_to_see_it() -> None:
    """Sending fails at once then, and again and again: nobody else would ever get to run."""
    async with node(echo) as url, await Rpc.open(url) as rpc:
        assert rpc._socket is not None
        rpc._socket.transport.abort()
        await asyncio.sleep(0)  # it is closed now, and who reads from it has not heard
        assert await rpc.call("echo", 7) == [7]


async def test_what_fails_late_on_an_old_connection_leaves_the_new_one_alone() -> None:
    class Old:
        async def send(self, _: str) -> None:
            await renewed.wait()
            raise OSError

    renewed = asyncio.Event()
    async with node(echo) as url, await Rpc.open(url) as rpc:
        rpc._socket, new = Old(), rpc._socket  # type: ignore[assignment]
        late = asyncio.ensure_future(rpc.call("echo", 1, repeat=False))
        await asyncio.sleep(0)
        rpc._socket = new
        renewed.set()
        with pytest.raises(ConnectionLost):
            await late
        assert await rpc.call("echo", 2, seconds=2) == [2]


async def test_a_call_waits_through_as_many_refusals_as_it_takes_a_node_to_start() -> None:
    async with node(echo) as url:
        rpc = await Rpc.open(url)
        assert await rpc.call("echo", 1) == [1]
    async with rpc:
        waiting = asyncio.create_task(rpc.call("echo", 2))
        await asyncio.sleep(1.5)  # several attempts, all refused
        assert not waiting.done()
        async with node(echo, int(url.rpartition(":")[2])):
            assert await asyncio.wait_for(waiting, 5) == [2]


async def test_a_call_that_must_not_be_repeated_says_that_it_is_lost() -> None:
    async def drop(socket: ServerConnection, _: dict[str, Any]) -> None:
        await socket.close()

    async with node(drop) as url, await Rpc.open(url) as rpc:
        with pytest.raises(ConnectionLost):
            await rpc.call("submit", repeat=False)


async def test_a_node_that_never_answers_is_given_up() -> None:
    async def silent(_: ServerConnection, __: dict[str, Any]) -> None:
        pass

    async with node(silent) as url, await Rpc.open(url) as rpc:
        with pytest.raises(NodeUnreachable, match="echo was not answered"):
            await rpc.call("echo", seconds=0.1)


async def test_notifications_that_follow_the_id_at_once_are_kept_in_order() -> None:
    async def publish(socket: ServerConnection, request: dict[str, Any]) -> None:
        if request["method"] != "subscribe":
            await echo(socket, request)
            return
        await socket.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": "s1"}))
        for number in range(5):
            params = {"subscription": "s1", "result": number}
            await socket.send(json.dumps({"jsonrpc": "2.0", "method": "n", "params": params}))

    async with (
        node(publish) as url,
        await Rpc.open(url) as rpc,
        rpc.subscribe("subscribe", unsubscribe="unsubscribe") as notices,
    ):
        assert [await anext(notices) for _ in range(5)] == [0, 1, 2, 3, 4]


async def test_a_subscription_ends_with_its_connection_after_what_had_come() -> None:
    async def publish(socket: ServerConnection, request: dict[str, Any]) -> None:
        await socket.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": "s1"}))
        params = {"subscription": "s1", "result": 1}
        await socket.send(json.dumps({"jsonrpc": "2.0", "method": "n", "params": params}))
        await socket.close()

    async with (
        node(publish) as url,
        await Rpc.open(url) as rpc,
        rpc.subscribe("subscribe", unsubscribe="unsubscribe") as notices,
    ):
        assert await anext(notices) == 1
        with pytest.raises(ConnectionLost):
            await anext(notices)


async def test_every_new_connection_is_greeted_and_a_wrong_chain_is_final() -> None:
    greeted: list[int] = []

    async def greet(rpc: Rpc) -> None:
        await rpc.greeting_call("echo")
        greeted.append(1)
        if len(greeted) == 2:
            raise WrongChain("another chain")

    async def once(socket: ServerConnection, request: dict[str, Any]) -> None:
        if request["params"] == ["drop"]:
            await socket.close()
        else:
            await echo(socket, request)

    async with node(once) as url, await Rpc.open(url, greet) as rpc:
        with pytest.raises(WrongChain):
            await rpc.call("echo", "drop")
        with pytest.raises(WrongChain):
            await rpc.call("echo", 1)


async def test_closing_fails_what_is_in_flight() -> None:
    async def silent(_: ServerConnection, __: dict[str, Any]) -> None:
        pass

    async with node(silent) as url:
        rpc = await Rpc.open(url)
        call = asyncio.create_task(rpc.call("echo", repeat=False))
        await asyncio.sleep(0.05)
        await rpc.close()
        with pytest.raises(ConnectionLost):
            await call

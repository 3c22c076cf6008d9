"""The RPC port against clients that are wrong, greedy, slow or hostile."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest

from deepbrain.node.errors import NodeError
from deepbrain.node.rpc import dispatch, subscriptions
from deepbrain.node.rpc.dispatch import Method, Stream, Table
from deepbrain.node.rpc.errors import RpcFault
from deepbrain.node.rpc.server import Bind, Limits, RpcServer
from deepbrain.primitives.ids import Hash

LIMITS = Limits(connections=8, request_bytes=64 * 1024, body_seconds=0.5, idle_seconds=1.0)


class Fixture:
    """A table of toy methods."""

    def __init__(self):
        self.sinks = []
        self.runs = []

    def echo(self, data: bytes, at: Hash | None = None, count: int = 0) -> str:
        return f"{data.hex()} {at} {count}"

    def keys(self, keys: list[bytes]) -> int:
        return len(keys)

    def fail(self) -> str:
        raise RpcFault(1010, "Invalid Transaction", "Transaction is outdated")

    def broken(self) -> str:
        return str(1 // 0)

    def secret(self) -> str:
        return "only for this machine"

    def big(self, size: int) -> str:
        return "x" * size

    def submit(self, data: bytes) -> str:
        return data.hex()

    async def submit_many(self, calls):
        self.runs.append(len(calls))
        return [args[0].hex() for args in calls]

    def watch(self):
        def start(sink):
            self.sinks.append(sink)
            sink.send("first")
            return lambda: self.sinks.remove(sink)

        return start

    def table(self):
        table = Table()
        table.add(
            (
                Method("echo", self.echo, aliases=("echo_alias",)),
                Method("keys", self.keys),
                Method("fail", self.fail),
                Method("broken", self.broken),
                Method("secret", self.secret, unsafe=True),
                Method("big", self.big),
                Method("submit", self.submit, many=self.submit_many),
                Stream("watch", "unwatch", "watched", self.watch),
            )
        )
        return table


@asynccontextmanager
async def serving(fixture=None, limits=LIMITS, bind=None):
    server = RpcServer((fixture or Fixture()).table(), bind or Bind(port=0), limits)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield server, session, f"http://127.0.0.1:{server.port}/"
    finally:
        await server.stop()


def call(method, *params, identity=1):
    return {"jsonrpc": "2.0", "id": identity, "method": method, "params": list(params)}


async def post(session, url, body, **kwargs):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | kwargs.pop("headers", {})
    async with session.post(url, data=data, headers=headers, **kwargs) as response:
        text = await response.text()
        return response.status, json.loads(text) if response.status == 200 and text else text


async def test_post_and_websocket_share_one_port():
    async with serving() as (_, session, url):
        assert await post(session, url, call("echo", "0xab")) == (
            200,
            {"jsonrpc": "2.0", "id": 1, "result": "ab None 0"},
        )
        async with session.ws_connect(url) as socket:
            await socket.send_json(call("echo_alias", "0x", None, 3, identity="jL114"))
            assert await socket.receive_json() == {
                "jsonrpc": "2.0",
                "id": "jL114",
                "result": " None 3",
            }


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"\xff\xfe\x00", -32700),
        (b"{", -32700),
        (b"[" * 20_000, -32700),
        (b'{"jsonrpc":"2.0","id":1,"id":1,"method":"echo"}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"keys","params":[NaN]}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"keys","params":[1e999]}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"keys","params":[' + b"9" * 5000 + b"]}", -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b"null", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"echo"}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"echo"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"echo"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":["echo"]}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"nothing"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"data":"0x"}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":["xy"]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":["0xa"]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":["0xa b"]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":["0x","0x12"]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":["0x",null,-1]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":["0x",null,true]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":["0x",null,1,1]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"keys","params":["0x"]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"fail"}', 1010),
        (b'{"jsonrpc":"2.0","id":1,"method":"broken"}', -32603),
        (b'{"jsonrpc":"2.0","id":1,"method":"watch"}', -32601),
    ],
)
async def test_wrong_requests_get_their_code(body, code):
    async with serving() as (_, session, url):
        status, answer = await post(session, url, body)
        assert status == 200
        assert answer["error"]["code"] == code
        async with session.ws_connect(url) as socket:
            if code == -32601 and b"watch" in body:
                return
            await socket.send_bytes(body)
            assert (await socket.receive_json())["error"]["code"] == code
            await socket.send_json(call("echo", "0x"))
            assert (await socket.receive_json())["result"] == " None 0"


async def test_error_bodies_are_what_clients_compare():
    async with serving() as (_, session, url):
        _, answer = await post(session, url, call("nothing"))
        assert answer["error"] == {"code": -32601, "message": "Method not found"}
        _, answer = await post(session, url, call("fail"))
        assert answer["error"] == {
            "code": 1010,
            "message": "Invalid Transaction",
            "data": "Transaction is outdated",
        }


async def test_a_batch_is_answered_in_order_and_runs_of_one_method_go_together():
    fixture = Fixture()
    async with serving(fixture) as (_, session, url):
        calls = [call("submit", f"0x{index:02x}", identity=index) for index in range(5)]
        calls.insert(2, call("submit", "bad", identity="bad"))
        calls.append(call("echo", "0x", identity="last"))
        calls.append({"jsonrpc": "2.0", "method": "echo", "params": ["0x"]})
        calls.append(3)
        _, answers = await post(session, url, calls)
        assert [answer["id"] for answer in answers] == [0, 1, "bad", 2, 3, 4, "last", None]
        assert [answer.get("result") for answer in answers[3:6]] == ["02", "03", "04"]
        assert answers[2]["error"]["code"] == -32602
        assert fixture.runs == [5]
        _, answers = await post(session, url, [call("echo", "0x")] * (dispatch.MAX_BATCH + 1))
        assert answers["error"]["code"] == -32010
        assert await post(session, url, [calls[-2]]) == (200, "")


async def test_answers_are_bounded(monkeypatch):
    monkeypatch.setattr(dispatch, "MAX_RESPONSE", 1000)
    async with serving() as (_, session, url):
        _, answer = await post(session, url, call("big", 1000))
        assert answer["error"]["code"] == -32008
        _, answer = await post(session, url, [call("big", 400)] * 3)
        assert answer["error"]["code"] == -32008


async def test_http_says_what_it_wants():
    async with serving() as (_, session, url):
        assert (await post(session, url, b"x" * (LIMITS.request_bytes + 1)))[0] == 413
        plain = {"Content-Type": "text/plain"}
        assert (await post(session, url, call("echo", "0x"), headers=plain))[0] == 415
        async with session.get(url) as response:
            assert response.status == 405


async def test_a_web_page_from_elsewhere_may_not_use_the_node():
    async with serving(bind=Bind(port=0, origins=("https://wallet.example",))) as (_, session, url):
        for origin, status in (
            ("https://evil.example", 403),
            ("http://localhost.evil.example", 403),
            ("http://[", 403),
            ("null", 403),
            ("https://wallet.example", 200),
            ("http://localhost:3000", 200),
        ):
            headers = {"Origin": origin}
            assert (await post(session, url, call("echo", "0x"), headers=headers))[0] == status
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url, headers={"Origin": "https://evil.example"})


async def test_unsafe_methods_are_for_loopback_only():
    async with serving() as (_, session, url):
        assert (await post(session, url, call("secret")))[1]["result"] == "only for this machine"
    async with serving(bind=Bind(host="0.0.0.0", port=0)) as (_, session, url):
        _, answer = await post(session, url, call("secret"))
        assert answer["error"] == {
            "code": -32601,
            "message": "RPC call is unsafe to be called externally",
        }


async def test_the_subscription_id_comes_first_and_then_at_once_a_value():
    fixture = Fixture()
    async with serving(fixture) as (_, session, url), session.ws_connect(url) as socket:
        await socket.send_json(call("watch"))
        name = (await socket.receive_json())["result"]
        assert await socket.receive_json() == {
            "jsonrpc": "2.0",
            "method": "watched",
            "params": {"subscription": name, "result": "first"},
        }
        await socket.send_json(call("unwatch", name))
        assert (await socket.receive_json())["result"] is True
        await socket.send_json(call("unwatch", name))
        assert (await socket.receive_json())["result"] is False
        assert fixture.sinks == []


async def test_subscriptions_end_with_their_connection_and_are_bounded():
    fixture = Fixture()
    async with serving(fixture) as (_, session, url):
        async with session.ws_connect(url) as socket:
            for _ in range(129):
                await socket.send_json(call("watch"))
            frames = [await socket.receive_json() for _ in range(128 * 2 + 1)]
            refused = [frame["error"]["code"] for frame in frames if "error" in frame]
            assert refused == [-32006]
            assert len(fixture.sinks) == 128
        await until(lambda: not fixture.sinks)


async def test_a_subscriber_that_does_not_read_is_dropped_and_the_others_are_served():
    fixture = Fixture()
    async with (
        serving(fixture) as (_, session, url),
        session.ws_connect(url, timeout=aiohttp.ClientWSTimeout(ws_close=0.1)) as slow,
    ):
        await slow.send_json(call("watch"))
        await until(lambda: len(fixture.sinks) == 1)
        slow._response.connection.transport.pause_reading()
        for _ in range(1000):
            for sink in tuple(fixture.sinks):
                sink.send("x" * 50_000)
            await asyncio.sleep(0)
            if not fixture.sinks:
                break
        await until(lambda: not fixture.sinks)
        async with session.ws_connect(url) as other:
            await other.send_json(call("echo", "0x"))
            assert (await other.receive_json())["result"] == " None 0"


async def test_connections_are_bounded():
    async with serving() as (_, session, url):
        sockets = [await session.ws_connect(url) for _ in range(LIMITS.connections)]
        with pytest.raises(aiohttp.ClientError):
            await session.ws_connect(url)
        await sockets.pop().close()
        await asyncio.sleep(0.05)
        sockets.append(await session.ws_connect(url))
        for socket in sockets:
            await socket.close()


@pytest.mark.parametrize(
    "head", [b"", b"POST / HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01\x02\x00\x01\x00"]
)
async def test_a_connection_without_a_whole_request_is_cut(head):
    async with serving() as (server, _, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_a_body_that_does_not_come_is_cut():
    async with serving() as (server, _, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        assert b"408" in await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_a_port_in_use_is_one_sentence():
    async with serving() as (server, _, _):
        second = RpcServer(Table(), Bind(port=server.port))
        with pytest.raises(NodeError, match=r"cannot be opened .*another --rpc-port\.$"):
            await second.start()


async def until(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_all_that_waits_together_is_bounded(monkeypatch):
    """Whoever has little waiting goes on; whoever has much is cut, once all have too much."""
    monkeypatch.setattr(subscriptions, "MAX_BACKLOG", 300_000)
    backlog, cut = subscriptions.Backlog(), []
    boxes = [subscriptions.Outbox(lambda n=n: cut.append(n), backlog) for n in range(4)]
    frame = "x" * 10_000
    for box in boxes[:3]:
        for _ in range(10):
            box.push(frame)
    assert (backlog.bytes, cut) == (300_000, [])
    boxes[0].push(frame)
    boxes[3].push(frame)
    assert cut == [0]
    boxes[0].close()
    boxes[1].push(frame)
    assert cut == [0]
    for _ in range(11):
        await boxes[1].next()
    assert backlog.bytes == 110_000
    for box in boxes:
        box.close()
        box.push(frame)  # whoever has not heard of the end yet
    assert backlog.bytes == 0

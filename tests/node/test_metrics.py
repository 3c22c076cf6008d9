"""Prometheus asks a real node over HTTP, and its log can be read by programs."""

import asyncio
import json
import logging
import re
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.node.world import Wallet, connected, hexed, running_node
from tests.validators.chain import free_ports, lone_validator

from deepbrain import __version__
from deepbrain.node.__main__ import _config, _parser
from deepbrain.node.comet.peers import count_peers, peers_in
from deepbrain.node.errors import NodeError
from deepbrain.node.logs import JsonFormatter
from deepbrain.node.metrics import Snapshot, Votes, served, size_on_disk

ROOT = Path(__file__).parents[2]


class Still:
    """Figures that do not change."""

    def __init__(self, **figures) -> None:
        self.figures = figures

    def snapshot(self) -> Snapshot:
        return Snapshot(**self.figures)


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scraped(port: int) -> dict[str, float]:
    return await asyncio.to_thread(scrape, port)


async def test_a_scrape_of_a_node_alone(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with running_node(tmp_path, interval=0.3, metrics=f"127.0.0.1:{port}") as node:
        before = await scraped(port)
        async with connected(node) as client:
            wallet = Wallet(node.chain.genesis_hash)
            await client.call("author_submitExtrinsic", hexed(wallet.transfer("Alice", nonce=5)))
            waiting = await scraped(port)
            await client.call("author_submitExtrinsic", hexed(wallet.transfer("Alice", nonce=0)))
            name = "deepbrain_node_extrinsics_total"
            async with asyncio.timeout(10):
                while (await scraped(port))[name] == before[name]:  # noqa: ASYNC110 - as Prometheus does
                    await asyncio.sleep(0.1)
        found = await scraped(port)
    assert (waiting["deepbrain_node_pool_future"], waiting["deepbrain_node_pool_own"]) == (1, 1)
    assert found["deepbrain_node_block_number"] >= before["deepbrain_node_block_number"]
    assert found["deepbrain_node_blocks_total"] >= 1
    assert found["deepbrain_node_execution_seconds_total"] > 0
    assert 0 < found["deepbrain_node_block_execution_seconds"] < 5
    assert 0 < found["deepbrain_node_block_interval_seconds"] < 5
    assert 0 <= found["deepbrain_node_block_weight_ratio"] <= 1
    assert 0 <= found["deepbrain_node_block_age_seconds"] < 5
    assert found["deepbrain_node_store_bytes{chain}"] > 0
    assert found["deepbrain_node_disk_free_bytes"] > 0
    assert found["deepbrain_node_live"] == 1
    assert found[f"deepbrain_node_info{{{__version__}}}"] == 1
    assert "deepbrain_node_peers" not in found, "nobody counts them"
    with pytest.raises(OSError, match="refused"):
        scrape(port)


async def test_a_validator_shows_its_power_and_says_that_it_has_company(tmp_path: Path) -> None:
    async with lone_validator(tmp_path) as (node, _):
        async with connected(node) as client:
            assert await client.call("system_health") == {
                "peers": 0,
                "isSyncing": False,
                "shouldHavePeers": True,
            }
        meter = node._meter()
        own = node.engine.address.hex()
        found = await asyncio.to_thread(meter.snapshot)
    assert found.votes == Votes(powers={own: 100_000}, own_power=100_000)
    assert (found.live, found.restarts, found.inbox, found.outbox) == (True, 0, 0, 0)
    assert found.cometbft_bytes > 0
    assert found.block_time > 0


async def test_a_node_that_has_not_caught_up_says_so(tmp_path: Path) -> None:
    async with running_node() as node, connected(node) as client:
        started = (await client.call("system_syncState"))["startingBlock"]
        node.engine.live = False
        assert (await client.call("system_health"))["isSyncing"] is True
        state = await client.call("system_syncState")
        assert state["startingBlock"] == started
        assert state["currentBlock"] == state["highestBlock"] == node.chain.head.number


def test_a_port_that_is_taken_stops_no_node(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for port in (str(taken.getsockname()[1]), "99999"):
            with served(f"127.0.0.1:{port}", Still()):
                assert "metrics are off" in caplog.text
            caplog.clear()
    with served("", Still()):
        assert not caplog.text


@pytest.mark.parametrize("place", ["9465", "127.0.0.1", "a b:1", "http://127.0.0.1:1"])
def test_a_place_that_is_none_is_refused_in_a_sentence(place: str) -> None:
    with pytest.raises(NodeError, match=r"--metrics .* is not of the form HOST:PORT\.$"):
        _config(_parser().parse_args(["--metrics", place]))


def test_the_dashboard_asks_for_what_there_is() -> None:
    text = (ROOT / "docs" / "grafana-node.json").read_text()
    json.loads(text)
    asked = set(re.findall(r"deepbrain_\w+", text))
    (port,) = free_ports(1)
    full = Still(peers=3, disk_free_bytes=1, votes=Votes(powers={"aa": 1}))
    with served(f"127.0.0.1:{port}", full):
        there = {name.partition("{")[0] for name in scrape(port)}
    assert len(asked) > 15
    assert asked <= there


def test_the_guide_names_metrics_that_there_are() -> None:
    text = (ROOT / "docs" / "guide" / "validator.md").read_text()
    (port,) = free_ports(1)
    full = Still(peers=3, disk_free_bytes=1, votes=Votes(powers={"aa": 1}))
    with served(f"127.0.0.1:{port}", full):
        there = {name.partition("{")[0] for name in scrape(port)}
    named = set(re.findall(r"deepbrain_(?:node|validator)_\w+", text))
    assert len(named) > 4
    assert named <= there


def test_peers_are_read_from_cometbft_s_own_metrics() -> None:
    text = b'# TYPE cometbft_p2p_peers gauge\ncometbft_p2p_peers{chain_id="dbc-local-1"} 3\n'
    assert peers_in(text) == 3
    assert peers_in(b"cometbft_p2p_peers 0\n") == 0
    assert peers_in(b"cometbft_p2p_peers_seen 9\n") == 0


async def test_nobody_who_answers_is_no_number() -> None:
    (port,) = free_ports(1)
    assert await count_peers(f"127.0.0.1:{port}") is None


def test_files_that_vanish_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 8192)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert 4096 <= size_on_disk(tmp_path) < 1 << 20
    assert size_on_disk(tmp_path / "nowhere") == 0


def test_a_line_of_the_log_is_an_object_whatever_is_said() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        caught = sys.exc_info()
    record = logging.LogRecord("cometbft", logging.ERROR, "", 0, "a %s\nb", ("x",), caught)
    line = JsonFormatter().format(record)
    found = json.loads(line)
    assert "\n" not in line
    assert (found["level"], found["logger"], found["message"]) == ("error", "cometbft", "a x\nb")
    assert found["exception"].endswith("ValueError: two\nlines")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])
    assert json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "x" * 10**6})))

"""Prometheus asks a real agent over HTTP, and learns what is the case and nothing more."""

import re
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.provider.house import eventually, house

from deepbrain import __version__
from deepbrain.provider.metrics import Snapshot, served


class Still:
    snapshot = Snapshot(orders={"running": 2})

    def now(self) -> float:
        return 0.0


@contextmanager
def scraped(source):
    """How to ask, while it is served."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with served(f"127.0.0.1:{port}", source):
        yield lambda: scrape(port)


def scrape(port: int) -> tuple[str, dict[str, float]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = "".join(f"{{{value}}}" for value in sample.labels.values())
            samples[sample.name + labels] = sample.value
    return text, samples


def looked_at(agent) -> Snapshot:
    """Its newest snapshot, and have it make another: by itself it looks every ten seconds."""
    agent.book.hint()
    return agent.snapshot


async def test_a_scrape_shows_orders_units_bytes_and_lag(tmp_path: Path) -> None:
    import asyncio

    async with house("iroh", tmp_path) as home:
        with scraped(home.agent) as ask:
            session = await home.running(1, "wait-term")
            await session.stop()
            await eventually(lambda: 1 in home.chain.closings)
            _ = b"".join([piece.data async for piece in session.logs()])
            await eventually(lambda: home.agent.snapshot.orders.get("kept") == 1)
            await eventually(lambda: looked_at(home.agent).tally.sent_bytes > 0)
            text, found = await asyncio.to_thread(ask)
    assert found["deepbrain_orders{ended}"] == 1
    assert found["deepbrain_orders{kept}"] == 1
    assert found["deepbrain_orders{running}"] == 0
    assert (found["deepbrain_units"], found["deepbrain_units_free"]) == (4, 4)
    assert found["deepbrain_connections_accepted_total"] == 1
    assert found["deepbrain_received_bytes_total"] > 0
    assert found["deepbrain_disk_free_bytes"] > 0
    assert found["deepbrain_paused"] == 0
    assert 0 <= found["deepbrain_chain_age_seconds"] < 30
    assert found[f"deepbrain_info{{{__version__}}}"] == 1
    # Neither who rents, nor what: no hex of an account, a hash or an address.
    assert not re.search(r"[0-9a-f]{32}", text)


def test_a_port_that_is_taken_stops_no_machine(caplog: pytest.LogCaptureFixture) -> None:
    with scraped(Still()) as ask:
        assert ask()[1]["deepbrain_orders{running}"] == 2
    for address in ("203.0.113.1:1", "127.0.0.1:no"):
        with served(address, Still()):
            assert "metrics are off" in caplog.text
        caplog.clear()
    with served("", Still()):
        assert not caplog.text


def test_the_dashboard_asks_for_what_there_is() -> None:
    path = Path(__file__).parents[2] / "docs" / "grafana.json"
    asked = set(re.findall(r"deepbrain_\w+", path.read_text().replace("deepbrain-providers", "")))
    still = Still()
    still.snapshot = Snapshot(orders={"running": 1}, chain_read_at=1.0)
    with scraped(still) as ask:
        _, found = ask()
    assert len(asked) > 8
    assert asked <= {name.partition("{")[0] for name in found}


async def test_a_scrape_shows_the_relays_that_hold(tmp_path: Path) -> None:
    from tests.node.relaying import relay, url

    async with relay() as server, house("iroh", tmp_path) as home:
        assert looked_at(home.agent).relays == 0
        home.chain.named_relays = (url(server),)
        await eventually(lambda: looked_at(home.agent).relays == 1, seconds=15)

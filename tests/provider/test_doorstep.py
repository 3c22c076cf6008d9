"""What strangers cannot have more of: places at the door, turns, lines of the log."""

import asyncio
import logging

import pytest

from deepbrain.provider import doorstep
from deepbrain.provider.doorstep import Doorstep, origin_of
from deepbrain.provider.pace import BURST, REQUESTS_PER_SECOND, Pace
from deepbrain.provider.quiet import Quiet


def come(step: Doorstep, address: str) -> bool:
    if not step.has_room(address):
        return False
    step.take(address)
    return True


@pytest.mark.parametrize(
    ("addresses", "count"),
    [
        (["192.0.2.7:1", "192.0.2.7:2", "[::ffff:192.0.2.7]:3"], 1),
        (["192.0.2.7:1", "192.0.2.8:1"], 2),
        (["[2001:db8::1]:1", "[2001:db8::ffff:2]:1", "[2001:db8:0:0:5::]:9"], 1),
        (["[2001:db8::1]:1", "[2001:db8:0:1::1]:1"], 2),
        (["[fe80::1%eth0]:1", "[fe80::2]:1"], 1),
        (["", "nonsense", "https://relay.example"], 1),
    ],
)
def test_what_one_stranger_may_hold_counts_as_one(addresses, count):
    assert len({origin_of(address) for address in addresses}) == count


def test_places_are_bounded_in_all_and_for_each_address():
    step = Doorstep()
    assert [come(step, "192.0.2.1:9") for _ in range(20)].count(True) == doorstep.PLACES_PER_ADDRESS
    assert step.is_crowded
    assert come(step, "192.0.2.2:9"), "one address does not keep the others out"
    assert [come(step, "") for _ in range(99)].count(True) == doorstep.RELAYED_PLACES
    others = [come(step, f"198.51.100.{i}:9") for i in range(99)]
    assert step.count == doorstep.PLACES < others.count(True) + 99
    step.leave("192.0.2.1:9")
    assert come(step, "203.0.113.9:1")


def test_an_address_that_comes_too_often_waits_and_is_forgotten():
    now = [100.0]
    step = Doorstep(clock=lambda: now[0])

    def knock(address: str) -> bool:
        came = come(step, address)
        if came:
            step.leave(address)
        return came

    assert [knock("192.0.2.1:9") for _ in range(99)].count(True) == doorstep.KNOCKS_AT_ONCE
    assert knock("192.0.2.2:9")
    now[0] += 1
    assert [knock("192.0.2.1:9") for _ in range(99)].count(True) == doorstep.KNOCKS_PER_SECOND
    for i in range(20_000):
        knock(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}:9")
    assert len(step._busy_until) <= doorstep._REMEMBERED
    assert step.count == 0


async def test_requests_keep_a_pace(monkeypatch):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    pace = Pace()
    for _ in range(BURST):
        await pace.turn()
    assert max(slept, default=0) < 0.1
    for _ in range(REQUESTS_PER_SECOND):
        await pace.turn()
    assert slept[-1] == pytest.approx(1, abs=0.2)


def test_a_log_holds_a_bounded_number_of_lines_and_says_so(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    quiet, lines = Quiet(lines_per_minute=5), []
    logger = logging.getLogger("of-the-test")
    logger.setLevel(logging.INFO)
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(quiet)
    logger.addHandler(handler)
    for i in range(1000):
        logger.info("refused %s", i)
        logger.info("another line %s", i)
    logger.removeHandler(handler)
    assert len(lines) == 10, "five of each, whatever is filled in"
    now[0] = 61.0
    logger.addHandler(handler)
    logger.info("refused %s", 1000)
    logger.removeHandler(handler)
    assert lines[-1] == "refused 1000"
    assert "995 lines 'refused %s' were left out" in caplog.text
    for i in range(10_000):
        quiet.filter(logging.makeLogRecord({"msg": f"made up {i}"}))
    assert len(quiet._minutes) <= 256

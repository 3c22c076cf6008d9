"""The two clocks."""

import pytest
from tests.runtime.local import START, LocalChain, load_spec

from deepbrain.runtime.errors import InvalidBlock


@pytest.fixture
def chain():
    return LocalChain()


def clocks(chain):
    timestamp = chain.now().timestamp
    return timestamp.calendar() - START, timestamp.service()


def test_service_time_goes_with_the_calendar(chain):
    chain.block(after_ms=1000)
    assert clocks(chain) == (1000, 0)
    chain.block(after_ms=2500)
    assert clocks(chain) == (3500, 2)
    chain.block(after_ms=600)
    assert clocks(chain) == (4100, 3)


def test_a_halt_counts_ten_intervals_of_service(chain):
    chain.block()
    chain.block(after_ms=3_600_000)
    assert clocks(chain) == (3_601_000, 10)


def test_a_block_is_later_than_the_one_before(chain):
    chain.block()
    with pytest.raises(InvalidBlock, match="later than the one before"):
        chain.block(after_ms=0)
    chain.block(after_ms=1)
    assert chain.executive.earliest(chain.state) == chain.moment + 1


def test_eras_are_calendar_time_since_block_1():
    chain = LocalChain(load_spec(Timestamp={"era_length": 5000}))
    eras = []
    for after_ms in (1000, 4999, 1, 1000, 10_000_000):
        chain.block(after_ms=after_ms)
        eras.append(int(chain.now().timestamp.era()))
    assert eras == [0, 0, 1, 1, 2001]


def test_the_first_block_is_not_before_the_genesis_time():
    chain = LocalChain(load_spec(Timestamp={"genesis_time": int(START) + 5000}))
    assert chain.executive.earliest(chain.state) == START + 5000
    with pytest.raises(InvalidBlock, match="genesis time"):
        chain.block(after_ms=4999)
    chain.block(after_ms=5000)
    chain.block(after_ms=1)
    assert chain.head != LocalChain().head

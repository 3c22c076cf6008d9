"""The two clocks."""

import pytest
from tests.runtime.local import START, LocalChain

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

"""What an order gets of the machine's bandwidth, and how its provider changes that."""

from dataclasses import replace

import pytest
from tests.provider.house import CAPACITY, manifest_of

from deepbrain.cli.provider.hosting import Changes
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.provider.act import tenant_spec
from deepbrain.provider.identity import AgentConfig
from deepbrain.provider.record import OrderRecord

RECORD = OrderRecord(
    order=1, genesis=Hash(bytes(32)), seen_block=1, seen_hash=Hash(bytes(32)),
    renter=AccountId(bytes(32)), manifest_hash=Hash(bytes(32)), units=1, seconds=60, latest_end=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("whole", "units", "share"), [(0, 1, 0), (100, 1, 25), (100, 4, 100), (3, 1, 1)]
)
def test_bandwidth_is_shared_by_units_and_a_small_line_is_no_free_one(
    whole: int, units: int, share: int
) -> None:
    capacity = replace(CAPACITY, bandwidth_mbit=whole)
    spec = tenant_spec(replace(RECORD, units=units), manifest_of("x"), capacity)
    assert spec.bandwidth_mbit == share


def test_what_is_not_named_stays() -> None:
    config = AgentConfig(
        chain="", controller="//Bob", port=1, capacity=CAPACITY, addresses=("203.0.113.7:1",)
    )
    assert Changes().of(config) == config
    limited = Changes(bandwidth_mbit=50).of(config)
    assert limited == replace(config, capacity=replace(CAPACITY, bandwidth_mbit=50))
    assert Changes(bandwidth_mbit=0).of(limited) == config

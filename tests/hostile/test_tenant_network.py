"""Tenants' networks: whatever a tenant tries is contained, and each try works where nothing defends."""

import os
from collections.abc import Iterator

import pytest
from tests.hostile.tenant_network import ALLOWED, ATTACKS, measure, rules_off, seats
from tests.hostile.world import World, world

from deepbrain.sandbox import egress, links
from deepbrain.sandbox.network import TenantNetwork
from deepbrain.sandbox.sandbox import SandboxError


def require_nft() -> None:
    """Skip where the tests cannot be run, unless nothing may be skipped."""
    reason = "network namespaces need root" if os.geteuid() else ""
    try:
        egress.find_nft()
    except SandboxError as error:
        reason = reason or str(error)
    if reason and os.environ.get("REQUIRE_GVISOR") == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    require_nft()
    with world() as found:
        yield found


@pytest.fixture(scope="module")
def reached(made: World) -> dict[bool, dict[str, bool]]:
    """What reaches with the defence (True) and without."""
    network = TenantNetwork()
    with rules_off(), seats(made, network) as seat:
        without = measure(seat)
    made.seen.clear()
    with seats(made, network) as seat:
        return {True: measure(seat), False: without}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_contained_and_works_where_nothing_defends(
    reached: dict[bool, dict[str, bool]], attack: str
) -> None:
    assert reached[False][attack], "the control does not work: that it is contained shows nothing"
    assert not reached[True][attack]


@pytest.mark.parametrize("use", ALLOWED)
def test_the_internet_is_reached(reached: dict[bool, dict[str, bool]], use: str) -> None:
    assert reached[True][use]


def test_nothing_stays_on_the_host(made: World, reached: object) -> None:
    assert made.host.run(links.read_facts).links == ()
    assert made.host.run(lambda: egress.run_nft("list", "ruleset")) == ""
    assert made.host.run(lambda: links.forwards("wan0")) is False

"""Tenants' networks: whatever a tenant tries is contained, and each try works where nothing defends."""

import json
import os
from collections.abc import Iterator
from ipaddress import IPv4Address
from unittest import mock

import pytest
from tests.hostile.tenant_network import ALLOWED, ATTACKS, Seat, measure, rules_off, seats, tcp
from tests.hostile.world import MTU, NEIGHBOUR, ROUTER, WEB, World, sh, world

from deepbrain.sandbox import egress, links
from deepbrain.sandbox.netns import NetworkNamespace
from deepbrain.sandbox.network import CLOSED_VARIABLE, TenantNetwork
from deepbrain.sandbox.probe import ask_resolvers
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
        without = measure(seat, patient=True)
    made.seen.clear()
    with mock.patch.dict(os.environ, {CLOSED_VARIABLE: f"{ROUTER},192.0.2.0/24"}):
        network = TenantNetwork()
    with seats(made, network) as seat:
        # What is allowed may need another try; what is not must stay contained in every one.
        return {True: measure(seat) | allowed(seat), False: without}


def allowed(seat: Seat) -> dict[str, bool]:
    return {name: any(use(seat) for _ in range(4)) for name, use in ALLOWED.items()}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_contained_and_works_where_nothing_defends(
    reached: dict[bool, dict[str, bool]], attack: str
) -> None:
    assert reached[False][attack], "the control does not work: that it is contained shows nothing"
    assert not reached[True][attack]


@pytest.mark.parametrize("use", ALLOWED)
def test_the_internet_is_reached(reached: dict[bool, dict[str, bool]], use: str) -> None:
    assert reached[True][use]


def test_a_link_goes_though_something_still_sits_behind_it(made: World) -> None:
    network = TenantNetwork()
    seat = made.host.run(lambda: network.attach("held", NetworkNamespace.current, 7))
    with seat:
        (link,) = made.host.run(links.read_facts).links
        assert (link.up, link.mbit) == (True, 7)
        (own,) = json.loads(seat.run(lambda: sh("ip", "-j", "link", "show", "eth0")))
        assert own["mtu"] == MTU, "the default route's: larger packets would be lost on the way"
        made.host.run(lambda: network.detach("held"))
        assert made.host.run(links.read_facts).links == ()
        assert seat.run(lambda: tcp(WEB)) is False


def test_a_resolver_that_the_provider_names_is_reached_for_names_alone(made: World) -> None:
    made.resolve(made.net, NEIGHBOUR)
    made.answer(made.net, NEIGHBOUR, 53, "resolver")
    named = IPv4Address(NEIGHBOUR)
    asked = {}
    for resolvers in ((), (named,)):
        network = TenantNetwork(resolvers)
        with made.host.run(lambda n=network: n.attach("asks", NetworkNamespace.current)) as seat:
            asked[resolvers] = seat.run(lambda: (ask_resolvers([named], 2.0).all, tcp(NEIGHBOUR)))
            made.host.run(lambda n=network: n.detach("asks"))
    assert asked == {(): (False, False), (named,): (True, False)}


def test_nothing_stays_on_the_host(made: World, reached: object) -> None:
    assert made.host.run(links.read_facts).links == ()
    assert made.host.run(lambda: egress.run_nft("list", "ruleset")) == ""
    assert made.host.run(lambda: links.forwards("wan0")) is False


def test_two_helpers_with_other_wishes_agree_on_one_table(made: World) -> None:
    """Each renders when the other has: they would go on for ever, or undo what the other closed."""
    with mock.patch.dict(os.environ, {CLOSED_VARIABLE: f"{ROUTER},192.0.2.0/25,192.0.2.128/25"}):
        first = TenantNetwork([IPv4Address(NEIGHBOUR)])
    second = TenantNetwork()
    with made.host.run(lambda: first.attach("shared", NetworkNamespace.current)) as seat:
        seen = set()
        for network in (first, second, first, second):
            made.host.run(network.settle)
            loaded = made.host.run(egress.Loaded.read)
            seen.add(loaded.chains)
            assert seat.run(lambda: (tcp(ROUTER), tcp(WEB))) == (False, True)
        assert len(seen) == 2, "after each has said what it wishes, nothing changes any more"
    made.host.run(lambda: first.detach("shared"))

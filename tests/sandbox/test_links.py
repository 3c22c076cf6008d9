"""What is read off the host, and what rules come of it."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from deepbrain.sandbox import egress
from deepbrain.sandbox.egress import mark_of, render
from deepbrain.sandbox.links import POOLS, Facts, Link, facts_of, free_network
from deepbrain.sandbox.network import RESOLVERS_VARIABLE, TenantNetwork
from deepbrain.sandbox.sandbox import SandboxError


def interface(name: str, *addresses: str, **more: object) -> dict[str, object]:
    info = []
    for text in addresses:
        local, _, prefix = text.partition("/")
        info.append({"family": "inet", "local": local, "prefixlen": int(prefix)})
    return {"ifname": name, "mtu": 1500, "flags": ["UP"], "addr_info": info} | more


ADDRESSES = [
    interface("lo", "127.0.0.1/8"),
    interface("eth0", "203.0.113.7/26", mtu=1400),
    interface("wg0", mtu=1420) | {
        "addr_info": [{"family": "inet", "local": "10.8.0.2", "address": "10.8.0.1", "prefixlen": 32}]
    },
    interface("dbc-1", "10.213.208.1/30", ifalias="deepbrain-1f-7@100mbit"),
    interface("dbc-2", "10.213.208.5/30", flags=[]),
]  # fmt: skip
ROUTES = [
    {"dst": "default", "gateway": "203.0.113.1", "dev": "eth0", "metrics": [{"mtu": 1380}]},
    {"dst": "default", "nexthops": [{"dev": "ppp0"}, {"dev": "eth0"}], "metric": 200},
    {"dst": "198.51.100.5", "dev": "eth0", "scope": "link"},
    {"dst": "172.20.0.0/14", "gateway": "10.8.0.1", "dev": "wg0"},
    {"dst": "10.213.208.0/30", "dev": "dbc-1", "scope": "link"},
    {"type": "local", "dst": "127.0.0.1", "dev": "lo", "scope": "host"},
    {"type": "blackhole", "dst": "default"},
]


@pytest.fixture
def facts() -> Facts:
    return facts_of(ADDRESSES, ROUTES, routes_already=False)


def test_tenants_ways_out_and_neighbours_are_told_apart(facts: Facts) -> None:
    assert facts.links == (
        Link("dbc-1", IPv4Address("10.213.208.2"), up=True, mbit=100),
        Link("dbc-2", IPv4Address("10.213.208.6"), up=False),
    )
    assert facts.uplinks == ("eth0", "ppp0")
    near = {str(network) for network in facts.near}
    assert near == {
        "127.0.0.0/8", "203.0.113.0/26", "198.51.100.5/32", "10.8.0.1/32", "10.8.0.2/32",
    }  # fmt: skip
    assert facts.mtu == 1380


def test_a_tenants_network_overlaps_nothing_of_the_hosts(facts: Facts) -> None:
    for _ in range(50):
        found = free_network(facts.taken)
        assert found.prefixlen == 30
        assert not any(found.overlaps(network) for network in facts.taken)


def test_a_machine_without_nft_offers_none_and_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(egress, "find_binary", lambda *_: None)
    monkeypatch.setattr(egress.os, "access", lambda *_: False)
    with pytest.raises(SandboxError, match="install the package nftables"):
        TenantNetwork().try_out()


def test_resolvers_are_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RESOLVERS_VARIABLE, "192.0.2.53, 192.0.2.54")
    assert TenantNetwork().resolvers == (IPv4Address("192.0.2.53"), IPv4Address("192.0.2.54"))
    monkeypatch.setenv(RESOLVERS_VARIABLE, "dns.example")
    with pytest.raises(SandboxError, match=r"such as 1\.1\.1\.1"):
        TenantNetwork()


def test_a_pool_that_a_route_covers_is_left_alone() -> None:
    used = [IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12")]
    assert free_network(used).subnet_of(POOLS[2])
    with pytest.raises(SandboxError, match="no private network is free"):
        free_network(POOLS)


def test_the_last_free_network_is_found() -> None:
    left = IPv4Network("10.213.210.40/30")
    used = [network for network in POOLS[0].subnets(new_prefix=30) if network != left]
    assert free_network([*used, *POOLS[1:]]) == left


def test_rules_follow_the_facts(facts: Facts) -> None:
    table = render(facts)
    assert '"dbc-1" . 10.213.208.2, "dbc-2" . 10.213.208.6' in table
    assert "203.0.113.0/26" in table
    assert 'iifname "dbc-1" limit rate over 12500 kbytes/second' in table
    assert '"dbc-2" limit' not in table
    assert "iifname @uplinks ct state new drop" in table
    other = facts_of(ADDRESSES[:-1], ROUTES, routes_already=True)
    assert "iifname @uplinks ct state new drop" not in render(other)
    assert mark_of(render(other)) != mark_of(table) == mark_of(render(facts))


def test_a_resolver_on_the_lan_is_reached_on_port_53_alone(facts: Facts) -> None:
    assert "dport 53" not in render(facts, [IPv4Address("1.1.1.1")])
    table = render(facts, [IPv4Address("1.1.1.1"), IPv4Address("192.168.1.1")])
    assert "ip daddr { 192.168.1.1 } meta l4proto { tcp, udp } th dport 53 accept" in table

"""Firewalls that were there before: they admit tenants by two rules, or the machine says why it cannot.

Each is made by the programs that make the real one's rules, as they lie on a host (ufw by itself, `iptables-nft`
for Docker, `nft` for firewalld and hand-written tables), in a world of its own. firewalld itself wants the
system's D-Bus with polkit, and answers on no other: its rules are here as version 1.3 writes them.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from tests.hostile.tenant_network import ALLOWED, measure, seats
from tests.hostile.test_tenant_network import allowed, require_nft
from tests.hostile.world import ROUTER, World, world

from deepbrain.sandbox import egress, firewalls
from deepbrain.sandbox.network import CLOSED_VARIABLE, TenantNetwork
from deepbrain.sandbox.programs import find_binary
from deepbrain.sandbox.sandbox import SandboxError


def docker(host: World) -> None:
    """As dockerd 20.10 to 28 leave the filter table: the policy drops, DOCKER-USER is asked first."""
    for rule in (
        "-P FORWARD DROP",
        "-N DOCKER",
        "-N DOCKER-ISOLATION-STAGE-1",
        "-N DOCKER-USER",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
        "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        "-A DOCKER-ISOLATION-STAGE-1 -j RETURN",
        "-A DOCKER-USER -j RETURN",
    ):
        iptables(host, rule)


UFW = """
set -e
mount -t tmpfs none /run && mkdir /run/a /run/b /run/c /run/d
mount -t overlay -o "lowerdir=$UFW/usr:$NFT/usr:/usr,upperdir=/run/a,workdir=/run/b" none /usr
mount -t overlay -o "lowerdir=$UFW/etc:/etc,upperdir=/run/c,workdir=/run/d" none /etc
cp -a "$UFW/lib/ufw" /usr/lib/
for program in iptables iptables-restore iptables-save ip6tables ip6tables-restore ip6tables-save; do
  ln -sf xtables-nft-multi "/usr/sbin/$program"
done
cd /usr/share/ufw && cp iptables/*.rules ufw.conf before.init after.init /etc/ufw/
PYTHONPATH=/usr/lib/python3/dist-packages "$PYTHON" /usr/sbin/ufw --force enable
"""
"""As its package's own scripts install it, but in a mount namespace that ends with it."""


def ufw(host: World) -> None:
    """What `ufw enable` makes, by ufw itself: default deny for what is routed, chains of its own."""
    packages = Path(__file__).parents[2] / ".cache" / "bin"
    if not (packages / "ufw.d" / "usr").is_dir():
        pytest.fail("ufw is missing; run scripts/get-nft .cache/bin")
    places = (f"UFW={packages / 'ufw.d'}", f"NFT={packages / 'nft.d'}", f"PYTHON={sys.executable}")
    said = host.host.sh("env", *places, "unshare", "--mount", "sh", "-c", UFW)
    assert "Firewall is active" in said


def by_hand(host: World) -> None:
    """A table as the wiki pages have it, for both families, dropping what it does not know."""
    nft(
        host,
        """table inet filter {
          chain input { type filter hook input priority filter; policy drop; iif lo accept; ct state established accept; }
          chain forward { type filter hook forward priority filter; policy drop; iifname "virbr0" accept; }
        }
        """,
    )


def firewalld(host: World) -> None:
    """As firewalld 1.3: an accept of ours is followed by its own reject, and it owns its table."""
    nft(
        host,
        """table inet firewalld {
          chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
            ct state { established, related } accept
            iifname "lo" accept
            reject with icmpx admin-prohibited
          }
        }
        """,
    )


def legacy(host: World) -> None:
    """iptables of before nftables, which `nft` does not show."""
    iptables(host, "-P FORWARD DROP", "iptables-legacy")


def iptables(host: World, rule: str, program: str = "iptables-nft") -> str:
    found = find_binary(program, "DBC_IPTABLES")
    if found is None:
        pytest.fail(f"{program} is missing; run scripts/get-nft .cache/bin")
    return host.host.sh(str(found), *rule.split())


def nft(host: World, text: str) -> None:
    host.host.run(lambda: egress.run_nft("-f", "-", text=text))


def ruleset(host: World) -> str:
    """Everything on the host but our own table and what counters say."""
    text = str(host.host.run(lambda: egress.run_nft("-s", "list", "ruleset")))
    ours = text.find(f"table inet {egress.TABLE} ")
    return text if ours < 0 else text[:ours] + text[text.index("\n}\n", ours) + 3 :]


@pytest.fixture
def place() -> Iterator[World]:
    require_nft()
    with world() as found:
        yield found


Firewall = Callable[[World], None]


@pytest.mark.parametrize("firewall", [docker, ufw, by_hand])
def test_a_firewall_that_drops_admits_tenants_by_two_rules(
    place: World, firewall: Firewall
) -> None:
    firewall(place)
    before = ruleset(place)
    with seats(place, TenantNetwork()) as seat:
        drops = not ALLOWED["the web by TCP"](seat)
    assert drops, "the control does not work: this firewall drops nothing"
    with mock.patch.dict(os.environ, {CLOSED_VARIABLE: ROUTER}):
        network = TenantNetwork()
    place.host.run(network.try_out)
    assert ruleset(place) == before, "a trial leaves nothing"
    with seats(place, network) as seat:
        reached = measure(seat) | allowed(seat)
        ours = place.host.run(firewalls.Ruleset.read).ours()
        if firewall is not by_hand:
            # Docker and ufw go on managing their tables: iptables must still understand them.
            listed = iptables(place, "-S")
            assert '-i dbc-+ -m comment --comment "deepbrain tenants" -j ACCEPT' in listed
            iptables(place, "-A FORWARD -i later0 -j ACCEPT")
            iptables(place, "-D FORWARD -i later0 -j ACCEPT")
    assert {rule["chain"] for rule in ours} == {
        docker: {"DOCKER-USER"}, ufw: {"FORWARD"}, by_hand: {"forward"}
    }[firewall]  # fmt: skip
    assert len(ours) == 2
    assert {name for name, arrived in reached.items() if arrived} == {
        "the web by TCP", "the web by UDP", "the web by ping", "names",
    }  # fmt: skip
    assert ruleset(place) == before


@pytest.mark.parametrize(
    ("firewall", "named"), [(firewalld, "table inet firewalld"), (legacy, "iptables-legacy")]
)
def test_a_firewall_that_cannot_be_worked_with_is_named(
    place: World, firewall: Firewall, named: str
) -> None:
    firewall(place)
    before = ruleset(place)
    with pytest.raises(SandboxError, match=named) as refusal:
        place.host.run(TenantNetwork().try_out)
    assert "\n" not in str(refusal.value)
    assert ruleset(place) == before


def test_a_second_helper_keeps_what_the_first_one_found(place: World) -> None:
    """The first has tenants, so that everything arrives for the second, which must not forget why."""
    docker(place)
    first, second = TenantNetwork(), TenantNetwork()
    place.host.run(first.try_out)
    with seats(place, first):
        place.host.run(second.try_out)
    with seats(place, second) as seat:
        assert allowed(seat)["the web by TCP"]


def test_a_firewall_that_was_made_anew_admits_again(place: World) -> None:
    """As by `systemctl restart docker`: our two rules are gone, and tenants run."""
    docker(place)
    network = TenantNetwork()
    place.host.run(network.try_out)
    with seats(place, network) as seat:
        iptables(place, "-F DOCKER-USER")
        assert not ALLOWED["the web by TCP"](seat), "the control does not work: nothing dropped"
        place.host.run(network.settle)  # what the helper does when the kernel tells of a change
        assert allowed(seat)["the web by TCP"]

"""A provider and a renter, each behind a NAT of its own, and a public host between them.

    provider 192.168.1.10 ── nat 198.51.100.2 ── public 198.51.100.1
                                                 public 203.0.113.1 ── nat 203.0.113.2 ── renter 192.168.2.10

Both NATs masquerade and drop whatever nobody asked for. Everything lives in network namespaces without
names, so nothing stays when the processes are gone.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hostile.world import IP, Place

ROOT = Path(__file__).resolve().parents[2]
NFT = ROOT / ".cache" / "bin" / "nft"
NODE_TO_PROVIDER, NODE_TO_RENTER = "198.51.100.1", "203.0.113.1"
RELAY = 9946

RULES = """
table inet nat {
  chain out { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
  chain through {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "lan" accept
  }
  chain in {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname { "lan", "lo" } accept
  }
}
"""


def cable(one: Place, here: str, other: Place, there: str, name: str, peer: str) -> None:
    """A wire: `one` has the device `name` with the address `here`, `other` the device `peer`."""
    command = (IP, "link", "add", name, "type", "veth", "peer", "name", peer)
    target = other.namespace
    one.run(
        lambda: subprocess.run([*command, "netns", target.path], pass_fds=target.fds, check=True)
    )
    for place, device, address in ((one, name, here), (other, peer, there)):
        place.sh(IP, "addr", "add", address, "dev", device)
        place.sh(IP, "link", "set", device, "up")


class Streets:
    """The hosts and their wires."""

    def __init__(self) -> None:
        names = ("provider", "nat-a", "public", "nat-b", "renter")
        self.provider, self.nat_a, self.public, self.nat_b, self.renter = map(Place, names)
        for place in self.all:
            place.sh(IP, "link", "set", "lo", "up")
        cable(self.provider, "192.168.1.10/24", self.nat_a, "192.168.1.1/24", "eth0", "lan")
        cable(self.nat_a, "198.51.100.2/24", self.public, "198.51.100.1/24", "wan", "west")
        cable(self.nat_b, "203.0.113.2/24", self.public, "203.0.113.1/24", "wan", "east")
        cable(self.renter, "192.168.2.10/24", self.nat_b, "192.168.2.1/24", "eth0", "lan")
        for place, gateway in (
            (self.provider, "192.168.1.1"),
            (self.nat_a, "198.51.100.1"),
            (self.nat_b, "203.0.113.1"),
            (self.renter, "192.168.2.1"),
        ):
            place.sh(IP, "route", "add", "default", "via", gateway)
        for place in (self.nat_a, self.public, self.nat_b):
            place.run(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        for place in (self.nat_a, self.nat_b):
            place.sh(str(NFT), "-f", "-", text=RULES)

    @property
    def all(self) -> tuple[Place, ...]:
        return (self.provider, self.nat_a, self.public, self.nat_b, self.renter)

    @contextmanager
    def without(self, nat: Place, what: str) -> Iterator[None]:
        """Meanwhile the NAT drops `what` (as nft says it; empty: everything), both ways."""
        rule = f"insert rule inet nat through {what} counter drop"
        nat.sh(str(NFT), "-f", "-", text=rule)
        try:
            yield
        finally:
            listed = nat.sh(str(NFT), "-a", "list", "chain", "inet", "nat", "through")
            line = next(line for line in listed.splitlines() if "counter" in line)
            handle = line.rpartition(" ")[2]
            nat.sh(str(NFT), "delete", "rule", "inet", "nat", "through", "handle", handle)

    def close(self) -> None:
        for place in self.all:
            place.namespace.close()

"""What tenants may send, and to whom: our own nftables table, a function of the host's facts.

It is replaced as a whole, in one transaction, and says of itself which facts it was made of. A drop in
it is final; an accept still has to pass the host's other tables (`firewalls.py`).
"""

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network, collapse_addresses, summarize_address_range
from typing import Any, Final

from deepbrain.sandbox.links import PREFIX, Facts, Link
from deepbrain.sandbox.programs import find_binary
from deepbrain.sandbox.sandbox import SandboxError

TABLE: Final = "deepbrain"

NOT_PUBLIC: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
"""Private, shared, loopback, the one public address at which a cloud (Azure) serves its hosts, link-local
(the others' metadata), test networks, multicast, reserved."""

MAIL_PORTS: Final = (25, 465, 587)
"""Whoever rents a minute must not send mail in the provider's name."""

MAX_CONNECTIONS: Final = 4096
"""Tracked connections of one tenant: the table of them is the host's, and everybody's."""


BURST_KBYTES: Final = 256
"""Added by nftables to a second's worth. A packet may be 64 KiB before the network card cuts it."""


def render(
    facts: Facts, resolvers: Iterable[IPv4Address] = (), also: Iterable[IPv4Network] = ()
) -> str:
    """The table, without the line that names it.

    `resolvers` are reached on port 53 wherever they are; what is in `also` is closed, too.
    """
    closed = tuple(collapse_addresses((*NOT_PUBLIC, *facts.near, *also)))
    own = [f'"{link.name}" . {link.address}' for link in facts.links]
    named = [str(address) for address in sorted(resolvers) if any(address in net for net in closed)]
    dns = f"ip daddr {{ {', '.join(named)} }} meta l4proto {{ tcp, udp }} th dport 53 accept"
    # A host that routed for nobody goes on so, though the way outwards now forwards for tenants.
    transit = (
        "" if facts.routes else "ct status dnat accept\n    iifname @uplinks ct state new drop"
    )
    out, back = (_limits(facts.links, side) for side in ("iifname", "oifname"))
    return f"""
  set tenants {{ type ifname . ipv4_addr; {_elements(own)} }}
  set addresses {{ type ipv4_addr; {_elements(str(link.address) for link in facts.links)} }}
  set uplinks {{ type ifname; {_elements(f'"{name}"' for name in facts.uplinks)} }}
  set closed {{ type ipv4_addr; flags interval; auto-merge; {_elements(map(str, closed))} }}
  set connections {{ type ifname; size 65535; flags dynamic; }}
  chain enter {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{PREFIX}*" jump from_tenant
  }}
  chain from_tenant {{
    meta nfproto != ipv4 drop
    iifname . ip saddr != @tenants drop
  }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    iifname "{PREFIX}*" drop
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    iifname "{PREFIX}*" jump outwards
    oifname "{PREFIX}*" jump inwards
    {transit}
  }}
  chain outwards {{
    oifname != @uplinks drop
    {dns if named else ""}
    ip daddr @closed drop
    tcp dport {{ {", ".join(map(str, MAIL_PORTS))} }} drop
    meta l4proto != {{ tcp, udp, icmp }} drop
    {out}
    ct state established,related accept
    ct state invalid drop
    add @connections {{ iifname ct count over {MAX_CONNECTIONS} }} drop
    accept
  }}
  chain inwards {{
    {back}
    ct state established,related accept
    drop
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @addresses oifname @uplinks masquerade
  }}
"""


def _limits(links: Sequence[Link], side: str) -> str:
    """What is over a tenant's bandwidth is dropped; a second's worth may come at once, and one packet."""
    rules = []
    for link in links:
        if link.mbit:
            kbytes = link.mbit * 125
            rate = f"limit rate over {kbytes} kbytes/second burst {BURST_KBYTES} kbytes"
            rules.append(f'{side} "{link.name}" {rate} drop')
    return "\n    ".join(rules)


def _elements(items: Iterable[str]) -> str:
    listed = ", ".join(items)
    return f"elements = {{ {listed} }};" if listed else ""


def mark_of(table: str) -> str:
    """The name of an empty chain by which a loaded table is recognised."""
    return "made_of_" + sha256(table.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What no fact of the host tells: whoever renders the table adds to what others wished before.

    It stands in the table itself, so that two helpers, or a doctor beside them, agree on one.
    """

    resolvers: frozenset[IPv4Address] = frozenset()
    """Reached on port 53, wherever they are."""
    closed: frozenset[IPv4Network] = frozenset()
    """Closed besides."""
    opened: frozenset[str] = frozenset()
    """Interfaces that forward because of us."""

    def __or__(self, other: "Wishes") -> "Wishes":
        return Wishes(
            self.resolvers | other.resolvers,
            frozenset(collapse_addresses(self.closed | other.closed)),  # as nft gives it back
            self.opened | other.opened,
        )

    def sets(self) -> str:
        resolvers = _elements(map(str, sorted(self.resolvers)))
        closed = _elements(map(str, sorted(self.closed)))
        opened = _elements(f'"{name}"' for name in sorted(self.opened))
        return f"""
  set wished_resolvers {{ type ipv4_addr; {resolvers} }}
  set wished_closed {{ type ipv4_addr; flags interval; auto-merge; {closed} }}
  set opened {{ type ifname; {opened} }}
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The table that is in force."""

    chains: frozenset[str]
    wishes: Wishes

    @classmethod
    def read(cls) -> "Loaded | None":
        try:
            entries = listing("table", "inet", TABLE)
        except SandboxError:
            return None
        sets = {
            entry["set"]["name"]: entry["set"].get("elem", ())
            for entry in entries
            if "set" in entry
        }
        wishes = Wishes(
            frozenset(IPv4Address(address) for address in sets.get("wished_resolvers", ())),
            frozenset(_networks_of(sets.get("wished_closed", ()))),
            frozenset(map(str, sets.get("opened", ()))),
        )
        chains = frozenset(str(entry["chain"]["name"]) for entry in entries if "chain" in entry)
        return cls(chains, wishes)


def _networks_of(elements: Iterable[Any]) -> Iterator[IPv4Network]:
    """As `nft -j` writes an interval: an address, a prefix or a range."""
    for element in elements:
        if isinstance(element, str):
            yield IPv4Network(element)
        elif "prefix" in element:
            yield IPv4Network((element["prefix"]["addr"], element["prefix"]["len"]))
        else:
            first, last = element["range"]
            yield from summarize_address_range(IPv4Address(first), IPv4Address(last))


def put_in_force(facts: Facts, wishes: Wishes) -> None:
    """Have the table of these facts, with what was wished before, in place of what is there.

    Raises: SandboxError: nftables refuses, or the table is not there afterwards.
    """
    before = Loaded.read()
    wishes |= Wishes() if before is None else before.wishes
    table = wishes.sets() + render(facts, wishes.resolvers, wishes.closed)
    mark = mark_of(table)
    if before is not None and mark in before.chains:
        return
    whole = f"table inet {TABLE} {{\n  chain {mark} {{ }}\n{table}}}\n"
    run_nft("-f", "-", text=f"table inet {TABLE}\ndelete table inet {TABLE}\n{whole}")
    after = Loaded.read()
    if after is None or mark not in after.chains:
        raise SandboxError("the table of tenants' rules is not there after it was loaded")


def is_there() -> bool:
    return Loaded.read() is not None


def remove() -> None:
    """Raises: SandboxError: nftables refuses."""
    run_nft("-f", "-", text=f"table inet {TABLE}\ndelete table inet {TABLE}\n")


def listing(*what: str) -> list[dict[str, Any]]:
    """`nft -j -a list ...`. Raises: SandboxError: it is not there."""
    found = json.loads(run_nft("-j", "-a", "list", *what))["nftables"]
    return [entry for entry in found if isinstance(entry, dict)]


def find_nft() -> str:
    """Raises: SandboxError: it is missing."""
    found = find_binary("nft", "DBC_NFT")
    if found is None:
        for place in ("/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"):
            if os.access(place, os.X_OK):
                return place
        raise SandboxError("the program nft is missing; install the package nftables")
    return str(found)


def run_nft(*arguments: str, text: str = "") -> str:
    """`nft`, to its end. Raises: SandboxError: it is missing, or refuses."""
    done = subprocess.run(
        [find_nft(), *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.defpath, "LC_ALL": "C"},
    )
    if done.returncode:
        raise SandboxError(f"nft: {' '.join(done.stderr.split())[:200]}")
    return done.stdout

"""Other firewalls of the host that drop what is forwarded, and the two rules by which they admit tenants.

Docker and ufw set the FORWARD chain's policy to drop, and so do many hand-written tables. An accept in
our own table cannot overrule that. The two rules name our interfaces alone; what may pass there has
been decided by our table before. Nothing of others is moved or removed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deepbrain.sandbox.egress import TABLE, listing, run_nft
from deepbrain.sandbox.links import PREFIX

COMMENT: Final = "deepbrain tenants"
DOCKER_USER: Final = "DOCKER-USER"
"""Docker's chain for rules of the host's owner; it is asked first, and Docker leaves it alone."""

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chain:
    family: str
    table: str
    name: str

    @classmethod
    def of(cls, entry: Entry) -> "Chain":
        name = entry.get("chain", entry.get("name"))
        return cls(str(entry["family"]), str(entry["table"]), str(name))

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What the host's nftables hold; iptables of today writes there too."""

    chains: tuple[Entry, ...]
    rules: tuple[Entry, ...]

    @classmethod
    def read(cls) -> "Ruleset":
        """Raises: SandboxError: nft fails."""
        entries = listing("ruleset")
        return cls(
            tuple(entry["chain"] for entry in entries if "chain" in entry),
            tuple(entry["rule"] for entry in entries if "rule" in entry),
        )

    def deciding(self) -> tuple[Chain, ...]:
        """Chains of others that every forwarded packet meets."""
        return tuple(Chain.of(entry) for entry in self._forward())

    def to_admit(self) -> tuple[Chain, ...]:
        """Where the two rules are wanted: the forward chains that drop unless a rule accepts."""
        there = {Chain.of(entry) for entry in self.chains}
        found = []
        for entry in self._forward():
            if entry.get("policy") == "drop":
                chain = Chain.of(entry)
                for_owner = Chain(chain.family, chain.table, DOCKER_USER)
                found.append(for_owner if for_owner in there else chain)
        return tuple(found)

    def ours(self) -> tuple[Entry, ...]:
        return tuple(rule for rule in self.rules if rule.get("comment") == COMMENT)

    def _forward(self) -> list[Entry]:
        return [
            entry
            for entry in self.chains
            if entry.get("hook") == "forward"
            and entry.get("type") == "filter"
            and entry["family"] in ("ip", "inet")
            and entry["table"] != TABLE
        ]


def admits() -> bool:
    """Whether a firewall of the host holds our rules now: somebody has found that it must."""
    return bool(Ruleset.read().ours())


def admit() -> None:
    """Put the two rules where they are wanted and not there yet. Raises: SandboxError: nft refuses."""
    ruleset = Ruleset.read()
    admitted = {Chain.of(rule) for rule in ruleset.ours()}
    for chain in ruleset.to_admit():
        if chain not in admitted:
            # In one transaction: one of them alone would let requests out and no answers in.
            lines = [
                f'insert rule {chain} {side} "{PREFIX}*" counter accept comment "{COMMENT}"'
                for side in ("oifname", "iifname")
            ]
            run_nft("-f", "-", text="\n".join(lines) + "\n")


def withdraw() -> None:
    """Take the rules out of every firewall again. Raises: SandboxError: nft refuses."""
    lines = [
        f"delete rule {Chain.of(rule)} handle {rule['handle']}" for rule in Ruleset.read().ours()
    ]
    if lines:
        run_nft("-f", "-", text="\n".join(lines) + "\n")


def who_drops() -> str:
    """The firewalls that may have dropped what was forwarded, for a sentence."""
    found = [f"table {chain.family} {chain.table}" for chain in Ruleset.read().deciding()]
    legacy = Path("/proc/thread-self/net/ip_tables_names")
    try:
        if "filter" in legacy.read_text().split():
            found.append("iptables-legacy")
    except OSError:
        pass
    return ", ".join(dict.fromkeys(found)) or "something that nft does not show"

"""The validators as the chain knows them, at one block. For `dbc validate status`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepbrain.frame.consensus import ConsensusKey
from deepbrain.pallets.offences import Offences, Outcome
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.pallets.validators import (
    StakingLedger,
    ValidatorPower,
    Validators,
)
from deepbrain.primitives import ss58
from deepbrain.primitives.ids import AccountId

if TYPE_CHECKING:
    from deepbrain.client import Client
    from deepbrain.client.reads import At


@dataclass(frozen=True, slots=True)
class Era:
    """Where the chain is among its eras. Milliseconds of calendar time."""

    number: int
    length: int
    now: int
    next_at: int

    @property
    def seconds_left(self) -> int:
        """Until the next one begins, if blocks go on coming."""
        return max(0, -(-(self.next_at - self.now) // 1000))


@dataclass(slots=True)
class Member:
    """An account that validates, wants to, or did. Amounts in planck."""

    account: AccountId
    key: ConsensusKey | None = None
    stake: int = 0
    unbonding: int = 0
    power: int = 0
    """Of its vote, now; 0: it has none."""
    wanted: int = 0
    """Of its vote, once the set is what it shall be."""
    missed: int = 0
    """Blocks of this era."""
    candidate: bool = False
    tombstoned: bool = False
    own: bool = False

    @property
    def leaving(self) -> bool:
        """Whether it votes, and will not from the next era on."""
        return bool(self.power) and not (self.candidate and self.wanted)

    @property
    def elected(self) -> bool:
        """Whether it is in the set that shall be."""
        return bool(self.wanted)

    @property
    def state(self) -> str:
        """In a word."""
        if self.tombstoned:
            return "banned"
        if self.leaving:
            return "leaving"
        if self.power:
            return "validating"
        if self.elected:
            return "joining"
        return "candidate" if self.candidate else "bonded"

    def to_json(self) -> dict[str, Any]:
        return {
            "address": ss58.encode(self.account),
            "key": None if self.key is None else self.key.hex(),
            "state": self.state,
            "stake": str(self.stake),
            "unbonding": str(self.unbonding),
            "power": self.power,
            "missed": self.missed,
            "candidate": self.candidate,
            "elected": self.elected,
            "leaving": self.leaving,
            "tombstoned": self.tombstoned,
            "own": self.own,
        }


@dataclass(frozen=True, slots=True)
class Pending:
    """An offence that is not slashed yet. `seconds_left` by service time."""

    number: int
    offender: AccountId
    kind: str
    amount: int
    seconds_left: int

    def to_json(self) -> dict[str, Any]:
        return {
            "offence": self.number,
            "address": ss58.encode(self.offender),
            "kind": self.kind,
            "amount": str(self.amount),
            "seconds_left": self.seconds_left,
        }


@dataclass(slots=True)
class Standing:
    """All of it."""

    block: int
    era: Era
    max_validators: int
    max_missed: int
    members: list[Member] = field(default_factory=list)
    offences: list[Pending] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "block": self.block,
            "era": self.era.number,
            "next_era_in_seconds": self.era.seconds_left,
            "max_validators": self.max_validators,
            "max_missed": self.max_missed,
            "validators": [member.to_json() for member in self.members],
            "offences": [offence.to_json() for offence in self.offences],
        }


async def read_era(client: "Client", at: "At") -> Era:
    length = int(await client.constant(Timestamp, "era_length"))
    first, now = await at.get(Timestamp.first), await at.get(Timestamp.now)
    return era_of(int(first), int(now), length)


def era_of(first: int, now: int, length: int) -> Era:
    """The era at a time, the first one having begun with block 1."""
    number = max(now - first, 0) // max(length, 1)
    return Era(number, length, now, first + (number + 1) * length)


async def read_standing(
    client: "Client", own: Iterable[AccountId] = (), own_key: ConsensusKey | None = None
) -> Standing:
    """Everybody with a stake or a ban; whoever is in `own`, or votes with `own_key`, is marked."""
    head = await client.head()
    at = client.at(head.hash)
    standing = Standing(
        block=int(head.number),
        era=await read_era(client, at),
        max_validators=int(await client.constant(Validators, "max_validators")),
        max_missed=int(await client.constant(Validators, "max_missed")),
    )
    members = {who: _member(who, one) async for who, one in at.entries(Validators.ledger)}
    async for who, _ in at.entries(Validators.tombstones):
        members.setdefault(who, Member(who)).tombstoned = True
    keys = {who: key async for who, key in at.entries(Validators.keys)}
    missed = {who: found async for who, found in at.entries(Validators.missed)}
    held = await at.get(Validators.held)
    target = await at.get(Validators.target)
    powers, wanted = _by_key(held), _by_key(target or held)
    candidates = {one.account for one in await at.get(Validators.candidates)}
    own = set(own)
    for who, member in members.items():
        member.key = key = keys.get(who)
        if key is not None:
            member.power, member.wanted = powers.get(key, 0), wanted.get(key, 0)
        found = missed.get(who)
        if found is not None and int(found.era) == standing.era.number:
            member.missed = int(found.blocks)
        member.candidate = who in candidates
        member.own = who in own or (key is not None and key == own_key)
    standing.members = sorted(members.values(), key=_order)
    standing.offences = await _pending(at)
    return standing


def _member(who: AccountId, ledger: StakingLedger) -> Member:
    active = int(ledger.active)
    return Member(who, stake=active, unbonding=int(ledger.total()) - active)


def _by_key(powers: Iterable[ValidatorPower]) -> dict[ConsensusKey, int]:
    return {one.key: int(one.power) for one in powers}


def _order(member: Member) -> tuple[int, int, bytes]:
    """Who votes first, by stake."""
    return -member.power, -member.stake, bytes(member.account)


async def _pending(at: "At") -> list[Pending]:
    now = await at.get(Timestamp.service_ms)
    found = [
        Pending(
            int(number),
            offence.offender,
            offence.kind.name.lower().replace("_", "-"),
            int(offence.amount),
            max(0, int(offence.due) - int(now) // 1000),
        )
        async for number, offence in at.entries(Offences.offences)
        if offence.outcome is Outcome.PENDING
    ]
    return sorted(found, key=lambda each: each.number)

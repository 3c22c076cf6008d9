"""What a stash has to sign to validate, to leave, and to have its money back.

Every plan is made of what the chain says now, so doing it again does only what is missing; and several
calls are one extrinsic, so none of them is made without the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepbrain.cli import quantity
from deepbrain.cli.failure import UserError
from deepbrain.cli.validate.place import Proof
from deepbrain.frame.consensus import ConsensusAddress, ConsensusKey
from deepbrain.pallets.system import System
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.pallets.utility import Utility
from deepbrain.pallets.validators import NO_LEDGER, StakingLedger, Validators
from deepbrain.primitives import ss58
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import Balance
from deepbrain.runtime.extrinsic import Signing, sign
from deepbrain.runtime.version import SPEC_VERSION, TRANSACTION_VERSION

if TYPE_CHECKING:
    from deepbrain.client import Client
    from deepbrain.frame.calls import Call


@dataclass(frozen=True, slots=True)
class Stash:
    """An account as the validators' pallet knows it, at one block."""

    account: AccountId
    ledger: StakingLedger
    key: ConsensusKey | None
    candidate: bool
    banned: bool
    votes: bool
    """Whether its key is in the set, or is to be."""
    free: int
    service: int
    """Service time of the block, in seconds."""

    @property
    def unbonding(self) -> int:
        return int(self.ledger.total()) - int(self.ledger.active)

    @property
    def due(self) -> int:
        """What may be withdrawn now."""
        return sum(int(one.value) for one in self.ledger.unlocking if int(one.at) <= self.service)

    @property
    def next_due(self) -> int | None:
        """Seconds until more may be."""
        waits = [int(one.at) - self.service for one in self.ledger.unlocking]
        return min((wait for wait in waits if wait > 0), default=None)


async def read_stash(client: "Client", account: AccountId) -> Stash:
    """Raises: UserError: something that it signed still waits for a block."""
    at = client.at((await client.head()).hash)
    found = await at.get(System.account, account)
    nonce, free = (0, 0) if found is None else (int(found.nonce), int(found.data.free))
    # What waits may bond as well: a plan made now would bond once more.
    if await client.request("system_accountNextIndex", ss58.encode(account)) != nonce:
        raise UserError("something that this key signed waits for a block; try again in a moment")
    key = await at.get(Validators.keys, account)
    powers = (*await at.get(Validators.held), *(await at.get(Validators.target) or ()))
    candidates = await at.get(Validators.candidates)
    now = await at.get(Timestamp.service_ms)
    return Stash(
        account=account,
        ledger=await at.get(Validators.ledger, account) or NO_LEDGER,
        key=key,
        candidate=any(one.account == account for one in candidates),
        banned=await at.get(Validators.tombstones, account) is not None,
        votes=key is not None and any(one.key == key for one in powers),
        free=free,
        service=int(now) // 1000,
    )


@dataclass(frozen=True, slots=True)
class Joining:
    """What is missing until a stash validates with a stake."""

    rebond: int
    """Of what waits to be withdrawn."""
    bond: int
    """Of the free balance."""
    validate: Proof | None

    def calls(self) -> "list[Call]":
        calls: list[Call] = []
        if self.rebond:
            calls.append(Validators.rebond.make(value=Balance(self.rebond)))
        if self.bond:
            calls.append(Validators.bond.make(value=Balance(self.bond)))
        if self.validate is not None:
            proof = self.validate
            calls.append(Validators.validate.make(key=proof.key, signature=proof.signature))
        return calls


async def plan_joining(client: "Client", stash: Stash, proof: Proof, stake: int) -> Joining:
    """Raises: UserError: the chain would refuse it, or it would not do what is asked."""
    least = int(await client.constant(Validators, "min_stake"))
    if stake < least:
        raise UserError(f"a validator has {quantity.dbc(least)} at stake at least; raise --stake")
    if stash.banned:
        raise UserError(
            "this stash misbehaved as a validator and never validates again; use another wallet, and "
            "another consensus key"
        )
    if stash.key is not None and stash.key != proof.key:
        raise UserError(
            "this stash validates with another key, and keeps it until its whole stake is withdrawn; "
            "use that key's --data directory, or another wallet"
        )
    owner = await client.at().get(Validators.key_owner, ConsensusAddress.of(proof.key))
    if owner is not None and owner != stash.account:
        raise UserError(
            f"this consensus key belongs to {ss58.encode(owner)}; use that wallet, or another --data "
            "directory"
        )
    missing = max(0, stake - int(stash.ledger.active))
    rebond = min(missing, stash.unbonding)
    bond = missing - rebond
    if bond > stash.free:
        raise UserError(
            f"the wallet has {quantity.dbc(stash.free)} free, and {quantity.dbc(bond)} are missing "
            "from the stake; send it more, or lower --stake"
        )
    return Joining(rebond, bond, None if stash.candidate else proof)


def one_call(calls: "Sequence[Call]") -> "Call":
    """The calls as one, all of which are made or none."""
    return calls[0] if len(calls) == 1 else Utility.batch_all.make(calls=tuple(calls))


async def fee_of(client: "Client", call: "Call") -> int:
    """What it costs to have the call made, in planck: by its length and weight, whoever signs."""
    signing = Signing(int(SPEC_VERSION), int(TRANSACTION_VERSION), client.genesis_hash)
    nobody = Keypair.from_seed(bytes(32))
    extrinsic = sign(call, nobody, signing, nonce=0)
    found = await client.request("payment_queryInfo", "0x" + extrinsic.hex())
    try:
        return int(found["partialFee"])
    except (KeyError, TypeError, ValueError) as error:
        raise DecodeError("the node names no fee") from error

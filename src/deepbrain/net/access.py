"""The access proof: how a renter's short-lived session key may use an order.

The proof is valid only on a connection whose transport key *is* the session key it names, so whoever
copies it has nothing. It ends at a block of the chain, never at a wall clock's time.
"""

import base64
from dataclasses import dataclass
from typing import Final

from deepbrain.net.errors import RefusalCode, Refused
from deepbrain.net.frames import request_bytes
from deepbrain.net.messages import ALL_SCOPES, Access, AccessProof
from deepbrain.net.transport import TransportKey
from deepbrain.primitives.ids import AccountId, Hash, MachineId, OrderId
from deepbrain.primitives.keys import Keypair, Scheme, verify
from deepbrain.primitives.units import U8, BlockNumber

DOMAIN: Final = b"DBC/access/v1"
"""What every signed proof starts with, so that no other signature can pass for one. The genesis hash
is the proof's first field, so the whole is `keys.domain_message` of the rest."""

_SCHEMES: Final = {scheme.value: scheme for scheme in (Scheme.ED25519, Scheme.SR25519)}


@dataclass(frozen=True, slots=True)
class Grant:
    """What a renter asks a machine to accept; the session key is filled in when it dials."""

    genesis: Hash
    machine: MachineId
    order: OrderId
    last_block: BlockNumber
    """At most 24 h of blocks ahead of the chain."""
    scopes: U8 = ALL_SCOPES

    def proven(self, session: TransportKey, renter: Keypair) -> Access:
        """The signed request for a connection dialled from the key `session`."""
        proof = AccessProof(
            genesis=self.genesis,
            machine=self.machine,
            order=self.order,
            session=session,
            scopes=self.scopes,
            last_block=self.last_block,
        )
        signature = renter.sign(signed_message(proof))
        return Access(proof=proof, scheme=U8(renter.scheme.value), signature=signature)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the machine itself knows when a proof arrives."""

    genesis: Hash
    machine: MachineId
    remote: TransportKey
    """The key that the connection's handshake has proven."""
    block: BlockNumber
    """The newest block the machine knows."""
    blocks_per_day: int


def token_of(access: Access) -> str:
    """What a relay is shown, so that it knows the renter of an order by the same proof."""
    return base64.urlsafe_b64encode(request_bytes(access)).decode()


def signed_message(proof: AccessProof) -> bytes:
    """What the renter signs."""
    return DOMAIN + proof.encode()


def ensure_usable(proof: AccessProof, here: Circumstances) -> None:
    """Everything about a proof but its signature; cheap, so it comes first. Raises: Refused."""
    if proof.genesis != here.genesis:
        raise _denied("the access proof is for another chain than this machine's")
    if proof.machine != here.machine:
        raise _denied("the access proof is for another machine")
    if proof.session != here.remote:
        raise _denied("the access proof belongs to another connection")
    if proof.last_block <= here.block:
        raise _denied("the access proof has expired; connect again to make a new one")
    if proof.last_block > int(here.block) + here.blocks_per_day:
        raise _denied("the access proof reaches further than 24 hours ahead")


def ensure_signed(access: Access, renter: AccountId) -> None:
    """Raises: Refused: the order's renter did not sign this. Cost: one signature check."""
    message = signed_message(access.proof)
    if access.scheme not in _SCHEMES or not verify(
        _SCHEMES[access.scheme], renter, access.signature, message
    ):
        raise _denied("the access proof is not signed by the order's renter")


def _denied(reason: str) -> Refused:
    return Refused(RefusalCode.DENIED, reason)

"""A machine's request to be bonded: made on the host, carried out where the stash's key is.

The host never has the stash's key, and whoever bonds never needs the host: a small file goes from one to
the other. It holds no secret, and what it says is signed by the machine.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepbrain.cli.failure import UserError
from deepbrain.cli.provider.machine import Listing, address_record
from deepbrain.pallets.machines import (
    BondMessage,
    Hardware,
    Isolation,
    Machine,
    Machines,
    Network,
    bond_message,
)
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import AccountId, Hash, MachineId
from deepbrain.primitives.keys import Signature
from deepbrain.primitives.units import U16, U32, MicroUsd

if TYPE_CHECKING:
    from deepbrain.client import Client
    from deepbrain.frame.calls import Call

VERSION: Final = 1
MAX_BYTES: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class BondRequest:
    genesis: Hash
    machine: MachineId
    stash: AccountId
    controller: AccountId
    nonce: U32
    hardware: Hardware
    isolation: Isolation
    network: Network
    addresses: tuple[str, ...]
    signature: Signature

    def to_json(self) -> str:
        fields = {
            "version": VERSION,
            "genesis": self.genesis.hex(),
            "machine": self.machine.hex(),
            "stash": self.stash.hex(),
            "controller": self.controller.hex(),
            "nonce": int(self.nonce),
            "hardware": {
                name: _plain(getattr(self.hardware, name)) for name in Hardware.__field_names__
            },
            "isolation": self.isolation.name.lower(),
            "network": self.network.name.lower(),
            "addresses": list(self.addresses),
            "signature": bytes(self.signature).hex(),
        }
        return json.dumps(fields, indent=1) + "\n"

    @classmethod
    def parse(cls, text: bytes) -> "BondRequest":
        """Raises: UserError: it is no request, or of another release."""
        try:
            return _parse(json.loads(text))
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DeepBrainError):
            raise UserError(
                "this is no bond request; copy /etc/dbc/bond.json from the host again"
            ) from None

    def bond_call(self, price: MicroUsd) -> "Call":
        return Machines.bond.make(
            machine=self.machine,
            hardware=self.hardware,
            isolation=self.isolation,
            network=self.network,
            price=price,
            address=address_record(self.addresses),
            signature=self.signature,
        )

    def edits(self, found: Machine, price: MicroUsd) -> "list[Call]":
        """What the stash has to say about a machine that is bonded already."""
        calls: list[Call] = []
        if (found.hardware, found.isolation) != (self.hardware, self.isolation):
            calls.append(
                Machines.set_hardware.make(
                    machine=self.machine, hardware=self.hardware, isolation=self.isolation
                )
            )
        if found.price != price:
            calls.append(Machines.set_price.make(machine=self.machine, price=price))
        return calls


async def make_request(
    client: "Client",
    listing: Listing,
    stash: AccountId,
    controller: AccountId,
    addresses: tuple[str, ...],
) -> BondRequest:
    """Signed by the machine, for its next bond on this chain."""
    nonce = await client.at().get(Machines.bonds, listing.id) or U32(0)
    message = BondMessage(machine=listing.id, stash=stash, controller=controller, nonce=nonce)
    return BondRequest(
        genesis=client.genesis_hash,
        machine=listing.id,
        stash=stash,
        controller=controller,
        nonce=nonce,
        hardware=listing.hardware,
        isolation=listing.isolation,
        network=listing.network,
        addresses=addresses,
        signature=listing.key.sign(bond_message(client.genesis_hash, message)),
    )


def read_request(path: Path) -> BondRequest:
    """Raises: UserError; OSError."""
    with path.open("rb") as file:
        return BondRequest.parse(file.read(MAX_BYTES))


def _plain(value: Any) -> str | int:
    return value if isinstance(value, str) else int(value)


def _parse(fields: Any) -> BondRequest:
    if fields["version"] != VERSION:
        raise UserError("the request is of another release; install the same one on both machines")
    hardware = fields["hardware"]
    return BondRequest(
        genesis=Hash.from_hex(fields["genesis"]),
        machine=MachineId.from_hex(fields["machine"]),
        stash=AccountId.from_hex(fields["stash"]),
        controller=AccountId.from_hex(fields["controller"]),
        nonce=U32(fields["nonce"]),
        hardware=Hardware(
            gpu_model=hardware["gpu_model"],
            gpus=U16(hardware["gpus"]),
            gpu_memory_mib=U32(hardware["gpu_memory_mib"]),
            cpu_model=hardware["cpu_model"],
            cpus=U16(hardware["cpus"]),
            memory_mib=U32(hardware["memory_mib"]),
            disk_mib=U32(hardware["disk_mib"]),
        ),
        isolation=Isolation[fields["isolation"].upper()],
        network=Network[fields["network"].upper()],
        addresses=tuple(fields["addresses"]),
        signature=Signature.from_hex(fields["signature"]),
    )

"""What a provider's command means when it is not told: this host's machine, its node, its key."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deepbrain.cli.chain import Choices
from deepbrain.cli.failure import UserError
from deepbrain.cli.provider.host import installed, place_of, unlock_controller
from deepbrain.cli.renter.market import read_market
from deepbrain.pallets.machines import Machines
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.keys import Keypair
from deepbrain.provider.identity import AgentError

if TYPE_CHECKING:
    from deepbrain.client import Client


async def machine_named(client: "Client", data: Path | None, machine: str | None) -> MachineId:
    """The machine named, else this one. Raises: UserError."""
    if machine is not None:
        return (await read_market(client)).expect(machine).id
    place = place_of(data)
    if not place.has_key:
        raise UserError(
            f"there is no machine in {place.sandbox}; name one with --machine or --data"
        )
    return place.machine_id


def choices_here(choices: Choices, data: Path | None) -> Choices:
    """With the node that the machine's own agent asks, where none is named."""
    if choices.node is not None:
        return choices
    try:
        return Choices(place_of(data).load().chain, choices.key)
    except AgentError:
        return choices


def signer(choices: Choices) -> Callable[[], Keypair]:
    """Who serves: the key that is named, else the installed provider's controller.

    Raises: UserError: there is none.
    """
    host = installed() if choices.key is None else None
    return choices.chosen().unlock if host is None else lambda: unlock_controller(host)


async def edit_pause(
    client: "Client", found: MachineId, unlock: Callable[[], Keypair], *, paused: bool
) -> None:
    call = (Machines.pause if paused else Machines.resume).make(machine=found)
    await client.submit(call, unlock())

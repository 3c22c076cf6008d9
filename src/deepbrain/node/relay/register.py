"""What the chain says of those who are attached to a relay.

A machine's key stands on the chain. A renter's key is made for one process, so the renter brings the
same access proof that the machine gets: signed for this very key, for an order that is open. Whoever
is neither keeps a stranger's allowance; a chain that cannot be read changes nobody's standing.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from deepbrain.client import Client
from deepbrain.net.access import ensure_signed
from deepbrain.net.errors import MalformedMessage, Refused
from deepbrain.net.frames import LENGTH_BYTES, parse_request
from deepbrain.net.messages import Access
from deepbrain.net.transport import TransportKey
from deepbrain.node.relay.hub import Hub
from deepbrain.node.relay.limits import Standing
from deepbrain.pallets.machines import Machines
from deepbrain.pallets.rent import Rent
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import MachineId

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 4.0
SOON_SECONDS: Final = 0.05
"""How long arrivals are gathered before they are looked up together."""
CHUNK: Final = 256
"""Keys of one read."""
CONNECT_SECONDS: Final = 10.0


class Register(Protocol):
    async def machines(self, keys: Sequence[TransportKey]) -> list[Standing]:
        """STRANGER, LISTED or RENTING, for each. Raises: DeepBrainError."""
        ...

    async def holds(self, key: TransportKey, access: Access) -> bool:
        """Whether this proof makes `key` the session of an open order. Raises: DeepBrainError."""
        ...


class ChainRegister:
    """A `Register` over a node's RPC. The node may come and go."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Client | None = None

    async def machines(self, keys: Sequence[TransportKey]) -> list[Standing]:
        at = (await self._connected()).at()
        found: list[Standing] = []
        for start in range(0, len(keys), CHUNK):
            ids = [MachineId(key) for key in keys[start : start + CHUNK]]
            listed = await at.get_many(Machines.machines, ids)
            rented = await at.get_many(Machines.rented, ids)
            for machine, units in zip(listed, rented, strict=True):
                if machine is None:
                    found.append(Standing.STRANGER)
                else:
                    found.append(Standing.RENTING if units else Standing.LISTED)
        return found

    async def holds(self, key: TransportKey, access: Access) -> bool:
        client = await self._connected()
        proof = access.proof
        if proof.session != key or proof.genesis != client.genesis_hash:
            return False
        order = await client.at().get(Rent.orders, proof.order)
        if order is None or not order.is_open() or order.machine != proof.machine:
            return False
        if int(proof.last_block) <= int((await client.head()).number):
            return False
        with contextlib.suppress(Refused):
            ensure_signed(access, order.renter)
            return True
        return False

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _connected(self) -> Client:
        if self._client is None:
            self._client = await Client.connect(self._url, seconds=CONNECT_SECONDS)
        return self._client


async def keep_judging(hub: Hub, register: Register) -> None:
    """Look up everybody's standing every few seconds, and that of arrivals at once; for ever."""
    while True:
        try:
            await judge(hub, register)
        except (DeepBrainError, OSError) as error:
            log.warning("the chain cannot be read, so nobody's standing changes: %s", error)
            await asyncio.sleep(LOOK_SECONDS)
        hub.arrived.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await hub.arrived.wait()
                await asyncio.sleep(SOON_SECONDS)


async def judge(hub: Hub, register: Register) -> None:
    """Raises: DeepBrainError, OSError: the chain cannot be read."""
    attached = [pair for pair in hub.attached() if hub.standing(pair[0]) is not Standing.OWN]
    standings = await register.machines([key for key, _ in attached])
    for (key, token), standing in zip(attached, standings, strict=True):
        access = parse_token(token) if standing is Standing.STRANGER and token else None
        if access is not None and await register.holds(key, access):
            standing = Standing.RENTING
        hub.judge(key, standing)


def parse_token(token: str) -> Access | None:
    """The access proof in a token that `net.access.token_of` made; None: it is none."""
    try:
        framed = base64.urlsafe_b64decode(token.encode())
        request = parse_request(framed[LENGTH_BYTES:])
    except (binascii.Error, ValueError, MalformedMessage):
        return None
    return request if isinstance(request, Access) else None

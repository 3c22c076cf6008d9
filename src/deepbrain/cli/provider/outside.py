"""Whether others reach this machine, as told by relays: they are other hosts, and this one knows little."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from deepbrain.cli.renter.reach import fresh_endpoint
from deepbrain.net import rendezvous
from deepbrain.net.errors import NetError
from deepbrain.net.rendezvous import Verdict
from deepbrain.net.session import greet
from deepbrain.net.transport import TransportKey
from deepbrain.primitives.ids import MachineId
from deepbrain.provider.inventory import check_reach

ATTACH_SECONDS: Final = 20.0
"""How long a machine that was just started may take to attach itself to a relay."""
_PAUSE: Final = 1.0


async def usable_relays(urls: Sequence[str]) -> tuple[str, ...]:
    """Those that answer now."""

    async def answers(url: str) -> bool:
        try:
            await rendezvous.find(url)
        except NetError:
            return False
        return True

    found = await asyncio.gather(*(answers(url) for url in urls))
    return tuple(url for url, good in zip(urls, found, strict=True) if good)


async def reach_sentences(
    machine: MachineId, addresses: Sequence[str], relays: Sequence[str]
) -> AsyncIterator[str]:
    """One sentence about each address, and one about the relays. Raises: NetError: no UDP port is free."""
    verdicts = await _knocked(machine, addresses, relays)
    unasked = []
    for address in addresses:
        match verdicts.get(address, Verdict.NOT_ASKED):
            case Verdict.ANSWERS:
                yield f"{address} answers from outside"
            case Verdict.SILENT:
                yield f"{address} does not answer from outside: a firewall or a router is between"
            case Verdict.NOT_ASKED:
                unasked.append(address)
    for reach in await check_reach(TransportKey(machine), unasked):
        yield reach.sentence
    if relays:
        through = await answers_through(machine, relays, ATTACH_SECONDS)
        names = "relay" if through == 1 else "relays"
        if through:
            yield f"reachable through {through} {names}, which needs no open port"
        else:
            yield f"not reachable through any of {len(relays)} relays: see the agent's log"


async def _knocked(
    machine: MachineId, addresses: Sequence[str], relays: Sequence[str]
) -> dict[str, Verdict]:
    """What the first relay that is willing says of each address."""
    for url in relays:
        try:
            async with fresh_endpoint() as endpoint:
                relay = await rendezvous.find(url)
                async with rendezvous.visiting(endpoint, relay) as visit:
                    verdicts = await rendezvous.knock(visit, machine, addresses)
            return dict(zip(addresses, verdicts, strict=False))
        except NetError:
            continue
    return {}


async def answers_through(machine: MachineId, relays: Sequence[str], seconds: float = 0.0) -> int:
    """Through how many relays the machine answers, each tried alone, again for so many seconds."""
    return sum(await asyncio.gather(*(_answers(machine, url, seconds) for url in relays)))


async def _answers(machine: MachineId, url: str, seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            async with fresh_endpoint() as endpoint:
                await greet(endpoint, machine, [url], timeout=3.0)
            return True
        except NetError:
            if loop.time() > deadline:
                return False
        await asyncio.sleep(_PAUSE)

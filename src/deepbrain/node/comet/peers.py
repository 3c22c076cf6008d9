"""How many nodes CometBFT talks with: only its own metrics tell."""

import re
from typing import Final

import aiohttp

ASK_SECONDS: Final = 5.0
_PEERS: Final = re.compile(rb"^cometbft_p2p_peers(?:\{[^}\n]*\})? ([0-9.e+]{1,20})$", re.MULTILINE)


async def count_peers(place: str) -> int | None:
    """By the metrics at `HOST:PORT`; None: nobody answers there."""
    timeout = aiohttp.ClientTimeout(ASK_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{place}/metrics") as answer,
        ):
            return peers_in(await answer.read())
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None


def peers_in(text: bytes) -> int:
    """CometBFT says nothing of peers before it has had one."""
    found = _PEERS.search(text)
    return 0 if found is None else int(float(found[1]))

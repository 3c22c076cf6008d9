"""What must be true of money, whatever happened."""

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.e2e.network import Network

from deepbrain.client import Client
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.rent import Rent
from deepbrain.pallets.system import System


def assert_settled(bill: Mapping[str, Any]) -> None:
    """What was held went to the provider, into the fire, or back; to the planck."""
    parts = sum(int(bill[name]) for name in ("paid", "burned", "refunded"))
    assert int(bill["held"]) == parts, bill


def assert_conserved(net: Network) -> None:
    """All accounts hold what was issued less what was burned, and none holds money for no order."""
    asyncio.run(_conserved(net.url))


async def _conserved(url: str) -> None:
    async with await Client.connect(url) as client:
        at = client.at((await client.finalized()).hash)
        issued, burned = int(await at.get(Balances.issued)), int(await at.get(Balances.burned))
        accounts = [account.data async for _, account in at.entries(System.account)]
        total = sum(int(data.free) + int(data.reserved) for data in accounts)
        assert issued - burned == total
        reserved = sum(int(data.reserved) for data in accounts)
        orders = [order async for _, order in at.entries(Rent.orders)]
        rent = sum(int(order.held()) for order in orders if order.is_open())
        held = [holds async for _, holds in at.entries(Balances.holds)]
        by_reason: dict[str, int] = {}
        for holds in held:
            for hold in holds:
                name = hold.id.name
                by_reason[name] = by_reason.get(name, 0) + int(hold.amount)
        assert by_reason.get("RENT", 0) == rent, "money is held for rent without an open order"
        assert sum(by_reason.values()) == reserved

"""What the cheapest core on the network costs, and what an account has: the client in twenty lines.

python3 examples/market.py ws://127.0.0.1:9944
"""

import asyncio
import sys

from deepbrain.client import Client
from deepbrain.pallets.machines import Machines
from deepbrain.pallets.system import System
from deepbrain.primitives.keys import Keypair


async def main(url: str) -> None:
    async with await Client.connect(url) as client:
        at = client.at((await client.finalized()).hash)
        machines = [entry async for entry in at.entries(Machines.machines)]
        for machine, offer in sorted(machines, key=lambda entry: entry[1].price):
            print(f"{machine.hex()[:12]}  {offer.hardware.units()} units  {offer.price} µUSD/h")
        alice = await at.get(System.account, Keypair.from_uri("//Alice").public)
        print(f"{len(machines)} machines; //Alice has {alice.data.free if alice else 0} planck")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:9944"))

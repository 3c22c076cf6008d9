"""Come in with a proof that is somebody else's, of another place, of another time, or none.

The order is Alice's. Mallory has a proof that Alice really made, for a connection of hers, and keys of
his own. What each try comes to: `in`, or the machine's sentence.
"""

import os
from collections.abc import Callable
from typing import Any

from tests.hostile.attacker import MALLORY, Aim, attack, endpoints

from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.errors import NetError, Refused
from deepbrain.net.frames import expect_reply, request_bytes
from deepbrain.net.messages import Access, Granted, Greeting, Hello, State, Status
from deepbrain.net.transport import TransportKey
from deepbrain.primitives.ids import Hash, MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import U8, BlockNumber

ALICE = Keypair.from_uri("//Alice")

Make = Callable[[TransportKey], Access]


async def main(aim: Aim) -> dict[str, Any]:
    async with endpoints(2) as (alices, mallorys):
        replay = aim.grant().proven(alices.key, ALICE)

        def swapped(key: TransportKey) -> Access:
            """The signature of one proof under another."""
            return Access(
                proof=aim.grant().proven(key, MALLORY).proof,
                scheme=replay.scheme, signature=replay.signature,
            )  # fmt: skip

        def as_scheme(scheme: int) -> Make:
            return lambda key: aim.grant().proven(key, MALLORY).but(scheme=U8(scheme))

        tries: dict[str, Make] = {
            "replayed": lambda _: replay,
            "stolen, with the key's name put in": lambda key: replay.but(
                proof=replay.proof.but(session=key)
            ),
            "another's signature": swapped,
            "another key's": lambda key: aim.grant().proven(key, MALLORY),
            "no signature": lambda key: aim.grant().proven(key, ALICE).but(signature=b""),
            "a signature of chance": lambda key: (
                aim.grant().proven(key, ALICE).but(signature=os.urandom(64))
            ),
            "another scheme": as_scheme(0),
            "a third scheme": as_scheme(2),
            "a scheme that is none": as_scheme(255),
            "for another order": lambda key: (
                aim.grant(order=OrderId(aim.order + 1)).proven(key, ALICE).but(
                    proof=aim.grant().proven(key, ALICE).proof
                )
            ),
            "for another machine": lambda key: (
                aim.grant(machine=MachineId(bytes(32))).proven(key, ALICE)
            ),
            "for another chain": lambda key: aim.grant(genesis=Hash(bytes(32))).proven(key, ALICE),
            "expired": lambda key: aim.grant(last_block=BlockNumber(1)).proven(key, ALICE),
            "for years": lambda key: (
                aim.grant(last_block=BlockNumber(1_000_000)).proven(key, ALICE)
            ),
            "with more scopes than were signed": lambda key: _more(aim, key),
        }  # fmt: skip
        outcomes = {name: await _outcome(aim, mallorys, make) for name, make in tries.items()}
        honest = await _outcome(aim, alices, lambda _: replay)
        return {"honest": honest, "tries": outcomes}


def _more(aim: Aim, key: TransportKey) -> Access:
    little = aim.grant(scopes=U8(1)).proven(key, ALICE)
    return little.but(proof=little.proof.but(scopes=U8(15)))


async def _outcome(aim: Aim, endpoint: IrohEndpoint, make: Make) -> str:
    try:
        connection = await aim.dial(endpoint)
        stream = await connection.open()
        await stream.write(request_bytes(Hello()) + request_bytes(make(endpoint.key)))
        await expect_reply(stream, Greeting)
        await expect_reply(stream, Granted)
        await stream.close()
        async with await connection.open() as asked:
            await asked.write(request_bytes(Status(follow=False)))
            await expect_reply(asked, State)
        connection.close()
    except Refused as refusal:
        return str(refusal)
    except NetError as error:
        return f"lost: {error}"
    return "in"


if __name__ == "__main__":
    attack(main)

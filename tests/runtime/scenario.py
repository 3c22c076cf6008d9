"""A market day in one chain, run as a program: prints the root it ends with.

Run in several processes with other hash seeds and under `-O`, it must print the same.
"""

from tests.runtime.local import (
    ALICE,
    BOB,
    CHARLIE,
    DAVE,
    EVE,
    MACHINE,
    LocalChain,
    absent,
    consensus,
    double_signed,
    place_call,
    validate_call,
)

from deepbrain.pallets.balances import Balances
from deepbrain.pallets.machines import Machines
from deepbrain.pallets.rent import Rent
from deepbrain.pallets.validators import Validators
from deepbrain.primitives.units import PLANCK, U8, U16, U32, Balance, MicroUsd, Seconds
from deepbrain.state.trie import full_root


def run() -> str:
    chain = LocalChain()
    for who, stake in ((EVE, 20_000), (DAVE, 10_000), (BOB, 40_000)):
        chain.do(who, Validators.bond.make(value=Balance(stake * PLANCK)))
        chain.do(who, validate_call(chain, who, consensus(who.address())))
    chain.bond(gpus=8)
    orders = [chain.place(renter, units=U16(2)) for renter in (ALICE, CHARLIE, DAVE)]
    for order in orders[:2]:
        chain.do(BOB, Rent.start.make(order=order))
    chain.advance(17)
    chain.do(BOB, Rent.close.make(order=orders[0], exit_code=U8(0)))
    chain.do(BOB, Machines.set_price.make(machine=MACHINE, price=MicroUsd(7_200_000)))
    chain.refused(ALICE, place_call())
    chain.place(ALICE, offer_version=U32(1), seconds=Seconds(33))
    batch = [
        chain.signed(
            DAVE,
            Balances.transfer_allow_death.make(dest=BOB.public, value=Balance(n * PLANCK)),
            ahead=n,
        )
        for n in range(20)
    ]
    chain.block(*batch)
    chain.advance(60)
    one, other = (consensus(who.address()) for who in (EVE, DAVE))
    chain.block(report=absent(one, other))
    chain.block(report=double_signed(other, one))
    chain.advance(120)
    return str(full_root(chain.state.items.items()))


if __name__ == "__main__":
    print(run())  # noqa: T201 (its whole output)

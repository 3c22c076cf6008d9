"""The whole runtime under random extrinsics: every invariant of every pallet after every block.

`LocalChain` also applies each block a second time from its body, and counts what each call touches
against what it declares.
"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.runtime.local import (
    ALICE,
    BOB,
    CHARLIE,
    DAVE,
    MACHINE,
    RIG,
    LocalChain,
    bond_call,
    hardware,
    key,
    load_spec,
    place_call,
)

from deepbrain.pallets.balances import Balances
from deepbrain.pallets.machines import Address, Isolation, Machines, Network
from deepbrain.pallets.oracle import Oracle
from deepbrain.pallets.rent import Rent
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import System
from deepbrain.pallets.utility import Utility
from deepbrain.pallets.validators import Validators
from deepbrain.primitives.ids import OrderId
from deepbrain.primitives.units import PLANCK, U8, U16, U32, Balance, MicroUsd, Seconds

PEOPLE = [ALICE, BOB, CHARLIE, DAVE, key("poor")]
people = st.sampled_from(PEOPLE)
accounts = people.map(lambda pair: pair.public)
amounts = st.one_of(
    st.integers(0, 10**14),
    st.integers(0, 10**8).map(lambda dbc: dbc * PLANCK),
    st.just(int(Balance.MAX)),
).map(Balance)
orders = st.integers(0, 6).map(OrderId)
seconds = st.integers(0, 60).map(Seconds)
prices = st.sampled_from([0, 1, 3_600_000, 2**64 - 1]).map(MicroUsd)
relays = st.lists(st.text(max_size=20), max_size=4).map(tuple)
addresses = st.builds(Address, endpoints=st.just(()), relays=relays)

calls = st.one_of(
    st.builds(Balances.transfer_allow_death.make, accounts, amounts),
    st.builds(Balances.transfer_keep_alive.make, accounts, amounts),
    st.builds(Balances.transfer_all.make, accounts, st.booleans()),
    st.builds(Balances.burn.make, amounts, st.booleans()),
    st.builds(System.remark_with_event.make, st.binary(max_size=50)),
    st.builds(
        place_call,
        units=st.integers(0, 5).map(U16),
        seconds=seconds,
        offer_version=st.integers(0, 3).map(U32),
        start_within=seconds,
        max_total=amounts,
    ),
    st.builds(Rent.start.make, orders),
    st.builds(Rent.extend.make, orders, seconds, amounts),
    st.builds(Rent.close.make, orders, st.none() | st.integers(0, 255).map(U8)),
    st.builds(Machines.propose_controller.make, accounts),
    st.builds(Machines.accept_stash.make, accounts),
    st.builds(Machines.set_price.make, st.just(MACHINE), prices),
    st.builds(
        Machines.set_hardware.make,
        st.just(MACHINE),
        st.builds(hardware, st.integers(0, 6), st.integers(0, 6)),
        st.sampled_from(Isolation),
    ),
    st.builds(Machines.set_network.make, st.just(MACHINE), st.sampled_from(Network)),
    st.builds(Machines.set_address.make, st.just(MACHINE), addresses),
    st.builds(Machines.pause.make, st.just(MACHINE)),
    st.builds(Machines.resume.make, st.just(MACHINE)),
    st.builds(Machines.unbond.make, st.just(MACHINE)),
    st.builds(Oracle.set_price.make, prices),
    st.builds(Validators.bond.make, amounts),
    st.builds(Validators.unbond.make, amounts),
    st.builds(Validators.rebond.make, amounts),
    st.builds(Validators.withdraw_unbonded.make),
    st.builds(Validators.chill.make),
    st.just(Validators.report.make(absent=(), misbehaviours=())),
)
batches = st.tuples(
    st.sampled_from([Utility.batch, Utility.batch_all, Utility.force_batch]),
    st.lists(calls, max_size=4).map(tuple),
).map(lambda drawn: drawn[0].make(calls=drawn[1]))
rooted = st.one_of(
    st.builds(Oracle.set_price.make, prices),
    st.builds(Sudo.set_key.make, accounts),
    calls,
    batches,
).map(lambda call: Sudo.sudo.make(call=call))


class RuntimeMachine(RuleBasedStateMachine):
    @initialize(gpus=st.integers(0, 4), isolation=st.sampled_from(Isolation))
    def start(self, gpus, isolation):
        spec = load_spec(Rent={"keep_ended": 30, "min_term": 5}, Sudo={"root_lifetime": 120_000})
        self.chain = LocalChain(spec)
        self.chain.bond(gpus=gpus, isolation=isolation)

    @rule(who=people, call=calls | batches | rooted, tip=st.sampled_from([0, 10**12]))
    def attempt(self, who, call, tip):
        account = self.chain.now().system.account_of(who.public)
        if account.data.free < 10**13 * 2:
            return
        self.chain.receipt(who, call, tip=tip)

    @rule(who=people, gpus=st.integers(0, 4), stash=people)
    def bond(self, who, gpus, stash):
        account = self.chain.now().system.account_of(who.public)
        if account.data.free >= 10**13 * 2:
            call = bond_call(self.chain, who, RIG, stash, 3_600_000, gpus, Isolation.GVISOR)
            self.chain.receipt(who, call)

    @rule(length=st.integers(1, 30))
    def wait(self, length):
        self.chain.advance(length)


TestRuntime = RuntimeMachine.TestCase

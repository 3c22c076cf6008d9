"""A chain in memory, for tests: calls in, blocks out, every invariant checked after each."""

import json
from dataclasses import replace
from pathlib import Path

from tests.state.support import DictState

import deepbrain.runtime
from deepbrain.frame.calls import Call
from deepbrain.frame.consensus import (
    MAX_VALIDATORS,
    NOTHING_TO_REPORT,
    CommitReport,
    ConsensusAddress,
    ConsensusKey,
    Misbehaviour,
    MisbehaviourKind,
    ValidatorUpdate,
)
from deepbrain.frame.dispatch import read_error
from deepbrain.frame.events import EventRecord
from deepbrain.pallets.machines import (
    Address,
    BondMessage,
    Hardware,
    Isolation,
    Machines,
    Network,
    bond_message,
)
from deepbrain.pallets.rent import Rent
from deepbrain.pallets.validators import Validators, validate_message
from deepbrain.primitives.ids import AccountId, Hash, MachineId, OrderId
from deepbrain.primitives.keys import Keypair, Scheme
from deepbrain.primitives.units import (
    PLANCK,
    U16,
    U32,
    Balance,
    BlockNumber,
    MicroUsd,
    Moment,
    Seconds,
)
from deepbrain.runtime.chainspec import ChainSpec, GenesisValidator
from deepbrain.runtime.executive import BlockContext, BlockOutcome, Executive, Receipt
from deepbrain.runtime.extrinsic import sign
from deepbrain.runtime.genesis import genesis_header, genesis_state
from deepbrain.runtime.runtime import Runtime, RuntimeBlock
from deepbrain.state.trie import full_root

SPECS = Path(deepbrain.runtime.__file__).parent / "specs"
START = Moment(1_800_000_000_000)
MANIFEST = Hash(bytes(range(32)))


def load_spec(name: str = "dev", **constants) -> ChainSpec:
    file = json.loads((SPECS / f"{name}.json").read_text())
    for pallet, figures in constants.items():
        file["constants"].setdefault(pallet, {}).update(figures)
    return ChainSpec.parse(file)


def with_validators(spec: ChainSpec, *validators: tuple[Keypair, Keypair, int]) -> ChainSpec:
    """The spec with these (stash, key, DBC) at genesis."""
    made = tuple(
        GenesisValidator(stash.public, ConsensusKey(key.public), Balance(stake * PLANCK))
        for stash, key, stake in validators
    )
    return replace(spec, validators=made)


class Everybody:
    """Knows every signature as good."""

    def __contains__(self, digest) -> bool:
        return True


def key(name: str, scheme: Scheme = Scheme.SR25519) -> Keypair:
    return Keypair.from_uri("//" + name, scheme)


ALICE, BOB, CHARLIE, DAVE, EVE, FERDIE = (
    key(name) for name in ("Alice", "Bob", "Charlie", "Dave", "Eve", "Ferdie")
)
RIG = key("rig", Scheme.ED25519)
MACHINE = MachineId(RIG.public)


class LocalChain:
    """One chain. Blocks are 1 s apart unless told otherwise."""

    def __init__(self, spec: ChainSpec | None = None, *, verify: bool = False) -> None:
        self.runtime = Runtime(spec or load_spec())
        state = genesis_state(self.runtime)
        self.state = DictState(state)
        self.head = genesis_header(full_root(state.items())).hash()
        self.executive = Executive(self.runtime, self.head)
        self.number = 0
        self.moment = START
        self.verified = () if verify else Everybody()
        self.engine = Engine(self.executive.validators(self.state))
        self.outcome: BlockOutcome | None = None

    # Blocks.

    def context(
        self, after_ms: int = 1000, report: CommitReport = NOTHING_TO_REPORT
    ) -> BlockContext:
        return BlockContext(
            number=BlockNumber(self.number + 1),
            parent_hash=self.head,
            moment=Moment(self.moment + after_ms),
            author=FERDIE.public,
            report=report,
        )

    def block(
        self,
        *extrinsics: bytes,
        after_ms: int = 1000,
        report: CommitReport = NOTHING_TO_REPORT,
    ) -> BlockOutcome:
        """Make a block, check that whoever applies it finds the same, and go on from it."""
        context = self.context(after_ms, report)
        proposal = self.executive.propose(self.state, context, extrinsics, self.verified)
        assert proposal.bad == ()
        outcome = proposal.outcome
        body = outcome.extrinsics
        read = self.executive.context_of(context.number, context.parent_hash, context.author, body)
        assert read == context
        again = self.executive.apply_block(self.state, context, body, self.verified)
        assert again.changes == outcome.changes
        self.state.apply(outcome.changes, {})
        self.number, self.moment = context.number, context.moment
        self.head = Hash(bytes(28) + int(self.number).to_bytes(4, "big"))
        self.outcome = outcome
        self.engine.apply(outcome.validator_updates)
        assert self.engine.powers == {
            each.key: each.power for each in self.executive.validators(self.state)
        }
        assert list(self.now().try_state()) == []
        return outcome

    def advance(self, seconds: int) -> None:
        """Let service time go by: at most 10 s a block."""
        while seconds > 0:
            step = min(seconds, 10)
            self.block(after_ms=step * 1000)
            seconds -= step

    # Calls.

    def signed(self, who: Keypair, call, *, ahead: int = 0, tip: int = 0, **options) -> bytes:
        nonce = self.now().system.account_of(who.public).nonce + ahead
        return sign(call, who, self.executive.signing, nonce=nonce, tip=tip, **options)

    def receipt(self, who: Keypair, call, **options) -> Receipt:
        """What came of a call in a block of its own; its declared weight is an upper bound."""
        self.audit(who, call)
        return self.block(self.signed(who, call, **options)).receipts[-1]

    def do(self, who: Keypair, call, **options) -> Receipt:
        """Make a call that must succeed."""
        receipt = self.receipt(who, call, **options)
        assert receipt.success, self.reason(receipt)
        return receipt

    def refused(self, who: Keypair, call, **options):
        """Make a call that must fail; gives the error."""
        receipt = self.receipt(who, call, **options)
        assert not receipt.success
        return self.reason(receipt)

    def reason(self, receipt: Receipt):
        return receipt.error and read_error(receipt.error, self.runtime.errors)

    def audit(self, who: Keypair, call) -> None:
        """Make the call on the side, and count the keys it touches against what it declares.

        What every extrinsic pays for is not counted: the signer's account and the fees of the block.
        """
        reader = CountingReader(self.state)
        block = self.runtime.at(reader, self.head)
        block.system.account.get(who.public)
        block.fees.collected.get()
        free = set(reader.keys)
        block.dispatch(call, who.public)
        read = set(reader.keys) - free
        written = set(block.context.journal.changes()) - free
        reads, writes = declared(call)
        assert len(read) <= reads, f"{call.name} read {len(read)} keys, declares {reads}"
        assert len(written) <= writes, f"{call.name} wrote {len(written)}, declares {writes}"

    # What there is.

    def now(self) -> RuntimeBlock:
        return self.runtime.at(self.state, self.head)

    def free(self, who: Keypair | AccountId) -> int:
        return int(self._data(who).free)

    def held(self, who: Keypair | AccountId) -> int:
        return int(self._data(who).reserved)

    def _data(self, who):
        account = who.public if isinstance(who, Keypair) else who
        return self.now().system.account_of(account).data

    def events(self, kind: type | None = None) -> list:
        """Events of the last block, as a client decodes them."""
        records = self.runtime.events.decode(self.now().system.events.get())
        assert all(isinstance(record, EventRecord) for record in records)
        return [r.event for r in records if kind is None or isinstance(r.event, kind)]

    # Shorthands of the market.

    def bond(
        self,
        controller: Keypair = BOB,
        *,
        machine: Keypair = RIG,
        stash: Keypair | None = None,
        price: int = 3_600_000,
        gpus: int = 4,
        isolation: Isolation = Isolation.GVISOR,
    ) -> MachineId:
        call = bond_call(self, controller, machine, stash or controller, price, gpus, isolation)
        self.do(stash or controller, call)
        return MachineId(machine.public)

    def place(self, renter: Keypair = ALICE, **changes) -> OrderId:
        order = OrderId(self.now().rent.next_id.get())
        self.do(renter, place_call(**changes))
        return order


class Engine:
    """Applies what the chain tells of the validators, as strictly as CometBFT, which halts otherwise."""

    def __init__(self, genesis) -> None:
        self.powers = {each.key: int(each.power) for each in genesis}

    def apply(self, updates: tuple[ValidatorUpdate, ...]) -> None:
        assert len({key for key, _ in updates}) == len(updates)
        before = sum(self.powers.values())
        changed = 0
        for key, power in updates:
            assert power or key in self.powers, "who is not there cannot be taken out"
            changed += abs(int(power) - self.powers.get(key, 0))
            if power:
                self.powers[key] = int(power)
            else:
                del self.powers[key]
        assert self.powers or not before, "the set is never emptied"
        assert len(self.powers) <= MAX_VALIDATORS
        assert changed <= max(1, before // 3)


def consensus(name: str) -> Keypair:
    """A consensus key."""
    return key(f"consensus-{name}", Scheme.ED25519)


def address(pair: Keypair) -> ConsensusAddress:
    return ConsensusAddress.of(ConsensusKey(pair.public))


def absent(*pairs: Keypair) -> CommitReport:
    return CommitReport(absent=tuple(address(pair) for pair in pairs))


def double_signed(*pairs: Keypair, kind=MisbehaviourKind.DOUBLE_SIGN) -> CommitReport:
    caught = (
        Misbehaviour(kind=kind, validator=address(pair), height=BlockNumber(1)) for pair in pairs
    )
    return CommitReport(misbehaviours=tuple(caught))


def validate_call(chain: LocalChain, who: Keypair, pair: Keypair):
    message = validate_message(chain.executive.signing.genesis, who.public)
    return Validators.validate.make(key=ConsensusKey(pair.public), signature=pair.sign(message))


class CountingReader:
    """Remembers what was asked for."""

    def __init__(self, base) -> None:
        self.base, self.keys = base, []

    def get(self, key, /):
        self.keys.append(key)
        return self.base.get(key)

    def get_many(self, keys, /):
        self.keys += keys
        return self.base.get_many(keys)

    def iterate(self, prefix, after=None):
        raise AssertionError("a call walks over storage")


def declared(call) -> tuple[int, int]:
    """The keys that a call declares to read and to write, with those of the calls inside it."""
    reads, writes = call.definition.reads, call.definition.writes
    for argument in call.arguments:
        # A call is a tuple, too.
        inner = argument if type(argument) is tuple else (argument,)
        for nested in inner:
            if isinstance(nested, Call):
                inside = declared(nested)
                reads, writes = reads + inside[0], writes + inside[1]
    return reads, writes


def hardware(gpus: int = 4, cpus: int = 16) -> Hardware:
    return Hardware(
        gpu_model="RTX 4090" if gpus else "",
        gpus=U16(gpus),
        gpu_memory_mib=U32(24 * 1024),
        cpu_model="EPYC",
        cpus=U16(cpus),
        memory_mib=U32(64 * 1024),
        disk_mib=U32(500 * 1024),
    )


def bond_call(chain, controller, machine, stash, price, gpus, isolation):
    block = chain.now()
    machine_id = MachineId(machine.public)
    message = BondMessage(
        machine=machine_id,
        stash=stash.public,
        controller=controller.public,
        nonce=block.machines.bonds.at(machine_id),
    )
    return Machines.bond.make(
        machine=machine_id,
        hardware=hardware(gpus),
        isolation=isolation,
        network=Network.NONE,
        price=MicroUsd(price),
        address=Address(endpoints=(), relays=()),
        signature=machine.sign(bond_message(chain.executive.signing.genesis, message)),
    )


def place_call(**changes):
    arguments = {
        "machine": MACHINE,
        "units": U16(1),
        "seconds": Seconds(100),
        "manifest_hash": MANIFEST,
        "max_total": Balance(10**6 * PLANCK),
        "offer_version": U32(0),
        "start_within": Seconds(30),
    }
    return Rent.place.make(**(arguments | changes))

"""Block 0: the state that a chain spec makes, and the header that names the chain."""

from collections.abc import Mapping
from typing import Final

from deepbrain.frame.context import Context
from deepbrain.frame.errors import PalletError, TokenFailure
from deepbrain.frame.header import NO_DIGEST, Header
from deepbrain.frame.journal import Journal
from deepbrain.pallets.oracle import Quote
from deepbrain.pallets.system import NO_HASH, System
from deepbrain.pallets.validators import Validators
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import BlockNumber, Moment
from deepbrain.runtime.chainspec import BadChainSpec, ChainSpec
from deepbrain.runtime.runtime import NOBODY, RUNTIMES, Runtime, RuntimeBlock
from deepbrain.runtime.source import SOURCE
from deepbrain.state.overlay import EmptyState, EntriesState
from deepbrain.state.store import Reader
from deepbrain.state.trie import EMPTY_ROOT


def genesis_state(runtime: Runtime) -> dict[bytes, bytes]:
    """The whole state of block 0.

    Raises: PalletError: the spec makes more money than there may be. BadChainSpec: one of its
    validators has not the stake it shall have, or too little of it.
    """
    spec = runtime.spec
    if spec.raw is not None:
        return _state_from(spec.raw, runtime)
    block = runtime.block(EmptyState(), number=BlockNumber(0), parent_hash=NO_HASH, author=NOBODY)
    block.system.set_runtime(spec.source or SOURCE)
    block.system.figures.put(runtime.figures)
    block.system.extrinsics_root.put(EMPTY_ROOT)
    # Fees are smaller than the existential deposit: the treasury has to be there before the first.
    block.balances.mint(block.fees.treasury, block.balances.existential_deposit)
    for who, amount in spec.balances:
        block.balances.mint(who, amount)
    _install_validators(block, spec)
    if spec.root is not None:
        block.sudo.key.put(spec.root)
    block.oracle.price.put(Quote(micro_usd=spec.micro_usd_per_dbc, set_at=Moment(0)))
    changes = block.context.journal.changes()
    return {key: value for key, value in changes.items() if value is not None}


def genesis_version(spec: ChainSpec) -> int:
    """The version of the rules that makes block 0: the first, or that of a state it begins with."""
    if spec.raw is None:
        return min(RUNTIMES)
    last = System(Context.outside(Journal(EntriesState(spec.raw)))).last_runtime_upgrade.get()
    if last is None:
        raise BadChainSpec("genesis.raw names no version of the rules")
    return int(last.spec_version)


def export_state(runtime: Runtime, state: Reader, head: Hash) -> dict[bytes, bytes]:
    """A state as another chain may begin with it: all but what belongs to one block of this one.

    Raises: BadChainSpec: its invariants do not hold, or an upgrade waits for a block of this chain.
    Cost: the whole state.
    """
    block = runtime.at(state, head)
    for broken in block.try_state():
        raise BadChainSpec(f"the state is not sound: {broken}")
    if block.system.upgrade.get() is not None:
        raise BadChainSpec("an upgrade is scheduled: export before that, or when it has come")
    entries = dict(state.iterate(b""))
    for item in _OF_ONE_BLOCK:
        entries.pop(item.key_of(), None)
    hashes = System.block_hash.prefix
    return {key: entries[key] for key in entries if not key.startswith(hashes)}


_OF_ONE_BLOCK: Final = (
    System.number,
    System.parent_hash,
    System.extrinsics_root,
    System.digest,
    System.events,
    System.event_count,
    Validators.updates,
)


def _state_from(raw: Mapping[bytes, bytes], runtime: Runtime) -> dict[bytes, bytes]:
    """An exported state as block 0. Raises: BadChainSpec: it is not sound."""
    block = runtime.block(
        EntriesState(raw), number=BlockNumber(0), parent_hash=NO_HASH, author=NOBODY
    )
    block.system.set_runtime(runtime.spec.source or SOURCE)
    block.system.figures.put(runtime.figures)
    block.system.extrinsics_root.put(EMPTY_ROOT)
    for broken in block.try_state():
        raise BadChainSpec(f"genesis.raw is not sound: {broken}")
    changes = block.context.journal.changes()
    return dict(raw) | {key: value for key, value in changes.items() if value is not None}


def _install_validators(block: RuntimeBlock, spec: ChainSpec) -> None:
    for each in spec.validators:
        try:
            block.validators.install(each.stash, each.key, each.stake)
        except (PalletError, TokenFailure) as error:
            raise BadChainSpec(f"genesis.validators: {each.stash}: {error}") from error


def genesis_header(state_root: Hash) -> Header:
    """The header of block 0; its hash is the name of the chain."""
    return Header(
        parent_hash=NO_HASH,
        number=BlockNumber(0),
        state_root=state_root,
        extrinsics_root=EMPTY_ROOT,
        digest=NO_DIGEST,
    )

"""Block 0: the state that a chain spec makes, and the header that names the chain."""

from deepbrain.frame.errors import PalletError, TokenFailure
from deepbrain.frame.header import NO_DIGEST, Header
from deepbrain.pallets.oracle import Quote
from deepbrain.pallets.system import NO_HASH
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import BlockNumber, Moment
from deepbrain.runtime.chainspec import BadChainSpec, ChainSpec
from deepbrain.runtime.runtime import NOBODY, Runtime, RuntimeBlock
from deepbrain.runtime.source import SOURCE
from deepbrain.state.overlay import EmptyState
from deepbrain.state.trie import EMPTY_ROOT


def genesis_state(runtime: Runtime) -> dict[bytes, bytes]:
    """The whole state of block 0.

    Raises: PalletError: the spec makes more money than there may be. BadChainSpec: one of its
    validators has not the stake it shall have, or too little of it.
    """
    spec = runtime.spec
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

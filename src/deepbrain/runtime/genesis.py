"""Block 0: the state that a chain spec makes, and the header that names the chain."""

from deepbrain.frame.header import NO_DIGEST, Header
from deepbrain.pallets.oracle import Quote
from deepbrain.pallets.system import NO_HASH
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import BlockNumber, Moment
from deepbrain.runtime.runtime import NOBODY, Runtime
from deepbrain.runtime.source import SOURCE
from deepbrain.state.overlay import EmptyState
from deepbrain.state.trie import EMPTY_ROOT


def genesis_state(runtime: Runtime) -> dict[bytes, bytes]:
    """The whole state of block 0. Raises: PalletError: the spec makes more money than there may be."""
    spec = runtime.spec
    block = runtime.block(EmptyState(), number=BlockNumber(0), parent_hash=NO_HASH, author=NOBODY)
    block.system.set_runtime(SOURCE)
    block.system.figures.put(runtime.figures)
    block.system.extrinsics_root.put(EMPTY_ROOT)
    # Fees are smaller than the existential deposit: the treasury has to be there before the first.
    block.balances.mint(block.fees.treasury, block.balances.existential_deposit)
    for who, amount in spec.balances:
        block.balances.mint(who, amount)
    if spec.root is not None:
        block.sudo.key.put(spec.root)
    block.oracle.price.put(Quote(micro_usd=spec.micro_usd_per_dbc, set_at=Moment(0)))
    changes = block.context.journal.changes()
    return {key: value for key, value in changes.items() if value is not None}


def genesis_header(state_root: Hash) -> Header:
    """The header of block 0; its hash is the name of the chain."""
    return Header(
        parent_hash=NO_HASH,
        number=BlockNumber(0),
        state_root=state_root,
        extrinsics_root=EMPTY_ROOT,
        digest=NO_DIGEST,
    )

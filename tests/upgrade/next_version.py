"""The next version of the rules, as a release would bring it: a new pallet, and a migration."""

from collections.abc import Mapping

from tests.upgrade.notes import Notes

from deepbrain.frame.context import Context
from deepbrain.frame.errors import PalletError
from deepbrain.frame.weight import WRITE
from deepbrain.pallets.system import RuntimeVersion
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import U32
from deepbrain.runtime.runtime import PALLETS, RUNTIMES, Runtime, RuntimeBlock
from deepbrain.runtime.version import VERSION

NEXT = 2
SOURCE = Hash(bytes([2]) * 32)


class NextBlock(RuntimeBlock):
    def __init__(self, context: Context, pallet_of_error: Mapping[type[PalletError], int]) -> None:
        super().__init__(context, pallet_of_error)
        self.notes = Notes(context)
        self.pallets = {**self.pallets, Notes.index: self.notes}


class NextRuntime(Runtime):
    version = RuntimeVersion(
        spec_name=VERSION.spec_name,
        impl_name=VERSION.impl_name,
        authoring_version=VERSION.authoring_version,
        spec_version=U32(NEXT),
        impl_version=VERSION.impl_version,
        apis=VERSION.apis,
        transaction_version=VERSION.transaction_version,
        system_version=VERSION.system_version,
    )
    pallets = (*PALLETS, Notes)
    block_type = NextBlock

    def migrate(self, block: RuntimeBlock) -> int:
        assert isinstance(block, NextBlock)
        block.notes.since.put(block.context.number)
        block.notes.notes[block.fees.treasury] = b"migrated"
        return 2 * WRITE


def register() -> None:
    """From now on this software can run it."""
    RUNTIMES[NEXT] = NextRuntime

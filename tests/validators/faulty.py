"""A node with a bug: from block 10 on its state is another one than that of the others."""

import sys

from deepbrain.node.__main__ import main
from deepbrain.runtime.executive import BlockBuilder

BLOCK = 10

if __name__ == "__main__":
    finish = BlockBuilder.finish

    def wrong(self):
        outcome = finish(self)
        if self.block.context.number >= BLOCK:
            outcome.changes[b"a key that nobody else has"] = b"value"
        return outcome

    BlockBuilder.finish = wrong
    sys.exit(main())

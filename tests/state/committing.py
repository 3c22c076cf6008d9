"""A chain of blocks that only its numbers determine; run as a process, it commits until it is killed.

python -m tests.state.committing DIRECTORY
"""

import random
import sys
from pathlib import Path

from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.store import Commit, Retention
from deepbrain.state.trie import compute_root

RETENTION = Retention(states=8, proofs=4)


def changes_of(number):
    """What block `number` writes, whatever the state."""
    rng = random.Random(number)
    return {
        rng.randbytes(1) * 20: None if rng.random() < 0.3 else rng.randbytes(rng.randrange(200))
        for _ in range(40)
    }


def state_after(number):
    state = {}
    for block in range(number + 1):
        for key, value in changes_of(block).items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
    return state


def commit_next(store):
    number = 0 if store.number is None else store.number + 1
    changes = changes_of(number)
    with store.snapshot() as state:
        update = compute_root(state, changes)
    store.commit(
        Commit(
            number=number,
            root=update.root,
            changes=changes,
            branches=update.branches,
            before=update.before,
            tables={"blocks": {number.to_bytes(4, "big"): b"body"}},
        )
    )
    return number


def main():
    store = LmdbStore(Path(sys.argv[1]), retention=RETENTION, min_free=0)
    while True:
        sys.stdout.write(f"{commit_next(store)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""What a block's writes cost: the root, its records, flat state, history and commit, by changed key.

python -m bench.state [keys]
"""

import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.overlay import EmptyState
from deepbrain.state.store import Commit, Retention
from deepbrain.state.trie import compute_root

VALUE_LENGTH = 80


class Cost(NamedTuple):
    """µs of CPU a changed key, medians over the blocks."""

    keys: int
    batch: int
    root: float
    commit: float

    @property
    def total(self) -> float:
        return self.root + self.commit


def measure(keys: int = 100_000, batches: tuple[int, ...] = (20, 200, 2000)) -> list[Cost]:
    """Cost of random updates, in batches, on a state of `keys` entries of 80-byte keys and values."""
    rng = random.Random(1)
    names = [rng.randbytes(80) for _ in range(keys)]
    directory = Path(tempfile.mkdtemp(prefix="deepbrain-bench-"))
    store = LmdbStore(directory, retention=Retention(states=64, proofs=32), sync=False)
    try:
        _commit_genesis(store, rng, names)
        return [_measure_batch(store, rng, names, batch) for batch in batches]
    finally:
        store.close()
        shutil.rmtree(directory)


def _commit_genesis(store: LmdbStore, rng: random.Random, names: list[bytes]) -> None:
    changes = {name: rng.randbytes(VALUE_LENGTH) for name in names}
    update = compute_root(EmptyState(), changes)
    store.commit(
        Commit(
            number=0,
            root=update.root,
            changes=changes,
            branches=update.branches,
            before=update.before,
        )
    )


def _measure_batch(store: LmdbStore, rng: random.Random, names: list[bytes], batch: int) -> Cost:
    roots, commits = [], []
    for _ in range(
        max(100, min(200, 20_000 // batch))
    ):  # longer than the retention: pruning counts
        changes = {rng.choice(names): rng.randbytes(VALUE_LENGTH) for _ in range(batch)}
        number = (store.number or 0) + 1
        started = time.process_time()
        with store.snapshot() as before:
            update = compute_root(before, changes)
        middle = time.process_time()
        store.commit(
            Commit(
                number=number,
                root=update.root,
                changes=changes,
                branches=update.branches,
                before=update.before,
            )
        )
        ended = time.process_time()
        roots.append((middle - started) / len(changes))
        commits.append((ended - middle) / len(changes))
    late = slice(len(roots) // 2, None)
    return Cost(
        len(names),
        batch,
        statistics.median(roots[late]) * 1e6,
        statistics.median(commits[late]) * 1e6,
    )


def main() -> None:
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print(f"{'keys':>9} {'batch':>6} {'root':>7} {'commit':>7} {'total':>7}  µs CPU a changed key")
    for cost in measure(keys):
        print(f"{cost.keys:9} {cost.batch:6} {cost.root:7.1f} {cost.commit:7.1f} {cost.total:7.1f}")


if __name__ == "__main__":
    main()

"""Each store against a list of plain states: commits, rollbacks, reads of the past, restarts."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.state.support import DictState

from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.memory import MemoryStore
from deepbrain.state.store import Commit, Retention
from deepbrain.state.trie import compute_root, full_root, prove, verify_proofs

RETENTION = Retention(states=6, proofs=3, prune_limit=5)

keys = st.lists(st.sampled_from([0, 1, 16, 255]), min_size=1, max_size=4).map(bytes)
changes = st.dictionaries(keys, st.none() | st.binary(max_size=40), max_size=6)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="deepbrain-store-"))
        self.stores = [MemoryStore(retention=RETENTION), self.open()]
        self.states = []
        self.oldest = self.oldest_proof = 0

    def open(self):
        return LmdbStore(self.directory, retention=RETENTION, sync=False, min_free=0)

    def teardown(self):
        for store in self.stores:
            store.close()
        shutil.rmtree(self.directory)

    @initialize(delta=changes)
    def genesis(self, delta):
        self.commit(delta, True)

    @rule(delta=changes, given_before=st.booleans())
    def commit(self, delta, given_before):
        state = DictState(self.states[-1] if self.states else {})
        state.apply(delta)
        self.states.append(state.items)
        number = len(self.states) - 1
        self.oldest = max(self.oldest, number - RETENTION.states)
        self.oldest_proof = max(self.oldest_proof, number - RETENTION.proofs)
        for store in self.stores:
            with store.snapshot() as head:
                update = compute_root(head, delta)
            before = update.before if given_before else None
            store.commit(
                Commit(
                    number=number,
                    root=update.root,
                    changes=delta,
                    branches=update.branches,
                    before=before,
                )
            )

    @rule(back=st.integers(0, RETENTION.proofs))
    def rollback(self, back):
        number = max(self.oldest_proof, len(self.states) - 1 - back)
        del self.states[number + 1 :]
        for store in self.stores:
            store.rollback(number)

    @precondition(lambda self: self.states)
    @rule()
    def restart(self):
        self.stores[1].close()
        self.stores[1] = self.open()

    @rule(data=st.data(), prefix=st.just(b"") | keys, after=st.none() | keys)
    def read_the_past(self, data, prefix, after):
        number = data.draw(st.integers(self.oldest, len(self.states) - 1))
        plain = DictState(self.states[number])
        asked = [*plain.items, prefix]
        for store in self.stores:
            with store.snapshot(number) as snapshot:
                assert snapshot.root == full_root(plain.items.items())
                assert list(snapshot.iterate(prefix, after)) == list(plain.iterate(prefix, after))
                assert snapshot.get_many(asked) == plain.get_many(asked)
                assert snapshot.seek(prefix) == plain.seek(prefix)
                if number >= self.oldest_proof:
                    values = verify_proofs(snapshot.root, prove(snapshot, asked), asked)
                    assert values == {key: plain.get(key) for key in asked}

    @invariant()
    def heads_agree(self):
        for store in self.stores:
            if self.states:
                assert store.number == len(self.states) - 1
                assert store.root == full_root(self.states[-1].items())
                assert (store.oldest, store.oldest_proof) == (self.oldest, self.oldest_proof)


TestStore = StoreMachine.TestCase

"""The incremental trie against one built from nothing."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.state.support import DictState

from deepbrain.state.trie import compute_root, full_root, prove, verify_proofs

# Few nibbles and short keys, so that keys are prefixes of each other and branches fork everywhere.
keys = st.lists(st.sampled_from([0x00, 0x01, 0x10, 0x11, 0xF0]), max_size=4).map(bytes)
values = st.binary(max_size=4) | st.integers(28, 36).map(bytes) | st.binary(max_size=100)
changes = st.dictionaries(keys, st.none() | values, max_size=8)


class TrieMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.state = DictState()

    def change(self, delta):
        update = compute_root(self.state, delta)
        for name in update.branches:
            assert update.before[name] == self.state.branches.get(name)
        self.state.apply(delta, update.branches)
        assert update.root == full_root(self.state.items.items())

    @rule(delta=changes)
    def write(self, delta):
        self.change(delta)

    @rule(data=st.data(), value=values)
    def overwrite(self, data, value):
        if self.state.items:
            self.change({data.draw(st.sampled_from(sorted(self.state.items))): value})

    @rule(data=st.data())
    def delete(self, data):
        if self.state.items:
            some = st.lists(st.sampled_from(sorted(self.state.items)), min_size=1, unique=True)
            self.change(dict.fromkeys(data.draw(some)))

    @rule()
    def empty(self):
        self.change(dict.fromkeys(self.state.items))
        assert not self.state.branches

    @rule(asked=st.lists(keys, min_size=1, max_size=3))
    def proof(self, asked):
        root = full_root(self.state.items.items())
        nodes = prove(self.state, asked)
        expected = {key: self.state.items.get(key) for key in asked}
        assert verify_proofs(root, nodes, asked) == expected

    @invariant()
    def records_are_those_of_a_fresh_build(self):
        fresh = compute_root(DictState(), self.state.items)
        assert self.state.branches == fresh.branches


TestTrie = TrieMachine.TestCase

"""The journalled overlay against a stack of plain dicts."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.state.support import DictState

from deepbrain.state.overlay import Overlay

keys = st.binary(max_size=3) | st.sampled_from([b"", b"a", b"ab", b"abc", b"\xff", b"\xff\xff"])
values = st.binary(max_size=4)


class OverlayMachine(RuleBasedStateMachine):
    @initialize(base=st.dictionaries(keys, values, max_size=12))
    def start(self, base):
        self.base = dict(base)
        self.overlay = Overlay(DictState(base))
        self.layers = [dict(base)]

    @rule(key=keys, value=values)
    def put(self, key, value):
        self.overlay.put(key, value)
        self.layers[-1][key] = value

    @rule(key=keys)
    def delete(self, key):
        self.overlay.delete(key)
        self.layers[-1].pop(key, None)

    @rule()
    def begin(self):
        self.overlay.begin()
        self.layers.append(dict(self.layers[-1]))

    @precondition(lambda self: len(self.layers) > 1)
    @rule()
    def commit(self):
        self.overlay.commit()
        top = self.layers.pop()
        self.layers[-1] = top

    @precondition(lambda self: len(self.layers) > 1)
    @rule()
    def rollback(self):
        self.overlay.rollback()
        self.layers.pop()

    @rule(asked=st.lists(keys, max_size=6))
    def get(self, asked):
        expected = [self.layers[-1].get(key) for key in asked]
        assert [self.overlay.get(key) for key in asked] == expected
        assert self.overlay.get_many(asked) == expected

    @rule(prefix=keys, after=st.none() | keys)
    def iterate(self, prefix, after):
        expected = [
            (key, value)
            for key, value in sorted(self.layers[-1].items())
            if key.startswith(prefix) and (after is None or key > after)
        ]
        assert list(self.overlay.iterate(prefix, after)) == expected

    @invariant()
    def changes_lead_from_the_base_to_here(self):
        state = dict(self.base)
        for key, value in self.overlay.changes().items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        assert state == self.layers[-1]
        assert self.overlay.depth == len(self.layers) - 1


TestOverlay = OverlayMachine.TestCase

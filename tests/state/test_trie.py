"""The trie against foreign roots, its edges, and proofs that were tampered with."""

import contextlib
import json
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.state.support import DictState

from deepbrain.primitives.errors import DecodeError
from deepbrain.state.errors import StoreError
from deepbrain.state.store import MAX_KEY
from deepbrain.state.trie import (
    EMPTY_ROOT,
    closest_merkle_value,
    compute_root,
    full_root,
    ordered_root,
    prove,
    verify_proof,
    verify_proofs,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "trie-roots.json").read_text())


def state_of(items):
    state = DictState(items)
    state.branches = dict(compute_root(DictState(), state.items).branches)
    return state


def items_of(vector):
    return {bytes.fromhex(key): bytes.fromhex(value) for key, value in vector["items"]}


@pytest.mark.parametrize("vector", VECTORS["maps"], ids=lambda vector: vector["name"])
def test_roots_are_those_of_substrate(vector):
    items = items_of(vector)
    for version, root in vector["roots"].items():
        assert full_root(items.items(), version=int(version)).hex() == root
    assert compute_root(DictState(), items).root.hex() == vector["roots"]["1"]


@pytest.mark.parametrize("vector", VECTORS["maps"], ids=lambda vector: vector["name"])
def test_a_trie_built_and_taken_down_key_by_key_is_right_all_the_way(vector):
    items = items_of(vector)
    state = DictState()
    for key, value in [*items.items(), *dict.fromkeys(items).items()]:
        update = compute_root(state, {key: value})
        state.apply({key: value}, update.branches)
        assert update.root == full_root(state.items.items())
    assert update.root == EMPTY_ROOT if items else True
    assert not state.branches


@pytest.mark.parametrize("vector", VECTORS["ordered"], ids=lambda vector: len(vector["values"]))
def test_ordered_roots_are_those_of_substrate(vector):
    values = [bytes.fromhex(value) for value in vector["values"]]
    for version, root in vector["roots"].items():
        assert ordered_root(values, version=int(version)).hex() == root


def test_the_empty_root_is_the_known_one():
    known = "03170a2e7597b7b7e3d84c05391d139a62b157e78786d8c082f29dcf4c111314"
    assert full_root([]).hex() == ordered_root([]).hex() == known
    assert compute_root(DictState(), {b"absent": None}).root.hex() == known


def test_what_changes_nothing_writes_nothing():
    state = state_of({b"a": b"1", b"ab": b"2"})
    update = compute_root(state, {b"a": b"1", b"missing": None})
    assert (update.root, update.branches) == (full_root(state.items.items()), {})


def test_the_deepest_trie_there_can_be():
    """A branch at each of the 800 nibbles of the longest key."""
    items = {bytes(MAX_KEY): b"bottom"}
    for depth in range(2 * MAX_KEY):
        nibbles = "0" * depth + "1"
        items[bytes.fromhex(nibbles + "0" * (len(nibbles) % 2))] = b"v" * 40
    state = state_of(items)
    assert len(state.branches) == 2 * MAX_KEY
    delta = {bytes(MAX_KEY): None, b"\x10": b"x"}
    update = compute_root(state, delta)
    state.apply(delta, update.branches)
    assert update.root == full_root(state.items.items())
    deep = min(state.items)
    assert verify_proof(update.root, prove(state, [deep]), deep) == state.items[deep]


@pytest.mark.parametrize(
    "run",
    [
        lambda key: compute_root(DictState(), {key: b""}),
        lambda key: full_root([(key, b"")]),
        lambda key: prove(DictState(), [key]),
    ],
)
def test_keys_that_are_too_long_are_refused(run):
    with pytest.raises(StoreError, match="400 bytes"):
        run(bytes(MAX_KEY + 1))


PROVEN = {
    b"": b"root value",
    b"\x00": b"short",
    b"\x00\x01": b"v" * 33,
    b"\x00\x01\x02": b"w" * 32,
    b"\x10\x00": b"x" * 200,
    b"\x10\x01": b"y",
    b"\xff" * 40: b"z" * 100,
}
ABSENT = [b"\x01", b"\x00\x01\x02\x03", b"\x10", b"\xff", b"\xff" * 41, b"\xfe"]


@pytest.mark.parametrize("key", [*PROVEN, *ABSENT], ids=bytes.hex)
def test_a_proof_is_minimal_and_nothing_in_it_can_be_changed(key):
    state = state_of(PROVEN)
    root = full_root(PROVEN.items())
    nodes = prove(state, [key])
    assert verify_proof(root, nodes, key) == PROVEN.get(key)
    for place, node in enumerate(nodes):
        without = nodes[:place] + nodes[place + 1 :]
        for bad in (without, [*nodes, b"more"], [*nodes, node]):
            with pytest.raises(DecodeError):
                verify_proof(root, bad, key)
        for at in range(len(node)):
            changed = node[:at] + bytes((node[at] ^ 1,)) + node[at + 1 :]
            with pytest.raises(DecodeError):
                verify_proof(root, [*without, changed], key)


def test_one_proof_for_many_keys_holds_each_node_once():
    keys = [*PROVEN, *ABSENT]
    nodes = prove(state_of(PROVEN), keys)
    assert len(set(nodes)) == len(nodes)
    root = full_root(PROVEN.items())
    assert verify_proofs(root, nodes, keys) == {key: PROVEN.get(key) for key in keys}
    with pytest.raises(DecodeError, match="does not need"):
        verify_proof(root, nodes, keys[0])


@pytest.mark.parametrize("items", [{}, {b"only": b"v" * 50}, {b"only": b"v"}])
def test_tries_without_branches_are_proven_too(items):
    state = state_of(items)
    for key in (b"only", b"other", b""):
        nodes = prove(state, [key])
        assert verify_proof(full_root(items.items()), nodes, key) == items.get(key)


@given(
    st.dictionaries(st.binary(min_size=1, max_size=4), st.binary(max_size=40), max_size=12),
    st.binary(max_size=4),
)
def test_a_merkle_value_is_how_the_trie_names_what_lies_below_a_key(items, prefix):
    state = state_of(items)
    below = {key: value for key, value in items.items() if key.startswith(prefix)}
    found = closest_merkle_value(state, prefix)
    assert (found is not None) == bool(below)
    if found is None:
        return
    if not prefix or len(below) == len(items):
        assert found == full_root(items.items())
    nodes = prove(state, [min(below)])
    named = {blake2b(node, digest_size=32).digest() for node in nodes}
    assert found in named or any(found in node for node in nodes)
    # What changes below the key changes it; what changes elsewhere, in place, does not.
    for key in items:
        changed = closest_merkle_value(state_of(items | {key: items[key] + b"!"}), prefix)
        assert (changed != found) == (key in below)


def test_a_merkle_value_of_an_empty_trie_or_too_long_a_key():
    assert closest_merkle_value(state_of({}), b"") is None
    with pytest.raises(StoreError):
        closest_merkle_value(state_of(PROVEN), bytes(MAX_KEY + 1))


def test_against_the_empty_root_nothing_else_is_accepted():
    with pytest.raises(DecodeError):
        verify_proof(EMPTY_ROOT, [b"\x00", b"\x42\xaa\x04\xbb"], b"\xaa")
    with pytest.raises(DecodeError):
        verify_proof(EMPTY_ROOT, [], b"\xaa")


@given(st.lists(st.binary(max_size=60), max_size=4), st.binary(max_size=3))
def test_garbage_is_refused_and_nothing_else_happens(nodes, key):
    roots = [EMPTY_ROOT] + [full_root([(b"a", node)]) for node in nodes]
    for root in roots:
        try:
            verify_proof(root, nodes, key)
        except DecodeError:
            continue
        assert nodes == [b"\x00"]


@given(st.binary(max_size=80), st.binary(max_size=3))
def test_a_garbage_node_under_its_own_hash_is_refused_or_read(node, key):
    """A light client follows a root from elsewhere: the parser must hold whatever it hashes to."""
    with contextlib.suppress(DecodeError):
        verify_proof(blake2b(node, digest_size=32).digest(), [node], key)

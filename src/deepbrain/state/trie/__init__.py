"""The state trie: Substrate's own (base 16, BLAKE2b-256, state version 1), so that outsiders can check
what a node says about the state.

    nodes    nodes as bytes
    update   the root after a block, from the records before it
    build    the root from nothing
    proof    read proofs, made and checked
"""

from deepbrain.state.trie.build import full_root, ordered_root
from deepbrain.state.trie.nodes import EMPTY_ROOT
from deepbrain.state.trie.proof import closest_merkle_value, prove, verify_proof, verify_proofs
from deepbrain.state.trie.update import RootUpdate, compute_root

__all__ = [
    "EMPTY_ROOT",
    "RootUpdate",
    "closest_merkle_value",
    "compute_root",
    "full_root",
    "ordered_root",
    "prove",
    "verify_proof",
    "verify_proofs",
]

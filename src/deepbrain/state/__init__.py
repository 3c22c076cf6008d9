"""The state of the chain: where it is kept, how it is changed, and what proves it.

overlay   changes on top of a reader, in nested layers that can be taken back
trie      the state root and read proofs, in Substrate's own format
store     what a store offers; `memory` and `lmdb` are the two there are
"""

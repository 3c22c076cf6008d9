"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x29938d0319a1a661ef8507bfe6142d1ea8f230c284571b064b8c5229fbd79e5c")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

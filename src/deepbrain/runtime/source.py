"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x4bef132d4fbbbfeb34743562d680d4a8b982438f50a6a5aeaddc768a1ad6d7f8")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x0841905e4705095d1c472ac96db505b25e6c27b78ea49f73e77573f2c3aa4eb9")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

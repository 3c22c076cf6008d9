"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x0000000000000000000000000000000000000000000000000000000000000000")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

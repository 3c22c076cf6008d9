"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x13822ddd0f64420b169144aa274505f4c2e9a937ebd6105580e2e9448164b788")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

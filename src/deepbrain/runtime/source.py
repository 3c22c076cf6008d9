"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xbc7d1453f9ff2c22dadffbf0e36283b6e2f4d2a0b5d1459f6f88f5ffef511675")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

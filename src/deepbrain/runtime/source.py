"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x6d89ef438a574886987bc8b96d0cd45e830d6e7a1d4c243467163da3895d2df2")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

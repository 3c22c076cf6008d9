"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x8fcb31036517b8f2b3dd4827ffd00d83225d8db10795ee663206c9934e553a14")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

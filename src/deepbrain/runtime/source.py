"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xa64843285e2b5d242ccb4321289bfaa1e2d092ffa3d5f12cd0888a1887380a70")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

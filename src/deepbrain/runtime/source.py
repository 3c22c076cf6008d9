"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x99c961e205cf07ef1122c05ca27ac2cb9d9a80c999f04f92ee4dc8fa66a3a103")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xc0206f892703f65f3bf907a291f1f9eca54349df118bb67c2473ac2d1cf519b4")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

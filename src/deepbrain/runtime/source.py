"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xf1ba4a78082443eaebcd56b8b9d24f32b6e8f76f11e98cd0c8380767e114b5c8")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

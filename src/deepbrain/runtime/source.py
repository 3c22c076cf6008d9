"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xafb697e9340d4a854fef0d361c833082b389d319905d96231bfc7f504b2f2ca0")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

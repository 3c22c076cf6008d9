"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xaeebf081db8a4a7fecdd54cb075df6206d5a46b1c3ccc5b9fcf781299b9765fd")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

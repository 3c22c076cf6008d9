"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x68a7365952f75acaac4a9e59570174de87d04da7c3c98dd7bae0c9a4f56cd9ae")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xf07a7e3817d184813850618270e72d30004c374847a05f6a23dc796a056ed0a7")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

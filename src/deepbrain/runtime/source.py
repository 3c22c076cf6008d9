"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x6d191399d4378acf2e656bc9ae9751c474431d025e7821ca6e6d151539e51d74")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x41fa8f95d521128cd7983c7734728755c6859304b633eb5a53590092bc9a2b74")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

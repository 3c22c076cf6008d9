"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x9ad95a157ffabfebdc9a9a3855690c6333174e7800c495dd4d8d2ac72a7dcbc6")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

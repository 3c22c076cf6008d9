"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x3d0faaa52cc98b65c7c6b083d00856365638f80301a26f688f7d1fb7a0ed8c6b")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

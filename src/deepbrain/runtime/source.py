"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xc8a6aaf99bfc19d2f1ce8849c132ed34100576fa450b6d1072d0823facadbfd5")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

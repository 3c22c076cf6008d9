"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x77aba7468ae5ea7cd41cbef9e53eca9cf3bc8d8e5be4d700c82d2e5e63590849")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

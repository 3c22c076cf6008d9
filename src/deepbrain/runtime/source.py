"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x3f58bc1e32207f91daecd2d4afcc0b29ae526ff4b74d3659210de9cd8334e260")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xbf382ec4d2e247059607cdde1848cadae03cfe2562698f3b1f0200cd26282117")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

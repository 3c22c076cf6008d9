"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x3dc0555aa2f7aa2757a4b889f1f9566b5f6082070011639b5c56724ae2122f17")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xb7548ce3e01a65fc0abc62b4fccd22db6a21fa904a850b7d85304635cfa2232e")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

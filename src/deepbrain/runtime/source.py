"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xf59af5987155a94f0ca03a7521ba99ef08adaf60ec0c3196db3806b3c4a00189")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xf70bf7b1ba096360ee43153fb6e495431cdb613505542f9bb9732d59ba629011")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

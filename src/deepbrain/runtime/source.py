"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x438027a014438f9c2b341ee538de78e7a412f83dfb36558921408b153ac4bc77")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

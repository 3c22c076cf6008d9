"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0xadf9261669a4eff76f2ca6e16dce761d0313a317bf4ed7dfec6ce125966ce937")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

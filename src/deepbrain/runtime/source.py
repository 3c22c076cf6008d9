"""The hash of the rules' own source: written by `tools/source_hash.py`, never by hand."""

from typing import Final

from deepbrain.primitives.ids import Hash

SOURCE: Final = Hash.from_hex("0x9d6fc8769154625905f0e5907974b7b2aebb26e77f79ee47c40d5460ab65ca7d")
"""BLAKE2b-256 over the files of the deterministic floors, this one left out."""

"""The header of a block, in Substrate's encoding: its BLAKE2b-256 is the hash of the block."""

from typing import Final

from deepbrain.frame.wire import TupleUnion
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId, FixedBytes, Hash
from deepbrain.primitives.units import BlockNumber
from deepbrain.scale import Compact, Struct


class EngineId(FixedBytes, size=4):
    """Whose digest item it is."""

    __slots__ = ()


AUTHOR_ENGINE: Final = EngineId(b"pow_")
"""Wallets read the author of a block from a pre-runtime item of this name, whoever ordered it."""


class DigestItem(TupleUnion):
    """A note of the engine in a header."""

    __scale_path__ = ("sp_runtime", "generic", "digest", "DigestItem")


class Other(DigestItem, index=0):
    payload: bytes


class Consensus(DigestItem, index=4):
    engine: EngineId
    payload: bytes


class Seal(DigestItem, index=5):
    engine: EngineId
    payload: bytes


class PreRuntime(DigestItem, index=6):
    engine: EngineId
    payload: bytes


class RuntimeEnvironmentUpdated(DigestItem, index=8): ...


class Digest(Struct):
    """The notes in a header."""

    __scale_path__ = ("sp_runtime", "generic", "digest", "Digest")

    logs: tuple[DigestItem, ...]


class Header(Struct):
    """What a block's hash covers."""

    parent_hash: Hash
    number: Compact[BlockNumber]
    state_root: Hash
    extrinsics_root: Hash
    digest: Digest

    def hash(self) -> Hash:
        """The hash of the block."""
        return blake2_256(self.encode())


def author_digest(author: AccountId) -> Digest:
    """The digest of a block made by `author`."""
    return Digest(logs=(PreRuntime(engine=AUTHOR_ENGINE, payload=bytes(author)),))


def author_of(digest: Digest) -> AccountId | None:
    """Who made the block, if its digest says."""
    for item in digest.logs:
        if isinstance(item, PreRuntime) and item.engine == AUTHOR_ENGINE:
            return AccountId(item.payload)
    return None


NO_DIGEST: Final = Digest(logs=())

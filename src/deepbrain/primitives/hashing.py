"""The hash functions of the chain."""

from hashlib import blake2b, sha256

from xxhash import xxh64_intdigest

from deepbrain.primitives.ids import Hash


def blake2_128(data: bytes) -> bytes:
    """BLAKE2b with a digest of 16 bytes."""
    return blake2b(data, digest_size=16).digest()


def blake2_256(data: bytes) -> Hash:
    """BLAKE2b with a digest of 32 bytes: blocks, extrinsics, tries, manifests."""
    return Hash(blake2b(data, digest_size=32).digest())


def sha2_256(data: bytes) -> bytes:
    """SHA-256: names of consensus keys."""
    return sha256(data).digest()


def twox_64(data: bytes) -> bytes:
    """XXH64 with seed 0, little-endian. Not cryptographic: only for keys no stranger can choose."""
    return int(xxh64_intdigest(data, 0)).to_bytes(8, "little")


def twox_128(data: bytes) -> bytes:
    """Two XXH64 with seeds 0 and 1: prefixes of pallets and storage items."""
    return twox_64(data) + int(xxh64_intdigest(data, 1)).to_bytes(8, "little")

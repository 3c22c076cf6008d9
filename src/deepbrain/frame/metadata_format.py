"""Metadata V14 and V15 as records: what is written is what these say.

Source: `frame_metadata::v14`, `frame_metadata::v15`.
"""

from typing import Final

from deepbrain.primitives.units import U8
from deepbrain.scale import Compact, Enumeration, Struct, TaggedUnion
from deepbrain.scale.definitions import PortableType, TypeId

MAGIC: Final = b"meta"


class Modifier(Enumeration):
    """What an absent value means: nothing, or the default."""

    OPTIONAL = 0
    DEFAULT = 1


class WireHasher(Enumeration):
    """How a key is hashed."""

    BLAKE2_128 = 0
    BLAKE2_256 = 1
    BLAKE2_128_CONCAT = 2
    TWOX_128 = 3
    TWOX_256 = 4
    TWOX_64_CONCAT = 5
    IDENTITY = 6


class EntryType(TaggedUnion):
    """Whether a storage entry has keys."""


class PlainEntry(EntryType, index=0):
    value: Compact[TypeId]


class MapEntry(EntryType, index=1):
    hashers: tuple[WireHasher, ...]
    key: Compact[TypeId]
    value: Compact[TypeId]


class StorageEntry(Struct):
    name: str
    modifier: Modifier
    type: EntryType
    default: bytes
    docs: tuple[str, ...]


class PalletStorage(Struct):
    prefix: str
    entries: tuple[StorageEntry, ...]


class ConstantEntry(Struct):
    name: str
    type: Compact[TypeId]
    value: bytes
    docs: tuple[str, ...]


class PalletV14(Struct):
    name: str
    storage: PalletStorage | None
    calls: Compact[TypeId] | None
    event: Compact[TypeId] | None
    constants: tuple[ConstantEntry, ...]
    error: Compact[TypeId] | None
    index: U8


class PalletV15(Struct):
    name: str
    storage: PalletStorage | None
    calls: Compact[TypeId] | None
    event: Compact[TypeId] | None
    constants: tuple[ConstantEntry, ...]
    error: Compact[TypeId] | None
    index: U8
    docs: tuple[str, ...]


class SignedExtension(Struct):
    identifier: str
    type: Compact[TypeId]
    additional_signed: Compact[TypeId]


class ExtrinsicV14(Struct):
    type: Compact[TypeId]
    version: U8
    signed_extensions: tuple[SignedExtension, ...]


class ExtrinsicV15(Struct):
    version: U8
    address: Compact[TypeId]
    call: Compact[TypeId]
    signature: Compact[TypeId]
    extra: Compact[TypeId]
    signed_extensions: tuple[SignedExtension, ...]


class ApiInput(Struct):
    name: str
    type: Compact[TypeId]


class ApiMethod(Struct):
    name: str
    inputs: tuple[ApiInput, ...]
    output: Compact[TypeId]
    docs: tuple[str, ...]


class RuntimeApi(Struct):
    name: str
    methods: tuple[ApiMethod, ...]
    docs: tuple[str, ...]


class OuterEnums(Struct):
    call: Compact[TypeId]
    event: Compact[TypeId]
    error: Compact[TypeId]


class CustomValue(Struct):
    type: Compact[TypeId]
    value: bytes


class MetadataV14(Struct):
    types: tuple[PortableType, ...]
    pallets: tuple[PalletV14, ...]
    extrinsic: ExtrinsicV14
    type: Compact[TypeId]


class MetadataV15(Struct):
    types: tuple[PortableType, ...]
    pallets: tuple[PalletV15, ...]
    extrinsic: ExtrinsicV15
    type: Compact[TypeId]
    apis: tuple[RuntimeApi, ...]
    outer_enums: OuterEnums
    custom: dict[str, CustomValue]

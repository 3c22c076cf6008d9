"""Metadata V14, V15 and V16 as records: what is written is what these say.

Source: `frame_metadata::v14`, `frame_metadata::v15`, `frame_metadata::v16`.
"""

from typing import Final

from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import U8, U32
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


class Deprecation(TaggedUnion):
    """Whether something is not to be used any more."""


class NotDeprecated(Deprecation, index=0): ...


NOT_DEPRECATED: Final = NotDeprecated()


class CasesType(Struct):
    """The enum of a pallet's calls, events or errors, and its deprecated cases by index."""

    type: Compact[TypeId]
    deprecated: dict[U8, Deprecation]


class StorageEntryV16(Struct):
    name: str
    modifier: Modifier
    type: EntryType
    default: bytes
    docs: tuple[str, ...]
    deprecation: Deprecation


class PalletStorageV16(Struct):
    prefix: str
    entries: tuple[StorageEntryV16, ...]


class ConstantEntryV16(Struct):
    name: str
    type: Compact[TypeId]
    value: bytes
    docs: tuple[str, ...]
    deprecation: Deprecation


class AssociatedType(Struct):
    name: str
    type: Compact[TypeId]
    docs: tuple[str, ...]


class ApiMethodV16(Struct):
    name: str
    inputs: tuple[ApiInput, ...]
    output: Compact[TypeId]
    docs: tuple[str, ...]
    deprecation: Deprecation


class ViewFunction(Struct):
    id: Hash
    name: str
    inputs: tuple[ApiInput, ...]
    output: Compact[TypeId]
    docs: tuple[str, ...]
    deprecation: Deprecation


class PalletV16(Struct):
    name: str
    storage: PalletStorageV16 | None
    calls: CasesType | None
    event: CasesType | None
    constants: tuple[ConstantEntryV16, ...]
    error: CasesType | None
    associated_types: tuple[AssociatedType, ...]
    view_functions: tuple[ViewFunction, ...]
    index: U8
    docs: tuple[str, ...]
    deprecation: Deprecation


class ExtrinsicV16(Struct):
    versions: tuple[U8, ...]
    address: Compact[TypeId]
    call: Compact[TypeId]
    signature: Compact[TypeId]
    extensions_by_version: dict[U8, tuple[Compact[U32], ...]]
    """Places in `extensions`, by the version of the extension set."""
    extensions: tuple[SignedExtension, ...]


class RuntimeApiV16(Struct):
    name: str
    methods: tuple[ApiMethodV16, ...]
    docs: tuple[str, ...]
    version: Compact[U32]
    deprecation: Deprecation


class MetadataV16(Struct):
    types: tuple[PortableType, ...]
    pallets: tuple[PalletV16, ...]
    extrinsic: ExtrinsicV16
    apis: tuple[RuntimeApiV16, ...]
    outer_enums: OuterEnums
    custom: dict[str, CustomValue]

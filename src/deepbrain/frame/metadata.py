"""Pallets as wallets read them: metadata V14, V15 and V16, docstrings included.

Type paths and names are those that clients recognise types by; they are part of the interface.
Nothing of consensus depends on metadata; a golden file in the tests guards it.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from deepbrain.frame.calls import CallDefinition
from deepbrain.frame.docs import attribute_docs, lines_of
from deepbrain.frame.metadata_format import (
    MAGIC,
    NOT_DEPRECATED,
    ApiInput,
    ApiMethod,
    ApiMethodV16,
    CasesType,
    ConstantEntry,
    ConstantEntryV16,
    EntryType,
    ExtrinsicV14,
    ExtrinsicV15,
    ExtrinsicV16,
    MapEntry,
    MetadataV14,
    MetadataV15,
    MetadataV16,
    Modifier,
    OuterEnums,
    PalletStorage,
    PalletStorageV16,
    PalletV14,
    PalletV15,
    PalletV16,
    PlainEntry,
    RuntimeApi,
    RuntimeApiV16,
    SignedExtension,
    StorageEntry,
    StorageEntryV16,
    WireHasher,
)
from deepbrain.frame.outer import OuterRegistry
from deepbrain.frame.pallet import Pallet, chain_name
from deepbrain.frame.signed_types import EXTENSIONS, SignedTypes
from deepbrain.frame.storage import Item
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import U8, U32
from deepbrain.scale import Struct, codec_of
from deepbrain.scale.definitions import Composite, Field, Parameter, TypeId, Variant, VariantCase
from deepbrain.scale.registry import default_path, docs_of

EXTRINSIC_VERSION: Final = U8(4)


class ApiFunction(NamedTuple):
    """One function of a runtime API: its parameters' names and hints, and the hint of its result."""

    name: str
    inputs: tuple[tuple[str, Any], ...]
    output: Any
    docs: str


class Api(NamedTuple):
    """A runtime API, in the version that clients expect of it."""

    name: str
    version: int
    functions: tuple[ApiFunction, ...]
    docs: str


class MetadataSource:
    """A runtime about to be described. Makes one description."""

    def __init__(
        self,
        *,
        crate: str,
        pallets: Sequence[type[Pallet]],
        constants: Mapping[str, Mapping[str, Any]],
        apis: Sequence[Api] = (),
    ) -> None:
        self._crate = crate
        self._pallets = pallets
        self._constants = constants
        self._apis = apis
        self._registry = OuterRegistry(_path_of)
        self._registry.outer = self
        self._signed = SignedTypes(self._registry)

    def v14(self) -> bytes:
        """The metadata in format 14, magic number included. Cost: milliseconds."""
        described = [self._pallet(pallet) for pallet in self._pallets]
        extrinsic = ExtrinsicV14(
            type=self.unchecked_extrinsic(),
            version=EXTRINSIC_VERSION,
            signed_extensions=self._extensions(),
        )
        runtime = self._runtime()
        metadata = MetadataV14(
            types=self._registry.types(),
            pallets=tuple(described),
            extrinsic=extrinsic,
            type=runtime,
        )
        return MAGIC + bytes((14,)) + metadata.encode()

    def v15(self) -> bytes:
        """The metadata in format 15, magic number included. Cost: milliseconds."""
        described = tuple(self._pallet_v15(pallet) for pallet in self._pallets)
        extrinsic = ExtrinsicV15(
            version=EXTRINSIC_VERSION,
            address=self._signed.address(),
            call=self.runtime_call(),
            signature=self._signed.signature(),
            extra=self._signed.extra(),
            signed_extensions=self._extensions(),
        )
        runtime, apis = self._runtime(), tuple(self._api(api) for api in self._apis)
        outer = self._outer_enums()
        metadata = MetadataV15(
            types=self._registry.types(),
            pallets=described,
            extrinsic=extrinsic,
            type=runtime,
            apis=apis,
            outer_enums=outer,
            custom={},
        )
        return MAGIC + bytes((15,)) + metadata.encode()

    def v16(self) -> bytes:
        """The metadata in format 16, magic number included. Cost: milliseconds."""
        described = tuple(self._pallet_v16(pallet) for pallet in self._pallets)
        extensions = self._extensions()
        extrinsic = ExtrinsicV16(
            versions=(EXTRINSIC_VERSION,),
            address=self._signed.address(),
            call=self.runtime_call(),
            signature=self._signed.signature(),
            extensions_by_version={U8(0): tuple(U32(at) for at in range(len(extensions)))},
            extensions=extensions,
        )
        apis, outer = tuple(self._api_v16(api) for api in self._apis), self._outer_enums()
        metadata = MetadataV16(
            types=self._registry.types(),
            pallets=described,
            extrinsic=extrinsic,
            apis=apis,
            outer_enums=outer,
            custom={},
        )
        return MAGIC + bytes((16,)) + metadata.encode()

    # Outer types: `outer.OuterTypes`.

    def runtime_call(self) -> TypeId:
        """A call of any pallet."""
        calls = {p: self._calls for p in self._pallets if p.call_definitions}
        return self._outer_enum("RuntimeCall", calls)

    def event_records(self) -> TypeId:
        """`Vec<EventRecord>`."""
        event, topic = self._runtime_event(), self._registry.register(Hash)
        fields = (
            Field(name="phase", type=self._phase(), type_name="Phase"),
            Field(name="event", type=event, type_name="E"),
            self._registry.field("topics", tuple[Hash, ...]),
        )
        record = self._registry.define(
            "EventRecord",
            Composite(fields=fields),
            path=("frame_system", "EventRecord"),
            params=(Parameter(name="E", type=event), Parameter(name="T", type=topic)),
        )
        return self._registry.sequence(record)

    def multi_address(self) -> TypeId:
        """How an extrinsic names an account."""
        return self._signed.address()

    def unchecked_extrinsic(self) -> TypeId:
        """An extrinsic as it travels; clients of V14 find address, call and signature in it."""
        return self._signed.unchecked_extrinsic(self.runtime_call())

    def _runtime_event(self) -> TypeId:
        events = {p: self._events for p in self._pallets if p.event_types}
        return self._outer_enum("RuntimeEvent", events)

    def _runtime_error(self) -> TypeId:
        errors = {p: self._errors for p in self._pallets if p.error_types}
        return self._outer_enum("RuntimeError", errors)

    def _outer_enums(self) -> OuterEnums:
        return OuterEnums(
            call=self.runtime_call(), event=self._runtime_event(), error=self._runtime_error()
        )

    def _outer_enum(self, name: str, members: Mapping[type[Pallet], Any]) -> TypeId:
        """An enum with a case for each pallet that has such a type."""

        def variant() -> Variant:
            cases = []
            for pallet, inner in members.items():
                kind = f"{name.removeprefix('Runtime')}For<{pallet.chain_name}>"
                field = Field(type=inner(pallet), type_name=kind)
                index = U8(pallet.index)
                cases.append(VariantCase(name=pallet.chain_name, fields=(field,), index=index))
            return Variant(cases=tuple(cases))

        return self._registry.define(name, variant, path=(self._crate, name))

    def _phase(self) -> TypeId:
        number = Field(type=self._registry.register(U32), type_name="u32")
        cases = (
            VariantCase(name="ApplyExtrinsic", fields=(number,), index=U8(0)),
            VariantCase(name="Finalization", index=U8(1)),
            VariantCase(name="Initialization", index=U8(2)),
        )
        return self._registry.define("Phase", Variant(cases=cases), path=("frame_system", "Phase"))

    def _runtime(self) -> TypeId:
        path = (self._crate, "Runtime")
        return self._registry.define("Runtime", Composite(fields=()), path=path)

    # Pallets.

    def _pallet(self, pallet: type[Pallet]) -> PalletV14:
        return PalletV14(
            name=pallet.chain_name,
            storage=self._storage(pallet),
            calls=self._calls(pallet) if pallet.call_definitions else None,
            event=self._events(pallet) if pallet.event_types else None,
            constants=self._constants_of(pallet),
            error=self._errors(pallet) if pallet.error_types else None,
            index=U8(pallet.index),
        )

    def _pallet_v15(self, pallet: type[Pallet]) -> PalletV15:
        return PalletV15(**_members(self._pallet(pallet)), docs=pallet_docs(pallet))

    def _pallet_v16(self, pallet: type[Pallet]) -> PalletV16:
        v15 = self._pallet_v15(pallet)
        return PalletV16(
            name=v15.name,
            storage=None if v15.storage is None else _storage_v16(v15.storage),
            calls=_cases_type(v15.calls),
            event=_cases_type(v15.event),
            constants=tuple(
                ConstantEntryV16(**_members(constant), deprecation=NOT_DEPRECATED)
                for constant in v15.constants
            ),
            error=_cases_type(v15.error),
            associated_types=(),
            view_functions=(),
            index=v15.index,
            docs=v15.docs,
            deprecation=NOT_DEPRECATED,
        )

    def _calls(self, pallet: type[Pallet]) -> TypeId:
        def case(definition: CallDefinition) -> VariantCase:
            return VariantCase(
                name=definition.name,
                fields=tuple(self._registry.field(f.wire_name, f.hint) for f in definition.fields),
                index=U8(definition.index),
                docs=lines_of(definition.doc),
            )

        return self._registry.define(
            ("calls", pallet),
            lambda: Variant(cases=tuple(case(c) for c in pallet.call_definitions.values())),
            path=(_crate_of(pallet), "pallet", "Call"),
        )

    def _events(self, pallet: type[Pallet]) -> TypeId:
        return self._registry.define(
            ("events", pallet),
            lambda: Variant(
                cases=tuple(self._registry.case(e, i) for i, e in pallet.event_types.items())
            ),
            path=(_crate_of(pallet), "pallet", "Event"),
        )

    def _errors(self, pallet: type[Pallet]) -> TypeId:
        cases = tuple(
            VariantCase(name=error.__name__, index=U8(index), docs=docs_of(error))
            for index, error in pallet.error_types.items()
        )
        return self._registry.define(
            ("errors", pallet),
            Variant(cases=cases),
            path=(_crate_of(pallet), "pallet", "Error"),
        )

    def _storage(self, pallet: type[Pallet]) -> PalletStorage | None:
        docs = attribute_docs(pallet)
        entries = tuple(
            self._entry(item, docs.get(attribute, ()))
            for attribute, item in pallet.storage.items()
            if item.well_known_key is None
        )
        return PalletStorage(prefix=pallet.chain_name, entries=entries) if entries else None

    def _entry(self, item: Item[Any], docs: tuple[str, ...]) -> StorageEntry:
        has_default = item.default is not None
        return StorageEntry(
            name=item.name,
            modifier=Modifier.DEFAULT if has_default else Modifier.OPTIONAL,
            type=self._entry_type(item),
            default=item.codec.encode(item.default) if has_default else b"\0",
            docs=docs,
        )

    def _entry_type(self, item: Item[Any]) -> EntryType:
        value = self._registry.register(item.hint)
        if not item.keys_of:
            return PlainEntry(value=value)
        keys = [self._registry.register(key.hint) for key in item.keys_of]
        hashers = tuple(WireHasher(key.hasher.value) for key in item.keys_of)
        key = keys[0] if len(keys) == 1 else self._registry.tuple_of(*keys)
        return MapEntry(hashers=hashers, key=key, value=value)

    def _constants_of(self, pallet: type[Pallet]) -> tuple[ConstantEntry, ...]:
        docs = attribute_docs(pallet)
        values = self._constants[pallet.chain_name]
        return tuple(
            ConstantEntry(
                name=chain_name(attribute),
                type=self._registry.register(hint),
                value=codec_of(hint).encode(values[attribute]),
                docs=docs.get(attribute, ()),
            )
            for attribute, hint in pallet.constant_hints.items()
        )

    def _extensions(self) -> tuple[SignedExtension, ...]:
        return tuple(
            SignedExtension(
                identifier=extension.identifier,
                type=self._signed.extension(extension),
                additional_signed=self._registry.register(extension.additional),
            )
            for extension in EXTENSIONS
        )

    def _api(self, api: Api) -> RuntimeApi:
        def method(function: ApiFunction) -> ApiMethod:
            return ApiMethod(
                name=function.name,
                inputs=tuple(
                    ApiInput(name=name, type=self._registry.register(hint))
                    for name, hint in function.inputs
                ),
                output=self._registry.register(function.output),
                docs=(function.docs,),
            )

        return RuntimeApi(
            name=api.name, methods=tuple(method(f) for f in api.functions), docs=(api.docs,)
        )

    def _api_v16(self, api: Api) -> RuntimeApiV16:
        v15 = self._api(api)
        return RuntimeApiV16(
            name=v15.name,
            methods=tuple(
                ApiMethodV16(**_members(method), deprecation=NOT_DEPRECATED)
                for method in v15.methods
            ),
            docs=v15.docs,
            version=U32(api.version),
            deprecation=NOT_DEPRECATED,
        )


def _members(record: Struct) -> dict[str, Any]:
    """The fields of a record, for one of a later format that has them too."""
    return {name: getattr(record, name) for name in type(record).__field_names__}


def _storage_v16(storage: PalletStorage) -> PalletStorageV16:
    return PalletStorageV16(
        prefix=storage.prefix,
        entries=tuple(
            StorageEntryV16(**_members(entry), deprecation=NOT_DEPRECATED)
            for entry in storage.entries
        ),
    )


def _cases_type(type_id: TypeId | None) -> CasesType | None:
    return None if type_id is None else CasesType(type=type_id, deprecated={})


def pallet_docs(pallet: type[Pallet]) -> tuple[str, ...]:
    """The chapter of a pallet: the docstring of its module."""
    return lines_of(sys.modules[pallet.__module__].__doc__)


def _crate_of(pallet: type[Pallet]) -> str:
    """`TransactionPayment` → `pallet_transaction_payment`."""
    if pallet.chain_name == "System":
        return "frame_system"
    snake = re.sub("([A-Z])", r"_\1", pallet.chain_name)
    return "pallet" + snake.lower()  # determinism: allow (ASCII, for people)


def _path_of(cls: type) -> tuple[str, ...]:
    """`pallet_rent::types::Order`, for the types of pallets."""
    package, _, module = cls.__module__.rpartition(".")
    if package == "deepbrain.pallets":
        return (f"pallet_{module}", "types", cls.__name__)
    return default_path(cls)

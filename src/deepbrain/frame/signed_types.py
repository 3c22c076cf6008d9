"""The types around a signed extrinsic, by the names that every client knows."""

from typing import Any, Final, NamedTuple

from deepbrain.primitives.ids import AccountId, FixedBytes, Hash
from deepbrain.primitives.units import U8, U32, Balance, Nonce
from deepbrain.scale import Compact, TypeRegistry
from deepbrain.scale.definitions import (
    Composite,
    Field,
    Parameter,
    PrimitiveKind,
    TypeId,
    Variant,
    VariantCase,
)
from deepbrain.scale.registry import type_name

Unit = tuple[()]


class MetadataHash(FixedBytes, size=32):
    __slots__ = ()


class MortalEra:
    """The hint of an era; how eras are encoded is the runtime's business."""


class MetadataHashMode:
    """The hint of the mode of `CheckMetadataHash`."""


class Extension(NamedTuple):
    """A signed extension: what it adds to an extrinsic, and what only to the signed payload."""

    identifier: str
    crate: tuple[str, ...]
    extra: Any
    additional: Any


_CHECKS: Final = ("frame_system", "extensions")

EXTENSIONS: Final = (
    Extension("CheckNonZeroSender", (*_CHECKS, "check_non_zero_sender"), None, Unit),
    Extension("CheckSpecVersion", (*_CHECKS, "check_spec_version"), None, U32),
    Extension("CheckTxVersion", (*_CHECKS, "check_tx_version"), None, U32),
    Extension("CheckGenesis", (*_CHECKS, "check_genesis"), None, Hash),
    Extension("CheckMortality", (*_CHECKS, "check_mortality"), MortalEra, Hash),
    Extension("CheckNonce", (*_CHECKS, "check_nonce"), Compact[Nonce], Unit),
    Extension("CheckWeight", (*_CHECKS, "check_weight"), None, Unit),
    Extension("ChargeTransactionPayment", ("pallet_transaction_payment",), Compact[Balance], Unit),
    Extension(
        "CheckMetadataHash",
        ("frame_metadata_hash_extension",),
        MetadataHashMode,
        MetadataHash | None,
    ),
)
"""In this order: clients write the bytes of a payload in it."""


class SignedTypes:
    """Registers them."""

    def __init__(self, registry: TypeRegistry) -> None:
        self._registry = registry

    def address(self) -> TypeId:
        """`MultiAddress<AccountId, ()>`."""
        account, unit = self._registry.register(AccountId), self._registry.tuple_of()
        octet = self._registry.primitive(PrimitiveKind.U8)
        kinds = (
            ("Id", account, "AccountId"),
            ("Index", self._registry.compact(unit), "AccountIndex"),
            ("Raw", self._registry.sequence(octet), "Vec<u8>"),
            ("Address32", self._registry.array(32, octet), "[u8; 32]"),
            ("Address20", self._registry.array(20, octet), "[u8; 20]"),
        )
        return self._registry.define(
            "MultiAddress",
            _nameless_cases(kinds),
            path=("sp_runtime", "multiaddress", "MultiAddress"),
            params=(
                Parameter(name="AccountId", type=account),
                Parameter(name="AccountIndex", type=unit),
            ),
        )

    def signature(self) -> TypeId:
        """`MultiSignature`."""
        octet = self._registry.primitive(PrimitiveKind.U8)
        long, longer = self._registry.array(64, octet), self._registry.array(65, octet)
        kinds = (
            ("Ed25519", long, "ed25519::Signature"),
            ("Sr25519", long, "sr25519::Signature"),
            ("Ecdsa", longer, "ecdsa::Signature"),
        )
        return self._registry.define(
            "MultiSignature",
            _nameless_cases(kinds),
            path=("sp_runtime", "MultiSignature"),
        )

    def extra(self) -> TypeId:
        """The extensions as one tuple."""
        return self._registry.tuple_of(*(self.extension(each) for each in EXTENSIONS))

    def extension(self, extension: Extension) -> TypeId:
        """The type of one extension: what it adds to an extrinsic."""
        fields: tuple[Field, ...] = ()
        if extension.extra is MortalEra:
            fields = (Field(type=self._era(), type_name="Era"),)
        elif extension.extra is MetadataHashMode:
            fields = (Field(name="mode", type=self._mode(), type_name="Mode"),)
        elif extension.extra is not None:
            known = self._registry.register(extension.extra)
            fields = (Field(type=known, type_name=type_name(extension.extra)),)
        return self._registry.define(
            ("extension", extension.identifier),
            Composite(fields=fields),
            path=(*extension.crate, extension.identifier),
        )

    def unchecked_extrinsic(self, call: TypeId) -> TypeId:
        """`UncheckedExtrinsic<Address, Call, Signature, Extra>`: opaque bytes."""
        octets = self._registry.sequence(self._registry.primitive(PrimitiveKind.U8))
        return self._registry.define(
            "UncheckedExtrinsic",
            Composite(fields=(Field(type=octets, type_name="Vec<u8>"),)),
            path=("sp_runtime", "generic", "unchecked_extrinsic", "UncheckedExtrinsic"),
            params=(
                Parameter(name="Address", type=self.address()),
                Parameter(name="Call", type=call),
                Parameter(name="Signature", type=self.signature()),
                Parameter(name="Extra", type=self.extra()),
            ),
        )

    def _era(self) -> TypeId:
        octet = Field(type=self._registry.primitive(PrimitiveKind.U8), type_name="u8")
        mortal = tuple(
            VariantCase(name=f"Mortal{first}", fields=(octet,), index=U8(first))
            for first in range(1, 256)
        )
        cases = (VariantCase(name="Immortal", index=U8(0)), *mortal)
        return self._registry.define(
            "Era", Variant(cases=cases), path=("sp_runtime", "generic", "era", "Era")
        )

    def _mode(self) -> TypeId:
        cases = tuple(
            VariantCase(name=name, index=U8(index))
            for index, name in enumerate(("Disabled", "Enabled"))
        )
        return self._registry.define(
            "Mode", Variant(cases=cases), path=("frame_metadata_hash_extension", "Mode")
        )


def _nameless_cases(kinds: tuple[tuple[str, TypeId, str], ...]) -> Variant:
    return Variant(
        cases=tuple(
            VariantCase(name=name, fields=(Field(type=kind, type_name=shown),), index=U8(index))
            for index, (name, kind, shown) in enumerate(kinds)
        )
    )

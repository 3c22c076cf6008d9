"""The runtime APIs and their types, as `state_call` and the metadata offer them.

Source: `sp_api`, `sp_transaction_pool::runtime_api`, `pallet_transaction_payment`.
"""

from typing import Final

from deepbrain.frame.metadata import Api, ApiFunction
from deepbrain.frame.outer import outer_types
from deepbrain.frame.weight import DispatchClass, Weight
from deepbrain.frame.wire import TupleUnion
from deepbrain.pallets.system import RuntimeVersion
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.units import U8, U32, U64, Balance, Nonce
from deepbrain.scale import Enumeration, Struct, TypeRegistry
from deepbrain.scale.definitions import TypeId


class OpaqueExtrinsic(bytes):
    """An extrinsic, its length in front."""

    __slots__ = ()

    @classmethod
    def __scale_register__(cls, registry: TypeRegistry) -> TypeId:
        return outer_types(registry).unchecked_extrinsic()


class RuntimeDispatchInfo(Struct):
    """What an extrinsic would cost."""

    __scale_path__ = ("pallet_transaction_payment", "types", "RuntimeDispatchInfo")

    weight: Weight
    class_: DispatchClass
    partial_fee: Balance
    """The fee without its tip."""


class InclusionFee(Struct):
    """The parts of a fee."""

    __scale_path__ = ("pallet_transaction_payment", "types", "InclusionFee")

    base_fee: Balance
    len_fee: Balance
    adjusted_weight_fee: Balance


class FeeDetails(Struct):
    """The parts of a fee, and the tip."""

    __scale_path__ = ("pallet_transaction_payment", "types", "FeeDetails")

    inclusion_fee: InclusionFee | None
    tip: Balance


class TransactionSource(Enumeration):
    """Where an extrinsic comes from; judged alike."""

    __scale_path__ = ("sp_runtime", "transaction_validity", "TransactionSource")

    IN_BLOCK = 0
    LOCAL = 1
    EXTERNAL = 2


class ValidTransaction(Struct):
    """An extrinsic that may enter a block."""

    __scale_path__ = ("sp_runtime", "transaction_validity", "ValidTransaction")

    priority: U64
    requires: tuple[bytes, ...]
    provides: tuple[bytes, ...]
    longevity: U64
    propagate: bool


class InvalidKind(TupleUnion):
    """Why an extrinsic may not."""

    __scale_path__ = ("sp_runtime", "transaction_validity", "InvalidTransaction")


class Call(InvalidKind, index=0): ...


class Payment(InvalidKind, index=1): ...


class Future(InvalidKind, index=2): ...


class Stale(InvalidKind, index=3): ...


class BadProof(InvalidKind, index=4): ...


class AncientBirthBlock(InvalidKind, index=5): ...


class ExhaustsResources(InvalidKind, index=6): ...


class Custom(InvalidKind, index=7):
    value: U8


class BadMandatory(InvalidKind, index=8): ...


class MandatoryValidation(InvalidKind, index=9): ...


class BadSigner(InvalidKind, index=10): ...


class UnknownKind(TupleUnion):
    """Why nobody can say."""

    __scale_path__ = ("sp_runtime", "transaction_validity", "UnknownTransaction")


class CannotLookup(UnknownKind, index=0): ...


class ValidityError(TupleUnion):
    """Why an extrinsic may not enter a block."""

    __scale_path__ = ("sp_runtime", "transaction_validity", "TransactionValidityError")


class Invalid(ValidityError, index=0):
    value: InvalidKind


class Unknown(ValidityError, index=1):
    value: UnknownKind


class TransactionValidity(TupleUnion):
    """`Result<ValidTransaction, TransactionValidityError>`."""

    @classmethod
    def __scale_register__(cls, registry: TypeRegistry) -> TypeId:
        # Clients know a `Result` by its two parameters.
        return registry.result(
            registry.register(ValidTransaction), registry.register(ValidityError)
        )


class Ok(TransactionValidity, index=0):
    value: ValidTransaction


class Err(TransactionValidity, index=1):
    value: ValidityError


APIS: Final = (
    Api(
        "Core",
        5,
        (ApiFunction("version", (), RuntimeVersion, "The version of the runtime."),),
        "What every runtime can do.",
    ),
    Api(
        "Metadata",
        2,
        (
            ApiFunction("metadata", (), bytes, "The metadata in format 14."),
            ApiFunction(
                "metadata_at_version",
                (("version", U32),),
                bytes | None,
                "The metadata in a format, if there is one.",
            ),
            ApiFunction("metadata_versions", (), tuple[U32, ...], "The formats there are."),
        ),
        "What the runtime says of itself.",
    ),
    Api(
        "TaggedTransactionQueue",
        3,
        (
            ApiFunction(
                "validate_transaction",
                (("source", TransactionSource), ("tx", OpaqueExtrinsic), ("block_hash", Hash)),
                TransactionValidity,
                "Whether an extrinsic may enter a block after `block_hash`.",
            ),
        ),
        "What a pool asks.",
    ),
    Api(
        "AccountNonceApi",
        1,
        (ApiFunction("account_nonce", (("account", AccountId),), Nonce, "The next nonce."),),
        "What a signer asks.",
    ),
    Api(
        "TransactionPaymentApi",
        4,
        (
            ApiFunction(
                "query_info",
                (("uxt", OpaqueExtrinsic), ("len", U32)),
                RuntimeDispatchInfo,
                "What an extrinsic would cost.",
            ),
            ApiFunction(
                "query_fee_details",
                (("uxt", OpaqueExtrinsic), ("len", U32)),
                FeeDetails,
                "What an extrinsic would cost, in parts.",
            ),
            ApiFunction(
                "query_weight_to_fee", (("weight", Weight),), Balance, "What a weight costs."
            ),
            ApiFunction("query_length_to_fee", (("length", U32),), Balance, "What bytes cost."),
        ),
        "What a payer asks.",
    ),
)

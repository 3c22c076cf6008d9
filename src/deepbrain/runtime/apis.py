"""Runtime calls by name, with SCALE arguments: what `state_call` answers.

call(executive, reader, head, "AccountNonceApi_account_nonce", account) -> encoded nonce
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from deepbrain.frame.weight import Weight
from deepbrain.pallets.fees import Fees
from deepbrain.primitives.errors import DecodeError, DeepBrainError
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.units import U32, U64, Balance, Nonce
from deepbrain.runtime.api_types import (
    Err,
    FeeDetails,
    InclusionFee,
    Invalid,
    InvalidKind,
    Ok,
    RuntimeDispatchInfo,
    TransactionSource,
    TransactionValidity,
    ValidTransaction,
)
from deepbrain.runtime.errors import InvalidTransaction
from deepbrain.runtime.executive import Executive, weight_of
from deepbrain.runtime.extrinsic import Extrinsic, decode_extrinsic
from deepbrain.scale import codec_of, decode_compact
from deepbrain.state.store import Reader

T = TypeVar("T")

METADATA_VERSIONS: Final = (14, 15, 16)


class UnknownApi(DeepBrainError):
    """The runtime has no function of this name."""

    def __init__(self, name: str) -> None:
        # Clients compare this text to fall back on older functions.
        super().__init__(f"Exported method {name} is not found")


class _Question:
    """One call: the state it is about, and its arguments as they are read."""

    def __init__(self, executive: Executive, reader: Reader, head: Hash, data: bytes) -> None:
        self.executive, self.runtime = executive, executive.runtime
        self.reader, self.head = reader, head
        self._data, self._at = data, 0

    def argument(self, hint: type[T]) -> T:
        """The next argument. Raises: DecodeError."""
        value, self._at = codec_of(hint).decode_at(self._data, self._at, 0)
        return value

    def extrinsic(self) -> bytes:
        """The next argument, an extrinsic with its length in front. Raises: DecodeError."""
        size, start = decode_compact(self._data, self._at)
        if start + size > len(self._data):
            raise DecodeError("the input ends inside an extrinsic")
        raw, self._at = self._data[self._at : start + size], start + size
        return raw

    def priced(self) -> tuple[Extrinsic, int]:
        """An extrinsic, signed or not, and its length: what fee queries are about."""
        raw = self.extrinsic()
        return decode_extrinsic(raw, self.runtime.calls), int(self.argument(U32))

    def fees(self) -> Fees:
        """The fees, as they are at the block."""
        return self.runtime.at(self.reader, self.head).fees

    def end(self) -> None:
        """Raises: DecodeError: something is left over."""
        if self._at != len(self._data):
            raise DecodeError(f"{len(self._data) - self._at} bytes are left over")


def call(executive: Executive, reader: Reader, head: Hash, name: str, data: bytes) -> bytes:
    """The encoded answer, on top of the state `reader` of block `head`.

    Raises: UnknownApi, DecodeError.
    """
    function = FUNCTIONS.get(name)
    if function is None:
        raise UnknownApi(name)
    return function(_Question(executive, reader, head, data))


def _version(question: _Question) -> bytes:
    question.end()
    return question.runtime.version.encode()


def _metadata(question: _Question) -> bytes:
    question.end()
    return codec_of(bytes).encode(question.runtime.metadata(14))


def _metadata_at_version(question: _Question) -> bytes:
    version = question.argument(U32)
    question.end()
    known = next((v for v in METADATA_VERSIONS if v == version), None)
    found = None if known is None else question.runtime.metadata(known)
    return codec_of(bytes | None).encode(found)


def _metadata_versions(question: _Question) -> bytes:
    question.end()
    return codec_of(tuple[U32, ...]).encode(tuple(U32(v) for v in METADATA_VERSIONS))


def _account_nonce(question: _Question) -> bytes:
    who = question.argument(AccountId)
    question.end()
    block = question.runtime.at(question.reader, question.head)
    return codec_of(Nonce).encode(block.system.account_of(who).nonce)


def _query_info(question: _Question) -> bytes:
    extrinsic, length = question.priced()
    question.end()
    weight = weight_of(extrinsic)
    fees = question.fees()
    return RuntimeDispatchInfo(
        weight=Weight(ref_time=U64(weight)),
        class_=extrinsic.call.definition.dispatch_class,
        partial_fee=fees.fee_of(weight, length),
    ).encode()


def _query_fee_details(question: _Question) -> bytes:
    extrinsic, length = question.priced()
    question.end()
    fees = question.fees()
    inclusion = InclusionFee(
        base_fee=Balance(0),
        len_fee=fees.fee_of(0, length),
        adjusted_weight_fee=fees.fee_of(weight_of(extrinsic), 0),
    )
    tip = extrinsic.signed.tip if extrinsic.signed else Balance(0)
    return FeeDetails(inclusion_fee=inclusion, tip=tip).encode()


def _query_weight_to_fee(question: _Question) -> bytes:
    weight = question.argument(Weight)
    question.end()
    return codec_of(Balance).encode(question.fees().fee_of(int(weight.ref_time), 0))


def _query_length_to_fee(question: _Question) -> bytes:
    length = question.argument(U32)
    question.end()
    return codec_of(Balance).encode(question.fees().fee_of(0, int(length)))


def _validate_transaction(question: _Question) -> bytes:
    question.argument(TransactionSource)
    raw = question.extrinsic()
    question.argument(Hash)
    question.end()
    codec = codec_of(TransactionValidity)
    try:
        validity = question.executive.validate(question.reader, question.head, raw)
    except InvalidTransaction as refusal:
        kind = InvalidKind.__variants__[refusal.kind.index]
        return codec.encode(Err(value=Invalid(value=kind())))
    valid = ValidTransaction(
        priority=U64(validity.priority),
        requires=validity.requires,
        provides=validity.provides,
        longevity=U64(validity.longevity),
        propagate=True,
    )
    return codec.encode(Ok(value=valid))


FUNCTIONS: Final[Mapping[str, Callable[[_Question], bytes]]] = {
    "Core_version": _version,
    "Metadata_metadata": _metadata,
    "Metadata_metadata_at_version": _metadata_at_version,
    "Metadata_metadata_versions": _metadata_versions,
    "AccountNonceApi_account_nonce": _account_nonce,
    "TransactionPaymentApi_query_info": _query_info,
    "TransactionPaymentApi_query_fee_details": _query_fee_details,
    "TransactionPaymentApi_query_weight_to_fee": _query_weight_to_fee,
    "TransactionPaymentApi_query_length_to_fee": _query_length_to_fee,
    "TaggedTransactionQueue_validate_transaction": _validate_transaction,
}

"""`payment_`: what an extrinsic would cost."""

from collections.abc import Iterator
from typing import Final

from deepbrain.node.chain import Chain
from deepbrain.node.rpc.dispatch import Method
from deepbrain.node.rpc.reading import known
from deepbrain.node.rpc.wire import Json
from deepbrain.primitives.ids import Hash
from deepbrain.runtime.api_types import FeeDetails
from deepbrain.scale import decode_compact

CLASSES: Final = ("normal", "operational", "mandatory")


class PaymentRpc:
    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def methods(self) -> Iterator[Method]:
        yield Method("payment_queryInfo", self.query_info)
        yield Method("payment_queryFeeDetails", self.query_fee_details)

    def query_info(self, extrinsic: bytes, at: Hash | None = None) -> Json:
        """Weight, class and fee of a (possibly unsigned) extrinsic."""
        arguments = extrinsic + len(extrinsic).to_bytes(4, "little")
        with known():
            info = self._chain.call("TransactionPaymentApi_query_info", arguments, at)
        ref_time, place = decode_compact(info, 0)
        proof_size, place = decode_compact(info, place)
        fee = int.from_bytes(info[place + 1 : place + 17], "little")
        return {
            "weight": {"ref_time": ref_time, "proof_size": proof_size},
            "class": CLASSES[info[place]],
            "partialFee": str(fee),
        }

    def query_fee_details(self, extrinsic: bytes, at: Hash | None = None) -> Json:
        """The parts of the fee, as decimal text."""
        arguments = extrinsic + len(extrinsic).to_bytes(4, "little")
        with known():
            found = self._chain.call("TransactionPaymentApi_query_fee_details", arguments, at)
        fees = FeeDetails.decode(found).inclusion_fee
        return {
            "inclusionFee": None
            if fees is None
            else {
                "baseFee": str(fees.base_fee),
                "lenFee": str(fees.len_fee),
                "adjustedWeightFee": str(fees.adjusted_weight_fee),
            }
        }

"""The chain seen from outside, and what a renter needs on her own machine.

async with await Client.connect("ws://127.0.0.1:9944") as client:
order = await client.at().get(Rent.orders, OrderId(7))
receipt = await client.submit(Rent.close.make(order=OrderId(7), exit_code=None), keypair)
receipt.one(OrderEnded).bill

client      one node: reads, heads, submissions       rpc        its connection
reads       typed storage at a block                  submit     signing, watching, receipts
workspace   a directory as one deterministic tar      results    a hostile tar as plain files
keystore    keys on disk, as wallets write them       errors     what may go wrong
"""

from deepbrain.client.client import Client
from deepbrain.client.errors import (
    CallFailed,
    ConnectionLost,
    InvalidExtrinsic,
    NodeUnreachable,
    NotIncluded,
    RpcError,
    SubmissionUnknown,
    WrongChain,
)
from deepbrain.client.reads import At
from deepbrain.client.submit import BlockRef, Receipt

__all__ = [
    "At",
    "BlockRef",
    "CallFailed",
    "Client",
    "ConnectionLost",
    "InvalidExtrinsic",
    "NodeUnreachable",
    "NotIncluded",
    "Receipt",
    "RpcError",
    "SubmissionUnknown",
    "WrongChain",
]

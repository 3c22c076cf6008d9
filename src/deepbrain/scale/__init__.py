"""SCALE, the encoding of everything on the chain, derived from type hints.

    class Order(Struct):
        renter: AccountId
        price: Compact[Balance]
        note: Annotated[bytes, MaxLen(64)]

    Order.decode(order.encode()) == order
    codec_of(tuple[Order, ...]).max_encoded_len is None

Decoding is strict: one encoding for each value, nothing left over, nothing deeper than `MAX_DEPTH`,
nothing longer than its bound. Whatever the input, it returns a value or raises `DecodeError`.
"""

from deepbrain.scale.codec import (
    COMPACT,
    MAX_DEPTH,
    MAX_LEN,
    Codec,
    Compact,
    EncodeError,
    MaxLen,
)
from deepbrain.scale.compact import compact_size, decode_compact, encode_compact
from deepbrain.scale.derive import codec_of, decode, encode
from deepbrain.scale.records import variants_codec
from deepbrain.scale.registry import TypeRegistry
from deepbrain.scale.shape import StructField, StructType, fields_of
from deepbrain.scale.structs import Enumeration, Struct, TaggedUnion

__all__ = [
    "COMPACT",
    "MAX_DEPTH",
    "MAX_LEN",
    "Codec",
    "Compact",
    "EncodeError",
    "Enumeration",
    "MaxLen",
    "Struct",
    "StructField",
    "StructType",
    "TaggedUnion",
    "TypeRegistry",
    "codec_of",
    "compact_size",
    "decode",
    "decode_compact",
    "encode",
    "encode_compact",
    "fields_of",
    "variants_codec",
]

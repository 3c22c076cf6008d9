"""Codecs of record classes and tagged unions: generated source, one pair of functions per class.

Runs of integers, booleans, fixed byte strings and records of these are read and written by a single
`struct.Struct`; every other field goes through the function of its own codec.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from deepbrain.primitives.errors import ArithmeticFailure, DecodeError
from deepbrain.primitives.ids import FixedBytes
from deepbrain.primitives.units import Unsigned
from deepbrain.scale.codec import MAX_DEPTH, Codec, EncodeError, too_deep
from deepbrain.scale.containers import AnyCodec, linked, not_built, sum_of
from deepbrain.scale.shape import StructType, compile_into, fields_of, setter

_WIDTHS: Final = {8: "B", 16: "H", 32: "I", 64: "Q", 128: "16s"}


def has_plain_range(cls: type[Unsigned]) -> bool:
    """Whether every value of the width is in range, so that decoding need not check it."""
    return cls.MAX == (1 << cls.BITS) - 1 and cls.__new__ is Unsigned.__new__


def has_plain_length(cls: type[FixedBytes]) -> bool:
    """Whether every string of the length is valid, so that decoding need not check it."""
    return cls.__new__ is FixedBytes.__new__


def checked_int(cls: type[Unsigned], value: int) -> Unsigned:
    """Raises: DecodeError: out of the range of `cls`."""
    try:
        return cls(value)
    except ArithmeticFailure as error:
        raise DecodeError(f"{value} is out of the range of {cls.__name__}") from error


def strict_bool(byte: int) -> bool:
    """Raises: DecodeError: neither 0 nor 1."""
    if byte > 1:
        raise DecodeError("a bool is a byte other than 0 or 1")
    return byte == 1


def wrong_size(cls: type[FixedBytes], value: bytes) -> EncodeError:
    """What to raise where a bare byte string of another length stands for a `cls`."""
    return EncodeError(f"{cls.__name__} has {cls.SIZE} bytes, not {len(value)}")


class _Field(NamedTuple):
    """A place in a run: the hint and how its value is reached from the record that is written."""

    hint: Any
    path: str


class _Source:
    """The two functions of one record while they are being written.

    A field that is itself a record of fixed layout is read and written in place, with the run around
    it. Names: `v3` is a value read, `r2` a record made of some, `t3`, `c2` and `set_…` what makes them.
    """

    def __init__(
        self, cls: StructType, hints: tuple[Any, ...], codecs: tuple[AnyCodec, ...]
    ) -> None:
        self.cls = cls
        self.hints = hints
        self.codecs = codecs
        self.encode = ["def encode(value, out):"]
        self.decode = ["def decode(data, at, depth):"]
        self.makers: list[str] = []
        """Statements that make the records inside, once everything is read."""
        self.made: list[str] = []
        self.count = 0
        self.run: list[_Field] = []
        self.scope: dict[str, Any] = {
            "new": object.__new__,
            "int_new": int.__new__,
            "bytes_new": bytes.__new__,
            "from_bytes": int.from_bytes,
            "checked_int": checked_int,
            "strict_bool": strict_bool,
            "wrong_size": wrong_size,
        }

    def write(self) -> tuple[Any, Any]:
        for i, (name, hint) in enumerate(zip(self.cls.__field_names__, self.hints, strict=True)):
            if has_fixed_layout(hint):
                self.made.append(self._fixed(hint, f"value.{name}"))
            else:
                self._close()
                self._foreign(i)
        self._close()
        self._finish()
        return self.scope["encode"], self.scope["decode"]

    def _fixed(self, hint: Any, path: str) -> str:
        """A field of fixed layout; gives the expression of its value once it is read."""
        if struct_format(hint) is None:
            return self._inner(hint, path)
        self.run.append(_Field(hint, path))
        self.count += 1
        return self._unpacked(hint, self.count - 1)

    def _inner(self, cls: StructType, path: str) -> str:
        """A record in place, its fields among those of the run."""
        self.scope[f"c{self.count}"] = cls
        record = f"r{self.count}"
        made = [f"    {record} = new(c{self.count})"]
        for field in fields_of(cls):
            self.scope[f"set_{record}_{field.name}"] = setter(cls, field.name)
            value = self._fixed(field.hint, f"{path}.{field.name}")
            made.append(f"    set_{record}_{field.name}({record}, {value})")
        self.makers += made
        return record

    def _close(self) -> None:
        """One `pack` and one `unpack` for the fields of the run."""
        run, start = self.run, self.count - len(self.run)
        if not run:
            return
        formats = [str(struct_format(field.hint)) for field in run]
        layout = struct.Struct("<" + "".join(formats))
        # `?` writes any truth as 1; it would also read any byte as true, so reading takes the byte.
        packed_bools = (
            "?" if field.hint is bool else f for field, f in zip(run, formats, strict=True)
        )
        self.scope[f"pack_{start}"] = struct.Struct("<" + "".join(packed_bools)).pack
        self.scope[f"unpack_{start}"] = layout.unpack_from
        packed = ", ".join(self._packed(field, i) for i, field in enumerate(run, start))
        self.encode.append(f"    out += pack_{start}({packed})")
        targets = "".join(f"v{i}, " for i in range(start, self.count))
        self.decode.append(f"    {targets} = unpack_{start}(data, at)")
        self.decode.append(f"    at += {layout.size}")
        self.run = []

    def _packed(self, field: _Field, i: int) -> str:
        hint, path = field
        if hint is bool:
            return path
        if issubclass(hint, FixedBytes):
            self.encode.append(f"    x{i} = {path}")
            self.encode.append(f"    if len(x{i}) != {hint.SIZE}: raise wrong_size(t{i}, x{i})")
            return f"x{i}"
        return f"{path}.to_bytes(16, 'little')" if hint.BITS == 128 else path

    def _unpacked(self, hint: Any, i: int) -> str:
        self.scope[f"t{i}"] = hint
        if hint is bool:
            return f"strict_bool(v{i})"
        if issubclass(hint, FixedBytes):
            plain = has_plain_length(hint)
            return f"bytes_new(t{i}, v{i})" if plain else f"t{i}(v{i})"
        number = f"from_bytes(v{i}, 'little')" if hint.BITS == 128 else f"v{i}"
        maker = "int_new" if has_plain_range(hint) else "checked_int"
        return f"{maker}(t{i}, {number})"

    def _foreign(self, i: int) -> None:
        """A field that its own codec reads and writes."""
        self.scope[f"encode_{i}"], self.scope[f"decode_{i}"] = linked(self.codecs[i])
        self.encode.append(f"    encode_{i}(value.{self.cls.__field_names__[i]}, out)")
        self.decode.append(f"    f{i}, at = decode_{i}(data, at, depth)")
        self.made.append(f"f{i}")

    def _finish(self) -> None:
        self.scope["cls"] = self.cls
        self.encode.append("    return None")
        self.decode += self.makers
        self.decode.append("    record = new(cls)")
        for i, name in enumerate(self.cls.__field_names__):
            self.scope[f"set_{i}"] = setter(self.cls, name)
            self.decode.append(f"    set_{i}(record, {self.made[i]})")
        self.decode.append("    return record, at")
        compile_into(f"<codec {self.cls.__qualname__}>", self.encode + self.decode, self.scope)


def has_fixed_layout(hint: Any) -> bool:
    """Whether values of `hint` are read and written by `struct` alone: a record of such, too."""
    if struct_format(hint) is not None:
        return True
    if not isinstance(hint, StructType) or hasattr(hint, "__scale_codec__"):
        return False
    # A union's root has no layout; a variant that stands alone is a record like others.
    if "__variants__" in vars(hint) or "__makes_unions__" in vars(hint):
        return False
    return all(has_fixed_layout(field.hint) for field in fields_of(hint))


def struct_format(hint: Any) -> str | None:
    """The `struct` format of a hint of fixed width, or None."""
    if hint is bool:
        return "B"
    if not isinstance(hint, type):
        return None
    if issubclass(hint, FixedBytes):
        return f"{hint.SIZE}s"
    return _WIDTHS.get(hint.BITS) if issubclass(hint, Unsigned) else None


def fill_record(
    codec: AnyCodec, cls: StructType, hints: tuple[Any, ...], codecs: tuple[AnyCodec, ...]
) -> None:
    """Finish the codec of a record class whose fields have these hints and codecs."""
    codec.raw_encode, codec.raw_decode = _Source(cls, hints, codecs).write()
    codec.min_encoded_len = sum(field.min_encoded_len for field in codecs)
    codec.max_encoded_len = sum_of(field.max_encoded_len for field in codecs)


def fill_union(codec: AnyCodec, variants: Mapping[int, tuple[type, AnyCodec]]) -> None:
    """Finish the codec of a union: one index byte, then the variant's record."""
    encoders: dict[type, tuple[int, Any]] = {}
    decoders: list[Any] = [None] * 256
    for index, (cls, variant) in variants.items():
        encode_variant, decode_variant = linked(variant)
        encoders[cls] = (index, encode_variant)
        decoders[index] = decode_variant
    name = codec.name

    def encode(value: Any, out: bytearray) -> None:
        entry = encoders.get(type(value))
        if entry is None:
            raise EncodeError(f"{type(value).__name__} is not a variant of {name}")
        out.append(entry[0])
        entry[1](value, out)

    def decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        decode_variant = decoders[data[at]]
        if decode_variant is None:
            raise DecodeError(f"{data[at]} is not the index of a variant of {name}")
        if depth >= MAX_DEPTH:
            raise too_deep()
        return decode_variant(data, at + 1, depth + 1)  # type: ignore[no-any-return]

    longest = [variant.max_encoded_len for _, variant in variants.values()]
    codec.raw_encode, codec.raw_decode = encode, decode
    codec.min_encoded_len = 1 + min((v.min_encoded_len for _, v in variants.values()), default=0)
    codec.max_encoded_len = None if None in longest else 1 + max((*sized(longest), 0))


def sized(lengths: list[int | None]) -> list[int]:
    """Those that are bounded."""
    return [length for length in lengths if length is not None]


def variants_codec(name: str, variants: Mapping[int, tuple[type, AnyCodec]]) -> Codec[Any]:
    """A tagged union put together by hand, from record classes that share no root."""
    codec = empty_codec(name)
    fill_union(codec, variants)
    return codec


def empty_codec(name: str) -> AnyCodec:
    """A codec to be filled: it may be referred to while it is being built."""
    unbuilt: Any = not_built
    return Codec(name, unbuilt, unbuilt, min_encoded_len=1, max_encoded_len=None)

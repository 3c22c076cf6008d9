"""Every type in the metadata, against `scalecodec` reading that metadata: an independent oracle.

For each hint of a call, an event, a storage entry, a constant and a runtime API: what we encode is what
they encode and what they can read, and what they encode is what we read.
"""

from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scalecodec.base import RuntimeConfigurationObject, ScaleBytes
from scalecodec.type_registry import load_type_registry_preset
from tests.runtime.local import load_spec

from deepbrain.frame.calls import Call
from deepbrain.frame.events import EventRecords
from deepbrain.frame.journal import Deposited
from deepbrain.frame.metadata import MetadataSource
from deepbrain.frame.wire import TupleUnion
from deepbrain.primitives.ids import AccountId, FixedBytes
from deepbrain.primitives.units import Unsigned
from deepbrain.runtime.api_types import APIS, OpaqueExtrinsic
from deepbrain.runtime.runtime import PALLETS, Runtime
from deepbrain.scale import codec_of, fields_of
from deepbrain.scale.codec import MaxLen
from deepbrain.scale.derive import option_of
from deepbrain.scale.registry import camel_case
from deepbrain.scale.shape import StructType

RUNTIME = Runtime(load_spec())
SOURCE = MetadataSource(
    crate="deepbrain_runtime", pallets=PALLETS, constants=RUNTIME.constants, apis=APIS
)
REGISTRY = SOURCE._registry
CALLS = [d for pallet in PALLETS for d in pallet.call_definitions.values()]
EVENTS = [(pallet.index, e) for pallet in PALLETS for e in pallet.event_types.values()]


# -- Every hint there is, by where it was found.


def hints() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pallet in PALLETS:
        for definition in pallet.call_definitions.values():
            for field in definition.fields:
                found[f"{pallet.chain_name}.{definition.name}.{field.name}"] = field.hint
        for item in pallet.storage.values():
            if item.well_known_key is None:
                found[f"{pallet.chain_name}.{item.name}"] = item.hint
                for place, key in enumerate(item.keys_of):
                    found[f"{pallet.chain_name}.{item.name} key {place}"] = key.hint
        for name, hint in pallet.constant_hints.items():
            found[f"{pallet.chain_name}.{name}"] = hint
    for api in APIS:
        for function in api.functions:
            found[f"{api.name}.{function.name} result"] = function.output
            for name, hint in function.inputs:
                found[f"{api.name}.{function.name}.{name}"] = hint
    # Each once; an extrinsic is opaque bytes, which `tests/runtime/test_metadata.py` reads.
    unique = {hint: where for where, hint in reversed(found.items()) if hint is not OpaqueExtrinsic}
    return {where: hint for hint, where in unique.items()}


HINTS = hints()
for each in HINTS.values():
    REGISTRY.register(each)  # format 14 alone would leave out those of runtime APIs


def outside() -> tuple[RuntimeConfigurationObject, Any]:
    """The metadata in their eyes."""
    config = RuntimeConfigurationObject(ss58_format=42)
    config.update_type_registry(load_type_registry_preset(name="core"))
    raw = ScaleBytes(bytearray(SOURCE.v14()))
    metadata = config.create_scale_object("MetadataVersioned", data=raw)
    metadata.decode()
    config.add_portable_registry(metadata)
    return config, metadata


CONFIG, METADATA = outside()


# -- Values of a hint.


def values(hint: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limit = next((mark.limit for mark in args[1:] if isinstance(mark, MaxLen)), None)
        return values(args[0], depth) if limit is None else bounded(args[0], limit, depth)
    if origin in (Union, UnionType):
        return st.none() | values(option_of(hint), depth)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return bounded(hint, 4, depth)
    if origin is tuple:
        return st.tuples(*(values(arg, depth) for arg in args))
    if origin is dict:
        return st.dictionaries(values(args[0], depth), values(args[1], depth), max_size=3)
    return leaf(hint, depth)


def bounded(hint: Any, limit: int, depth: int) -> st.SearchStrategy[Any]:
    if hint is bytes:
        return st.binary(max_size=min(limit, 60))
    if hint is str:
        return st.text(max_size=min(limit // 4, 20))
    item = get_args(hint)[0]
    most = 0 if item is Call and depth > 2 else min(limit, 3)
    return st.lists(values(item, depth + 1), max_size=most).map(tuple)


def leaf(hint: Any, depth: int) -> st.SearchStrategy[Any]:
    if hint is Call:
        definitions = [d for d in CALLS if depth < 2 or not any(is_calls(f.hint) for f in d.fields)]
        return st.sampled_from(definitions).flatmap(lambda d: call_of(d, depth))
    if hint is EventRecords:
        return st.lists(st.sampled_from(EVENTS).flatmap(event_of), max_size=4).map(records)
    if hint in (bytes, str):
        return bounded(hint, 60, depth)
    if hint is bool:
        return st.booleans()
    if hint is NoneType:
        return st.none()
    if isinstance(hint, StructType):
        if "__variants__" in vars(hint):
            return st.sampled_from(list(hint.__variants__.values())).flatmap(
                lambda case: struct_of(case, depth)
            )
        return struct_of(hint, depth)
    if issubclass(hint, Enum):
        return st.sampled_from(hint)
    if issubclass(hint, FixedBytes):
        return st.binary(min_size=hint.SIZE, max_size=hint.SIZE).map(hint)
    assert issubclass(hint, Unsigned), hint
    most = getattr(hint, "ONE", hint.MAX)
    edges = [n for n in (0, 1, 63, 64, 2**14 - 1, 2**14, 2**30 - 1, 2**30, most) if n <= most]
    return (st.sampled_from(edges) | st.integers(0, most)).map(hint)


def is_calls(hint: Any) -> bool:
    return hint is Call or hint == tuple[Call, ...]


def call_of(definition: Any, depth: int) -> st.SearchStrategy[Call]:
    arguments = st.tuples(*(values(field.hint, depth + 1) for field in definition.fields))
    return arguments.map(lambda found: Call(definition, found))


def struct_of(cls: Any, depth: int) -> st.SearchStrategy[Any]:
    fields = {field.name: values(field.hint, depth + 1) for field in fields_of(cls)}
    return st.fixed_dictionaries(fields).map(lambda found: cls(**found))


def event_of(entry: tuple[int, Any]) -> st.SearchStrategy[Deposited]:
    return struct_of(entry[1], 0).map(lambda event: Deposited(entry[0], event))


def records(events: list[Deposited]) -> EventRecords:
    encoded, count = RUNTIME.events.encode([(0, events)])
    assert count == len(events)
    return encoded


# -- A value as they want it.


def theirs(value: Any) -> Any:
    if isinstance(value, Call):
        arguments = [{"name": n, "value": theirs(each)} for n, each in value.named()]
        pallet, name = value.name.split(".")
        return {"call_module": pallet, "call_function": name, "call_args": arguments}
    if isinstance(type(value), StructType):
        return theirs_of_struct(value)
    if isinstance(value, Enum):
        return camel_case(value.name)
    if isinstance(value, AccountId | bytes):
        return "0x" + value.hex()
    if isinstance(value, tuple):
        return [theirs(each) for each in value]
    if isinstance(value, dict):
        return [(theirs(key), theirs(each)) for key, each in value.items()]
    if isinstance(value, bool | str) or value is None:
        return value
    return int(value)


def theirs_of_struct(value: Any) -> Any:
    cls = type(value)
    fields = {field.wire_name: theirs(getattr(value, field.name)) for field in fields_of(cls)}
    if cls.__wire_index__ is None:
        return fields
    name = vars(cls).get("__wire_name__", cls.__name__)
    if not fields:
        return name
    if issubclass(cls, TupleUnion):
        nameless = tuple(fields.values())
        return {name: nameless[0] if len(nameless) == 1 else nameless}
    return {name: fields}


def encoded(hint: Any, value: Any) -> bytes:
    if hint is Call:
        return value.encode()
    if hint == tuple[Call, ...]:
        return bytes((len(value) << 2,)) + b"".join(each.encode() for each in value)
    return codec_of(hint).encode(value)


def decoded(hint: Any, data: bytes) -> Any:
    if hint is Call:
        return RUNTIME.calls.decode(data)
    if hint == tuple[Call, ...]:
        found, at = RUNTIME.calls._decode_calls_at(data, 0, 0)
        assert at == len(data)
        return found
    return codec_of(hint).decode(data)


@pytest.mark.parametrize("where", HINTS)
@settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_ours_and_theirs_are_one_encoding(where: str, data: st.DataObject) -> None:
    hint = HINTS[where]
    value = data.draw(values(hint))
    ours = encoded(hint, value)
    kind = f"scale_info::{REGISTRY.register(hint)}"
    reading = CONFIG.create_scale_object(kind, ScaleBytes(bytearray(ours)), metadata=METADATA)
    reading.decode(check_remaining=True)
    assert decoded(hint, ours) == value
    if hint is EventRecords:  # they read events, and do not write them
        assert len(reading.value) == len(RUNTIME.events.decode(value))
        return
    writing = CONFIG.create_scale_object(kind, metadata=METADATA)
    written = bytes(writing.encode(theirs(value)).data)
    assert written == ours

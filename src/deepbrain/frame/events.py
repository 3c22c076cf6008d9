"""The events of a block: `System.Events`, encoded once, read by clients with the runtime's table."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from deepbrain.frame.journal import Deposited
from deepbrain.frame.outer import outer_types
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.units import U32
from deepbrain.scale import Codec, Struct, codec_of, decode_compact, encode_compact
from deepbrain.scale.definitions import TypeId
from deepbrain.scale.registry import TypeRegistry

INITIALIZATION: Final = -1
"""The phase before the first extrinsic."""
FINALIZATION: Final = -2
"""The phase after the last extrinsic."""

_PHASES: Final = {0: 0, 1: FINALIZATION, 2: INITIALIZATION}
_NO_TOPICS: Final = b"\0"


class EventRecords(bytes):
    """The encoded events of a block. `EventTable.decode` reads them."""

    __slots__ = ()

    @classmethod
    def __scale_codec__(cls) -> Codec["EventRecords"]:
        return Codec("EventRecords", _write, _read, min_encoded_len=1, max_encoded_len=None)

    @classmethod
    def __scale_register__(cls, registry: TypeRegistry) -> TypeId:
        return outer_types(registry).event_records()


def _write(value: EventRecords, out: bytearray) -> None:
    out += value


def _read(data: bytes, at: int, depth: int) -> tuple[EventRecords, int]:
    return EventRecords(data[at:]), len(data)


NO_EVENTS: Final = EventRecords(b"\0")


class EventRecord(NamedTuple):
    """An event with its place: an extrinsic's index, `INITIALIZATION` or `FINALIZATION`."""

    phase: int
    pallet: int
    event: Struct


class EventTable:
    """Every event of a runtime, by pallet and index."""

    def __init__(self, pallets: Mapping[int, Mapping[int, type[Struct]]]) -> None:
        entries = [
            (pallet, index, cls)
            for pallet, events in sorted(pallets.items())
            for index, cls in sorted(events.items())
        ]
        self._encoders: dict[type[Struct], tuple[bytes, Any]] = {
            cls: (bytes((pallet, index)), codec_of(cls).raw_encode)
            for pallet, index, cls in entries
        }
        self._codecs = {pallet << 8 | index: codec_of(cls) for pallet, index, cls in entries}

    def encode(self, phases: Iterable[tuple[int, list[Deposited]]]) -> tuple[EventRecords, int]:
        """The events of a block by phase, and their number."""
        out = bytearray()
        count = 0
        encoders = self._encoders
        for phase, events in phases:
            start = phase_bytes(phase)
            count += len(events)
            for deposited in events:
                place, encode = encoders[type(deposited.event)]
                out += start
                out += place
                encode(deposited.event, out)
                out += _NO_TOPICS
        return EventRecords(encode_compact(count) + out), count

    def decode(self, records: bytes) -> list[EventRecord]:
        """Raises: DecodeError: these are not events of this runtime."""
        count, at = decode_compact(records, 0)
        found = []
        for _ in range(count):
            phase, at = _phase_at(records, at)
            record, at = self._record_at(records, at, phase)
            found.append(record)
        if at != len(records):
            raise DecodeError(f"{len(records) - at} bytes are left over after the events")
        return found

    def _record_at(self, data: bytes, at: int, phase: int) -> tuple[EventRecord, int]:
        place = data[at : at + 2]
        codec = self._codecs.get(int.from_bytes(place, "big")) if len(place) == 2 else None
        if codec is None:
            raise DecodeError(f"there is no event {place.hex()} in this runtime")
        event, at = codec.decode_at(data, at + 2, 0)
        topics, at = decode_compact(data, at)
        return EventRecord(phase, place[0], event), at + 32 * topics


def phase_bytes(phase: int) -> bytes:
    """How a phase stands before an event."""
    if phase == INITIALIZATION:
        return b"\2"
    return b"\1" if phase == FINALIZATION else b"\0" + phase.to_bytes(4, "little")


def _phase_at(data: bytes, at: int) -> tuple[int, int]:
    kind = _PHASES.get(data[at]) if at < len(data) else None
    if kind is None:
        raise DecodeError("an event starts with a phase that does not exist")
    if kind:
        return kind, at + 1
    return codec_of(U32).decode_at(data, at + 1, 0)

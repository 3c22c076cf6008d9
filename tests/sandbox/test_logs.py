"""The log on disk: bounded whatever the job does, whole records for whoever reads."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from deepbrain.sandbox.keeper import MAX_RECORD, SEGMENTS, Log
from deepbrain.sandbox.logs import encode_record, log_range, read_log, segments, split_records

records = st.lists(
    st.tuples(st.sampled_from((1, 2)), st.binary(min_size=1, max_size=3000)), max_size=60
)


@given(records)
def test_records_survive_any_cutting(items: list[tuple[int, bytes]]) -> None:
    whole = b"".join(encode_record(stream, data) for stream, data in items)
    for step in (1, 7, 4096):
        buffer, found = bytearray(), []
        for at in range(0, len(whole), step):
            buffer += whole[at : at + step]
            found += split_records(buffer)
        assert found == items
        assert buffer == b""


def read_all(directory: Path, offset: int = 0) -> bytes:
    found = b""
    while True:
        at, data = read_log(directory, offset)
        if not data:
            return found
        assert not found or at == offset
        found += data
        offset = at + len(data)


def test_reads_across_segments_and_from_any_offset(tmp_path: Path) -> None:
    log = Log(str(tmp_path), 16 * MAX_RECORD)
    whole = b""
    for number in range(8):
        data = bytes([number]) * 40_000
        log.append(1, data)
        whole += encode_record(1, data)
    assert len(segments(tmp_path)) > 1
    assert log_range(tmp_path) == (0, len(whole))
    for offset in (0, 5, 40_005, len(whole) - 1, len(whole), len(whole) + 9):
        assert read_all(tmp_path, offset) == whole[offset:]


def test_the_oldest_goes_and_the_bound_holds(tmp_path: Path) -> None:
    bound = SEGMENTS * 2 * MAX_RECORD
    log = Log(str(tmp_path), bound)
    whole = bytearray()
    for number in range(200):
        data = number.to_bytes(2, "little") * 10_000
        log.append(1 + number % 2, data)
        whole += encode_record(1 + number % 2, data)
        assert sum(size for _, size in segments(tmp_path)) <= bound
    start, end = log_range(tmp_path)
    assert 0 < start < end == len(whole)
    assert end - start > bound // 2
    kept = bytearray(read_all(tmp_path))
    assert kept == whole[start:]
    assert len(list(split_records(kept))) > 1  # it starts with a whole record
    assert kept == b""


def test_a_full_disk_loses_records_and_nothing_after_it(tmp_path: Path) -> None:
    log = Log(str(tmp_path), 16 * MAX_RECORD)
    kept = b""
    for number in range(3):
        log.append(1, bytes([number]) * 40_000)
        kept += encode_record(1, bytes([number]) * 40_000)
    in_the_way = tmp_path / f"{len(kept):016d}.log"
    in_the_way.mkdir()
    for _ in range(3):
        log.append(1, b"lost" * 10_000)
    in_the_way.rmdir()
    log.append(2, b"again" * 8_000)
    assert read_all(tmp_path) == kept + encode_record(2, b"again" * 8_000)


def test_an_empty_log(tmp_path: Path) -> None:
    assert log_range(tmp_path) == (0, 0)
    assert read_log(tmp_path, 0) == (0, b"")
    (tmp_path / "stranger.log").write_text("x")
    assert segments(tmp_path) == []

"""What waits to be read costs about what it holds, however small the pieces were that it came in."""

import asyncio
import sys
import time

from hypothesis import given
from hypothesis import strategies as st

from deepbrain.net.records import read_record, record
from deepbrain.net.stream import HIGH_WATER, Stream


class Pieces:
    """A raw stream of such pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    async def read(self, _limit: int) -> bytes:
        return next(self._pieces, b"")

    async def stop(self, _code: int) -> None:
        return


def weight(stream: Stream) -> int:
    return sum(sys.getsizeof(chunk) + 8 for chunk in stream._chunks)


async def test_crumbs_weigh_no_more_than_loaves() -> None:
    stream = Stream(Pieces([b"ab"] * HIGH_WATER))  # type: ignore[arg-type]
    assert await stream.read_some(1) == b"a"
    await asyncio.sleep(0.2)
    assert stream._buffered >= HIGH_WATER - 2
    assert weight(stream) < 1.5 * HIGH_WATER
    await stream._stop_reading(0)


async def test_many_small_records_of_one_piece_are_read_in_linear_time() -> None:
    async def seconds(count: int) -> float:
        stream = Stream(Pieces([record(0, b"x") * count]))  # type: ignore[arg-type]
        began, read = time.process_time(), 0
        while await read_record(stream):
            read += 1
        assert read == count
        return time.process_time() - began

    little = await seconds(20_000)
    assert await seconds(200_000) < 25 * little


@given(
    st.lists(st.binary(min_size=1, max_size=9000), max_size=12),
    st.lists(st.integers(1, 9000), min_size=1, max_size=40),
)
async def test_bytes_come_in_order_however_they_are_cut(
    pieces: list[bytes], reads: list[int]
) -> None:
    stream, got = Stream(Pieces(pieces)), b""  # type: ignore[arg-type]
    for size in reads:
        got += await stream.read_some(size)
    while rest := await stream.read_some():
        got += rest
    assert got == b"".join(pieces)

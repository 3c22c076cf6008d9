"""A wheel that copies byte by byte again must be noticed."""

import asyncio
import time

from tests.net.ends import connected


async def test_sending_runs_at_memory_speed():
    """A quiet machine does about 280 MB/s, the uncorrected wheel 6."""
    size, piece = 64 << 20, bytes(1 << 18)
    async with connected("iroh") as pair:
        near = await pair.near.open()

        async def send():
            for _ in range(size // len(piece)):
                await near.write(piece)
            await near.finish()

        began = time.perf_counter()
        sender = asyncio.create_task(send())
        far = await pair.far.accept()
        received = 0
        while chunk := await far.read_some():
            received += len(chunk)
        await sender
        assert received == size
        assert size / (time.perf_counter() - began) > 30e6

"""Python may collect a dropped stream at any moment; in the wrong one the wheel alone hangs for ever."""

import subprocess
import sys

import pytest

DROPS_STREAMS = """
import asyncio, gc, os, sys
from iroh import iroh_ffi
from deepbrain.net import freeing

if sys.argv[1] == "wheel":
    freeing.apply = lambda: None  # the wheel as it comes
from deepbrain.net.endpoint import IrohEndpoint

gc.disable()
gc.freeze()  # collecting is quick when there is little to look at

class Collecting(dict):
    '''What waits for a callback; whatever is allocated while it is looked up may set off a collection.'''

    def pop(self, handle):
        gc.collect()
        return super().pop(handle)

iroh_ffi._UniffiContinuationHandleMap._map = Collecting()

def drop(stream):
    ring = [stream]
    ring.append(ring)

async def serve(endpoint):
    connection = await (await endpoint.accept()).complete(5)
    while True:
        stream = await connection.accept()
        await stream.read_some()
        await stream.close()
        drop(stream)

async def main():
    server = await IrohEndpoint.bind(os.urandom(32), hosts=("127.0.0.1",))
    client = await IrohEndpoint.bind(os.urandom(32), hosts=("127.0.0.1",))
    serving = asyncio.create_task(serve(server))
    connection = await client.dial(server.key, server.addresses)

    async def once():
        stream = await connection.open()
        await stream.write(bytes(100))
        await stream.finish()
        await stream.read_some()
        drop(stream)

    for _ in range(15):
        await asyncio.gather(*(once() for _ in range(20)))
    serving.cancel()
    print("done", flush=True)
    os._exit(0)

asyncio.run(main())
"""


def drops_streams(how: str, seconds: float) -> str:
    done = subprocess.run(
        [sys.executable, "-c", DROPS_STREAMS, how], capture_output=True, text=True, timeout=seconds,
        check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_streams_that_are_collected_in_a_callback_hang_nobody() -> None:
    assert drops_streams("ours", 50) == "done\n"


def test_the_wheel_alone_hangs() -> None:
    """When it does not any more, `net/freeing.py` may go."""
    with pytest.raises(subprocess.TimeoutExpired):
        for _ in range(4):  # it may be lucky once
            drops_streams("wheel", 8)

"""Uploads by renters who cut them, hold them, and outstay their orders."""

import asyncio
import os
from hashlib import sha256
from pathlib import Path

import pytest
from tests.provider.house import eventually, house, manifest_of

from deepbrain.net.errors import NetError, Refused, StreamReset
from deepbrain.net.frames import expect_reply
from deepbrain.net.messages import Digest, Done, Have, PutBlob, Stage
from deepbrain.primitives.units import U64
from deepbrain.provider import upload

CONTENT = os.urandom(6 << 20)
DIGEST = Digest(sha256(CONTENT).digest())


async def begin(session, size: int = len(CONTENT)):
    stream = await session._ask(PutBlob(sha256=DIGEST, size=U64(size)))
    return stream, int((await expect_reply(stream, Have)).offset)


async def awaiting(home, order: int = 1):
    manifest = manifest_of("echo", "hi", image=DIGEST)
    home.place(order, manifest)
    session = await home.session(order)
    await session.put_manifest(manifest)
    return session


def held_by_nobody() -> int:
    """Bytes of files that have no name any more and are held open by this process."""
    held = 0
    for path in Path("/proc/self/fd").iterdir():
        if path.is_symlink() and path.readlink().name.endswith(".part (deleted)"):
            held += path.stat().st_size
    return held


async def test_an_upload_ends_with_its_order_and_its_disk_is_free(tmp_path):
    async with house("fake", tmp_path) as home:
        session = await awaiting(home)
        stream, _ = await begin(session)
        await stream.write(CONTENT[:4_000_000])
        part = home.agent.records.files(1).part(DIGEST)
        await eventually(lambda: part.exists() and part.stat().st_size > 3_000_000)
        home.chain.end(1)  # it lapses; nothing was billed
        with pytest.raises(NetError):
            async with asyncio.timeout(8):
                await expect_reply(stream, Done)
        await eventually(lambda: not part.parent.exists())
        await eventually(lambda: held_by_nobody() == 0)


async def test_tries_that_take_over_from_each_other_spoil_nothing(tmp_path):
    """Each is cut while the machine writes; whatever it wrote, the last one goes on behind it."""
    async with house("fake", tmp_path) as home:
        session = await awaiting(home)
        sent = 0
        for _ in range(12):
            stream, offset = await begin(session)
            assert offset >= sent - (2 << 20)
            await stream.write(CONTENT[offset : offset + 700_000])
            sent = offset
        stream, offset = await begin(session)
        await stream.write(CONTENT[offset:])
        await expect_reply(stream, Done)
        await home.wait_stage(session, Stage.EXITED)


async def test_room_that_was_promised_is_promised_once(tmp_path, monkeypatch):
    """What is free at the start of two uploads is not free for both."""

    class Usage:
        free = upload.DISK_RESERVE + len(CONTENT) + 1000

    monkeypatch.setattr(upload.shutil, "disk_usage", lambda _: Usage)
    async with house("fake", tmp_path) as home:
        first, second = await awaiting(home, 1), await awaiting(home, 2)
        stream, _ = await begin(first)
        with pytest.raises(Refused, match="disk is full"):
            await begin(second)
        await stream.reset()

        async with asyncio.timeout(5):
            while True:
                try:
                    await begin(second)
                    return
                except Refused:
                    await asyncio.sleep(0.05)


async def test_a_disk_that_is_full_is_said_in_words(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with house("fake", tmp_path) as home:
        session = await awaiting(home)
        stream, _ = await begin(session)
        monkeypatch.setattr(upload, "_append", full)
        await stream.write(CONTENT[:1000])
        with pytest.raises((Refused, StreamReset), match="disk is full"):
            await expect_reply(stream, Done)

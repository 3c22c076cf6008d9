"""An order from its placing to its destruction, over both networks."""

import asyncio
from hashlib import sha256

import pytest
from tests.net.ends import KINDS
from tests.provider.house import IMAGE, eventually, house, manifest_of, tar_of

from deepbrain.net.errors import RefusalCode, Refused
from deepbrain.net.messages import Digest, Ending, Network, Stage
from deepbrain.provider.chain import Closing, OrderPhase


@pytest.mark.parametrize("kind", KINDS)
async def test_a_renters_own_image_is_offered_to_nobody(kind, tmp_path):
    archive = tmp_path / "private.tar"
    archive.write_bytes(b"somebody's private image")
    async with house(kind, tmp_path) as home:
        digest = sha256(archive.read_bytes()).hexdigest()
        await home.agent.sandbox.import_image(archive, digest)
        assert len(await home.agent.sandbox.images()) == 2
        greeting = await home.agent.greeting()
        assert [image.name for image in greeting.images] == ["python"]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_order_runs_and_settles(kind, tmp_path):
    workspace = tar_of({"train.py": b"print()", "data/x": b"1"})
    manifest = manifest_of("files", workspace=workspace)
    source = tmp_path / "ws.tar"
    source.write_bytes(workspace)
    async with house(kind, tmp_path) as home:
        home.place(7, manifest)
        session = await home.session(7)
        assert session.greeting.mode == "gvisor"
        assert [image.name for image in session.greeting.images] == ["python"]
        assert (await home.wait_stage(session, Stage.AWAITING_MANIFEST)).exit is None
        wanted = await session.put_manifest(manifest)
        assert (wanted.image, wanted.workspace) == (False, True)
        steps = []
        digest = Digest(sha256(workspace).digest())
        await session.put_blob(source, digest, lambda done, total: steps.append((done, total)))
        assert steps[-1] == (len(workspace), len(workspace))
        status = await home.wait_stage(session, Stage.EXITED)
        assert (status.exit.code, status.exit.ending) == (0, Ending.EXITED)
        output = b"".join([piece.data async for piece in session.logs()])
        assert output.decode().split() == ["data", "data/x", "train.py"]
        results = b"".join([chunk async for chunk in session.copy_out()])
        assert b"model.bin" in results and b"train.py" not in results
        await eventually(lambda: home.chain.orders[7].phase is OrderPhase.ENDED)
        assert home.chain.declared == [("start", 7), ("close", 7)]
        assert home.chain.closings[7] == (Closing.EXITED, 0)
        kept = await home.wait_stage(session, Stage.EXITED)
        while kept.kept_seconds is None:
            kept = await session.status()
        assert 86000 < kept.kept_seconds <= 86400
        following = asyncio.create_task(home.wait_stage(session, Stage.DESTROYED))
        await asyncio.sleep(0.05)
        home.chain.prune(7)
        await following
        with pytest.raises(Refused, match="nothing of order 7"):
            await session.status()
        assert not list((home.data / "orders").iterdir())


async def test_an_image_may_come_from_the_renter(tmp_path):
    manifest = manifest_of("echo", "hello")
    source = tmp_path / "mine.tar"
    source.write_bytes(IMAGE)
    async with house("fake", tmp_path, with_image=False) as home:
        home.place(1, manifest)
        session = await home.session(1)
        assert (await session.put_manifest(manifest)).image
        await session.put_blob(source, manifest.image)
        await home.wait_stage(session, Stage.EXITED)
        assert [piece.data async for piece in session.logs()] == [b"hello\n"]


async def test_a_network_that_is_not_there_is_refused_before_anything_is_sent(tmp_path):
    manifest = manifest_of("echo", "hello", network=Network.INTERNET)
    async with house("fake", tmp_path) as home:
        home.place(1, manifest)
        session = await home.session(1)
        with pytest.raises(Refused, match="ask for --network none") as caught:
            await session.put_manifest(manifest)
        assert caught.value.code is RefusalCode.MISMATCH


async def test_what_does_not_match_its_hash_is_refused_in_one_sentence(tmp_path):
    workspace = tar_of({"a": b"1"})
    manifest = manifest_of("files", workspace=workspace)
    wrong = tmp_path / "wrong.tar"
    wrong.write_bytes(bytes(len(workspace)))
    async with house("fake", tmp_path) as home:
        home.place(1, manifest)
        session = await home.session(1)
        with pytest.raises(Refused, match="manifest comes before"):
            await session.put_blob(wrong, manifest.workspace.sha256)
        with pytest.raises(Refused, match="not the one the order names") as caught:
            await session.put_manifest(manifest_of("files", workspace=workspace, salt=2))
        assert caught.value.code is RefusalCode.MISMATCH
        await session.put_manifest(manifest)
        with pytest.raises(Refused, match="does not match its hash"):
            await session.put_blob(wrong, manifest.workspace.sha256)
        with pytest.raises(Refused, match="names no such file"):
            await session.put_blob(wrong, Digest(bytes(32)))
        wrong.write_bytes(workspace)
        await session.put_blob(wrong, manifest.workspace.sha256)
        await home.wait_stage(session, Stage.EXITED)


async def test_a_workspace_that_cannot_be_unpacked_refunds_the_renter(tmp_path):
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("../../escape")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    workspace = out.getvalue()
    manifest = manifest_of("files", workspace=workspace)
    source = tmp_path / "bad.tar"
    source.write_bytes(workspace)
    async with house("fake", tmp_path) as home:
        home.place(1, manifest)
        session = await home.session(1)
        await session.put_manifest(manifest)
        await session.put_blob(source, manifest.workspace.sha256)
        status = await home.wait_stage(session, Stage.FAILED)
        assert "leaves it" in status.detail
        await eventually(lambda: 1 in home.chain.closings)
        assert home.chain.closings[1] == (Closing.FAILED, None)
        with pytest.raises(Refused, match="leaves it"):
            [_ async for _ in session.logs(follow=True)]

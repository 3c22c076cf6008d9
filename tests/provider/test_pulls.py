"""Orders whose image the machine fetches itself: a real registry, a real puller, and everything that goes wrong."""

import asyncio
import json
import os
import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.provider.house import eventually, house, manifest_of
from tests.sandbox import registries
from tests.sandbox.registries import (
    PASSWORD,
    USER,
    Answer,
    Made,
    Proxy,
    break_off,
    layer,
    send,
)

from deepbrain.net.errors import RefusalCode, Refused
from deepbrain.net.messages import Digest, Stage
from deepbrain.provider.cache import ImageCache, NoRoom
from deepbrain.provider.chain import Closing, OrderPhase
from deepbrain.provider.pulls import Puller, PullFailed, PullRules
from deepbrain.sandbox.fake import FakeSandbox
from deepbrain.sandbox.reference import Credentials
from deepbrain.sandbox.sandbox import TenantSpec

MIB = 1 << 20
RULES = PullRules(max_bytes=64 * MIB, stall_seconds=2, private=True)


@pytest.fixture(scope="module")
def made() -> Made:
    made = Made()
    made.add([layer({"big": os.urandom(2 * MIB)}), layer({"job": b"x"})], {"Cmd": ["echo", "hi"]})
    return made


port, locked, proxy = registries.port, registries.locked, registries.proxy


def pulled(port: int, made: Made, **changes):
    source = f"127.0.0.1:{port}/team/job"
    return manifest_of("echo", "hello", image=Digest.from_hex(made.digest), pull=source, **changes)


@asynccontextmanager
async def home_of(tmp_path: Path, **config):
    """A house whose machine may ask registries on loopback."""
    async with house("fake", tmp_path) as home:
        await home.stop()
        agent = home.agent
        settings = {"private_registries": True, "stall_seconds": 2} | config
        home.agent = type(agent)(
            machine=agent.machine, config=replace(agent.config, **settings), data=agent.data,
            chain=agent.chain, sandbox=agent.sandbox, endpoint=agent.endpoint,
        )  # fmt: skip
        home.start()
        yield home


async def has_image(home, digest: str) -> bool:
    return digest in {image.digest for image in await home.sandbox.images()}


def left_of(home, order: int) -> list[str]:
    """Blobs of an order that are on disk."""
    return [str(path) for path in (home.data / "orders" / str(order) / "blobs").rglob("*")]


async def test_the_machine_fetches_runs_and_keeps_it(tmp_path, port, made):
    async with home_of(tmp_path) as home:
        for order in (1, 2):
            manifest = pulled(port, made, salt=order)
            home.place(order, manifest)
            session = await home.session(order)
            wanted = await session.put_manifest(manifest)
            assert (wanted.image, wanted.workspace) == (False, False)
            await home.wait_stage(session, Stage.EXITED)
            assert [piece.data async for piece in session.logs()] == [b"hello\n"]
            await eventually(lambda order=order: not left_of(home, order))
        assert await has_image(home, made.digest)
        assert [image.name for image in (await home.agent.greeting()).images] == ["python"]


async def test_progress_is_told(tmp_path, proxy, made):
    proxy.misdeed = lambda _p, h, _a: time.sleep(0.4 if "/blobs/" in h.path else 0) or False
    async with home_of(tmp_path) as home:
        manifest = pulled(proxy.port, made)
        home.place(1, manifest)
        session = await home.session(1)
        await session.put_manifest(manifest)
        seen = []
        async for status in session.watch():
            seen.append((status.stage, int(status.done), int(status.total)))
            if status.stage is Stage.EXITED:
                break
    pulling = [(done, total) for stage, done, total in seen if stage is Stage.PULLING and total]
    assert pulling
    assert max(total for _, total in pulling) > 2 * MIB


async def failed(home, manifest, order: int = 1, credentials: tuple[str, str] | None = None) -> str:
    """Place an order that cannot run: the sentence its renter reads. It is closed, its disk is free."""
    home.place(order, manifest)
    session = await home.session(order)
    if credentials:
        await session.put_credentials(*credentials)
    await session.put_manifest(manifest)
    async with asyncio.timeout(40), aclosing(session.watch()) as statuses:
        async for status in statuses:
            if status.stage is Stage.FAILED:
                break
    await eventually(lambda: home.chain.closings.get(order) == (Closing.FAILED, None))
    assert left_of(home, order) == []
    assert "\n" not in status.detail
    return status.detail


async def test_a_registry_that_breaks_off_again_and_again(tmp_path, proxy, made):
    def cut(proxy, handler, answer):
        if "/blobs/" in handler.path:
            send(handler, Answer(200, {}, answer.body[:100]), length=len(answer.body))
            break_off(handler)
            return True
        return False

    proxy.misdeed = cut
    async with home_of(tmp_path) as home:
        found = await failed(home, pulled(proxy.port, made))
        assert "broke off" in found
        assert not await has_image(home, made.digest)


async def test_too_large_and_no_such_image(tmp_path, port, made):
    async with home_of(tmp_path, image_bytes=MIB) as home:
        assert "has room for 1 MiB" in await failed(home, pulled(port, made))
        other = pulled(port, made).but(image=Digest(bytes(32)))
        assert "no such image" in await failed(home, other, 2)


async def test_what_does_not_fit_into_the_cache(tmp_path, port, made):
    async with home_of(tmp_path, image_cache_bytes=MIB) as home:
        assert "does not fit" in await failed(home, pulled(port, made))


async def test_a_registry_of_the_providers_own_network_is_not_asked(tmp_path, port, made):
    async with home_of(tmp_path, private_registries=False) as home:
        assert "private address" in await failed(home, pulled(port, made))


async def test_a_source_that_is_no_repository_is_refused(tmp_path, port, made):
    async with home_of(tmp_path) as home:
        for order, source in enumerate(("job", "docker.io/x", "a.b/c:tag", "a.b/../c", "a.b/c?d")):
            manifest = pulled(port, made).but(pull=source)
            home.place(order, manifest)
            session = await home.session(order)
            with pytest.raises(Refused) as refused:
                await session.put_manifest(manifest)
            assert refused.value.code is RefusalCode.MALFORMED


# -- credentials


async def test_credentials_stay_in_memory_and_are_forgotten(tmp_path, locked, made):
    async with home_of(tmp_path) as home:
        manifest = pulled(locked, made)
        home.place(1, manifest)
        session = await home.session(1)
        await session.put_credentials(USER, PASSWORD)
        assert home.agent._actor.credentials
        await session.put_manifest(manifest)
        await home.wait_stage(session, Stage.EXITED)
        assert home.agent._actor.credentials == {}
        for path in home.data.rglob("*"):
            assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()


async def test_what_one_may_have_another_must_be_allowed_too(tmp_path, locked, made):
    """The digest alone opens nothing: neither as a registry's image, nor as a file that is here."""
    async with home_of(tmp_path) as home:
        manifest = pulled(locked, made)
        home.place(1, manifest)
        session = await home.session(1)
        await session.put_credentials(USER, PASSWORD)
        await session.put_manifest(manifest)
        await home.wait_stage(session, Stage.EXITED)
        assert "wants credentials" in await failed(home, pulled(locked, made, salt=2), 2)
        assert "refuses these" in await failed(home, pulled(locked, made, salt=3), 3, (USER, "no"))
        plain = pulled(locked, made, salt=4).but(pull="")
        home.place(4, plain)
        asking = await home.session(4)
        assert (await asking.put_manifest(plain)).image, "it is not here for whoever has its name"
        index = tmp_path / "index"
        index.write_bytes(made.manifests[f"sha256:{made.digest}"][1])
        await asking.put_blob(index, plain.image)
        assert "is not on the machine" in (await home.wait_stage(asking, Stage.FAILED)).detail


async def test_a_restarted_agent_asks_again_who_pulls(tmp_path, locked, made):
    with Proxy(locked) as slow:
        slow.misdeed = lambda _p, h, _a: time.sleep(1.0 if "/blobs/" in h.path else 0) or False
        async with home_of(tmp_path) as home:
            manifest = pulled(slow.port, made)
            home.place(1, manifest)
            session = await home.session(1)
            await session.put_credentials(USER, PASSWORD)
            await session.put_manifest(manifest)
            await home.wait_stage(session, Stage.PULLING)
            await home.stop()
            agent = home.agent
            home.agent = type(agent)(
                machine=agent.machine, config=agent.config, data=agent.data, chain=agent.chain,
                sandbox=agent.sandbox, endpoint=agent.endpoint,
            )  # fmt: skip
            slow.misdeed = None
            home.start()
            again = await home.session(1)
            waiting = await home.wait_stage(again, Stage.UPLOADING)
            assert "asks again who pulls" in waiting.detail
            await again.put_credentials(USER, PASSWORD)
            await home.wait_stage(again, Stage.EXITED)


# -- what ends a pull


async def test_a_pull_ends_with_its_order(tmp_path, proxy, made):
    proxy.misdeed = lambda _p, h, _a: time.sleep(3.0 if "/blobs/" in h.path else 0) or False
    async with home_of(tmp_path, stall_seconds=30) as home:
        manifest = pulled(proxy.port, made)
        home.place(1, manifest)
        session = await home.session(1)
        await session.put_manifest(manifest)
        await home.wait_stage(session, Stage.PULLING)
        await eventually(lambda: proxy.blobs_asked())
        assert pullers(tmp_path)
        home.chain.end(1)
        await eventually(lambda: not pullers(tmp_path))
        await eventually(lambda: not (home.data / "orders" / "1").exists())
        assert home.chain.orders[1].phase is OrderPhase.ENDED


async def test_a_puller_dies_with_its_agent_and_shows_no_secret(tmp_path, proxy, made):
    proxy.misdeed = lambda _p, h, _a: time.sleep(3.0 if "/blobs/" in h.path else 0) or False
    puller = Puller(
        f"127.0.0.1:{proxy.port}/team/job", made.digest, RULES, Credentials("me", "s3cret")
    )
    allowed = asyncio.Event()

    async def on_size(size: int) -> None:
        allowed.set()

    work = asyncio.create_task(puller.fetch(tmp_path / "at", on_size, lambda *_: None))
    await asyncio.wait_for(allowed.wait(), 20)
    (pid,) = pullers(tmp_path)
    proc = Path(f"/proc/{pid}")
    shown = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    assert b"s3cret" not in shown
    assert b"Max address space         1073741824" in (proc / "limits").read_bytes()
    assert "NoNewPrivs:\t1" in (proc / "status").read_text()
    if os.geteuid() == 0:
        assert f"Uid:\t{51_999}" in (proc / "status").read_text()
    work.cancel()
    await asyncio.wait([work])
    assert not pullers(tmp_path)


async def test_what_makes_no_room_ends_the_pull(tmp_path, port, made):
    puller = Puller(f"127.0.0.1:{port}/team/job", made.digest, RULES, None)

    async def on_size(size: int) -> None:
        raise NoRoom("no")

    with pytest.raises(NoRoom):
        await puller.fetch(tmp_path / "at", on_size, lambda *_: None)
    blobs = [path for path in (tmp_path / "at").iterdir() if f"sha256:{path.name}" in made.blobs]
    assert not blobs, "nothing is fetched before it is agreed to"
    with pytest.raises(PullFailed, match="no such image"):
        await Puller(f"127.0.0.1:{port}/no/such", made.digest, RULES, None).check(tmp_path / "at")


def pullers(place: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "deepbrain.sandbox.pull" in words and any(str(place) in word for word in words):
            found.append(path.parent.name)
    return found


# -- the cache


async def filled(tmp_path: Path, *sizes: int) -> tuple[FakeSandbox, list[str]]:
    """A sandbox with images of so many MiB; their digests."""
    from hashlib import sha256

    sandbox, digests = FakeSandbox(root=tmp_path / "tenants"), []
    for at, size in enumerate(sizes):
        archive = tmp_path / f"{at}.tar"
        archive.write_bytes(bytes([at]) * (size * MIB))
        digests.append(sha256(archive.read_bytes()).hexdigest())
        await sandbox.import_image(archive, digests[-1], "base" if at == 0 else "")
    return sandbox, digests


async def test_the_longest_unused_goes_first_and_some_stay(tmp_path):
    sandbox, digests = await filled(tmp_path, 1, 4, 4, 4)
    cache = ImageCache(sandbox, tmp_path, 14 * MIB)
    for digest in (digests[2], digests[1], digests[3]):
        cache.note_use(digest)
    tenant = TenantSpec(order=1, image=digests[1], argv=("sleep", "60"))
    await sandbox.prepare(tenant)
    async with cache.room("new", MIB, frozenset()) as room:
        assert room == 4 * MIB  # 14, less 1 + 4 + 4 of images, less what is sent
        left = {image.digest for image in await sandbox.images()}
        assert left == {digests[0], digests[1], digests[3]}, "the longest unused has gone"
        with pytest.raises(NoRoom, match="does not fit"):
            async with cache.room("other", 4 * MIB, frozenset([digests[3]])):
                pass
    assert digests[3] in {image.digest for image in await sandbox.images()}
    await sandbox.destroy(1)
    async with cache.room("other", 3 * MIB, frozenset()):
        left = {image.digest for image in await sandbox.images()}
        assert left == {digests[0]}, "the provider's own stays"
    await sandbox.close()


async def test_a_damaged_list_of_uses_harms_nobody(tmp_path):
    sandbox, digests = await filled(tmp_path, 1, 1)
    (tmp_path / "image-uses.json").write_text("{")
    cache = ImageCache(sandbox, tmp_path)
    assert cache.budget > 0
    cache.note_use(digests[1])
    assert list(json.loads((tmp_path / "image-uses.json").read_bytes())) == [digests[1]]
    await sandbox.close()

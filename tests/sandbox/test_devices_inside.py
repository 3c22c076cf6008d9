"""Devices on their whole way through real gVisor: a made-up kind with a node, a mount and a variable."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from deepbrain.sandbox.baseimage import build
from deepbrain.sandbox.canary import make_data_directory
from deepbrain.sandbox.devices import given
from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.host import Host, LocalHost
from deepbrain.sandbox.logs import split_records
from deepbrain.sandbox.modes import Programs
from deepbrain.sandbox.open import UNPACK_UID
from deepbrain.sandbox.runsc import RunscEngine
from deepbrain.sandbox.sandbox import Mode, ModeReport, Phase, SandboxError, TenantSpec
from deepbrain.sandbox.tenants import LocalSandbox
from deepbrain.sandbox.volumes import mounts_below

pytestmark = [pytest.mark.gvisor, pytest.mark.root, pytest.mark.timeout(60)]

KIND = f"deepbrain.test/gpu-{os.getpid()}"  # one machine may run several test suites
MIB = 1 << 20
LIBRARY = "/usr/lib/deepbrain-test/libgpu.so.9.1"
HOOK = "/usr/bin/nvidia-cdi-hook"


def describe(tmp_path: Path) -> Path:
    """Devices 0 and 1, with a library that is named by links as a driver's are; and a broken one."""
    library = tmp_path / "driver" / "libgpu.so.9.1"
    library.parent.mkdir()
    library.write_text("the driver's library")
    (library.parent / "libgpu.so.9").symlink_to(library.name)
    nodes = [{"path": "/dev/gpu-full", "hostPath": "/dev/full"}]
    links = [
        "nvidia-cdi-hook",
        "create-symlinks",
        "--link",
        "libgpu.so.9.1::/usr/lib/deepbrain-test/libgpu.so",
    ]
    cache = ["nvidia-cdi-hook", "update-ldcache", "--folder", str(Path(LIBRARY).parent)]
    devices = [
        {"name": str(at), "containerEdits": {"env": [f"DEVICE_{at}=yes"], "deviceNodes": nodes}}
        for at in range(2)
    ]
    devices.append(
        {"name": "broken", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu-none"}]}}
    )
    found = {
        "cdiVersion": "0.6.0",
        "kind": KIND,
        "devices": devices,
        "containerEdits": {
            "mounts": [
                {"hostPath": str(library), "containerPath": LIBRARY, "options": ["rw", "bind"]}
            ],
            "hooks": [
                {"hookName": "createContainer", "path": HOOK, "args": links},
                {"hookName": "createContainer", "path": HOOK, "args": cache},
            ],
        },
    }
    directory = tmp_path / "cdi"
    directory.mkdir(mode=0o755)
    (directory / "test.json").write_text(json.dumps(found))
    (directory / "test.json").chmod(0o644)
    return directory


class Box:
    def __init__(self, host: Host, digest: str) -> None:
        self.host, self.digest = host, digest
        self.box = LocalSandbox(host.data, LocalHost(host), host.report, UNPACK_UID)
        self._numbers = iter(range(1, 100))

    def spec(self, script: str, devices: Sequence[str], **fields: object) -> TenantSpec:
        spec = TenantSpec(
            order=next(self._numbers), image=self.digest, argv=("sh", "-c", script),
            memory_bytes=128 * MIB, disk_bytes=16 * MIB, log_bytes=MIB, pids=32,
            devices=tuple(f"{KIND}={name}" for name in devices),
        )  # fmt: skip
        return replace(spec, **fields)  # type: ignore[arg-type]

    @asynccontextmanager
    async def running(self, spec: TenantSpec) -> AsyncIterator[int]:
        await self.box.prepare(spec)
        try:
            await self.box.start(spec.order)
            yield spec.order
        finally:
            await self.box.destroy(spec.order)

    async def output(self, order: int) -> str:
        async with asyncio.timeout(30):
            await self.box.wait(order)
        raw = bytearray()
        async for chunk in self.box.logs(order):
            raw += chunk
        return b"".join(data for _, data in split_records(raw)).decode()


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    programs = Programs.find()
    if os.geteuid() != 0 or programs.runsc is None or programs.tool is None:
        reason = "needs root and scripts/get-gvisor .cache/bin"
        pytest.fail(reason) if os.environ.get("REQUIRE_GVISOR") else pytest.skip(reason)
    for path in (tmp_path, *list(tmp_path.parents)[:3]):
        path.chmod(0o711)
    data = tmp_path / "data"
    data.mkdir(mode=0o711)
    make_data_directory(data, (0, 0))
    engine = RunscEngine(
        programs.runsc, programs.tool, rootless=False, empty_rootfs=data / "empty", owner=(0, 0),
        resolve=partial(given, kinds=(KIND,), directories=(describe(tmp_path),)),
    )  # fmt: skip
    host = Host(data, engine, ModeReport(Mode.GVISOR), (0, 0), programs.tool)
    archive = tmp_path / "shell.tar"
    digest = build(archive, python=False)
    found = Box(host, digest)
    await found.box.import_image(archive, digest, "shell")
    yield found
    for state in await found.box.list():
        await found.box.destroy(state.order)
    assert mounts_below(data) == {}
    await found.box.close()
    forget_locks()


def forget_locks() -> None:
    for path in Path("/run/deepbrain-devices").glob(f"*gpu-{os.getpid()}=*"):
        path.unlink()


LOOK = f"""
echo variable=$DEVICE_0,$DEVICE_1,$NVIDIA_VISIBLE_DEVICES,$LD_LIBRARY_PATH
for name in libgpu.so.9.1 libgpu.so.9 libgpu.so; do cat /usr/lib/deepbrain-test/$name; echo; done
echo x >/dev/gpu-full || echo full
echo y >{LIBRARY} || echo read-only
test -c /dev/gpu-full && echo node
exit 0
"""


async def test_a_device_is_seen_inside_and_nowhere_else(box: Box) -> None:
    env = (("NVIDIA_VISIBLE_DEVICES", "all"), ("LD_LIBRARY_PATH", "/mine"))
    async with box.running(box.spec(LOOK, ["0"], env=env)) as order:
        out = await box.output(order)
    assert f"variable=yes,,,/mine:{Path(LIBRARY).parent}" in out
    assert out.count("the driver's library") == 3
    assert "full" in out.splitlines()
    assert "read-only" in out.splitlines()
    assert "node" in out.splitlines()
    # The image is shared: no mount point may be left in it for others to see.
    assert not (box.host.data / "images" / box.digest / "rootfs/usr/lib/deepbrain-test").exists()
    async with box.running(box.spec(LOOK, [])) as order:
        out = await box.output(order)
    assert "variable=,,," in out
    assert "node" not in out.splitlines()
    assert "library" not in out.replace("deepbrain-test", "")


async def test_sessions_have_the_devices_too(box: Box) -> None:
    async with box.running(box.spec("sleep 60", ["1"])) as order:
        session = await box.box.exec(
            order, ["sh", "-c", "echo $DEVICE_0,$DEVICE_1,$LD_LIBRARY_PATH"]
        )
        found = b""
        while (item := await session.read()) is not None:
            found += item[1]
        await session.close()
    assert found.decode().strip() == f",yes,{Path(LIBRARY).parent}"


@pytest.mark.parametrize(
    ("device", "words"), [("9", "no device deepbrain"), ("broken", "driver loaded")]
)
async def test_a_device_that_is_not_there_fails_the_start_in_a_sentence(
    box: Box, device: str, words: str
) -> None:
    spec = box.spec("true", [device])
    await box.box.prepare(spec)
    with pytest.raises(SandboxError, match=words) as refused:
        await box.box.start(spec.order)
    assert "\n" not in str(refused.value)
    assert (await box.box.state(spec.order)).phase is Phase.PREPARED


async def test_two_tenants_never_hold_one_device(box: Box) -> None:
    first = box.spec("sleep 60", ["0"])
    await box.box.prepare(first)
    for names in (["0"], ["1", "0"]):
        with pytest.raises(SandboxError, match="still held by order"):
            await box.box.prepare(box.spec("true", names))
    second = box.spec("true", ["1"])
    await box.box.prepare(second)
    await box.box.start(first.order)
    with pytest.raises(SandboxError, match="still held by order"):
        await box.box.prepare(box.spec("true", ["0"]))
    await box.box.signal(first.order, 9)
    await box.box.wait(first.order)  # it has ended, and its files are kept
    await box.box.prepare(box.spec("true", ["0"]))
    await box.box.release(second.order)  # it will never run
    await box.box.prepare(box.spec("true", ["1"]))
    with pytest.raises(SandboxError, match="each once"):
        await box.box.prepare(box.spec("true", ["1", "1"]))


async def test_two_providers_of_one_machine_never_give_one_device(box: Box, tmp_path: Path) -> None:
    data = tmp_path / "other"
    data.mkdir(mode=0o711)
    make_data_directory(data, (0, 0))
    other = Box(Host(data, box.host._engine, box.host.report, (0, 0), box.host._tool), box.digest)
    await other.box.import_image(tmp_path / "shell.tar", box.digest, "shell")
    spec = other.spec("true", ["0"])
    await other.box.prepare(spec)
    async with box.running(box.spec("sleep 60", ["0"])) as order:
        with pytest.raises(SandboxError, match="another provider"):
            await other.box.start(spec.order)
        keeper = TenantDirectory(box.host.data / "tenants" / str(order)).keeper()
        assert keeper is not None
    await other.box.start(spec.order)  # free with the tenant's end
    await other.box.wait(spec.order)
    await other.box.destroy(spec.order)
    assert mounts_below(data) == {}


async def test_only_the_mode_for_strangers_has_devices(box: Box) -> None:
    box.host.report = box.box._report = ModeReport(Mode.GVISOR_OWN)
    with pytest.raises(SandboxError, match="only where gVisor runs as root"):
        await box.box.prepare(box.spec("true", ["0"]))


async def test_layers_are_gone_with_their_tenant(box: Box) -> None:
    async with box.running(box.spec("sleep 60", ["0"])) as order:
        tenant = TenantDirectory(box.host.data / "tenants" / str(order))
        assert "nosuid" in mounts_below(tenant.layered)[tenant.layered]
        await box.box.signal(order, 9)
        await box.box.wait(order)
        await box.box.release(order)
        assert mounts_below(tenant.layered) == {}
    assert not tenant.path.exists()

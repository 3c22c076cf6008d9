# ruff: noqa: N802 - pynvml's names
"""GPUs: the driver's word by one suite for both implementations, and what counts, which a sandbox has seen."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from tests.provider.house import ALICE, IMAGE, IMAGE_DIGEST, manifest_of

from deepbrain.net.messages import Manifest
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.provider import gpus
from deepbrain.provider.act import Actor, DevicesHeld
from deepbrain.provider.cache import ImageCache
from deepbrain.provider.fake import FakeChain
from deepbrain.provider.gpus import (
    CANARY_ORDER,
    FakeDriver,
    Gpu,
    GpuDriver,
    GpuError,
    Nvml,
    SeenGpu,
    parse_seen,
    see_gpus,
)
from deepbrain.provider.identity import AgentConfig, Capacity, load_config, save_config
from deepbrain.provider.inventory import take_inventory
from deepbrain.provider.pulls import PullRules
from deepbrain.provider.record import OrderRecord, Records
from deepbrain.sandbox.fake import FakeProcess, FakeSandbox
from deepbrain.sandbox.sandbox import Phase, SandboxError

H100 = Gpu("GPU-11111111-aaaa", "NVIDIA H100 80GB HBM3", 81559)
SLICED = Gpu("GPU-22222222-bbbb", "NVIDIA A100-SXM4-40GB", 40960, "it is cut into slices")


class Library:
    """Stands for `pynvml`: its errors and numbers are real, its answers are a test's."""

    def __init__(self, gpus: tuple[Gpu, ...], driver: str = "580.126.20") -> None:
        self.gpus, self.driver = gpus, driver
        self.depth = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    def nvmlInit(self) -> None:
        if not self.gpus:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        self.depth += 1

    def nvmlShutdown(self) -> None:
        self.depth -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: Gpu) -> bytes:
        return gpu.model.encode()  # old bindings give bytes

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> Any:
        return SimpleNamespace(total=gpu.memory_mib << 20)

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> tuple[int, int]:
        if not gpu.unfit:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return (pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE)


DRIVERS: dict[str, Callable[[tuple[Gpu, ...]], GpuDriver]] = {
    "fake": FakeDriver,
    "nvml": lambda gpus: Nvml(Library(gpus)),
}


@pytest.fixture(params=sorted(DRIVERS))
def driver_of(request: pytest.FixtureRequest) -> Callable[[tuple[Gpu, ...]], GpuDriver]:
    return DRIVERS[request.param]


def test_a_driver_names_its_gpus(driver_of: Callable[[tuple[Gpu, ...]], GpuDriver]) -> None:
    driver = driver_of((H100, SLICED))
    first, second = driver.gpus()
    assert first == H100
    assert (second.uuid, bool(second.unfit)) == (SLICED.uuid, True)
    assert driver.version() == "580.126.20"


def test_without_a_driver_there_is_nothing(
    driver_of: Callable[[tuple[Gpu, ...]], GpuDriver],
) -> None:
    assert driver_of(()).gpus() == ()
    assert driver_of(()).version() == ""


def test_a_driver_that_fails_is_a_sentence() -> None:
    library = Library((H100,))
    library.nvmlDeviceGetCount = lambda: (_ for _ in ()).throw(pynvml.NVMLError(999))  # type: ignore[method-assign]
    with pytest.raises(GpuError, match="does not answer"):
        Nvml(library).gpus()
    assert library.depth == 0  # it was shut down all the same


def test_the_real_library_answers_here(tmp_path: Path) -> None:
    found = take_inventory(tmp_path)
    assert bool(found.gpus) == bool(found.driver)
    assert found.gpu_problem == "" or not found.gpus


# -- what a sandbox sees


def smi(*lines: str) -> Callable[[FakeProcess], Any]:
    async def program(process: FakeProcess) -> int:
        for line in lines:
            process.out(f"{line}\n".encode())
        return 0 if lines else 9

    return program


async def box_with(tmp_path: Path, **programs: Any) -> FakeSandbox:
    box = FakeSandbox(
        {name.replace("_", "-"): each for name, each in programs.items()}, root=tmp_path, grace=0.2
    )
    archive = tmp_path / "image"
    archive.write_bytes(IMAGE)
    await box.import_image(archive, IMAGE_DIGEST.hex(), "python-numpy")
    return box


def each_its_own(**shown: str) -> Callable[[FakeProcess], Any]:
    """`nvidia-smi` in a sandbox that shows the device it was given."""
    lines = iter(shown.values())

    async def program(process: FakeProcess) -> int:
        process.out(f"{next(lines)}\n".encode())
        return 0

    return program


async def test_what_was_seen_is_offered_and_alike(tmp_path: Path) -> None:
    program = each_its_own(
        a="GPU-11111111-aa, NVIDIA L4, 23034", b="GPU-22222222-bb, NVIDIA L4, 23034",
        c="GPU-33333333-cc, NVIDIA T4, 15360", d="GPU-11111111-aa, NVIDIA L4, 23034",
    )  # fmt: skip
    box = await box_with(tmp_path, nvidia_smi=program)
    seen, refused = await see_gpus(box, IMAGE_DIGEST.hex(), ["g=a", "g=b", "g=c", "g=d"])
    assert [gpu.device for gpu in seen] == ["g=a", "g=b"]
    assert {gpu.model for gpu in seen} == {"NVIDIA L4"}
    assert any("g=c" in sentence and "alike" in sentence for sentence in refused)
    assert any("g=d" in sentence and "again" in sentence for sentence in refused)
    assert await box.list() == []


async def test_what_is_not_seen_is_not_offered(tmp_path: Path) -> None:
    box = await box_with(tmp_path, nvidia_smi=smi())
    seen, refused = await see_gpus(box, IMAGE_DIGEST.hex(), ["g=a"])
    assert seen == ()
    assert "g=a is not offered: nvidia-smi failed inside" in refused[0]


async def test_a_gpu_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "SEE_MS", 100)

    async def hang(_process: FakeProcess) -> int:
        await asyncio.sleep(60)
        return 0

    box = await box_with(tmp_path, nvidia_smi=hang)
    async with asyncio.timeout(20):
        seen, refused = await see_gpus(box, IMAGE_DIGEST.hex(), ["g=a"])
    assert seen == ()
    assert "nvidia-smi failed inside" in refused[0]


@pytest.mark.parametrize(
    "text", ["", "GPU-1, x, 1", "GPU-11111111-a, x, y", "No devices were found"]
)
def test_garbage_is_no_gpu(text: str) -> None:
    with pytest.raises(SandboxError, match="saw 0"):
        parse_seen("g=a", text)
    with pytest.raises(SandboxError, match="saw 2"):
        parse_seen("g=a", "GPU-11111111-a, A, 1\nGPU-22222222-b, B, 1\n")


# -- who gets which

CAPACITY = Capacity(
    units=3, cpu_milli=6000, memory_bytes=3 << 30, disk_bytes=3 << 30, devices=("g=0", "g=1", "g=2")
)


def record(order: int, units: int, manifest: Manifest) -> OrderRecord:
    return OrderRecord(
        order=order, genesis=Hash(bytes(32)), seen_block=1, seen_hash=Hash(bytes(32)),
        renter=AccountId(ALICE.public), manifest_hash=manifest.hash(), units=units, seconds=60,
        latest_end=1 << 60,
    )  # fmt: skip


async def actor_with(tmp_path: Path, *units: int) -> tuple[Actor, Records, FakeSandbox]:
    box = await box_with(tmp_path)
    records = Records(tmp_path / "data")
    for order, number in enumerate(units, 1):
        manifest = manifest_of("sleep", "60", salt=order)
        files = records.files(order)
        files.create()
        files.save(record(order, number, manifest))
        files.save_manifest(manifest.encode())
    cache = ImageCache(box, tmp_path / "data", 1 << 30)
    actor = Actor(FakeChain(), box, records, CAPACITY, cache, PullRules(1 << 30, 30, private=False))
    return actor, records, box


async def prepare(actor: Actor, records: Records, order: int) -> tuple[str, ...]:
    files = records.files(order)
    await actor._prepare(files, files.record())
    return (await actor.sandbox.state(order)).spec.devices


async def test_two_orders_never_share_a_gpu(tmp_path: Path) -> None:
    actor, records, _ = await actor_with(tmp_path, 1, 2, 1)
    first, second = await asyncio.gather(*(prepare(actor, records, order) for order in (1, 2)))
    assert (len(first), len(second)) == (1, 2)
    assert not set(first) & set(second)
    assert await prepare(actor, records, 1) == first  # a restart gives the same ones
    with pytest.raises(DevicesHeld):
        await prepare(actor, records, 3)


async def test_gpus_are_free_when_their_order_has_ended(tmp_path: Path) -> None:
    actor, records, box = await actor_with(tmp_path, 3, 3)
    taken = await prepare(actor, records, 1)
    await box.start(1)
    with pytest.raises(DevicesHeld):
        await prepare(actor, records, 2)
    await box.signal(1, 9)
    assert (await box.wait(1)).phase is Phase.EXITED
    assert await prepare(actor, records, 2) == taken


async def test_gpus_of_an_order_that_failed_are_free(tmp_path: Path) -> None:
    actor, records, _ = await actor_with(tmp_path, 3, 3)
    await prepare(actor, records, 1)
    files = records.files(1)
    files.save(replace(files.record(), failure="the sandbox did not come up"))
    assert len(await prepare(actor, records, 2)) == 3


def test_gpus_are_units(tmp_path: Path) -> None:
    found = take_inventory(tmp_path, FakeDriver((H100, H100)))
    assert [gpu.model for gpu in found.gpus] == [H100.model] * 2
    assert found.capacity().units == found.cpus
    seen = [SeenGpu(f"g={at}", f"GPU-{at}", H100.model, H100.memory_mib) for at in range(2)]
    capacity = found.capacity(seen)
    assert (capacity.units, capacity.devices) == (2, ("g=0", "g=1"))
    save_config(
        tmp_path, AgentConfig(chain="ws://x", controller="//Bob", port=1, capacity=capacity)
    )
    assert load_config(tmp_path).capacity == capacity
    assert CANARY_ORDER == 2**64 - 1

"""GPUs: what the driver says this machine has, and what a tenant really sees of it.

Only the second is offered. A GPU is listed once a sandbox has run the driver's own tool with that one
device and seen exactly it, and only GPUs of one kind, since a machine's units are equal.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.sandbox.logs import split_records
from deepbrain.sandbox.sandbox import Sandbox, SandboxError, TenantSpec

CANARY_ORDER: Final = (1 << 64) - 1
"""No chain gets so far."""
QUERY: Final = (
    "nvidia-smi",
    "--query-gpu=uuid,name,memory.total",
    "--format=csv,noheader,nounits",
)
MAX_OUTPUT: Final = 64 << 10
SEE_MS: Final = 60_000
"""The first use of a GPU after a boot takes a while; a broken one takes for ever."""
_LINE: Final = re.compile(r"(GPU-[0-9a-f-]{8,64}), ([^,\n]{1,64}), (\d{1,8})", re.ASCII)
_MIB: Final = 1 << 20

Answer = TypeVar("Answer")


class GpuError(DeepBrainError):
    """The driver cannot be asked; one sentence."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """As the driver on the host describes it."""

    uuid: str
    model: str
    memory_mib: int
    unfit: str = ""
    """Why it cannot be rented as a whole; empty where it can."""


class GpuDriver(Protocol):
    def version(self) -> str:
        """Of the driver; empty where there is none. Raises: GpuError."""
        ...

    def gpus(self) -> tuple[Gpu, ...]:
        """None where there is no driver. Raises: GpuError: it does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class FakeDriver:
    """A driver of a test's making."""

    found: tuple[Gpu, ...] = ()
    driver: str = "580.126.20"

    def version(self) -> str:
        return self.driver if self.found else ""

    def gpus(self) -> tuple[Gpu, ...]:
        return self.found


class Nvml:
    """NVIDIA's management library, by its maker's own binding (the extra `provider`)."""

    def __init__(self, library: Any = None) -> None:
        """`library` stands for `pynvml` in tests. Raises: GpuError: it is not installed."""
        self._nvml = _binding() if library is None else library

    def version(self) -> str:
        return self._asked(lambda: _text(self._nvml.nvmlSystemGetDriverVersion()), "")

    def gpus(self) -> tuple[Gpu, ...]:
        return self._asked(self._all, ())

    def _asked(self, question: Callable[[], Answer], otherwise: Answer) -> Answer:
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            if error.value in (
                self._nvml.NVML_ERROR_LIBRARY_NOT_FOUND,
                self._nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            ):
                return otherwise
            raise GpuError(f"NVIDIA's driver does not answer: {error}") from error
        try:
            return question()
        except self._nvml.NVMLError as error:
            raise GpuError(f"NVIDIA's driver does not answer: {error}") from error
        finally:
            self._nvml.nvmlShutdown()

    def _all(self) -> tuple[Gpu, ...]:
        return tuple(self._one(at) for at in range(self._nvml.nvmlDeviceGetCount()))

    def _one(self, index: int) -> Gpu:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        return Gpu(
            _text(nvml.nvmlDeviceGetUUID(handle))[:96],
            _text(nvml.nvmlDeviceGetName(handle))[:64],
            int(nvml.nvmlDeviceGetMemoryInfo(handle).total) // _MIB,
            self._unfit(handle),
        )

    def _unfit(self, handle: Any) -> str:
        """Old cards and consumer cards know no slices: that they do not answer is an answer."""
        nvml = self._nvml
        try:
            current, _ = nvml.nvmlDeviceGetMigMode(handle)
        except nvml.NVMLError:
            return ""
        if current == nvml.NVML_DEVICE_MIG_ENABLE:
            return "it is cut into slices (MIG); switch that off with `nvidia-smi -mig 0`"
        return ""


def _binding() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise GpuError("GPUs cannot be looked for; `pip install deepbrain[provider]`") from error
    return pynvml


def _text(found: Any) -> str:
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)


@dataclass(frozen=True, slots=True)
class SeenGpu:
    """A GPU that a sandbox has seen, under the name by which a tenant is given it."""

    device: str
    uuid: str
    model: str
    memory_mib: int


async def see_gpus(
    sandbox: Sandbox, image: str, devices: Sequence[str]
) -> tuple[tuple[SeenGpu, ...], tuple[str, ...]]:
    """Run the driver's tool in a tenant of `image` with each device alone.

    Returns what was seen, and a sentence for each device that is not offered.
    """
    seen: dict[str, SeenGpu] = {}
    refused = []
    for device in devices:
        try:
            gpu = await _see(sandbox, image, device)
        except SandboxError as error:
            refused.append(f"{device} is not offered: {error}")
            continue
        if gpu.uuid in seen:
            refused.append(f"{device} is not offered: it is {seen[gpu.uuid].device} again")
        else:
            seen[gpu.uuid] = gpu
    return _alike(tuple(seen.values()), refused)


def _alike(
    seen: tuple[SeenGpu, ...], refused: list[str]
) -> tuple[tuple[SeenGpu, ...], tuple[str, ...]]:
    """The most numerous kind."""
    kinds = Counter((gpu.model, gpu.memory_mib) for gpu in seen)
    if not kinds:
        return (), tuple(refused)
    (model, memory), _ = max(kinds.items(), key=lambda item: (item[1], item[0]))
    chosen = tuple(gpu for gpu in seen if (gpu.model, gpu.memory_mib) == (model, memory))
    others = (
        f"{gpu.device} is not offered: it is a {gpu.model}, and a machine's GPUs must be alike"
        for gpu in seen
        if gpu not in chosen
    )
    return chosen, (*refused, *others)


async def _see(sandbox: Sandbox, image: str, device: str) -> SeenGpu:
    spec = TenantSpec(
        order=CANARY_ORDER,
        image=image,
        argv=QUERY,
        memory_bytes=1 << 30,
        disk_bytes=64 << 20,
        end_at=time.monotonic_ns() // 1_000_000 + SEE_MS,
        devices=(device,),
    )
    await sandbox.destroy(CANARY_ORDER)
    try:
        await sandbox.prepare(spec)
        await sandbox.start(CANARY_ORDER)
        state = await sandbox.wait(CANARY_ORDER)
        output = await _output(sandbox)
    finally:
        await sandbox.destroy(CANARY_ORDER)
    if state.exit is None or state.exit.code != 0:
        last = (output.strip().splitlines() or ["it said nothing"])[-1]
        raise SandboxError(f"nvidia-smi failed inside the sandbox: {last[:200]}")
    return parse_seen(device, output)


async def _output(sandbox: Sandbox) -> str:
    raw = bytearray()
    async for chunk in sandbox.logs(CANARY_ORDER):
        raw += chunk
        if len(raw) > MAX_OUTPUT:
            break
    return b"".join(data for _, data in split_records(raw)).decode(errors="replace")


def parse_seen(device: str, output: str) -> SeenGpu:
    """Raises: SandboxError: another number than one was seen."""
    found = [match for line in output.splitlines() if (match := _LINE.fullmatch(line.strip()))]
    if len(found) != 1:
        raise SandboxError(f"the sandbox saw {len(found)} GPUs where it was given one")
    uuid, model, memory = found[0].groups()
    return SeenGpu(device, uuid, model, int(memory))

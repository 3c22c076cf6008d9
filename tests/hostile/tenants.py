"""Hostile tenants on the real sandbox: each a Python program that attacks from inside.

A tenant runs under limits of its own, so that the host is safe also from the controls, in which a limit
is set so wide that the attack is seen to work.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deepbrain.sandbox.baseimage import build
from deepbrain.sandbox.cgroups import SENTRY_MEMORY, Version1, find_cgroups
from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.host import Host, LocalHost
from deepbrain.sandbox.logs import split_records
from deepbrain.sandbox.modes import FORCE, Programs, choose_mode
from deepbrain.sandbox.open import UNPACK_UID
from deepbrain.sandbox.sandbox import Mode, SandboxError, TenantSpec, TenantState
from deepbrain.sandbox.tenants import LocalSandbox
from deepbrain.sandbox.volumes import mounts_below

MIB = 1 << 20
AS_ROOT = os.geteuid() == 0


def refuse(reason: str) -> None:
    if os.environ.get("REQUIRE_GVISOR"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True)
class Outcome:
    """How an attack ended."""

    state: TenantState
    out: str
    err: str
    peak: int
    """The most memory that the kernel counted for the tenant and its sentry."""
    held: int
    """Bytes of the host's disk that its directory took."""

    @property
    def reason(self) -> str:
        return self.state.exit.reason.value if self.state.exit else self.state.phase.value

    def number(self, name: str) -> int:
        """The last `name N` that the program printed."""
        found = re.findall(rf"^{name} (\d+)$", self.out, re.MULTILINE)
        assert found, f"no {name!r} in {self.out[-500:]!r} {self.err[-500:]!r} ({self.reason})"
        return int(found[-1])


class Arena:
    """One sandbox for all attacks of a module."""

    def __init__(self, data: Path, host: Host) -> None:
        self.data = data
        self.host = host
        self.box = LocalSandbox(data, LocalHost(host), host.report, UNPACK_UID)
        self.image = ""
        self._numbers = iter(range(1, 10_000))

    async def load(self, archive: Path, digest: str) -> None:
        await self.box.import_image(archive, digest, "python")
        self.image = digest

    def directory(self, order: int) -> TenantDirectory:
        return TenantDirectory(self.data / "tenants" / str(order))

    def spec(self, *argv: str, **limits: Any) -> TenantSpec:
        fields: dict[str, Any] = {
            "order": next(self._numbers),
            "image": self.image,
            "argv": argv,
            "cpu_milli": 2000,
            "memory_bytes": 128 * MIB,
            "disk_bytes": 32 * MIB,
            "pids": 64,
            "log_bytes": MIB,
        }
        return TenantSpec(**(fields | limits))

    def python(self, program: str, *arguments: object, **limits: Any) -> TenantSpec:
        return self.spec("python3", "-c", program, *map(str, arguments), **limits)

    @asynccontextmanager
    async def running(self, spec: TenantSpec) -> AsyncIterator[int]:
        """A tenant that is destroyed at the end, whatever it has become."""
        await self.box.prepare(spec)
        try:
            await self.box.start(spec.order)
            yield spec.order
        finally:
            async with asyncio.timeout(20):
                await self.box.destroy(spec.order)

    async def attack(self, spec: TenantSpec, seconds: float = 40) -> Outcome:
        """Run an attack to its end."""
        async with self.running(spec) as order:
            async with asyncio.timeout(seconds):
                state = await self.box.wait(order)
            return await self.outcome(order, state)

    async def outcome(self, order: int, state: TenantState) -> Outcome:
        raw = bytearray()
        async for chunk in self.box.logs(order):
            raw += chunk
        texts = {1: "", 2: ""}
        for stream, data in split_records(raw):
            texts[stream] += data.decode(errors="replace")
        held = _disk_below(self.directory(order).path)
        return Outcome(state, texts[1], texts[2], self.peak(order), held)

    def group(self, order: int, controller: str) -> Path:
        cgroups = find_cgroups()
        path = cgroups.path(self.directory(order).container).lstrip("/")
        root = Path("/sys/fs/cgroup")
        return root / controller / path if isinstance(cgroups, Version1) else root / path

    def peak(self, order: int) -> int:
        group = self.group(order, "memory")
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            with suppress(FileNotFoundError):
                return int((group / name).read_text())
        return 0  # a kernel before 5.19 with version 2 keeps no peak

    def tasks(self, order: int) -> int:
        return int((self.group(order, "pids") / "pids.current").read_text())

    def cpu_seconds(self, order: int) -> float:
        cgroups = find_cgroups()
        if isinstance(cgroups, Version1):
            usage = self.group(order, "cpuacct") / "cpuacct.usage"
            return int(usage.read_text()) / 1e9
        stat = (self.group(order, "cpu") / "cpu.stat").read_text().split()
        return int(stat[stat.index("usage_usec") + 1]) / 1e6


def memory_limit(spec: TenantSpec) -> int:
    """With what the kernel may count beyond it, in batches, before it looks."""
    return spec.memory_bytes + SENTRY_MEMORY + MIB


def _disk_below(directory: Path) -> int:
    """What the host's disk holds for a tenant: files of volumes count by their image, once."""
    used = 0
    skipped = {str(point) for point in mounts_below(directory)}
    for parent, names, files in os.walk(directory):
        names[:] = [name for name in names if f"{parent}/{name}" not in skipped]
        for name in files:
            with suppress(FileNotFoundError):
                used += (Path(parent) / name).lstat().st_blocks * 512
    return used


@pytest.fixture(scope="module")
def shelter(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The strongest sandbox; nothing weaker is attacked, since nothing weaker serves strangers."""
    if not AS_ROOT:
        refuse("strangers are served only where the helper is root")
    programs = Programs.find()
    if programs.tool is None or programs.runsc is None:
        refuse("scripts/get-gvisor was not run")
    data = tmp_path_factory.mktemp("hostile")
    for path in (data, *list(data.parents)[:3]):
        path.chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FORCE, Mode.GVISOR.value)
        try:
            report, engine = choose_mode(data)
        except SandboxError as error:
            refuse(str(error))
    assert programs.tool is not None
    return Host(data, engine, report, (0, 0), programs.tool)


@pytest.fixture(scope="module")
def python_image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("image") / "python.tar"
    return path, build(path)


@pytest.fixture
async def arena(shelter: Host, python_image: tuple[Path, str]) -> AsyncIterator[Arena]:
    arena = Arena(shelter.data, shelter)
    await arena.load(*python_image)
    yield arena
    assert await arena.box.list() == []
    assert mounts_below(shelter.data) == {}
    await arena.box.close()

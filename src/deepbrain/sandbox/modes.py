"""Which mode this machine can run tenants in: found by running one, never by asking who we are."""

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.engine import Engine
from deepbrain.sandbox.host import Host, make_empty_rootfs, remove_tree
from deepbrain.sandbox.logs import read_log, split_records
from deepbrain.sandbox.process import ProcessEngine
from deepbrain.sandbox.programs import find_binary
from deepbrain.sandbox.runsc import RunscEngine
from deepbrain.sandbox.sandbox import (
    TOOL,
    ExitReason,
    Mode,
    ModeReport,
    Phase,
    Refusal,
    SandboxError,
    TenantSpec,
    TenantState,
)

CANARY_IMAGE: Final = "0" * 64
CANARY_MEMORY: Final = 64 << 20
HOG_BYTES: Final = 384 << 20
CANARY_SECONDS: Final = 20

FORCE: Final = "DBC_FORCE_MODE"
"""Environment: the only mode to try, for tests. A mode that fails its canary still is refused."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the outside programs are; None where they are missing."""

    runsc: Path | None
    tool: Path | None

    @classmethod
    def find(cls) -> "Programs":
        return cls(find_binary("runsc", "DBC_RUNSC"), find_binary("dbc-tool", "DBC_TOOL"))


_KNOWN_REASONS: Final = (
    (
        "fork/exec /proc/self/exe: no space left on device",
        "user namespaces are switched off here (sysctl user.max_user_namespaces), or used up",
    ),
    (
        "fork/exec /proc/self/exe: operation not permitted",
        "ordinary users may make no user namespaces here (kernel.apparmor_restrict_unprivileged_userns)",
    ),
)


def engine_for(
    mode: Mode, programs: Programs, tool: Path, data: Path, owner: tuple[int, int]
) -> Engine:
    """Raises: SandboxError: gVisor is missing, or the mode needs root."""
    if mode is Mode.PROCESS:
        return ProcessEngine(tool, owner)
    if programs.runsc is None:
        raise SandboxError("runsc (gVisor) is missing; run scripts/get-gvisor .cache/bin")
    if mode is Mode.GVISOR and os.geteuid() != 0:
        raise SandboxError("limits and own network namespaces need root")
    return RunscEngine(
        programs.runsc,
        tool,
        rootless=mode is Mode.GVISOR_OWN,
        empty_rootfs=data / "empty",
        owner=owner,
    )


def make_data_directory(data: Path, owner: tuple[int, int]) -> None:
    """The directories of a host, with the agent's rights on them."""
    make_empty_rootfs(data / "empty")
    for name, mode in (("images", 0o755), ("tenants", 0o750), ("incoming", 0o700)):
        (data / name).mkdir(exist_ok=True, mode=mode)
    if os.geteuid() == 0:
        os.chown(data / "tenants", -1, owner[1])
        os.chown(data / "incoming", *owner)


def choose_mode(
    data: Path, owner: tuple[int, int] | None = None, programs: Programs | None = None
) -> tuple[ModeReport, Engine]:
    """The strongest mode whose canary ran on this machine, with its engine.

    About half a second for gVisor. Raises: SandboxError: not even a process can be run.
    """
    owner = owner or (os.getuid(), os.getgid())
    programs = programs or Programs.find()
    if programs.tool is None:
        raise SandboxError("dbc-tool is missing; run scripts/get-gvisor .cache/bin")
    make_data_directory(data, owner)
    sweep(data, owner, programs.runsc, programs.tool)
    forced = os.environ.get(FORCE)
    modes = (Mode(forced),) if forced else (Mode.GVISOR, Mode.GVISOR_OWN, Mode.PROCESS)
    refused: list[Refusal] = []
    for mode in modes:
        try:
            engine = engine_for(mode, programs, programs.tool, data, owner)
            kernel = run_canary(mode, engine, data, owner, programs.tool)
        except (SandboxError, OSError) as error:
            refused.append(Refusal(mode, _reason(str(error))))
            continue
        network, reason = engine.try_network()
        return ModeReport(mode, tuple(refused), kernel, network, reason), engine
    reasons = "; ".join(f"{refusal.mode.value}: {refusal.reason}" for refusal in refused)
    raise SandboxError(f"this machine can run no tenant ({reasons})")


def _reason(text: str) -> str:
    """Why a mode is refused, as one line; in words where the kernel's are known to mislead."""
    for sign, words in _KNOWN_REASONS:
        if sign in text:
            return words
    return " ".join(text.split())[:300]


def sweep(data: Path, owner: tuple[int, int], runsc: Path | None, tool: Path) -> None:
    """Remove what a killed process left half-made: canaries, tenants half-removed, half-unpacked images."""
    programs = Programs(runsc, tool)
    for place in data.glob("canary-*"):
        for mode in (Mode.GVISOR, Mode.GVISOR_OWN, Mode.PROCESS):
            try:
                engine = engine_for(mode, programs, tool, data, owner)
            except SandboxError:
                continue
            host = Host(place, engine, ModeReport(mode), owner, tool)
            for tenant in (place / "tenants").glob("[0-9]*"):
                host.destroy(int(tenant.name))
        remove_tree(place)
    for place in (*(data / "tenants").glob(".[0-9]*"), *(data / "incoming").iterdir()):
        remove_tree(place)


def run_canary(mode: Mode, engine: Engine, data: Path, owner: tuple[int, int], tool: Path) -> str:
    """Run a tenant that looks around and one that eats memory; return the kernel that was seen.

    Raises: SandboxError: it did not run, saw the host's kernel, or outlived its memory limit.
    """
    place = data / f"canary-{secrets.token_hex(4)}"
    place.mkdir(mode=0o711)
    host = Host(place, engine, ModeReport(mode), owner, tool)
    try:
        make_data_directory(place, owner)
        make_empty_rootfs(place / "images" / CANARY_IMAGE / "rootfs")
        for order, extra in ((1, ()), (2, ("hog", str(HOG_BYTES)))):
            host.prepare(_canary_spec(order, extra))
            host.start(order)
        seen = _see(_ended(place, 1), place)
        _judge_hog(_ended(place, 2))
    finally:
        for order in (1, 2):
            host.destroy(order)
        remove_tree(place)
    if mode is not Mode.PROCESS and seen == os.uname().release:
        raise SandboxError("the canary saw the host's own kernel")
    return seen


def _canary_spec(order: int, extra: tuple[str, ...]) -> TenantSpec:
    return TenantSpec(
        order=order,
        image=CANARY_IMAGE,
        argv=(TOOL, "canary", *extra),
        memory_bytes=CANARY_MEMORY,
        disk_bytes=16 << 20,
        pids=16,
    )


def _ended(place: Path, order: int) -> TenantState:
    tenant = TenantDirectory(place / "tenants" / str(order))
    deadline = time.monotonic() + CANARY_SECONDS
    while (state := tenant.state()).phase is Phase.RUNNING:
        if time.monotonic() > deadline:
            raise SandboxError("the canary hangs")
        time.sleep(0.01)
    return state


def _see(state: TenantState, place: Path) -> str:
    _, log = read_log(place / "tenants" / "1" / "log", 0)
    output = b"".join(data for _, data in split_records(bytearray(log))).decode(errors="replace")
    if state.exit is None or state.exit.code != 0:
        raise SandboxError(f"the canary failed: {output.strip() or 'no output'}")
    lines = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    return lines.get("kernel", "")


def _judge_hog(state: TenantState) -> None:
    if state.exit is None or state.exit.reason is not ExitReason.MEMORY:
        raise SandboxError("a canary outlived its memory limit")

"""Which mode this machine can run tenants in: found by running one, never by asking who we are."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepbrain.sandbox.canary import make_data_directory, run_canaries, run_network_canary
from deepbrain.sandbox.engine import Engine
from deepbrain.sandbox.host import Host, remove_tree
from deepbrain.sandbox.process import ProcessEngine
from deepbrain.sandbox.programs import HOW_TO_GET, find_binary
from deepbrain.sandbox.proven import Proven
from deepbrain.sandbox.runsc import RunscEngine
from deepbrain.sandbox.sandbox import (
    Mode,
    ModeReport,
    Network,
    Refusal,
    SandboxError,
)

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
        raise SandboxError(f"runsc (gVisor) is missing; {HOW_TO_GET}")
    if mode is Mode.GVISOR and os.geteuid() != 0:
        raise SandboxError("limits and own network namespaces need root")
    return RunscEngine(
        programs.runsc,
        tool,
        rootless=mode is Mode.GVISOR_OWN,
        empty_rootfs=data / "empty",
        owner=owner,
    )


def choose_mode(
    data: Path,
    owner: tuple[int, int] | None = None,
    programs: Programs | None = None,
    *,
    anew: bool = True,
) -> tuple[ModeReport, Engine]:
    """The strongest mode whose canary ran on this machine, with its engine; its proof is kept in `data`.

    Without `anew` a proof that is kept there is believed (see `proven`). About three seconds for gVisor
    where it has to be proven. Raises: SandboxError: not even a process can be run.
    """
    owner = owner or (os.getuid(), os.getgid())
    programs = programs or Programs.find()
    if programs.tool is None:
        raise SandboxError(f"dbc-tool is missing; {HOW_TO_GET}")
    make_data_directory(data, owner)
    sweep(data, owner, programs.runsc, programs.tool)
    forced = os.environ.get(FORCE)
    modes = (Mode(forced),) if forced else (Mode.GVISOR, Mode.GVISOR_OWN, Mode.PROCESS)
    proven = Proven(data, (programs.runsc, programs.tool))
    refused: list[Refusal] = []
    for mode in modes:
        try:
            engine = engine_for(mode, programs, programs.tool, data, owner)
            kernel = None if anew else proven.kernel(mode)
            if kernel is None:
                kernel = run_canaries(mode, engine, data, owner, programs.tool)
                proven.note(mode, kernel)
        except (SandboxError, OSError) as error:
            refused.append(Refusal(mode, _reason(str(error))))
            continue
        network, reason = _network(engine, data, owner, programs.tool)
        return ModeReport(mode, tuple(refused), kernel, network, reason), engine
    reasons = "; ".join(f"{refusal.mode.value}: {refusal.reason}" for refusal in refused)
    raise SandboxError(f"this machine can run no tenant ({reasons})")


def _network(engine: Engine, data: Path, owner: tuple[int, int], tool: Path) -> tuple[Network, str]:
    """The most that tenants can be given, and why it is none."""
    found, reason = engine.try_network()
    if found is Network.INTERNET:
        try:
            run_network_canary(engine, data, owner, tool)
        except (SandboxError, OSError) as error:
            return Network.NONE, _reason(str(error))
    return found, reason


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

"""Tenants of our own, run to see whether a mode does what it says: none is believed before that.

One looks around, one eats memory, and where a cgroup limits tenants, one burns processors and one forks.
They go the very way that orders go.
"""

import os
import secrets
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.engine import Engine
from deepbrain.sandbox.host import Host, make_empty_rootfs, remove_tree
from deepbrain.sandbox.logs import read_log, split_records
from deepbrain.sandbox.sandbox import (
    TOOL,
    ExitReason,
    Mode,
    ModeReport,
    Network,
    Phase,
    SandboxError,
    TenantSpec,
)

IMAGE: Final = "0" * 64
MEMORY: Final = 64 << 20
HOG_BYTES: Final = 384 << 20
SECONDS: Final = 20

CPU_MILLI: Final = 500
CPU_MOST: Final = 0.85
"""Of a core: the share, and one period more in a window. Without a limit it would be one core or more."""
SPIN_MS: Final = 1200
WINDOW_SECONDS: Final = 0.3

PIDS: Final = 16
FORKS: Final = 120
FORK_MEMORY: Final = 768 << 20
"""Each process costs gVisor more than a mebibyte: the limit that is met must be that on processes."""
FORKS_MOST: Final = PIDS + 32
"""The tenant's processes and those of its init."""

LOOK, HOG, FORK, SPIN, CALL = 1, 2, 3, 4, 5
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def run_canaries(mode: Mode, engine: Engine, data: Path, owner: tuple[int, int], tool: Path) -> str:
    """Run them all; return the kernel that was seen.

    Raises: SandboxError: one did not run, saw the host's kernel, or took more than its share.
    """
    place = data / f"canary-{secrets.token_hex(4)}"
    place.mkdir(mode=0o711)
    host = Host(place, engine, ModeReport(mode), owner, tool)
    orders = (LOOK, HOG, FORK, SPIN) if mode is Mode.GVISOR else (LOOK, HOG)
    try:
        make_data_directory(place, owner)
        make_empty_rootfs(place / "images" / IMAGE / "rootfs")
        for order in orders:
            host.prepare(_spec(order))
            host.start(order)
        if SPIN in orders:
            _judge_share(TenantDirectory(place / "tenants" / str(SPIN)), engine)
        seen = _kernel(place)
        _judge_hog(place)
        if FORK in orders:
            _judge_forks(place)
    finally:
        for order in orders:
            host.destroy(order)
        remove_tree(place)
    if mode is not Mode.PROCESS and seen == os.uname().release:
        raise SandboxError("the canary saw the host's own kernel")
    return seen


def run_network_canary(engine: Engine, data: Path, owner: tuple[int, int], tool: Path) -> None:
    """Run one that calls a listener of ours, through gVisor's network and the host's rules.

    Raises: SandboxError: it did not run, or nobody answered.
    """
    place = data / f"canary-{secrets.token_hex(4)}"
    place.mkdir(mode=0o711)
    report = ModeReport(Mode.GVISOR, network=Network.INTERNET)
    host = Host(place, engine, report, owner, tool)
    try:
        make_data_directory(place, owner)
        make_empty_rootfs(place / "images" / IMAGE / "rootfs")
        with engine.listening() as address:
            host.prepare(replace(_spec(CALL, address), network=Network.INTERNET))
            host.start(CALL)
            said = _said(place, CALL)
    finally:
        host.destroy(CALL)
        remove_tree(place)
    if said.get("called") != "tcp,udp":
        raise SandboxError("dbc-tool is of another version; run scripts/get-gvisor .cache/bin")


def make_data_directory(data: Path, owner: tuple[int, int]) -> None:
    """The directories of a host, with the agent's rights on them."""
    make_empty_rootfs(data / "empty")
    for name, mode in (("images", 0o755), ("tenants", 0o750), ("incoming", 0o700)):
        (data / name).mkdir(exist_ok=True, mode=mode)
    if os.geteuid() == 0:
        os.chown(data / "tenants", -1, owner[1])
        os.chown(data / "incoming", *owner)


def _spec(order: int, called: str = "") -> TenantSpec:
    words = {
        LOOK: (),
        HOG: ("hog", str(HOG_BYTES)),
        SPIN: ("spin", str(SPIN_MS)),
        FORK: ("fork", str(FORKS)),
        CALL: ("call", called),
    }
    return TenantSpec(
        order=order,
        image=IMAGE,
        argv=(TOOL, "canary", *words[order]),
        memory_bytes=FORK_MEMORY if order == FORK else MEMORY,
        disk_bytes=16 << 20,
        pids=PIDS,
        cpu_milli=CPU_MILLI if order == SPIN else 1000,
    )


def _ended(place: Path, order: int) -> TenantDirectory:
    tenant = TenantDirectory(place / "tenants" / str(order))
    deadline = time.monotonic() + SECONDS
    while tenant.state().phase is Phase.RUNNING:
        if time.monotonic() > deadline:
            raise SandboxError("the canary hangs")
        time.sleep(0.01)
    return tenant


def _said(place: Path, order: int) -> dict[str, str]:
    """What a canary printed, `key=value` a line, once it has ended well."""
    tenant = _ended(place, order)
    _, log = read_log(tenant.log, 0)
    output = b"".join(data for _, data in split_records(bytearray(log))).decode(errors="replace")
    ended = tenant.exit()
    if ended is None or ended.code != 0:
        code = "no end" if ended is None else f"{ended.reason.value} {ended.code}"
        raise SandboxError(f"the canary failed: {output.strip()[-300:] or code}")
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def _kernel(place: Path) -> str:
    return _said(place, LOOK).get("kernel", "")


def _judge_hog(place: Path) -> None:
    ended = _ended(place, HOG).exit()
    if ended is None or ended.reason is not ExitReason.MEMORY:
        raise SandboxError("a canary outlived its memory limit")


def _judge_forks(place: Path) -> None:
    said = _said(place, FORK).get("forked", "")
    if not said.isdigit():
        raise SandboxError("dbc-tool is of another version; run scripts/get-gvisor .cache/bin")
    if int(said) > FORKS_MOST:
        raise SandboxError(f"a canary made {said} processes where {FORKS_MOST} are allowed")


def _judge_share(tenant: TenantDirectory, engine: Engine) -> None:
    """The most that it gets in any window, while it burns all that it can."""
    most, before, began = 0.0, _cpu_seconds(engine.members(tenant)), time.monotonic()
    while tenant.state().phase is Phase.RUNNING and most <= CPU_MOST:
        time.sleep(WINDOW_SECONDS)
        now, used = time.monotonic(), _cpu_seconds(engine.members(tenant))
        most = max(most, (used - before) / (now - began))
        began, before = now, used
    if most > CPU_MOST:
        raise SandboxError(
            f"a canary took {most:.2f} of a core where {CPU_MILLI / 1000} is its share"
        )


def _cpu_seconds(pids: set[int]) -> float:
    """What these processes have used so far, user and system."""
    total = 0
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS

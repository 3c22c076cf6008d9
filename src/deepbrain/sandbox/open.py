"""How an agent gets its sandbox."""

import asyncio
import fcntl
import os
from pathlib import Path

from deepbrain.sandbox.host import Host, HostRequests, LocalHost
from deepbrain.sandbox.modes import Programs, choose_mode
from deepbrain.sandbox.programs import HOW_TO_GET
from deepbrain.sandbox.sandbox import SandboxError
from deepbrain.sandbox.tenants import LocalSandbox

UNPACK_UID = 51_999
"""Who unpacks images where the agent is root: a user that nobody else is."""


async def open_sandbox(data: Path, host: HostRequests | None = None) -> LocalSandbox:
    """The sandbox of a data directory, in the strongest mode whose canary runs.

    `data` is absolute. `host` is the root helper's connection (`provider.helper`); without one this process does
    everything with the rights it has. Takes about half a second where there is gVisor.

    Raises: SandboxError: nothing can be run here, or the directory is in use by another agent.
    """
    if host is None:
        host = LocalHost(await asyncio.to_thread(open_host, data, None))
    report = await host.report()
    unpack_uid = UNPACK_UID if os.geteuid() == 0 else 0
    return LocalSandbox(data, host, report, unpack_uid)


def open_host(data: Path, owner: tuple[int, int] | None) -> Host:
    """The requests of a data directory, for `owner`'s agent (None: this user); runs the canaries that were
    not run lately.

    The directory is locked as long as this process lives. Raises: SandboxError.
    """
    if not data.is_absolute():
        raise SandboxError(f"the data directory {data} must be an absolute path")
    owner = owner or (os.getuid(), os.getgid())
    data.mkdir(parents=True, exist_ok=True)
    lock_directory(data)
    report, engine = choose_mode(data, owner, anew=False)
    tool = Programs.find().tool
    if tool is None:
        raise SandboxError(f"dbc-tool is missing; {HOW_TO_GET}")
    host = Host(data, engine, report, owner, tool)
    host.sweep()
    return host


_held: dict[Path, int] = {}


def lock_directory(data: Path) -> None:
    """Hold `data` for this process. Raises: SandboxError: another process holds it."""
    if data in _held:
        return
    descriptor = os.open(data / "sandbox.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SandboxError(f"{data} is in use by another provider; stop that one first") from None
    _held[data] = descriptor

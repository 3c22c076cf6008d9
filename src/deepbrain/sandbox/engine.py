"""What differs between the modes, asked by `host.py`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.sandbox import Network, TenantSpec


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start on the host. Environment as `KEY=value`."""

    argv: Sequence[str]
    env: Sequence[str] = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin",)
    temporary: tuple[Path, ...] = field(default=())
    """Removed when the process has ended."""


class Engine(Protocol):
    """One mode's mechanics. Blocking, and may raise SandboxError everywhere."""

    def try_network(self) -> tuple[Network, str]:
        """The most that tenants can be given, found by trying; and why it is none."""
        ...

    def listening(self) -> AbstractContextManager[str]:
        """Meanwhile something answers tenants by TCP and UDP at what is yielded, beyond the host's rules."""
        ...

    def settle_network(self) -> None:
        """Bring the rules of tenants' networks in line with the host, which has changed."""
        ...

    def prepare(self, tenant: TenantDirectory, spec: TenantSpec) -> None:
        """Make the volume, and whatever can be made before the workspace arrives."""
        ...

    def run_plan(self, tenant: TenantDirectory, spec: TenantSpec, rootfs: Path) -> dict[str, Any]:
        """Make the limits, read them back, and say what the keeper runs (see `keeper.py`)."""
        ...

    def launch(self, tenant: TenantDirectory, spec: TenantSpec, start: Callable[[], None]) -> None:
        """Call `start`, which starts the keeper, where the tenant's network is."""
        ...

    def members(self, tenant: TenantDirectory) -> set[int]:
        """The host's processes of a running tenant, where something bounds them together."""
        ...

    def verify(self, tenant: TenantDirectory) -> None:
        """Check on the running tenant what can only be checked there."""
        ...

    def exec_command(
        self,
        tenant: TenantDirectory,
        spec: TenantSpec,
        argv: Sequence[str],
        env: Sequence[str],
        cwd: str,
        *,
        tty: bool,
    ) -> Command:
        """The client of one exec session; `argv` starts with the tenant tool."""
        ...

    def collect_command(
        self, tenant: TenantDirectory, spec: TenantSpec, argv: Sequence[str]
    ) -> Command:
        """Run the tool over the volume of a tenant that has ended, as confined as the job was."""
        ...

    def signal(self, tenant: TenantDirectory, keeper: int, number: int) -> None: ...

    def release(self, tenant: TenantDirectory) -> None:
        """Give back what only a running tenant needs. It has ended; its volume stays readable."""
        ...

    def clean(self, tenant: TenantDirectory, *, keep_volume: bool = False) -> None:
        """Kill and release everything outside of the tenant's directory. The keeper is dead."""
        ...

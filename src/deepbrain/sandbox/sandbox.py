"""What a provider needs of a sandbox, whatever implements it.

A *tenant* is one order's container. Its life here:

    absent ── prepare ──▶ prepared ── start ──▶ running ──▶ exited ── destroy ──▶ absent
                                                   └─(keeper lost)──▶ lost ──────┘

`prepare` makes the tenant's directory and its volume; the caller then unpacks the workspace into the
returned volume path; `start` makes the limits, reads them back, and runs the job. Nothing here holds
truth in memory: every answer is read from the tenant's directory, so a restarted agent sees the same.

    <data>/images/<digest>/{rootfs/, image.json}
    <data>/tenants/<order>/{tenant.json, volume/, overlay/, log/<first offset>.log, exit.json, ...}

An agent gets one by `await open.open_sandbox(data, host=None)`: it runs canaries, and answers in the
strongest mode that worked (`modes.choose_mode`). `host` is the connection to the root helper, or
None, and then everything is done in this process with the rights it has.

Implementations: `tenants.LocalSandbox` over the requests of `host.py` (gVisor as root through the
helper, gVisor rootless, plain processes) and `fake.FakeSandbox` (in memory). One conformance suite
runs on all of them.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from deepbrain.primitives.errors import DeepBrainError

WORKSPACE = "/workspace"
"""Where a tenant finds its volume, and the default working directory."""

TOOL = "/.dbc/tool"
"""The static tenant tool, mounted read-only in every tenant."""

NOT_RESULTS = (
    ".bash_history", ".cache", ".cursor-server", ".python_history",
    ".vscode-server", ".vscode-server-insiders", ".windsurf-server", ".zed_server",
)  # fmt: skip
"""Names at the top of a volume, a job's home, that renters' editors and shells leave there: no results."""

MAX_EXECS = 16
"""Live exec sessions an order may have; each costs the host a client process."""

TERM_GRACE_SECONDS = 30
"""Between SIGTERM and SIGKILL when a term ends or a stop is asked for."""


class SandboxError(DeepBrainError):
    """A tenant could not be made, run or removed; the text is one sentence for a person."""


class NoSuchTenant(SandboxError):
    """The order has no tenant here."""


class HostLost(SandboxError):
    """The root helper has gone; nothing is known of what was asked. The next one can be asked again."""


class ImageError(SandboxError):
    """An image is malformed, over a bound, or not the one that was named."""


class Mode(Enum):
    """How a tenant is kept apart from the host, strongest first. The value is the wire name."""

    GVISOR = "gvisor"
    GVISOR_OWN = "gvisor-own"
    PROCESS = "process"
    FAKE = "fake"

    @property
    def serves_strangers(self) -> bool:
        """Only the full gVisor mode may run orders of anyone but the provider."""
        return self is Mode.GVISOR


class Network(Enum):
    """What a tenant can reach. The value is the wire name."""

    NONE = "none"
    INTERNET = "internet"
    """Public addresses; no neighbour, no machine of the provider's. Only in the full gVisor mode."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a stronger mode is not used on this machine, in one line."""

    mode: Mode
    reason: str


@dataclass(frozen=True, slots=True)
class ModeReport:
    """The mode that a canary really ran in, and why each stronger one was refused."""

    mode: Mode
    refused: tuple[Refusal, ...] = ()
    kernel: str = ""
    """The kernel string the canary saw inside (gVisor's differs from the host's)."""
    network: Network = Network.NONE
    """The most that a tenant can be given."""
    no_network: str = ""
    """Why it is none, in one line."""


@dataclass(frozen=True, slots=True)
class User:
    """As whom a job and what is run beside it run; numbers are the image's own."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    """Further groups."""
    home: str = ""
    """Empty: `/workspace`."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image unpacked on this machine."""

    digest: str
    """Lower-case hex SHA-256 of the whole tar that was imported, or of a registry's manifest."""
    name: str
    size: int
    """Bytes of the tar, or of all blobs; 0 when unknown."""
    env: tuple[tuple[str, str], ...] = ()
    argv: tuple[str, ...] = ()
    """Entrypoint and command of the image, used when the tenant names no argv."""
    workdir: str = ""
    """Where that command runs; what the tenant names itself runs in `/workspace`."""
    user: User = User()
    disk: int = 0
    """Bytes it takes unpacked."""
    private: bool = False
    """Fetched with somebody's credentials: whoever else wants it must show that they may have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSpec:
    """Everything that defines a tenant. There are no fields for mounts or capabilities."""

    order: int
    image: str
    """Hex digest of an imported image."""
    argv: tuple[str, ...] = ()
    """Empty: the image's own command."""
    env: tuple[tuple[str, str], ...] = ()
    """Added over the image's environment."""
    workdir: str = ""
    """Empty: the image's own with its own command, else `/workspace`. Made where it is missing."""
    user: User | None = None
    """None: the image's, as far as the mode has other users than one (`tenants.user_in`)."""
    cpu_milli: int = 1000
    """Thousandths of a core."""
    memory_bytes: int = 1 << 30
    disk_bytes: int = 1 << 30
    """A quarter bounds what is written over the image, three quarters are the volume."""
    pids: int = 256
    log_bytes: int = 16 << 20
    """Disk for the log; the oldest output is dropped beyond it."""
    network: Network = Network.NONE
    bandwidth_mbit: int = 0
    """Megabits a second of its network, each way; 0: no limit."""
    end_at: int | None = None
    """Latest end in milliseconds of `time.monotonic()`; the keeper enforces it without the agent."""
    devices: tuple[str, ...] = ()
    """Devices by their full names (`nvidia.com/gpu=0`), chosen by the agent and nobody else. A tenant
    holds them alone until it has ended."""
    mode: Mode | None = None
    """None: the sandbox's own mode. Another mode than the sandbox's is refused, never downgraded."""


class Phase(Enum):
    PREPARED = "prepared"
    RUNNING = "running"
    EXITED = "exited"
    LOST = "lost"
    """Started, without a live keeper and without an exit record: the provider failed."""


class ExitReason(Enum):
    EXITED = "exited"
    MEMORY = "memory"
    """Over its memory; the code is 137."""
    KILLED = "killed"
    """Ended by a signal or a stop asked for through the sandbox."""
    TERM = "term"
    """The latest end came."""
    ERROR = "error"
    """The job could not be started (command not found, sandbox failure); see the log."""


@dataclass(frozen=True, slots=True)
class TenantExit:
    """How a job ended."""

    code: int
    reason: ExitReason
    started_ms: int
    """Unix milliseconds."""
    ended_ms: int


@dataclass(frozen=True, slots=True)
class TenantState:
    order: int
    phase: Phase
    spec: TenantSpec
    exit: TenantExit | None = None
    """Set when and only when the phase is EXITED."""
    log_start: int = 0
    """Logical offset of the oldest log byte still kept."""
    log_end: int = 0

    @property
    def needs_image(self) -> bool:
        """Whether its image must stay; what has ended is read from the volume alone."""
        return self.phase in (Phase.PREPARED, Phase.RUNNING)


class ExecSession(Protocol):
    """A command running inside a tenant. Losing it (close, or the agent's death) kills all it started."""

    async def read(self) -> tuple[int, bytes] | None:
        """The next output as (stream, bytes up to 256 KiB): 1 out, 2 err; None when all is read.

        With a TTY everything is stream 1.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Feed standard input; waits while the command does not read. A closed stdin is ignored."""
        ...

    async def write_eof(self) -> None:
        """Close standard input (with a TTY: send ^D)."""
        ...

    async def resize(self, cols: int, rows: int) -> None:
        """Set the terminal's size; the foreground process gets SIGWINCH. No TTY: ignored."""
        ...

    async def signal(self, number: int) -> None:
        """Send the command's process group a signal, 1 to 31. It has ended: nothing happens."""
        ...

    async def wait(self) -> int:
        """The exit code (128 + signal when killed by one); 255 when it got lost with the tenant."""
        ...

    async def close(self) -> None:
        """Kill everything the session started inside, and release it. Idempotent."""
        ...


class Sandbox(Protocol):
    """Runs tenants in one mode. Every call may raise SandboxError, and NoSuchTenant where an order
    is named that has none. Calls for different orders may run at the same time; calls for one order
    are serialised by the caller, apart from exec, logs, export and state.
    """

    @property
    def report(self) -> ModeReport:
        """The mode everything here runs in, and why not a stronger one."""
        ...

    async def import_image(
        self,
        archive: Path,
        digest: str,
        name: str = "",
        *,
        limit: int | None = None,
        private: bool = False,
    ) -> ImageInfo:
        """Unpack a docker-archive or OCI-layout tar whose SHA-256 is `digest`, once; or a directory of
        a registry's blobs (each by the hex of its SHA-256), where `digest` is the manifest's.

        `limit` bounds the bytes unpacked. Raises: ImageError: malformed, over a bound, or another
        digest. Idempotent and fast when the image is there. The archive is not kept.
        """
        ...

    async def images(self) -> list[ImageInfo]: ...

    async def remove_image(self, digest: str) -> None:
        """Remove an unpacked image. Raises: SandboxError: a tenant that may yet run needs it."""
        ...

    async def prepare(self, spec: TenantSpec) -> Path:
        """Make the tenant's directory, limits on disk included, and return its volume.

        The volume is a directory of the calling user, shown as `/workspace`: unpack the workspace
        there before `start`. Repeating it with the same spec is allowed until the start.
        """
        ...

    async def start(self, order: int) -> None:
        """Make and read back the limits, then run the job; returns when its process runs.

        A command that does not exist still starts: it ends at once with code 127.
        Raises: SandboxError: a limit read back differs, or the sandbox did not come up; then nothing
        runs.
        """
        ...

    async def state(self, order: int) -> TenantState: ...

    async def list(self) -> list[TenantState]:
        """Every tenant of this data directory, by order number."""
        ...

    async def wait(self, order: int) -> TenantState:
        """The state once the tenant is EXITED or LOST."""
        ...

    async def set_end(self, order: int, end_at: int) -> None:
        """Move the latest end (milliseconds of `time.monotonic()`), as an extension does."""
        ...

    async def stop(self, order: int) -> None:
        """SIGTERM now, SIGKILL after 30 s, by the keeper; returns at once. Idempotent."""
        ...

    async def signal(self, order: int, number: int) -> None:
        """Signal the job (its process group). Not running: nothing happens."""
        ...

    async def exec(
        self,
        order: int,
        argv: Sequence[str],
        *,
        env: Sequence[tuple[str, str]] = (),
        cwd: str = "",
        tty: bool = False,
        cols: int = 80,
        rows: int = 24,
    ) -> ExecSession:
        """Run a command in a running tenant. Raises: SandboxError: not running, or MAX_EXECS live."""
        ...

    def logs(self, order: int, offset: int = 0, *, follow: bool = False) -> AsyncIterator[bytes]:
        """Raw log bytes from a logical offset on: records `u8 stream | u32 length LE | bytes`.

        Chunks are not aligned to records; concatenated they are the log. An offset that is already
        dropped starts at `log_start`: the caller compares with `state().log_start`. With `follow` it
        ends when the job has ended and all is read.
        """
        ...

    def export(
        self, order: int, paths: Sequence[str] = (), *, changed_only: bool = False
    ) -> AsyncIterator[bytes]:
        """A tar stream of paths (relative ones below `/workspace`), running or exited. A path that does
        not exist is taken as a pattern; what is not there is left out.

        `changed_only`: regular files created or changed since the start, of the whole volume without
        `NOT_RESULTS` when no path is named. Regular files and directories only; links are never followed nor sent. After
        the exit only the volume is there. What could not be read is left out. Raises: SandboxError:
        none of the paths is there, or the tenant is not.
        """
        ...

    async def import_(self, order: int, chunks: AsyncIterator[bytes], dest: str = ".") -> None:
        """Extract a tar stream below `dest` (relative to `/workspace`) in a running tenant."""
        ...

    async def release(self, order: int) -> None:
        """Give back what only a running tenant needs: its cgroup, and disk promised and not used.

        Log and volume stay readable. Idempotent. Raises: SandboxError: the job is running.
        """
        ...

    async def destroy(self, order: int) -> None:
        """Kill whatever runs and remove everything of the tenant. Idempotent; absent is fine."""
        ...

    async def close(self) -> None:
        """Release this process's handles; tenants go on."""
        ...

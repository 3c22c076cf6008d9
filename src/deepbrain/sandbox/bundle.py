"""OCI bundles for runsc: pure functions from a tenant's spec to `config.json` and command lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from deepbrain.sandbox.devices import Given
from deepbrain.sandbox.sandbox import TOOL, WORKSPACE, TenantSpec, User

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NO_DEVICES: Final = Given()
INIT_TASKS: Final = 32
"""Threads of init and of sessions' leashes, on top of the tenant's own processes."""

_CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
)
"""What package managers need. Inside gVisor they are the sentry's own, not the host's."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """How a tenant's disk is divided."""

    layer: int
    volume: int

    @classmethod
    def of(cls, disk_bytes: int) -> "Quotas":
        """A quarter for what is written over the image, the rest for the volume; whole MiB."""
        layer = max(disk_bytes // 4 >> 20, 1) << 20
        return cls(layer, max((disk_bytes - layer) >> 20, 4) << 20)


def environment(spec: TenantSpec) -> list[str]:
    """The job's environment: defaults, then the tenant's (which holds the image's already).

    What these say of NVIDIA's devices is left out: which a tenant gets is not theirs to say.
    """
    home = (spec.user or User()).home or WORKSPACE
    merged = {"PATH": DEFAULT_PATH, "HOME": home, "LANG": "C.UTF-8"}
    threads = str(max(spec.cpu_milli // 1000, 1))
    # Two threads on one rented core are slower than one: libraries ask the machine, not the quota.
    merged |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    merged |= {key: value for key, value in spec.env if not key.startswith("NVIDIA_")}
    return [f"{key}={value}" for key, value in merged.items()]


def init_flags(spec: TenantSpec) -> list[str]:
    """What the tool's init does as root before the job runs: owners, working directory, user."""
    user = spec.user or User()
    numbers = ":".join(str(number) for number in (user.uid, user.gid, *user.groups))
    return ["--user", numbers, "--cwd", spec.workdir or WORKSPACE, "--own"]


def process(
    spec: TenantSpec, argv: Sequence[str], env: Sequence[str], cwd: str, user: User | None = None
) -> dict[str, Any]:
    """The OCI process object, of the job and of exec sessions alike. No user is root: init."""
    tasks = spec.pids + INIT_TASKS
    user = user or User()
    kept = () if user.uid else _CAPABILITIES
    return {
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": list(argv),
        "env": list(env),
        "cwd": cwd or WORKSPACE,
        "noNewPrivileges": True,
        "capabilities": {
            "bounding": list(_CAPABILITIES),
            "effective": list(kept),
            "permitted": list(kept),
        },
        "rlimits": [
            {"type": "RLIMIT_NPROC", "soft": tasks, "hard": tasks},
            {"type": "RLIMIT_NOFILE", "soft": 65536, "hard": 65536},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ],
    }


def config(
    spec: TenantSpec,
    *,
    argv: Sequence[str],
    env: Sequence[str],
    rootfs: Path,
    tool: Path,
    volume: Path | None,
    volume_readonly: bool = False,
    cgroup: str = "",
    names: Path | None = None,
    devices: Given = NO_DEVICES,
) -> dict[str, Any]:
    """A bundle's `config.json`.

    No user namespace: rootless runsc makes its own. Without `names` the network namespace is new and
    stays empty; with it, it is the keeper's, and `names` is the directory of `etc_files`.
    """
    scratch = max(spec.memory_bytes // 2, 1 << 20)
    mounts = [
        _mount("/proc", "proc"),
        _mount("/sys", "sysfs", "ro", "nosuid", "nodev", "noexec"),
        _mount("/dev", "tmpfs", "nosuid", "mode=755", "size=65536k"),
        _mount("/dev/shm", "tmpfs", "nosuid", "nodev", "mode=1777", f"size={scratch}"),  # noqa: S108
        _mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777", f"size={scratch}"),  # noqa: S108
        _bind(TOOL, tool, "ro"),
    ]
    if volume is not None:
        mounts.append(_bind(WORKSPACE, volume, "ro" if volume_readonly else "rw"))
    mounts += [_bind(mount.path, Path(mount.host_path), "ro") for mount in devices.mounts]
    network = {"type": "network"}
    if names is not None:
        mounts += [_bind(f"/etc/{name}", names / name, "ro") for name in etc_files(spec, ())]
        network["path"] = "/proc/self/ns/net"
    kinds = ("pid", "mount", "ipc", "uts")
    linux: dict[str, Any] = {"namespaces": [*({"type": kind} for kind in kinds), network]}
    if cgroup:
        linux["cgroupsPath"] = cgroup
    if devices.nodes:
        linux["devices"] = list(devices.nodes)
    return {
        "ociVersion": "1.0.2",
        "hostname": f"order-{spec.order}",
        "process": process(spec, argv, env, "/"),
        "root": {"path": str(rootfs), "readonly": False},
        "mounts": mounts,
        "linux": linux,
    }


def etc_files(spec: TenantSpec, resolvers: Sequence[IPv4Address]) -> dict[str, str]:
    """What a tenant with a network finds in `/etc`, read-only, by name."""
    return {
        "resolv.conf": "".join(f"nameserver {address}\n" for address in resolvers),
        "hosts": f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 order-{spec.order}\n",
    }


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def _bind(destination: str, source: Path, access: str) -> dict[str, Any]:
    options = ["bind", access, "nosuid", "nodev"]
    return {"destination": destination, "type": "bind", "source": str(source), "options": options}


def runsc_command(
    runsc: Path,
    state: Path,
    *,
    rootless: bool,
    overlay: Path | None = None,
    layer: int = 0,
    network: str = "none",
    nvidia: bool = False,
) -> list[str]:
    """`runsc` with its global flags.

    The writable layer is a file in the tenant's own closed directory: the usual `root:self` puts it
    into the shared image, where other tenants of the image read it.
    """
    command = [str(runsc), "--root", str(state), f"--network={network}"]
    if rootless:
        command += ["--rootless", "--ignore-cgroups"]
    if nvidia:
        command.append("--nvproxy")
    if overlay is not None:
        command.append(f"--overlay2=root:dir={overlay},size={layer}")
    return command


def kill_command(command: Sequence[str], container: str) -> list[str]:
    """Completed by the name of a signal."""
    return [*command, "kill", container]

"""gVisor without a daemon: `runsc` on bundles of ours, as root or rootless."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from deepbrain.sandbox import bundle, devices, nvidia
from deepbrain.sandbox.bundle import NO_DEVICES, Quotas
from deepbrain.sandbox.cgroups import Cgroups, Limits, find_cgroups, kill_all
from deepbrain.sandbox.devices import Given
from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.engine import Command
from deepbrain.sandbox.network import TenantNetwork
from deepbrain.sandbox.sandbox import TOOL, Network, SandboxError, TenantSpec
from deepbrain.sandbox.volumes import (
    ensure_space,
    make_volume,
    mount_layer,
    mount_volume,
    mounts_below,
    shrink_volume,
    unmount_below,
)

INIT_FDS: Final = ("--pass-fd=3:3", "--pass-fd=4:4")
LEASH_FD: Final = "--pass-fd=3:3"
IN_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - files in it are new and private
VERIFY_SECONDS: Final = 2


class RunscEngine:
    """Both gVisor modes.

    As root: own cgroup, hard disk quota by a file system per volume. Rootless: the keeper watches
    memory (exactly, by gVisor's memfd) and the size of the volume.
    """

    def __init__(
        self,
        runsc: Path,
        tool: Path,
        *,
        rootless: bool,
        empty_rootfs: Path,
        owner: tuple[int, int],
        cgroups: Cgroups | None = None,
        resolve: Callable[[Sequence[str]], Given] = devices.given,
    ) -> None:
        """`resolve` says what devices, by their full names, bring into a sandbox."""
        self._runsc = runsc
        self._tool = tool
        self._rootless = rootless
        self._empty = empty_rootfs
        self._owner = owner
        self._cgroups = cgroups or find_cgroups()
        self._resolve = resolve
        self._network: TenantNetwork | None = None

    def _command(
        self,
        tenant: TenantDirectory,
        layer: int = 0,
        network: Network = Network.NONE,
        *,
        nvidia: bool = False,
    ) -> list[str]:
        return bundle.runsc_command(
            self._runsc,
            tenant.state_root,
            rootless=self._rootless,
            overlay=tenant.overlay if layer else None,
            layer=layer,
            network="none" if network is Network.NONE else "sandbox",
            nvidia=nvidia,
        )

    def try_network(self) -> tuple[Network, str]:
        if self._rootless:
            return Network.NONE, "only the mode gvisor has networks; run the provider as root"
        try:
            self._network = TenantNetwork()
            self._network.try_out()
        except (SandboxError, OSError) as error:
            return Network.NONE, " ".join(str(error).split())[:400]
        return Network.INTERNET, ""

    def listening(self) -> AbstractContextManager[str]:
        return self._expect_network().listening()

    def settle_network(self) -> None:
        if self._network is not None:
            self._network.settle()

    def prepare(self, tenant: TenantDirectory, spec: TenantSpec) -> None:
        ensure_space(tenant.path, spec.disk_bytes + spec.log_bytes)
        for directory in (tenant.overlay, tenant.state_root, tenant.bundle):
            directory.mkdir(mode=0o700, exist_ok=True)
        tenant.volume.mkdir(mode=0o700, exist_ok=True)
        if self._rootless:
            os.chown(tenant.volume, *self._owner)
            return
        if tenant.volume in mounts_below(tenant.volume):
            return
        quotas = Quotas.of(spec.disk_bytes)
        make_volume(tenant.volume_image, tenant.volume, quotas.volume, self._owner)

    def run_plan(self, tenant: TenantDirectory, spec: TenantSpec, rootfs: Path) -> dict[str, Any]:
        quotas = Quotas.of(spec.disk_bytes)
        given = self._give_devices(tenant, spec)
        command = self._command(tenant, quotas.layer, spec.network, nvidia=given.is_nvidia)
        self._make_limits(tenant, spec)
        config = bundle.config(
            spec,
            argv=[TOOL, "init", *bundle.init_flags(spec), "--", *spec.argv],
            env=devices.environment(bundle.environment(spec), given),
            rootfs=_layered(tenant, rootfs) if given.mounts else rootfs,
            tool=self._tool,
            volume=tenant.volume,
            cgroup=self._cgroup(tenant),
            names=self._write_names(tenant, spec),
            devices=given,
        )
        _write_private(tenant.bundle / "config.json", json.dumps(config))
        run = ["run", *INIT_FDS, "--bundle", str(tenant.bundle), tenant.container]
        plan: dict[str, Any] = {
            "argv": [*command, *run],
            "kill": bundle.kill_command(self._command(tenant), tenant.container),
        }
        if self._rootless:
            plan |= {"memory_limit": spec.memory_bytes, "memfd": True}
            plan |= {"disk_limit": quotas.volume}
        else:
            plan["oom_counters"] = self._cgroups.oom_counters(tenant.container)
        return plan

    def _write_names(self, tenant: TenantDirectory, spec: TenantSpec) -> Path | None:
        if spec.network is Network.NONE:
            return None
        for name, text in bundle.etc_files(spec, self._expect_network().resolvers).items():
            _write_private(tenant.bundle / name, text)
            (tenant.bundle / name).chmod(0o644)
        return tenant.bundle

    def _expect_network(self) -> TenantNetwork:
        if self._network is None:
            raise SandboxError("tenants have no network in this mode")
        return self._network

    def launch(self, tenant: TenantDirectory, spec: TenantSpec, start: Callable[[], None]) -> None:
        if spec.network is Network.NONE:
            start()
        else:
            alias = _link_alias(tenant)
            self._expect_network().attach(alias, start, spec.bandwidth_mbit)

    def _give_devices(self, tenant: TenantDirectory, spec: TenantSpec) -> Given:
        """Resolve the tenant's devices, and remember what its sessions need of them."""
        if not spec.devices:
            return NO_DEVICES
        given = self._resolve(spec.devices)
        if given.is_nvidia and (problem := nvidia.driver_problem(self._runsc)):
            raise SandboxError(problem)
        tenant.write_record("devices.json", {"env": given.env, "libraries": given.libraries})
        return given

    def _make_limits(self, tenant: TenantDirectory, spec: TenantSpec) -> None:
        if self._rootless:
            return
        self._ensure_mounted(tenant)
        limits = Limits.for_tenant(spec.memory_bytes, spec.cpu_milli, spec.pids)
        self._cgroups.make(tenant.container, limits)

    def _ensure_mounted(self, tenant: TenantDirectory) -> None:
        """A machine that was restarted has the volumes, but not their mounts."""
        if not self._rootless and tenant.volume not in mounts_below(tenant.volume):
            mount_volume(tenant.volume_image, tenant.volume)

    def _cgroup(self, tenant: TenantDirectory) -> str:
        return "" if self._rootless else self._cgroups.path(tenant.container)

    def members(self, tenant: TenantDirectory) -> set[int]:
        if self._rootless:
            return set(processes_naming(str(tenant.state_root)))
        return self._cgroups.members(tenant.container)

    def verify(self, tenant: TenantDirectory) -> None:
        deadline = time.monotonic() + VERIFY_SECONDS
        while not self._rootless and not self._cgroups.holds_all(tenant.container):
            if tenant.keeper() is None:
                return  # a fast job: it has ended meanwhile
            if time.monotonic() > deadline:
                raise SandboxError("the tenant runs outside of its limits")
            time.sleep(0.005)

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
        # What brings files out reads all of them: the tenant is its renter's, whoever the job runs as.
        user = None if tuple(argv[3:5]) == (TOOL, "tar-out") else spec.user
        words = devices.environment(env, _remembered(tenant)) if spec.devices else env
        process = bundle.process(spec, argv, words, cwd or spec.workdir, user) | {"terminal": tty}
        # Not as argv, which others can read; and in memory, so that a full disk keeps nobody out.
        path = IN_MEMORY / f"{_execs_of(tenant)}{time.monotonic_ns()}.json"
        _write_private(path, json.dumps(process), os.O_EXCL)
        command = self._command(tenant)
        client = [*command, "exec", LEASH_FD, "--process", str(path), tenant.container]
        return Command(client, temporary=(path,))

    def collect_command(
        self, tenant: TenantDirectory, spec: TenantSpec, argv: Sequence[str]
    ) -> Command:
        self._ensure_mounted(tenant)
        name = f"{tenant.container}-{time.monotonic_ns()}"
        directory = tenant.path / f"collect-{name}"
        directory.mkdir(mode=0o700)
        config = bundle.config(
            spec,
            argv=argv,
            env=(),
            rootfs=self._empty,
            tool=self._tool,
            volume=tenant.volume,
            volume_readonly=True,
        )
        _write_private(directory / "config.json", json.dumps(config))
        command = bundle.runsc_command(
            self._runsc,
            tenant.state_root,
            rootless=self._rootless,
            overlay=tenant.overlay,
            layer=1 << 20,
        )
        if not self._rootless:
            command.append("--ignore-cgroups")  # the tool's own memory is small, and it is ours
        run = ["run", LEASH_FD, "--bundle", str(directory), name]
        return Command([*command, *run], temporary=(directory,))

    def signal(self, tenant: TenantDirectory, keeper: int, number: int) -> None:
        command = bundle.kill_command(self._command(tenant), tenant.container)
        subprocess.run([*command, str(number)], capture_output=True, check=False, env={})

    def release(self, tenant: TenantDirectory) -> None:
        if self._rootless:
            return
        self._detach(tenant)
        self._cgroups.remove(tenant.container)
        unmount_below(tenant.layered)
        if "rw" in mounts_below(tenant.volume).get(tenant.volume, "").split(","):
            shrink_volume(tenant.volume_image, tenant.volume)

    def clean(self, tenant: TenantDirectory, *, keep_volume: bool = False) -> None:
        if not self._rootless:
            self._cgroups.remove(tenant.container)
        kill_until_gone(lambda: processes_naming(str(tenant.state_root)), tenant.order)
        if not self._rootless:
            self._cgroups.remove(
                tenant.container
            )  # one that was just starting may have made it again
        self._detach(tenant)
        for left in IN_MEMORY.glob(f"{_execs_of(tenant)}*"):
            left.unlink(missing_ok=True)
        for where in (tenant.state_root, tenant.layered) if keep_volume else (tenant.path,):
            if mounts_below(where):
                unmount_below(where)

    def _detach(self, tenant: TenantDirectory) -> None:
        had_one = (tenant.bundle / "resolv.conf").exists()
        if self._network is not None and had_one:
            self._network.detach(_link_alias(tenant))


def _execs_of(tenant: TenantDirectory) -> str:
    return f"dbc-exec-{tenant.container}-"


def _layered(tenant: TenantDirectory, rootfs: Path) -> Path:
    """The image with a layer of the tenant's own above it: gVisor makes missing mount points in what it
    is given, and the image is shared.
    """
    for directory in (tenant.layered, tenant.layered_files):
        directory.mkdir(mode=0o700, exist_ok=True)
    if tenant.layered not in mounts_below(tenant.layered):
        mount_layer(rootfs, tenant.layered_files, tenant.layered)
    return tenant.layered


def _remembered(tenant: TenantDirectory) -> Given:
    found = json.loads((tenant.path / "devices.json").read_bytes())
    env = tuple((key, value) for key, value in found["env"])
    return Given(env=env, libraries=tuple(found["libraries"]))


def _link_alias(tenant: TenantDirectory) -> str:
    return f"deepbrain-{tenant.container}"


def kill_until_gone(find: Callable[[], list[int]], order: int) -> None:
    """Raises: SandboxError: something lives on (the kernel holds it) after ten seconds."""
    deadline = time.monotonic() + 10
    while pids := find():
        kill_all(pids)
        if time.monotonic() > deadline:
            raise SandboxError(f"a process of order {order} cannot be killed")
        time.sleep(0.005)


def processes_naming(argument: str) -> list[int]:
    """Processes with exactly this argument on their command line: a tenant's runsc, all of them."""
    wanted = argument.encode()
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            arguments = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in arguments or b"--root=" + wanted in arguments:
            found.append(int(path.name))
    return found


def _write_private(path: Path, text: str, how: int = os.O_TRUNC) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)

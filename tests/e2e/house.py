"""A host of its own, as far as a test may have one: mounts that nobody else sees over `/etc`, `/var/lib` and
the like, so that what installs itself there leaves nothing. Network, processes and cgroups are the machine's.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.leftovers import Leftovers
from tests.e2e.network import ROOT, Done

DATA_BYTES = 8 << 30
COVERED = ("/etc", "/var/lib", "/opt", "/usr/local")

Popen = subprocess.Popen[str]


@dataclass(slots=True)
class Home:
    """Another computer, where the stash's key is: a directory."""

    path: Path

    @property
    def env(self) -> dict[str, str]:
        ours = {"DBC_HOME": str(self.path / ".dbc"), "HOME": str(self.path)}
        return ours | {"DBC_PASSPHRASE_FILE": str(self.path / "password")}


@dataclass(slots=True)
class HostMachine:
    """`base` holds everything; `keeper` is the process that keeps the mounts."""

    base: Path
    keeper: Popen
    node: Popen
    home: Home
    leftovers: Leftovers
    node_port: int
    port: int
    """That renters dial."""
    metrics: str
    serving: "Popen | None" = None
    logs: list[Path] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.node_port}"

    @property
    def env(self) -> dict[str, str]:
        names = ("PATH", "LANG", "REQUIRE_GVISOR")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        tools = {"DBC_RUNSC": "runsc", "DBC_TOOL": "dbc-tool"}
        kept |= {name: str(ROOT / ".cache" / "bin" / file) for name, file in tools.items()}
        return kept | {
            "DBC_NODE": self.url, "HOME": str(self.base), "PYTHONDONTWRITEBYTECODE": "1",
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }  # fmt: skip

    def _inside(self, line: str) -> list[str]:
        return ["nsenter", "-m", "-t", str(self.keeper.pid), "sh", "-c", f"cd {self.base}; {line}"]

    def start(self, line: str, log: Path) -> Popen:
        with log.open("a") as file:
            return subprocess.Popen(
                self._inside(f"exec {line}"), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env=self.env, text=True, start_new_session=True,
            )  # fmt: skip

    def run(self, line: str, given: str = "", env: Mapping[str, str] | None = None) -> Done:
        """A shell's line on the host, as root."""
        return _done(self._inside(line), self.env | dict(env or {}), self.base, given)

    def expect(self, line: str, **how: str) -> Done:
        done = self.run(line, **how)
        assert done.code == 0, f"{line} ended with {done.code}: {done.out}{done.err}"
        return done

    def at_home(self, line: str, given: str = "") -> Done:
        """A shell's line where the stash's key is; `dbc` is that of this checkout."""
        path = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        env = self.env | self.home.env | {"PATH": path}
        return _done(["sh", "-c", line], env, self.home.path, given)

    def expect_at_home(self, line: str, given: str = "") -> Done:
        done = self.at_home(line, given)
        assert done.code == 0, f"{line} ended with {done.code}: {done.out}{done.err}"
        return done

    # -- serving

    def serve(self) -> None:
        """As a supervisor would: `dbc provider run`, until it answers."""
        log = self.base / f"run-{len(self.logs)}.log"
        self.logs.append(log)
        self.serving = self.start("dbc provider run", log)
        self.wait_for(lambda: "event=chain-read" in log.read_text(), 40, "it does not serve")

    def stop(self) -> None:
        """As systemd does with `KillMode=process`: SIGTERM to the one process it started."""
        if self.serving is not None:
            self.serving.send_signal(signal.SIGTERM)
            self.serving.wait(30)
            self.serving = None

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in self.logs)

    def wait_for(self, holds: Callable[[], object], seconds: float, complaint: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            died = self.serving is not None and self.serving.poll() is not None
            assert time.monotonic() < deadline and not died, f"{complaint}: {self.log[-3000:]}"
            time.sleep(0.1)

    def tenants(self) -> set[str]:
        """The names of the cgroups of tenants whose directories are there."""
        listed = self.run("stat -c '%i %n' /var/lib/dbc/tenants/[0-9]*").out.split()
        return {
            f"{int(inode):x}-{Path(path).name}"
            for inode, path in zip(listed[::2], listed[1::2], strict=True)
        }

    def cgroups(self) -> list[Path]:
        """Of its tenants, in every hierarchy."""
        found = (*Path("/sys/fs/cgroup").glob("**/deepbrain/*"),)
        return [path for path in found if path.name in self.tenants()]

    def processes(self, sign: str) -> list[int]:
        """Ours whose command line has `sign`."""
        found = []
        for pid, words in self.leftovers.processes():
            if re.search(sign, words):
                found.append(pid)
        return found


def _done(command: list[str], env: Mapping[str, str], cwd: Path, given: str) -> Done:
    began = time.monotonic()
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=120, check=False, env=env,
        cwd=cwd,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@contextlib.contextmanager
def host_machine() -> Iterator[HostMachine]:
    """A bare host beside a node of a fresh chain; afterwards nothing of it is left."""
    base = Path(tempfile.mkdtemp(prefix="dbc-e2e-host-"))
    base.chmod(0o755)
    leftovers = Leftovers.of(base)
    ports = [
        _free_port(kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
    ]
    keeper, node, machine = _keep_mounts(base), _start_node(base, ports[0]), None
    home = Home(base / "home")
    home.path.mkdir()
    (home.path / "password").write_text("a password at home\n")
    try:
        metrics = f"127.0.0.1:{ports[2]}"
        machine = HostMachine(base, keeper, node, home, leftovers, ports[0], ports[1], metrics)
        machine.wait_for(lambda: _answers(machine), 30, "the node does not come up")
        yield machine
    finally:
        if machine is not None:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                machine.stop()
        leftovers.note_tenants(base)
        node.terminate()
        node.wait(20)
        leftovers.clear()
        keeper.kill()
        keeper.wait()
        left = leftovers.found(patience=5.0)
        shutil.rmtree(base, ignore_errors=True)
    assert not left, "\n".join(left)


def _keep_mounts(base: Path) -> Popen:
    """A process in a mount namespace of its own, in which the data directory has an end."""
    lines = ["set -e", "mount --make-rprivate /"]
    for number, place in enumerate(COVERED):
        upper, work = base / f"upper{number}", base / f"work{number}"
        upper.mkdir()
        work.mkdir()
        options = f"lowerdir={place},upperdir={upper},workdir={work}"
        lines.append(f"mount -t overlay overlay -o {options} {place}")
    image = base / "disk.img"
    with image.open("wb") as file:
        file.truncate(DATA_BYTES)
    lines += [
        f"mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,nodiscard {image}",
        "mkdir -p /var/lib/dbc",
        f"mount -o loop {image} /var/lib/dbc",
        "rmdir /var/lib/dbc/lost+found",
        "echo ready",
        "exec sleep infinity",
    ]
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    keeper = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", "\n".join(lines)], stdout=subprocess.PIPE, text=True,
        env={"PATH": path, "DBC_E2E": str(base)},
    )  # fmt: skip
    assert keeper.stdout is not None
    with keeper.stdout as said:
        assert said.readline() == "ready\n", "this machine gives the test no mounts of its own"
    return keeper


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_node(base: Path, port: int) -> Popen:
    with (base / "node.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "deepbrain.node", "--spec", "dev", "--data", str(base / "node"),
             "--rpc-port", str(port)],
            stdout=log, stderr=log, text=True,
        )  # fmt: skip


def _answers(machine: HostMachine) -> bool:
    return machine.at_home("dbc gpus --json").code == 0

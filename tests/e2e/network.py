"""A whole network of real processes, as a person starts it, and what must be left of it: nothing."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.leftovers import Leftovers

from deepbrain.provider.confine import confined, program_trees

ROOT = Path(__file__).resolve().parents[2]
UID = 51_742
"""An ordinary user for the tests that must not be root: nobody has this number."""

UNIT_MEMORY = 384 << 20

CLONE_NEWUSER = 0x10000000
PR_SET_DUMPABLE = 4

Popen = subprocess.Popen[str]

DBC = (sys.executable, "-m", "deepbrain.cli.main")


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def sentence(self) -> str:
        """The last line on standard error: the error, or how an order ended."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Variant:
    """As whom, and in which isolation, everything runs."""

    mode: str
    uid: int
    without_namespaces: bool = False
    """Whether user namespaces are switched off for everything that runs here."""

    @property
    def name(self) -> str:
        return f"{'root' if self.uid == 0 else 'user'}-{self.mode}"

    def enter(self) -> Callable[[], None] | None:
        """What makes a child this user; it may not be able to enter the way to our interpreter."""
        become = None
        if self.uid != os.geteuid():
            become = confined(self.uid, self.uid, (*program_trees(), ROOT))
        if not self.without_namespaces:
            return become

        def enter() -> None:
            if become is not None:
                become()
            forbid_user_namespaces(self.uid)

        return enter


def forbid_user_namespaces(uid: int) -> None:
    """Enter a user namespace that allows none below it: a host that has them switched off."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) or libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "no user namespace")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


AS_ROOT = Variant("gvisor", 0)
AS_USER = Variant("gvisor-own", UID if os.geteuid() == 0 else os.geteuid())
AS_PROCESS = Variant("process", AS_USER.uid, without_namespaces=True)


@dataclass(slots=True)
class Network:
    """`place` is the network's directory, below `base`, which holds all that the tests make."""

    variant: Variant
    base: Path
    leftovers: Leftovers
    providers: int = 1
    log: list[str] = field(default_factory=list)
    within: "Callable[[Callable[[], Popen]], Popen]" = lambda start: start()
    """Where commands are started, such as in a network namespace."""

    @property
    def place(self) -> Path:
        return self.base / "network"

    @property
    def env(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("DBC_")}
        ours |= {"DBC_HOME": str(self.base / "home"), "HOME": str(self.base)}
        return ours | {"PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, *args: str) -> list[str]:
        return [*DBC, *args]

    def start(self, *args: str, env: Mapping[str, str] | None = None, **how: Any) -> Popen:
        """One `dbc` command, running; its streams are pipes unless `how` says otherwise."""
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | how
        how = {"stderr": subprocess.PIPE, "cwd": self.base, "text": True} | how
        return self.within(
            lambda: subprocess.Popen(
                self.command(*args),
                env=self.env | dict(env or {}),
                preexec_fn=self.variant.enter(),
                **how,
            )
        )

    def dbc(self, *args: str, timeout: float = 60, given: str | None = None, **how: Any) -> Done:
        """One `dbc` command to its end."""
        began = time.monotonic()
        if given is not None:
            how["stdin"] = subprocess.PIPE
        process = self.start(*args, **how)
        try:
            out, err = process.communicate(given, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"dbc {' '.join(args)} hangs; it said: {out}{err}") from None
        return Done(process.returncode, out, err, time.monotonic() - began)

    def expect(self, *args: str, **how: Any) -> Done:
        """As `dbc`, and it must succeed."""
        done = self.dbc(*args, **how)
        assert done.code == 0, f"dbc {' '.join(args)} ended with {done.code}: {done.err}"
        return done

    def workspace(self, name: str, files: Mapping[str, str | bytes]) -> Path:
        """A directory of files, owned by whoever the commands run as."""
        path = self.base / name
        path.mkdir(exist_ok=True)
        for relative, content in files.items():
            file = path / relative
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        self.hand_over(path)
        return path

    def hand_over(self, path: Path) -> None:
        if os.geteuid() == 0 and self.variant.uid:
            subprocess.run(
                ["chown", "-R", f"{self.variant.uid}:{self.variant.uid}", path], check=True
            )

    # -- up and down

    def up(self, *more: str) -> None:
        arguments = ("network", "up", "--detach", "--dir", str(self.place))
        self.expect(*arguments, "--providers", str(self.providers), *more, timeout=120)

    def make_small(self) -> None:
        """Give tenants little memory, so that eating all of it takes a moment and not a minute."""
        for path in self.place.glob("provider-*/**/agent.json"):
            config = json.loads(path.read_bytes())
            config["capacity"]["memory_bytes"] = config["capacity"]["units"] * UNIT_MEMORY
            path.write_text(json.dumps(config))
        agents = [pid for pid, _ in self.agents()]
        for pid in agents:
            os.kill(pid, signal.SIGTERM)
        self.wait_for(lambda: self._serves_anew(agents), 30, "the agents did not start again")

    def _serves_anew(self, before: list[int]) -> bool:
        now = [pid for pid, _ in self.agents()]
        served = self.logs().count("the chain is read at block")
        return len(now) == self.providers and not set(now) & set(before) and served >= 2 * len(now)

    def wait_for(self, holds: Callable[[], bool], seconds: float, complaint: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, complaint
            time.sleep(0.1)

    # -- its processes

    def agents(self) -> list[tuple[int, int]]:
        """Each agent's process, and the number of its provider."""
        return self._programs("deepbrain.provider.agent")

    def helpers(self) -> list[tuple[int, int]]:
        return self._programs("deepbrain.provider.helper")

    def node(self) -> int | None:
        found = [pid for pid, words in self._commands() if "deepbrain.node" in words]
        return found[0] if found else None

    def keepers(self) -> list[tuple[int, int]]:
        """Each tenant's keeper, and the number of its provider; canaries have theirs, too."""
        found = []
        for pid, words in self._commands():
            is_keeper = any(word.endswith("/keeper.py") for word in words)
            if is_keeper and "/canary-" not in words[-2]:
                found.append((pid, self._provider_of(words)))
        return found

    def sandboxes(self) -> list[int]:
        """Processes of gVisor."""
        return [pid for pid, words in self._commands() if "runsc" in words[0]]

    def _provider_of(self, words: list[str]) -> int:
        mark = next(word for word in words if f"{self.place}/provider-" in word)
        return int(mark.partition("/provider-")[2].partition("/")[0])

    def _programs(self, module: str) -> list[tuple[int, int]]:
        found = []
        for pid, words in self._commands():
            if words[1:3] == ["-m", module]:
                found.append((pid, self._provider_of(words)))
        return found

    def _commands(self) -> Iterator[tuple[int, list[str]]]:
        """Processes that name our directory on their command line."""
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if any(str(self.place) in word for word in words):
                        yield int(path.name), words

    def down(self) -> Done:
        return self.dbc("network", "down", "--dir", str(self.place), timeout=120)

    @property
    def url(self) -> str:
        """Of the node."""
        return str(self.record()["node"])

    def record(self) -> Any:
        """What `network up` says of itself: it stays as it is, whatever dies."""
        return json.loads((self.place / "ready.json").read_bytes())

    def status(self) -> dict[str, Any]:
        return self.expect("network", "status", "--dir", str(self.place), "--json").json()

    def logs(self) -> str:
        """What its processes said, for a failed test's report."""
        found = sorted((self.place / "logs").glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text()[-6000:]}" for path in found)

    def stood_still(self) -> str:
        """Where a process was that its watchdog ended, empty where none was: that is never right."""
        for path in (self.place / "logs").glob("*.log"):
            _, mark, frames = path.read_text().partition("Timeout (0:")
            if mark:
                return f"{path.name}: {mark}{frames[:4000]}"
        return ""

    def node_log(self) -> str:
        return (self.place / "logs" / "node.log").read_text()

    def refusals(self) -> str:
        """Why a stronger isolation is not used, as the agents' logs have it."""
        lines = [line for line in self.logs().splitlines() if "is not used" in line]
        return lines[-1] if lines else "see the providers' logs"

    # -- what the chain says

    def offers(self) -> list[dict[str, Any]]:
        return self.expect("gpus", "--all", "--json").json()

    def orders(self) -> list[dict[str, Any]]:
        return self.expect("ps", "--all", "--json").json()

    def bill(self, order: int) -> dict[str, Any]:
        return self.expect("bill", str(order), "--json").json()


RUNNING: list[Network] = []
"""The networks that are up now, for the report of a test that fails."""


@contextlib.contextmanager
def network(variant: Variant, providers: int = 1, *more: str, **fields: Any) -> Iterator[Network]:
    """A network that serves; afterwards it is down, and nothing is left of it."""
    base = Path(tempfile.mkdtemp(prefix=f"dbc-e2e-{variant.name}-"))
    base.chmod(0o755)
    net = Network(variant, base, Leftovers.of(base), providers, **fields)
    net.hand_over(base)
    try:
        net.up(*more)
        RUNNING.append(net)
        yield net
    except BaseException:
        sys.stderr.write(net.logs())
        raise
    finally:
        if net in RUNNING:
            RUNNING.remove(net)
        net.leftovers.note_tenants(net.place)
        done = net.down()
        stood_still = net.stood_still()
        left = net.leftovers.found(patience=5.0)
        net.leftovers.clear()
        shutil.rmtree(base, ignore_errors=True)
    assert done.code == 0, f"network down ended with {done.code}: {done.err}"
    assert not left, "\n".join(left)
    assert not stood_still, stood_still


def require(variant: Variant, offered: str, reason: str) -> None:
    """Skip what this machine cannot isolate as the test needs it, unless nothing may be skipped."""
    if offered == variant.mode:
        return
    sentence = f"this machine isolates by {offered}, not by {variant.mode}: {reason}"
    if os.environ.get("REQUIRE_GVISOR") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)

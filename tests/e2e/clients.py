"""The renters' own programs: unmodified ssh, scp, sftp and rsync, pointed at an order."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.network import ROOT, Done, Network

CLIENTS = ROOT / ".cache" / "clients"
"""Where `scripts/get-clients` puts what this machine lacks."""


def clients_env() -> dict[str, str]:
    """The environment in which the programs are found, those of this machine first."""
    libraries = sorted({str(path.parent) for path in CLIENTS.rglob("*.so.*")})
    env = {"PATH": f"{os.environ['PATH']}:{CLIENTS / 'usr/bin'}"}
    return env | ({"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {})


def require_client(name: str) -> None:
    """Skip what cannot be had here, unless nothing may be skipped."""
    if shutil.which(name, path=clients_env()["PATH"]):
        return
    sentence = f"{name} is neither here nor in {CLIENTS}; run scripts/get-clients {CLIENTS}"
    if os.environ.get("REQUIRE_GVISOR") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)


@dataclass(frozen=True, slots=True)
class Tools:
    """Everything through one configuration, as a person has it; the home is root's, whoever serves."""

    net: Network
    home: Path
    config: Path

    @classmethod
    def of(cls, net: Network) -> "Tools":
        home = net.base / "ssh-home"
        home.mkdir(exist_ok=True)
        tools = cls(net, home, home / "ssh_config")
        done = tools.run(*tools.dbc("ssh-config"))
        assert done.code == 0, done.err
        tools.config.write_text(done.out)
        return tools

    def dbc(self, *args: str) -> list[str]:
        choices = ("--node", self.net.url, "--wallet", "//Alice")
        return [sys.executable, "-P", "-m", "deepbrain.cli.main", *choices, *args]

    @property
    def env(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("DBC_")}
        ours |= {"DBC_HOME": str(self.home), "HOME": str(self.home)}
        return ours | clients_env() | {"PYTHONDONTWRITEBYTECODE": "1"}

    def ssh(self, order: str, *args: str, options: tuple[str, ...] = ()) -> list[str]:
        return ["ssh", "-F", str(self.config), *options, f"dbc-{order}", *args]

    def start(self, *command: str, **how: object) -> "subprocess.Popen[bytes]":
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | how
        how = {"stderr": subprocess.PIPE, "cwd": self.home} | how
        return subprocess.Popen(command, env=self.env, **how)  # type: ignore[call-overload, no-any-return]

    def raw(
        self, *command: str, given: bytes | None = None, timeout: float = 60
    ) -> tuple[int, bytes, str]:
        """One program to its end: code, output, errors."""
        stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
        process = self.start(*command, stdin=stdin)
        try:
            out, err = process.communicate(given, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{command[0]} hangs; it said: {out[-500:]!r} {err!r}") from None
        return process.returncode, out, err.decode(errors="replace")

    def run(self, *command: str, given: str | None = None, timeout: float = 60) -> Done:
        data = None if given is None else given.encode()
        code, out, err = self.raw(*command, given=data, timeout=timeout)
        return Done(code, out.decode(), err, 0)

    def expect(self, *command: str, given: str | None = None, timeout: float = 60) -> str:
        done = self.run(*command, given=given, timeout=timeout)
        assert done.code == 0, f"{command[0]} ended with {done.code}: {done.err}"
        return done.out

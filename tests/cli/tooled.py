"""An order in a fake sandbox in which the real tenant tool runs, and SSH in front of it."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from tests.provider.house import House, house

from deepbrain.cli.ssh.execs import Execs
from deepbrain.cli.ssh.keys import SshFiles, ssh_files
from deepbrain.cli.ssh.server import serve_ssh
from deepbrain.net.session import Session
from deepbrain.sandbox.fake import FakeProcess
from deepbrain.sandbox.modes import Programs
from deepbrain.sandbox.sandbox import TOOL


async def run_tool(process: FakeProcess) -> int:
    """The tool as a plain process of ours, its streams those of the fake."""
    tool = Programs.find().tool
    assert tool is not None
    running = await asyncio.create_subprocess_exec(
        tool,
        *process.argv[1:],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(process.volume), **process.env},
        cwd=process.volume,
        start_new_session=True,
    )
    tasks = [
        asyncio.create_task(_feed(process, running)),
        asyncio.create_task(_signal(process, running)),
    ]
    try:
        await asyncio.gather(_pump(running.stdout, process.out), _pump(running.stderr, process.err))
        code = await running.wait()
        return code if code >= 0 else 128 - code
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, 9)
        running._transport.close()  # what nobody read of its output would keep it open
        for task in tasks:
            task.cancel()
        # Killed, it ends soon; a loop that closes meanwhile, and cancels, must not leave it unreaped.
        while running.returncode is None:
            with contextlib.suppress(asyncio.CancelledError):
                await running.wait()


async def _pump(stream: Any, emit: Any) -> None:
    while data := await stream.read(65536):
        emit(data)


async def _feed(process: FakeProcess, running: asyncio.subprocess.Process) -> None:
    assert running.stdin is not None
    with contextlib.suppress(ConnectionError):
        while data := await process.stdin.get():
            running.stdin.write(data)
            await running.stdin.drain()
    running.stdin.close()


async def _signal(process: FakeProcess, running: asyncio.subprocess.Process) -> None:
    while True:
        number = await process.signals.get()
        os.killpg(running.pid, number)


@dataclass
class Front:
    """SSH connections to one order, each served as a gateway would."""

    home: House
    files: SshFiles
    execs: Execs
    session: Session
    serving: set["asyncio.Task[None]"]
    ends: list[str] = field(default_factory=list)
    """Why connections ended, as their clients were told."""

    @contextlib.asynccontextmanager
    async def connect(self, key: Path | None = None) -> AsyncIterator[asyncssh.SSHClientConnection]:
        near, far = socket.socketpair()
        far.setblocking(False)
        task = asyncio.create_task(serve_ssh(far, self.execs, self.files))
        self.serving.add(task)
        async with self.over(near, key) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def over(
        self, near: socket.socket, key: Path | None = None
    ) -> AsyncIterator[asyncssh.SSHClientConnection]:
        class Client(asyncssh.SSHClient):
            def connection_lost(client, exc: Exception | None) -> None:  # noqa: N805
                self.ends.append(str(exc))

        host = asyncssh.read_private_key(self.files.host_key)
        async with await asyncssh.connect(
            "dbc",
            client_factory=Client,
            sock=near,
            username="root",
            client_keys=[str(key or self.files.client_key)],
            known_hosts=([host.convert_to_public()], [], []),
            config=[],
            encoding=None,
        ) as connection:
            yield connection


@contextlib.asynccontextmanager
async def front(data: Path, **changes: Any) -> AsyncIterator[Front]:
    if Programs.find().tool is None:
        if os.environ.get("REQUIRE_GVISOR") == "1":
            pytest.fail("scripts/get-gvisor was not run")
        pytest.skip("scripts/get-gvisor was not run")
    async with house("fake", data) as home:
        home.sandbox._programs[TOOL] = run_tool
        session = await home.running(7, "sleep", "60")
        made = Front(home, ssh_files(), Execs(session), session, set())
        try:
            yield made
        finally:
            for task in made.serving:
                task.cancel()
            await asyncio.gather(*made.serving, return_exceptions=True)

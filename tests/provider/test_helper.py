"""The socket between agent and root helper: nothing but the closed list, whatever arrives."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbrain import __version__
from deepbrain.primitives.errors import DecodeError
from deepbrain.provider import agent as agent_module
from deepbrain.provider import release
from deepbrain.provider.helper import Service, secret
from deepbrain.sandbox.host import Host, SessionFds, check_spec
from deepbrain.sandbox.messages import (
    ANSWERS,
    MAX_PACKET,
    REQUESTS,
    Failed,
    spec_from_wire,
    spec_to_wire,
)
from deepbrain.sandbox.remote import RemoteHost
from deepbrain.sandbox.sandbox import (
    ExitReason,
    ImageError,
    Mode,
    ModeReport,
    NoSuchTenant,
    Refusal,
    SandboxError,
    TenantSpec,
)

REPORT = ModeReport(Mode.GVISOR_OWN, (Refusal(Mode.GVISOR, "no cgroups"),), "4.19.0-gvisor")
SPEC = TenantSpec(
    order=7,
    image="ab" * 32,
    argv=("sh", "-c", "true"),
    env=(("A", "b=c"),),
    workdir="/workspace",
    end_at=12_345,
    mode=Mode.GVISOR_OWN,
)


class Recorder:
    """Stands for `Host`: remembers what was asked."""

    def __init__(self) -> None:
        self.report = REPORT
        self.data = Path("/nowhere")
        self.asked: list[tuple[Any, ...]] = []

    def prepare(self, spec: TenantSpec) -> None:
        self.asked.append(("prepare", spec))

    def start(self, order: int) -> None:
        raise NoSuchTenant(f"order {order} has no tenant on this machine")

    def install_image(self, digest: str) -> None:
        raise ImageError(f"no {digest[:4]}")

    def set_end(self, order: int, end_at: int, reason: ExitReason) -> None:
        self.asked.append(("set_end", order, end_at, reason))

    def signal(self, order: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    def destroy(self, order: int) -> None:
        raise ZeroDivisionError

    def exec(
        self,
        order: int,
        argv: Sequence[str],
        env: Sequence[tuple[str, str]],
        cwd: str,
        tty: bool,
        fds: SessionFds,
    ) -> None:
        os.write(fds.status, b"3\n")
        self.asked.append(("exec", order, tuple(argv), tuple(env), cwd, tty))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def agent_end(recorder: Recorder) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    served = threading.Thread(target=Service(cast(Host, recorder), ours).serve)
    served.start()
    yield theirs
    theirs.close()
    served.join(10)
    assert not served.is_alive()
    ours.close()


@pytest.fixture
async def remote(agent_end: socket.socket) -> AsyncIterator[RemoteHost]:
    host = RemoteHost(agent_end.dup())
    yield host
    host.close()


async def test_report_and_spec_arrive_whole(remote: RemoteHost, recorder: Recorder) -> None:
    assert await remote.report() == REPORT
    await remote.prepare(SPEC)
    await remote.set_end(7, 99, ExitReason.TERM)
    await remote.set_end(7, -5, ExitReason.KILLED)
    assert recorder.asked == [
        ("prepare", SPEC),
        ("set_end", 7, 99, ExitReason.TERM),
        ("set_end", 7, 0, ExitReason.KILLED),
    ]


async def test_errors_keep_their_kind(remote: RemoteHost) -> None:
    with pytest.raises(NoSuchTenant, match="order 9"):
        await remote.start(9)
    with pytest.raises(ImageError, match="no abab"):
        await remote.install_image("ab" * 32)
    with pytest.raises(SandboxError, match="not permitted"):
        await remote.signal(9, 9)
    with pytest.raises(DecodeError):
        await remote.install_image("../../etc")


async def test_descriptors_travel_with_exec(remote: RemoteHost, recorder: Recorder) -> None:
    status, status_write = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    await remote.exec(
        7, ("ls",), (("A", "b"),), "/", True, SessionFds(null, null, null, null, status_write)
    )
    os.close(status_write)
    assert os.read(status, 16) == b"3\n"
    assert os.read(status, 16) == b""  # the helper closed its copy
    assert recorder.asked == [("exec", 7, ("ls",), (("A", "b"),), "/", True)]
    os.close(status)
    os.close(null)


async def test_many_requests_at_once(remote: RemoteHost) -> None:
    found = await asyncio.gather(*(remote.report() for _ in range(100)))
    assert found == [REPORT] * 100


async def test_a_bug_drops_the_agent_rather_than_leave_it_waiting(
    remote: RemoteHost, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SandboxError, match="helper is gone"):
        await asyncio.wait_for(remote.destroy(1), 10)
    await asyncio.wait_for(remote.lost.wait(), 10)
    assert "ZeroDivisionError" in caplog.text


async def test_a_dead_helper_is_noticed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    host = RemoteHost(theirs)
    asked = asyncio.create_task(host.report())
    await asyncio.sleep(0.01)
    ours.close()
    with pytest.raises(SandboxError, match="helper is gone"):
        await asked
    assert host.lost.is_set()
    with pytest.raises(SandboxError, match="helper is gone"):
        await host.report()


@pytest.mark.parametrize(
    "data", [b"\0", b"\1\0\0\0\xff", b"\1\0\0\0" + b"\7" * 200, os.urandom(4096)]
)
def test_malformed_packets_get_an_answer(
    agent_end: socket.socket, data: bytes, recorder: Recorder
) -> None:
    agent_end.settimeout(10)
    agent_end.send(data)
    answer = ANSWERS.decode(agent_end.recv(MAX_PACKET)).answer
    assert isinstance(answer, Failed)
    assert "malformed" in answer.text
    assert recorder.asked == []


def test_too_long_packets_and_too_many_descriptors(agent_end: socket.socket) -> None:
    agent_end.settimeout(10)
    agent_end.send(b"\0" * (MAX_PACKET + 1))
    assert isinstance(ANSWERS.decode(agent_end.recv(MAX_PACKET)).answer, Failed)
    before = len(list(Path("/proc/self/fd").iterdir()))
    socket.send_fds(agent_end, [b"\1\0\0\0\0"], [agent_end.fileno()] * 40)
    assert isinstance(ANSWERS.decode(agent_end.recv(MAX_PACKET)).answer, Failed)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@given(st.binary(max_size=400))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        packet = REQUESTS.decode(data)
    except DecodeError:
        return
    assert REQUESTS.encode(packet) == data


def test_specs_round_trip() -> None:
    assert spec_from_wire(spec_to_wire(SPEC), Mode.GVISOR_OWN) == SPEC


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": ()},
        {"argv": ("a\0b",)},
        {"argv": ("x",) * 5000},
        {"argv": ("x" * (1 << 20),)},
        {"env": (("A=B", "c"),)},
        {"env": (("", "c"),)},
        {"workdir": "relative"},
        {"memory_bytes": 0},
        {"disk_bytes": 1},
        {"pids": 0},
        {"log_bytes": 0},
        {"cpu_milli": 0},
        {"order": -1},
    ],
)
def test_senseless_specs_are_refused(changes: dict[str, Any]) -> None:
    fields = {name: getattr(SPEC, name) for name in TenantSpec.__dataclass_fields__}
    with pytest.raises(SandboxError):
        check_spec(TenantSpec(**(fields | changes)))


async def test_what_was_done_is_noted_by_order(
    remote: RemoteHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await remote.report()
    await remote.prepare(SPEC)
    with pytest.raises(NoSuchTenant):
        await remote.start(9)
    shown = [(record.event, record.getMessage()) for record in caplog.records]
    # A request's line is written before its answer.
    assert ("Start", "order 9: order 9 has no tenant on this machine") in shown
    assert not [event for event, _ in shown if event == "AskReport"]


def test_a_password_is_handed_over_in_memory_to_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("tell nobody\n")
    path.chmod(0o640)
    with pytest.raises(SandboxError, match="chmod 600"), secret(path):
        pass
    path.chmod(0o600)
    with secret(path) as descriptor:
        assert descriptor is not None
        assert not os.get_inheritable(descriptor)
        for _ in range(2):  # an agent that is started again reads it again
            assert Path(f"/proc/self/fd/{descriptor}").read_text() == "tell nobody\n"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(SandboxError, match="too long"), secret(path):
        pass
    with pytest.raises(SandboxError, match="cannot be read"), secret(tmp_path / "none"):
        pass
    with secret(None) as nothing:
        assert nothing is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="the helper runs as root")
def test_a_helper_whose_agent_is_of_another_release_begins_anew(tmp_path: Path) -> None:
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o777)
    agent = f"""
        echo "$DBC_HELPER_RELEASE" >> {place}/seen
        [ "$(wc -l < {place}/seen)" = 1 ] && exit {release.OTHER}
        exec sleep 60
    """
    command = [sys.executable, "-m", "deepbrain.provider.helper", "--data", str(tmp_path / "data")]
    command += ["--uid", "51998", "--reach", str(place), "--", "sh", "-c", agent]
    log = tmp_path / "log"
    with log.open("w") as out:
        # A plain process is all that is needed: whatever this machine can isolate by.
        helper = subprocess.Popen(
            command, stderr=out, env=os.environ | {"DBC_FORCE_MODE": "process"}
        )
    try:
        deadline = time.monotonic() + 40
        while log.read_text().count("event=started") < 2:
            assert time.monotonic() < deadline and helper.poll() is None, log.read_text()
            time.sleep(0.05)
        assert "event=release" in log.read_text()
        while len((place / "seen").read_text().splitlines()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (place / "seen").read_text().splitlines() == [__version__] * 2
    finally:
        helper.terminate()
        helper.wait(20)


def test_an_agent_of_another_release_than_its_helper_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(release.VARIABLE, "0.0.0")
    assert agent_module.main(["--data", str(tmp_path)]) == release.OTHER
    assert "another release" in caplog.text
    monkeypatch.setenv(release.VARIABLE, __version__)
    assert agent_module.main(["--data", str(tmp_path)]) == 1, "and now it is another trouble"

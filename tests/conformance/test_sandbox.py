"""One suite for every sandbox: in memory, plain processes, gVisor rootless and as root.

Which run is said by DBC_CONFORMANCE (names by comma). Without it: the fake one, and what this process
may try; `test_sandbox_as_others` starts the suite again as an ordinary user, and as the unprivileged agent
of a root helper. Nothing is skipped when REQUIRE_GVISOR is set.
"""

import asyncio
import contextlib
import fcntl
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from tests.sandbox.registries import Made, base_layer, layer

from deepbrain.sandbox.baseimage import build
from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.fake import FakeProcess, FakeSandbox
from deepbrain.sandbox.host import KEEPER, Host, HostRequests, LocalHost
from deepbrain.sandbox.keeper import descendants
from deepbrain.sandbox.logs import split_records
from deepbrain.sandbox.modes import FORCE, Programs, choose_mode
from deepbrain.sandbox.open import UNPACK_UID
from deepbrain.sandbox.remote import RemoteHost, inherited_socket
from deepbrain.sandbox.sandbox import (
    MAX_EXECS,
    NOT_RESULTS,
    TOOL,
    ExecSession,
    ExitReason,
    ImageError,
    Mode,
    NoSuchTenant,
    Phase,
    Sandbox,
    SandboxError,
    TenantSpec,
    TenantState,
)
from deepbrain.sandbox.tenants import LocalSandbox
from deepbrain.sandbox.volumes import mounts_below, unmount_below

pytestmark = pytest.mark.timeout(60)

ORDINARY_UID = 51_234
HELPER_SOCKET = inherited_socket()
AS_ROOT = os.geteuid() == 0
MIB = 1 << 20


def wanted() -> list[str]:
    told = os.environ.get("DBC_CONFORMANCE")
    if told:
        return told.split(",")
    return ["fake", *(["gvisor", "process"] if AS_ROOT else ["gvisor-own", "process"])]


REAL = ("process", "gvisor-own", "gvisor", "helper")
SANDBOXED = ("gvisor-own", "gvisor", "helper")


F = TypeVar("F", bound=Callable[..., object])


def only(*kinds: str) -> Callable[[F], F]:
    """The kinds of sandbox that a test is about; the others do not promise it."""

    def mark(function: F) -> F:
        function.kinds = kinds  # type: ignore[attr-defined]
        return function

    return mark


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "setup" in metafunc.fixturenames:
        kinds = getattr(metafunc.function, "kinds", ("fake", *REAL))
        chosen = [kind for kind in wanted() if kind in kinds]
        metafunc.parametrize("setup", chosen, indirect=True, scope="module")


# -- what the fake sandbox runs, in place of a shell


async def fake_shell(process: FakeProcess) -> int:
    """Just what the common tests say to `sh -c`."""
    script = process.argv[2]
    for step in script.split("; "):
        word, _, rest = step.partition(" ")
        match word:
            case "echo" if rest.endswith(" >&2"):
                process.err(rest.removesuffix(" >&2").encode() + b"\n")
            case "echo" if " > " in rest:
                text, _, name = rest.partition(" > ")
                (process.volume / name).write_text(text + "\n")
            case "echo":
                process.out(os.path.expandvars(rest).encode() + b"\n")
            case "exit":
                return int(rest)
            case "sleep":
                await asyncio.sleep(float(rest))
            case "cat":
                while data := await process.stdin.get():
                    process.out(data)
            case "kill":
                return 128 + 9
            case _:
                raise AssertionError(f"the fake shell cannot {step!r}")
    return 0


@dataclass
class Setup:
    """Made once for each kind of sandbox: canaries and the image cost a second."""

    name: str
    data: Path
    archive: Path
    digest: str
    host: Host | None


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("image") / "shell.tar"
    return path, build(path, python=False)


@pytest.fixture(scope="module")
def setup(
    request: pytest.FixtureRequest,
    archive: tuple[Path, str],
    tmp_path_factory: pytest.TempPathFactory,
    module_environment: pytest.MonkeyPatch,
) -> Setup:
    name = request.param
    data = tmp_path_factory.mktemp(name)
    if AS_ROOT:
        for path in (data, *list(data.parents)[:3]):
            path.chmod(0o711)
    if name == "fake":
        return Setup(name, data, *archive, None)
    if name == "helper":
        return Setup(name, Path(os.environ["DBC_HELPER_DATA"]), *archive, None)
    if Programs.find().tool is None or (name != "process" and Programs.find().runsc is None):
        refuse(f"{name}: scripts/get-gvisor was not run")
    module_environment.setenv(FORCE, name)
    try:
        report, engine = choose_mode(data)
    except SandboxError as error:
        refuse(f"{name}: {error}")
    tool = Programs.find().tool
    assert tool is not None
    owner = (os.getuid(), os.getgid())
    return Setup(name, data, *archive, Host(data, engine, report, owner, tool))


@pytest.fixture(scope="module")
def module_environment() -> AsyncIterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def refuse(reason: str) -> None:
    if os.environ.get("REQUIRE_GVISOR"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
async def box(setup: Setup) -> AsyncIterator[Sandbox]:
    sandbox: Sandbox
    if setup.name == "fake":
        sandbox = FakeSandbox({"sh": fake_shell}, root=setup.data, grace=0.5)
    else:
        host: HostRequests
        if setup.host is None:
            assert HELPER_SOCKET is not None
            host = RemoteHost(HELPER_SOCKET.dup())
        else:
            host = LocalHost(setup.host)
        uid = UNPACK_UID if AS_ROOT else 0
        sandbox = LocalSandbox(setup.data, host, await host.report(), uid)
    await sandbox.import_image(setup.archive, setup.digest, "shell")
    yield sandbox
    for state in await sandbox.list():
        await sandbox.destroy(state.order)
    assert await sandbox.list() == []
    await sandbox.close()
    if setup.name == "fake":
        return
    if isinstance(host, RemoteHost):
        host.close()
    else:
        assert mounts_below(setup.data) == {}
        assert leftovers(setup.data) == []
        # A process elsewhere that just copied all mounts holds a loop device for as long as it has them.
        for _ in range(100):
            if not loop_devices(setup.data):
                return
            await asyncio.sleep(0.1)
        assert loop_devices(setup.data) == []


def leftovers(data: Path) -> list[str]:
    """Processes of tenants and cgroups: nothing may stay."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                line = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{data}/tenants".encode() in line:
                found.append(line.decode(errors="replace"))
    groups = [path for path in Path("/sys/fs/cgroup").glob("*/deepbrain/*-*") if path.is_dir()]
    return found + [str(path) for path in groups if int(path.name.split("-")[1]) in USED]


def loop_devices(data: Path) -> list[str]:
    """Those of volumes below `data`."""
    if not AS_ROOT:
        return []
    loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=False)
    return [line for line in loops.stdout.splitlines() if str(data) in line]


def command_lines_with(text: bytes) -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return [line for line in found if text in line]


NUMBERS = iter(range(1, 10_000))
USED: set[int] = set()


def spec(setup: Setup, *argv: str, **fields: object) -> TenantSpec:
    defaults: dict[str, object] = {
        "order": next(NUMBERS) + os.getpid() % 1000 * 10_000,
        "image": setup.digest,
        "argv": argv,
        "memory_bytes": 256 * MIB,
        "disk_bytes": 64 * MIB,
        "pids": 64,
        "log_bytes": 4 * MIB,
    }
    USED.add(int((defaults | fields)["order"]))  # type: ignore[call-overload]
    return TenantSpec(**(defaults | fields))  # type: ignore[arg-type]


def shell(setup: Setup, script: str, **fields: object) -> TenantSpec:
    return spec(setup, "sh", "-c", script, **fields)


async def launch(box: Sandbox, tenant: TenantSpec) -> int:
    await box.prepare(tenant)
    await box.start(tenant.order)
    return tenant.order


async def output(box: Sandbox, order: int, *, follow: bool = True) -> tuple[bytes, bytes]:
    raw = bytearray()
    async for chunk in box.logs(order, follow=follow):
        raw += chunk
    streams = {1: b"", 2: b""}
    for stream, data in split_records(raw):
        streams[stream] += data
    assert raw == b""
    return streams[1], streams[2]


async def run(box: Sandbox, tenant: TenantSpec) -> tuple[TenantState, bytes, bytes]:
    order = await launch(box, tenant)
    out, err = await output(box, order)
    return await box.wait(order), out, err


async def read_all(session: ExecSession) -> tuple[bytes, bytes]:
    streams = {1: b"", 2: b""}
    while (item := await session.read()) is not None:
        streams[item[0]] += item[1]
    return streams[1], streams[2]


async def read_until(session: ExecSession, text: bytes) -> bytes:
    found = b""
    while text not in found:
        item = await asyncio.wait_for(session.read(), 20)
        assert item is not None, found
        found += item[1]
    return found


async def sees(session: ExecSession, text: bytes, *, within: float) -> bool:
    """Whether `text` is printed within so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await read_until(session, text)
            return True
    return False


def names(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {}
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            found[member.name.removeprefix("./")] = content.read() if content else b""
        return found


# -- the job


async def test_says_its_mode(setup: Setup, box: Sandbox) -> None:
    expected = {"fake": Mode.FAKE, "helper": Mode.GVISOR}.get(setup.name) or Mode(setup.name)
    assert box.report.mode is expected
    assert box.report.kernel
    assert box.report.mode.serves_strangers == (expected is Mode.GVISOR)


async def test_runs_logs_and_records_the_end(setup: Setup, box: Sandbox) -> None:
    before = time.time_ns() // 1_000_000
    state, out, err = await run(box, shell(setup, "echo hello; echo oops >&2; exit 7"))
    assert (out, err) == (b"hello\n", b"oops\n")
    assert state.phase is Phase.EXITED
    assert state.exit is not None
    assert (state.exit.code, state.exit.reason) == (7, ExitReason.EXITED)
    assert before <= state.exit.started_ms <= state.exit.ended_ms
    assert (await box.list())[0].order == state.order


async def test_fast_jobs_keep_their_codes(setup: Setup, box: Sandbox) -> None:
    codes = []
    for code in range(12):
        tenant = shell(setup, f"exit {code}")
        state, _, _ = await run(box, tenant)
        codes.append(state.exit.code if state.exit else None)
        await box.destroy(tenant.order)
    assert codes == list(range(12))


async def test_a_missing_command_is_an_error_of_the_job(setup: Setup, box: Sandbox) -> None:
    state, _, err = await run(box, spec(setup, "no-such-program"))
    assert state.exit is not None
    assert (state.exit.code, state.exit.reason) == (127, ExitReason.ERROR)
    assert b"command not found" in err


async def test_killed_by_its_own_signal(setup: Setup, box: Sandbox) -> None:
    state, _, _ = await run(box, shell(setup, "kill -9 $$"))
    assert state.exit is not None
    assert (state.exit.code, state.exit.reason) == (137, ExitReason.EXITED)


async def test_logs_resume_by_offset(setup: Setup, box: Sandbox) -> None:
    tenant = shell(setup, "echo one; echo two >&2; exit 0")
    await run(box, tenant)
    whole = b"".join([chunk async for chunk in box.logs(tenant.order)])
    state = await box.state(tenant.order)
    assert (state.log_start, state.log_end) == (0, len(whole))
    for offset in (0, 1, 9, len(whole) - 1, len(whole)):
        rest = b"".join([chunk async for chunk in box.logs(tenant.order, offset)])
        assert rest == whole[offset:]


async def test_stop_is_term_then_kill(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 300"))
    await box.stop(order)
    state = await asyncio.wait_for(box.wait(order), 20)
    assert state.exit is not None
    assert state.exit.reason is ExitReason.KILLED
    assert state.exit.code in (143, 137)


async def test_the_latest_end_is_kept_without_the_agent(setup: Setup, box: Sandbox) -> None:
    soon = int(time.monotonic() * 1000) + 300
    state, _, _ = await run(box, shell(setup, "sleep 300", end_at=soon))
    assert state.exit is not None
    assert state.exit.reason is ExitReason.TERM


async def test_the_latest_end_moves(setup: Setup, box: Sandbox) -> None:
    now = int(time.monotonic() * 1000)
    order = await launch(box, shell(setup, "sleep 300", end_at=now + 1_500))
    await box.set_end(order, now + 600_000)
    await asyncio.sleep(2)
    assert (await box.state(order)).phase is Phase.RUNNING
    assert (await box.state(order)).spec.end_at == now + 600_000
    await box.set_end(order, now)
    state = await asyncio.wait_for(box.wait(order), 20)
    assert state.exit is not None
    assert state.exit.reason is ExitReason.TERM


async def test_signals_reach_the_job(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 300"))
    await box.signal(order, signal.SIGKILL)
    state = await asyncio.wait_for(box.wait(order), 20)
    assert state.exit is not None
    assert (state.exit.code, state.exit.reason) == (137, ExitReason.KILLED)


# -- refusals


async def test_refuses_what_is_not_there(setup: Setup, box: Sandbox) -> None:
    with pytest.raises(NoSuchTenant):
        await box.state(999_999_999)
    with pytest.raises(NoSuchTenant):
        await box.start(999_999_999)
    with pytest.raises(ImageError):
        await box.prepare(spec(setup, "true", image="f" * 64))
    with pytest.raises(ImageError):
        await box.import_image(setup.archive, "e" * 64)
    await box.destroy(999_999_999)


async def test_never_downgrades(setup: Setup, box: Sandbox) -> None:
    other = Mode.PROCESS if box.report.mode is not Mode.PROCESS else Mode.GVISOR
    with pytest.raises(SandboxError, match="tenants"):
        await box.prepare(spec(setup, "true", mode=other))
    assert await box.list() == []


async def test_prepares_again_until_started(setup: Setup, box: Sandbox) -> None:
    tenant = shell(setup, "sleep 60")
    assert await box.prepare(tenant) == await box.prepare(tenant)
    with pytest.raises(SandboxError):
        await box.prepare(shell(setup, "exit 1", order=tenant.order))
    await box.start(tenant.order)
    with pytest.raises(SandboxError):
        await box.start(tenant.order)
    with pytest.raises(SandboxError):
        await box.prepare(tenant)
    with pytest.raises(SandboxError, match="in use"):
        await box.remove_image(setup.digest)


# -- sessions


async def test_exec_streams_input_and_code(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 300"))
    session = await box.exec(order, ["sh", "-c", "cat; echo end >&2; exit 5"])
    await session.write(b"to and fro\n" * 1000)
    await session.write_eof()
    out, err = await read_all(session)
    assert out == b"to and fro\n" * 1000
    assert err == b"end\n"
    assert await session.wait() == 5
    await session.close()
    await session.close()
    assert await session.read() is None


async def test_exec_needs_a_running_tenant(setup: Setup, box: Sandbox) -> None:
    tenant = shell(setup, "exit 0")
    await box.prepare(tenant)
    with pytest.raises(SandboxError):
        await box.exec(tenant.order, ["sh"])
    await box.start(tenant.order)
    await box.wait(tenant.order)
    with pytest.raises(SandboxError):
        await box.exec(tenant.order, ["sh"])


async def test_execs_are_bounded(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 300", pids=200))
    sessions = [await box.exec(order, ["sleep", "300"]) for _ in range(MAX_EXECS)]
    with pytest.raises(SandboxError, match="sessions"):
        await box.exec(order, ["sleep", "1"])
    await asyncio.gather(*(session.close() for session in sessions))
    last = await box.exec(order, ["sh", "-c", "exit 3"])
    assert await last.wait() == 3
    await last.close()


@only(*REAL)
async def test_exec_environment_and_directory(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 300", env=(("A", "tenant"), ("B", "tenant"))))
    session = await box.exec(
        order, ["sh", "-c", "echo $A $B; pwd"], env=(("B", "session"),), cwd="/"
    )
    out, _ = await read_all(session)
    assert out.split()[:2] == [b"tenant", b"session"]
    await session.close()


@only(*REAL)
async def test_terminal_size_and_interrupt(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 300"))
    session = await box.exec(order, ["sh"], tty=True, cols=91, rows=17, env=(("PS1", "> "),))
    await session.write(b"stty size\n")
    await read_until(session, b"17 91")
    await session.resize(120, 40)
    await session.write(b"stty size\n")
    await read_until(session, b"40 120")
    await session.write(b"trap 'echo resi''zed' WINCH; echo se''t\n")
    await read_until(session, b"set")
    for rows in range(30, 60):  # it reaches the shell only while no job of its own is in front
        await session.resize(100, rows)
        await asyncio.sleep(0.1)
        await session.write(b":\n")  # a shell runs traps between commands
        if await sees(session, b"resized", within=1):
            break
    else:
        pytest.fail("the shell was never told of its terminal's size")
    await session.write(b"sleep 300\n")
    await asyncio.sleep(0.4)
    await session.write(b"\x03")
    await asyncio.sleep(0.4)  # an interrupted shell throws away what was typed ahead
    await session.write(b"echo interr''upted; exit 9\n")
    await read_until(session, b"interrupted")
    assert await asyncio.wait_for(session.wait(), 20) == 9
    await session.close()


@only(*REAL)
@pytest.mark.parametrize("tty", [False, True])
async def test_a_session_takes_signals_and_goes_on(setup: Setup, box: Sandbox, tty: bool) -> None:
    order = await launch(box, shell(setup, "sleep 60"))
    script = (
        "trap 'echo one' USR1; trap 'echo two; exit 3' TERM; echo on; while :; do sleep 0.05; done"
    )
    session = await box.exec(order, ["sh", "-c", script], tty=tty)
    try:
        await read_until(session, b"on")
        await session.signal(signal.SIGUSR1)
        await read_until(session, b"one")
        await session.signal(signal.SIGTERM)
        await read_until(session, b"two")
        assert await session.wait() == 3
        await session.signal(signal.SIGTERM)  # it has ended: nothing happens
    finally:
        await session.close()


@only(*REAL)
async def test_closing_kills_everything_it_started(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 300"))
    mark = f"7{os.getpid():07}"  # the same test may run beside this one, as another user
    session = await box.exec(
        order, ["sh", "-c", f"sleep {mark}1 & (sleep {mark}2 &) ; echo up; sleep {mark}3"]
    )
    await read_until(session, b"up")
    await asyncio.wait_for(session.close(), 20)
    probe = await box.exec(order, ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])
    out, _ = await read_all(probe)
    assert f"sleep {mark}".encode() not in out  # a plain process sees all others of the machine
    await probe.close()
    if setup.name == "process":
        assert command_lines_with(mark.encode()) == []


async def test_sessions_end_with_the_job(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 300"))
    session = await box.exec(order, ["sh", "-c", "sleep 300"])
    await asyncio.sleep(0.2)
    await box.signal(order, signal.SIGKILL)
    assert await asyncio.wait_for(session.wait(), 20) != 0
    await session.close()


# -- files


async def test_workspace_results_and_changes(setup: Setup, box: Sandbox) -> None:
    tenant = shell(setup, "echo made > made.txt; sleep 300")
    volume = await box.prepare(tenant)
    (volume / "given.txt").write_text("given")
    (volume / "sub").mkdir()
    (volume / "sub" / "deep.txt").write_text("deep")
    await box.start(tenant.order)
    await asyncio.sleep(0.5)
    running = names(await exported(box, tenant.order))
    assert running["given.txt"] == b"given"
    assert running["sub/deep.txt"] == b"deep"
    assert running["made.txt"] == b"made\n"
    await box.signal(tenant.order, signal.SIGKILL)
    await box.wait(tenant.order)
    changed = names(await exported(box, tenant.order, changed_only=True))
    assert changed == {"made.txt": b"made\n"}
    assert names(await exported(box, tenant.order, ["sub"])) == {
        "sub": b"",
        "sub/deep.txt": b"deep",
    }


async def test_what_editors_and_shells_leave_at_home_is_no_result(
    setup: Setup, box: Sandbox
) -> None:
    tenant = shell(setup, "sleep 300")
    await box.prepare(tenant)
    await box.start(tenant.order)
    await asyncio.sleep(0.2)
    left = {f"{name}/bin/server": b"x" for name in NOT_RESULTS if "history" not in name}
    left |= {name: b"x" for name in NOT_RESULTS if "history" in name}
    kept = {"model.bin": b"w", "deep/.cache/of-the-job": b"c", ".cached": b"d"}
    await box.import_(tenant.order, stream(tar_of(left | kept)))
    for _ in range(2):
        assert names(await exported(box, tenant.order, changed_only=True)) == kept
        assert set(left) <= set(names(await exported(box, tenant.order))), "who asks for all has it"
        named = names(await exported(box, tenant.order, [".vscode-server"], changed_only=True))
        assert named == {".vscode-server/bin/server": b"x"}
        await box.signal(tenant.order, signal.SIGKILL)
        await box.wait(tenant.order)


async def exported(
    box: Sandbox, order: int, paths: list[str] | None = None, *, changed_only: bool = False
) -> bytes:
    chunks = box.export(order, paths or (), changed_only=changed_only)
    return b"".join([chunk async for chunk in chunks])


async def test_copies_in(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 300"))
    await box.import_(order, stream(tar_of({"in/file.txt": b"x" * 300_000})), "dest")
    found = names(await exported(box, order, ["dest"]))
    assert found["dest/in/file.txt"] == b"x" * 300_000
    with pytest.raises(SandboxError):
        await box.import_(order, stream(tar_of({"../evil": b"x"})), "dest")


@only(*REAL)
async def test_the_tool_tells_what_is_a_directory(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "mkdir in; touch file; ln -s in link; sleep 300"))
    await box.import_(order, stream(tar_of({"in/there": b""})))
    answers = {}
    for path in ("in", "link", "file", "absent", "/", "/absent"):
        session = await box.exec(order, (TOOL, "is-directory", path))
        answers[path] = await session.wait()
        await session.close()
    assert answers == {"in": 0, "link": 0, "file": 1, "absent": 1, "/": 0, "/absent": 1}


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 65536):
        yield data[at : at + 65536]


async def test_an_ended_tenant_keeps_its_files_and_gives_the_rest_back(
    setup: Setup, box: Sandbox
) -> None:
    tenant = shell(setup, "echo made > made.txt; sleep 300", disk_bytes=256 * MIB)
    await box.prepare(tenant)
    await box.start(tenant.order)
    with pytest.raises(SandboxError):
        await box.release(tenant.order)
    await asyncio.sleep(0.5)
    await box.signal(tenant.order, signal.SIGKILL)
    await box.wait(tenant.order)
    for _ in range(2):
        await box.release(tenant.order)
        assert names(await exported(box, tenant.order)) == {"made.txt": b"made\n"}
    if setup.host is not None:
        image = TenantDirectory(setup.data / "tenants" / str(tenant.order)).volume_image
        assert not image.exists() or image.stat().st_blocks * 512 < 16 * MIB


@only(*REAL)
async def test_links_are_never_sent(setup: Setup, box: Sandbox) -> None:
    tenant = shell(setup, "ln -s /etc/passwd link; mkfifo pipe 2>/dev/null; echo x > file")
    await run(box, tenant)
    assert set(names(await exported(box, tenant.order))) == {"file"}


# -- limits


@only(*REAL)
async def test_memory(setup: Setup, box: Sandbox) -> None:
    hog = spec(setup, "/.dbc/tool", "canary", "hog", str(512 * MIB), memory_bytes=96 * MIB)
    state, out, _ = await run(box, hog)
    assert b"survived" not in out
    assert state.exit is not None
    assert (state.exit.code, state.exit.reason) == (137, ExitReason.MEMORY)


@only(*REAL)
async def test_disk(setup: Setup, box: Sandbox) -> None:
    """By the file system where there is root (hard), else by the keeper's watch (soon)."""
    script = (
        "for i in 1 2 3 4; do dd if=/dev/zero of=big$i bs=65536 count=500 || exit 9; done; sleep 40"
    )
    state, _, err = await run(box, shell(setup, script))
    assert state.exit is not None
    if setup.name in ("gvisor", "helper"):
        assert state.exit.code == 9
        assert b"No space left" in err
    else:
        assert state.exit.reason is ExitReason.ERROR
        assert b"over its disk" in err


@only(*SANDBOXED)
async def test_disk_over_the_image(setup: Setup, box: Sandbox) -> None:
    state, _, err = await run(box, shell(setup, "dd if=/dev/zero of=/root/big bs=65536 count=2000"))
    assert state.exit is not None
    assert state.exit.code != 0
    assert b"No space left" in err
    fine, _, _ = await run(box, shell(setup, "test ! -e /root/big"))
    assert fine.exit is not None
    assert fine.exit.code == 0


@only(*SANDBOXED)
async def test_pids(setup: Setup, box: Sandbox) -> None:
    script = "i=0; while [ $i -lt 300 ]; do sleep 20 & i=$((i+1)); done; echo all"
    order = await launch(box, shell(setup, script, pids=16))
    state = await asyncio.wait_for(box.wait(order), 40)
    out, err = await output(box, order)
    assert b"all" not in out
    assert b"fork" in err.lower() or b"resource" in err.lower()
    assert state.exit is not None
    assert state.exit.code != 0


@only(*REAL)
async def test_log_flood(setup: Setup, box: Sandbox) -> None:
    order = await launch(
        box,
        shell(setup, "yes 0123456789abcdef 2>/dev/null || while :; do echo 0123456789abcdef; done"),
    )
    await asyncio.sleep(2)
    await box.signal(order, signal.SIGKILL)
    await box.wait(order)
    state = await box.state(order)
    used = sum(
        path.stat().st_size for path in (setup.data / "tenants" / str(order) / "log").iterdir()
    )
    assert used <= state.spec.log_bytes
    assert state.log_end - state.log_start == used
    if state.log_end > 8 * MIB:
        assert state.log_start > 0
    kept, _ = await output(box, order)
    assert kept.replace(b"0123456789abcdef\n", b"").strip(b"0123456789abcdef\n") == b""


@only(*SANDBOXED)
async def test_own_kernel_and_no_host(setup: Setup, box: Sandbox) -> None:
    _, out, _ = await run(
        box, shell(setup, "uname -r; cat /proc/mounts; ls /sys/class/net; ls /sys/block")
    )
    assert os.uname().release.encode() not in out
    assert str(setup.data).encode() not in out


@only("gvisor", "helper")
async def test_sees_its_share(setup: Setup, box: Sandbox) -> None:
    _, out, _ = await run(box, shell(setup, "nproc; head -n 1 /proc/meminfo", cpu_milli=1000))
    lines = out.split()
    assert lines[0] == b"1"
    assert int(lines[2]) * 1024 < 400 * MIB


@only(*SANDBOXED)
async def test_no_network(setup: Setup, box: Sandbox) -> None:
    state, _, _ = await run(
        box, spec(setup, "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/22 || exit 4")
    )
    assert state.exit is not None
    assert state.exit.code != 0


@only(*SANDBOXED)
async def test_a_tenant_cannot_find_its_neighbour(setup: Setup, box: Sandbox) -> None:
    secret = f"neighbour-{os.urandom(6).hex()}"
    hide = (
        f"for d in /workspace /tmp /root /etc /dev/shm /; do echo {secret} > $d/s; done; sleep 300"
    )
    first = await launch(box, shell(setup, hide))
    await asyncio.sleep(0.5)
    half = len(secret) // 2  # so that the searcher's own command line does not hold it
    search = (
        f"p={secret[:half]}; q={secret[half:]}; grep -rsl --exclude-dir=sys $p$q / | grep -v ^/proc; "
        "find / -name '*filestore*' 2>/dev/null; "
        "cat /proc/*/environ /proc/*/cmdline >/tmp/all 2>/dev/null; grep -ac $p$q /tmp/all; exit 0"
    )
    state, out, _ = await run(box, shell(setup, search))
    assert state.exit is not None
    assert out.split() == [b"0"]
    found = await box.exec(
        first, ["sh", "-c", f"grep -rsl {secret} /workspace /tmp /root /etc /dev/shm /s"]
    )
    seen, _ = await read_all(found)
    assert len(seen.split()) == 6  # the search itself works
    await found.close()


@only("gvisor")
async def test_setuid_files_are_harmless(setup: Setup, box: Sandbox) -> None:
    tenant = shell(setup, "cp /bin/id /workspace/id; chmod 4755 /workspace/id; sleep 300")
    order = await launch(box, tenant)
    await asyncio.sleep(0.5)
    volume = setup.data / "tenants" / str(order) / "volume"
    options = mounts_below(volume)[volume].split(",")
    assert {"nosuid", "nodev"} <= set(options)
    assert (volume / "id").stat().st_mode & 0o4000
    parent = (setup.data / "tenants").stat()
    assert parent.st_mode & 0o007 == 0


# -- images as they are


def image_of(setup: Setup, place: Path, layers: list[bytes], config: dict[str, object]) -> Made:
    """An image on the machine's shell, as a registry's blobs in a directory."""
    made = Made()
    made.add([base_layer(setup.archive), *layers], config)
    made.write(place)
    return made


APP = {
    "etc/passwd": b"root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/home/app:/bin/sh\n",
    "etc/group": b"root:x:0:\napp:x:1235:\ndata:x:2000:app,other\n",
}
OWNED = {"home/": b"", "home/app/": b"", "home/app/secret": b"mine\n"}
SHOW = "id -u; id -g; id -G; echo $HOME; pwd"


@only(*SANDBOXED)
async def test_the_images_user_and_what_is_its_own(
    setup: Setup, box: Sandbox, tmp_path: Path
) -> None:
    script = (
        f"{SHOW}; cat $HOME/secret; echo x > $HOME/new && echo more >> /workspace/sent && "
        "echo made > /workspace/made && echo scratch > /tmp/t && echo here > here && "
        "echo err > /dev/stderr; cat /etc/private || echo no root; echo; echo done; sleep 300"
    )
    layers = [
        layer(APP),
        layer({"etc/private": b"root's\n"}, mode=0o600),
        layer(OWNED, owner=(1234, 1235), mode=0o700),
    ]
    config = {"User": "app", "WorkingDir": "/srv/new", "Entrypoint": ["sh", "-c"], "Cmd": [script]}
    made = image_of(setup, tmp_path, layers, config)
    await box.import_image(tmp_path, made.digest)
    tenant = spec(setup, image=made.digest)
    volume = await box.prepare(tenant)
    (volume / "sent").write_text("sent\n")
    await box.start(tenant.order)
    one_user = setup.name == "gvisor-own"  # the host's files know no other than ours
    who = ["0", "0", "0"] if one_user else ["1234", "1235", "1235 2000"]
    lines = [*who, "/home/app", "/srv/new", "mine", "root's" if one_user else "no root"]
    seen = b""
    async with asyncio.timeout(20):
        while b"done" not in seen:
            seen, errors = await output(box, tenant.order, follow=False)
            await asyncio.sleep(0.05)
    assert seen.decode().split("\n\n")[0].splitlines() == lines, errors
    assert b"err\n" in errors
    session = await box.exec(tenant.order, ["sh", "-c", f"{SHOW}; cat here"])
    seen, errors = await read_all(session)
    assert seen.decode().splitlines() == [*lines[:5], "here"]
    await session.close()
    found = names(await exported(box, tenant.order))
    assert found["made"] == b"made\n"
    assert found["sent"] == b"sent\nmore\n"
    await box.destroy(tenant.order)


@only(*SANDBOXED)
async def test_a_user_by_number_and_a_command_of_the_renters(
    setup: Setup, box: Sandbox, tmp_path: Path
) -> None:
    """Whoever names a command stands among what she sent."""
    made = image_of(setup, tmp_path, [], {"User": "4321", "WorkingDir": "/srv", "Cmd": ["false"]})
    await box.import_image(tmp_path, made.digest)
    state, out, err = await run(
        box, spec(setup, "sh", "-c", f"{SHOW}; echo made > made", image=made.digest)
    )
    uid = "0" if setup.name == "gvisor-own" else "4321"
    assert out.decode().splitlines() == [uid, "0", "0", "/workspace", "/workspace"], err
    assert state.exit is not None
    assert state.exit.code == 0
    assert names(await exported(box, state.order))["made"] == b"made\n"


@only(*REAL)
async def test_an_image_of_one_program_alone(setup: Setup, box: Sandbox, tmp_path: Path) -> None:
    """No shell, no library, no passwd, no /tmp; a working directory that is not there."""
    tool = Programs.find().tool
    assert tool is not None
    made = Made()
    config = {"Entrypoint": ["/job", "canary"], "WorkingDir": "/a/b/c", "User": "77:88"}
    sleep = base_layer(setup.archive, lambda name: name.endswith("/sleep") or "lib" in name)
    made.add([sleep, layer({"job": tool.read_bytes()})], config)
    made.write(tmp_path)
    await box.import_image(tmp_path, made.digest)
    if setup.name == "process" and not AS_ROOT:
        return  # without a root of its own a process finds no absolute path of its image
    state, out, err = await run(box, spec(setup, image=made.digest))
    assert state.exit is not None
    assert state.exit.code == 0, err
    if setup.name in ("gvisor", "helper"):
        assert b"uid=77\n" in out
    order = await launch(box, spec(setup, "sleep", "300", image=made.digest))
    missing = await box.exec(order, ["sh", "-c", "true"])
    assert await missing.wait() == 127
    await missing.close()
    session = await box.exec(order, ["/job", "canary"])
    out, _ = await read_all(session)
    assert b"kernel=" in out
    assert await session.wait() == 0
    await box.destroy(order)


@only("gvisor", "gvisor-own", "helper")
async def test_files_go_back_to_their_owners_within_a_budget(
    setup: Setup, box: Sandbox, tmp_path: Path
) -> None:
    files = {"data/": b"", "data/small": b"s", "data/large": bytes(65 << 20), "data/last/": b""}
    made = image_of(setup, tmp_path, [layer(files, owner=(5, 6))], {})
    await box.import_image(tmp_path, made.digest)
    show = ("ls", "-lnd", "/data", "/data/small", "/data/large", "/data/last")
    _, out, err = await run(box, spec(setup, *show, image=made.digest, disk_bytes=512 * MIB))
    owners = {line.split()[-1]: line.split()[2:4] for line in out.decode().splitlines()}
    own, roots = ["5", "6"], ["0", "0"]
    assert owners == dict(zip(show[2:], (own, own, roots, own), strict=True)), err


@only("process", "gvisor-own", "gvisor")
async def test_an_import_that_fails_or_is_not_wanted_leaves_no_disk(
    setup: Setup, box: Sandbox, tmp_path: Path
) -> None:
    incoming = setup.data / "incoming"
    made = image_of(setup, tmp_path / "a", [layer({"more": bytes(32 * MIB)})], {})
    importing = asyncio.create_task(box.import_image(tmp_path / "a", made.digest))
    async with asyncio.timeout(20):
        while not list(incoming.glob("*/rootfs/*")):
            assert not importing.done()
            await asyncio.sleep(0.002)
    importing.cancel()
    await asyncio.wait([importing])
    assert list(incoming.iterdir()) == []
    with pytest.raises(ImageError, match="unpacks to more"):
        await box.import_image(tmp_path / "a", made.digest, limit=20 * MIB)
    assert list(incoming.iterdir()) == []
    for path in (tmp_path / "a").iterdir():
        if path.stat().st_size > MIB:
            path.unlink()
    with pytest.raises(ImageError, match="did not come with it"):
        await box.import_image(tmp_path / "a", made.digest)
    assert list(incoming.iterdir()) == []


# -- what dies, and what stays


@only(*REAL)
async def test_the_keeper_outlives_the_agent(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "echo first; sleep 1; echo second; exit 6"))
    assert setup.name != "fake"
    keeper = TenantDirectory(setup.data / "tenants" / str(order)).keeper()
    assert keeper is not None
    assert os.getsid(keeper) != os.getsid(0)
    if isinstance(box, LocalSandbox):
        again = LocalSandbox(setup.data, box._host, box.report)
        assert (await again.state(order)).phase is Phase.RUNNING
        out, _ = await output(again, order)
        assert out == b"first\nsecond\n"
        state = await again.wait(order)
        assert state.exit is not None
        assert state.exit.code == 6


@only("process", "gvisor-own", "gvisor")
async def test_a_host_in_need_of_memory_takes_tenants_first(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 60"))
    keeper = TenantDirectory(setup.data / "tenants" / str(order)).keeper()
    assert keeper is not None
    tree = descendants(keeper)
    assert tree
    assert min(oom_score(pid) for pid in tree) >= 500, "whatever runs for the tenant"
    assert oom_score(keeper) == oom_score(os.getpid()), "and its keeper is not it"


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@only("process", "gvisor-own", "gvisor", "helper")
async def test_the_keeper_notes_what_happens(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "exit 6"))
    await box.wait(order)
    notes = setup.data / "tenants" / str(order) / "keeper.log"
    lines = notes.read_text().splitlines()
    assert [line.split("event=")[1].split()[0] for line in lines] == ["started", "exited"]
    assert all(f" order={order}" in line and " from=keeper " in line for line in lines)
    assert "code 6" in lines[-1]


@only("fake", "process", "gvisor-own", "gvisor")  # under a helper the keeper belongs to root
async def test_a_lost_keeper_is_a_failure_and_leaves_nothing(setup: Setup, box: Sandbox) -> None:
    if isinstance(box, FakeSandbox):
        order = await launch(box, shell(setup, "sleep 300"))
        await box.lose_keeper(order)
    else:
        order = await launch(box, shell(setup, "(sleep 77801 &) ; sleep 77802"))
        keeper = TenantDirectory(setup.data / "tenants" / str(order)).keeper()
        assert keeper is not None
        os.kill(keeper, signal.SIGKILL)
    state = await asyncio.wait_for(box.wait(order), 20)
    assert state.phase is Phase.LOST
    assert state.exit is None
    await box.destroy(order)
    with pytest.raises(NoSuchTenant):
        await box.state(order)
    assert command_lines_with(b"7780") == []


@only("process", "gvisor-own", "gvisor")
async def test_a_start_that_was_cut_off_is_begun_again(setup: Setup, box: Sandbox) -> None:
    """Killed between writing down what to run and the keeper's lock: nothing was lost by then."""
    tenant = shell(setup, "echo ran")
    await box.prepare(tenant)
    TenantDirectory(setup.data / "tenants" / str(tenant.order)).run_plan.write_text("{}")
    assert (await box.state(tenant.order)).phase is Phase.PREPARED
    await box.start(tenant.order)
    assert (await box.wait(tenant.order)).phase is Phase.EXITED


@only("process", "gvisor-own", "gvisor")
async def test_nobody_sees_a_start_that_fails_run_or_get_lost(
    setup: Setup, box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keeper is killed before the job runs: who looks meanwhile must not think that it ran."""
    tenant = shell(setup, "exit 58")
    await box.prepare(tenant)
    with never_ready(setup, monkeypatch):
        starting = asyncio.ensure_future(box.start(tenant.order))
        keeper = await starting_keeper(setup, tenant.order)
        assert (await box.state(tenant.order)).phase is Phase.PREPARED
        os.kill(keeper, signal.SIGKILL)
        while not starting.done():
            assert (await box.state(tenant.order)).phase is Phase.PREPARED
            await asyncio.sleep(0.001)
        with pytest.raises(SandboxError, match="did not start"):
            await starting
    await box.start(tenant.order)
    state = await box.wait(tenant.order)
    assert state.exit is not None
    assert state.exit.code == 58


@only("process", "gvisor-own", "gvisor")
async def test_a_keeper_that_nobody_waits_for_any_more_is_replaced(
    setup: Setup, box: Sandbox
) -> None:
    """The helper was killed while it started a tenant, and its keeper lives on."""
    tenant = shell(setup, "exit 58")
    await box.prepare(tenant)
    directory = TenantDirectory(setup.data / "tenants" / str(tenant.order))
    directory.write_record("run.json", {"argv": NEVER_READY})
    command = [sys.executable, "-I", "-S", str(KEEPER), str(directory.path)]
    first = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    keeper = await starting_keeper(setup, tenant.order)
    second = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert (await second.communicate())[0] == b"failed another keeper is starting it\n"
    await box.start(tenant.order)
    assert (await first.communicate())[0] == b"", "it was killed"
    assert directory.any_keeper() != keeper
    state = await box.wait(tenant.order)
    assert state.exit is not None
    assert state.exit.code == 58


@only("process", "gvisor-own", "gvisor")
async def test_a_keeper_that_has_not_said_who_it_is_is_waited_for(
    setup: Setup, box: Sandbox
) -> None:
    """It holds its lock a moment before its process id stands there."""
    tenant = shell(setup, "exit 58")
    await box.prepare(tenant)
    directory = TenantDirectory(setup.data / "tenants" / str(tenant.order))
    directory.write_record("run.json", {"argv": NEVER_READY})
    with directory.starting_lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        starting = asyncio.ensure_future(box.start(tenant.order))
        done, _ = await asyncio.wait({starting}, timeout=0.3)
        assert not done
    await starting
    assert (await box.wait(tenant.order)).phase is Phase.EXITED


NEVER_READY = ["/bin/sh", "-c", "read -r end <&3"]
"""Sleeps until its keeper is dead, and does not say that the job runs."""


@contextlib.contextmanager
def never_ready(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    assert setup.host is not None
    engine = setup.host._engine
    plan = engine.run_plan
    with monkeypatch.context() as patched:
        patched.setattr(engine, "run_plan", lambda *given: plan(*given) | {"argv": NEVER_READY})
        yield


def test_a_look_at_a_keepers_lock_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    """Whoever looks holds it for a moment."""
    lock = tmp_path / "keeper.starting"
    lock.touch()
    code = (
        f"import sys; sys.path.insert(0, {str(KEEPER.parent)!r}); import keeper; "
        f"sys.exit(not keeper.take_lock({str(tmp_path)!r}))"
    )
    with lock.open() as looked:
        fcntl.flock(looked, fcntl.LOCK_SH)
        keeper = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(0.1)
    assert keeper.wait(20) == 0
    with lock.open() as looked:
        fcntl.flock(looked, fcntl.LOCK_SH)
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1


async def starting_keeper(setup: Setup, order: int) -> int:
    directory = TenantDirectory(setup.data / "tenants" / str(order))
    while not (keeper := directory.any_keeper()):  # noqa: ASYNC110 - another process takes it
        await asyncio.sleep(0.001)
    assert directory.keeper() is None
    return keeper


@only("process", "gvisor-own", "gvisor")
async def test_a_tenant_whose_making_was_cut_short_is_swept(setup: Setup, box: Sandbox) -> None:
    tenant = shell(setup, "exit 0")
    await box.prepare(tenant)
    directory = setup.data / "tenants" / str(tenant.order)
    (directory / "tenant.json").unlink()
    assert await box.list() == []
    assert setup.host is not None
    setup.host.sweep()
    assert not directory.exists()


@only("gvisor")
async def test_volumes_come_back_after_a_restart_of_the_machine(setup: Setup, box: Sandbox) -> None:
    tenant = shell(setup, "echo made > made.txt")
    volume = await box.prepare(tenant)
    unmount_below(volume)
    await box.start(tenant.order)
    await box.wait(tenant.order)
    unmount_below(volume)
    assert names(await exported(box, tenant.order))["made.txt"] == b"made\n"


async def test_destroy_while_running(setup: Setup, box: Sandbox) -> None:
    order = await launch(box, shell(setup, "sleep 300"))
    session = await box.exec(order, ["sleep", "300"])
    await box.destroy(order)
    assert await asyncio.wait_for(session.wait(), 20) != 0
    await session.close()
    assert await box.list() == []

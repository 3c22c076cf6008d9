"""Tenants that take more than their share. Each attack is first shown to work where its limit is wide."""

import asyncio
import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.hostile.tenants import MIB, Arena, arena, memory_limit, python_image, shelter

from deepbrain.sandbox.bundle import INIT_TASKS, Quotas
from deepbrain.sandbox.cgroups import Limits, find_cgroups
from deepbrain.sandbox.sandbox import Phase, SandboxError

__all__ = ("arena", "python_image", "shelter")  # fixtures

pytestmark = [
    pytest.mark.alone,
    pytest.mark.gvisor,
    pytest.mark.root,
    pytest.mark.timeout(90),
]

STRANGER = 51_234

# -- processes

FORKS = """
import os, sys, time
made = 0
for _ in range(int(sys.argv[1])):
    try:
        child = os.fork()
    except OSError:
        break
    if child == 0:
        time.sleep(60)
        os._exit(0)
    made += 1
print('made', made, flush=True)
"""
BOMB = "b() { b | b & b & }; b; while :; do :; done"


async def test_forks_end_at_the_limit(arena: Arena) -> None:
    wide = await arena.attack(arena.python(FORKS, 120, pids=300, memory_bytes=1024 * MIB))
    assert wide.number("made") == 120
    tight = await arena.attack(arena.python(FORKS, 120, pids=16, memory_bytes=1024 * MIB))
    assert tight.number("made") <= 16 + INIT_TASKS


async def test_a_fork_bomb_hurts_nobody_and_is_ended(arena: Arena) -> None:
    spec = arena.spec("bash", "-c", BOMB, pids=32, cpu_milli=500, memory_bytes=256 * MIB)
    async with arena.running(spec) as order:
        most = 0
        for _ in range(20):
            await asyncio.sleep(0.1)
            if (await arena.box.state(order)).phase is not Phase.RUNNING:
                break
            most = max(most, arena.tasks(order))
        assert 0 < most <= Limits.for_tenant(spec.memory_bytes, 500, 32).pids
        neighbour = await arena.attack(arena.python("print('made', 1)"), 20)
        assert neighbour.number("made") == 1
        began = time.monotonic()
    assert time.monotonic() - began < 10  # it was destroyed by then


# -- memory

HEAP = """
import sys
held = []
for at in range(int(sys.argv[1])):
    held.append(bytearray(b'x' * (1 << 20)))
print('held', len(held), flush=True)
"""
MAPPINGS = """
import mmap, sys
held = []
for at in range(int(sys.argv[1])):  # neighbours differ in their rights, so that none are joined
    pages = mmap.mmap(-1, 4096 * 8, prot=(mmap.PROT_READ | mmap.PROT_WRITE) | (at % 2) * mmap.PROT_EXEC)
    for page in range(8):
        pages[page * 4096] = 1
    held.append(pages)
print('held', len(held) * 8 * 4096 >> 20, flush=True)
"""
SCRATCH = """
import os, sys
held = 0
for place in ('/tmp', '/dev/shm', '/dev', '/run', '/root'):
    try:
        with open(place + '/fill', 'wb', buffering=0) as file:
            for _ in range(int(sys.argv[1])):
                held += file.write(b'x' * (1 << 20)) >> 20
    except OSError:
        pass
print('held', held, flush=True)
"""
EMPTY_FILES = """
import os, sys
made = 0
os.mkdir(sys.argv[2])
try:
    for at in range(int(sys.argv[1])):
        os.close(os.open(f'{sys.argv[2]}/{at}-{"n" * 200}', os.O_CREAT | os.O_WRONLY))
        made += 1
except OSError:
    pass
print('made', made, flush=True)
"""


@pytest.mark.parametrize(
    ("program", "amount"), [(HEAP, 300), (MAPPINGS, 9600)], ids=["heap", "mappings"]
)
async def test_memory_ends_at_the_limit(arena: Arena, program: str, amount: int) -> None:
    wide = await arena.attack(arena.python(program, amount, memory_bytes=768 * MIB))
    assert wide.number("held") == 300
    assert wide.peak >= 290 * MIB
    spec = arena.python(program, amount, memory_bytes=96 * MIB)
    tight = await arena.attack(spec)
    assert "held" not in tight.out
    assert tight.peak <= memory_limit(spec)
    assert tight.reason == "memory"


async def test_memory_taken_by_a_session_is_the_tenants(arena: Arena) -> None:
    spec = arena.spec("sleep", "60", memory_bytes=96 * MIB)
    async with arena.running(spec) as order:
        session = await arena.box.exec(order, ["python3", "-c", HEAP, "300"])
        async with asyncio.timeout(30):
            assert await session.wait() in (128, 137)  # the sandbox is gone, or that process
        await session.close()
        counters = [
            Path(path) for path in find_cgroups().oom_counters(arena.directory(order).container)
        ]
        assert any("oom_kill 0" not in path.read_text().splitlines() for path in counters)
        assert arena.peak(order) <= memory_limit(spec)


async def test_files_in_memory_are_the_tenants(arena: Arena) -> None:
    wide = await arena.attack(
        arena.python(SCRATCH, 60, memory_bytes=768 * MIB, disk_bytes=512 * MIB)
    )
    assert wide.number("held") >= 180
    spec = arena.python(SCRATCH, 60, memory_bytes=64 * MIB)
    tight = await arena.attack(spec)
    assert tight.reason == "memory" or tight.number("held") <= 64 + 8
    assert tight.peak <= memory_limit(spec)


async def test_empty_files_are_the_tenants_memory(arena: Arena) -> None:
    wide = await arena.attack(
        arena.python(EMPTY_FILES, 40_000, "/root/many", memory_bytes=768 * MIB), seconds=60
    )
    assert wide.number("made") == 40_000
    spec = arena.python(EMPTY_FILES, 40_000, "/root/many", memory_bytes=24 * MIB)
    tight = await arena.attack(spec, seconds=60)
    assert tight.reason == "memory" or tight.number("made") < 40_000
    assert tight.peak <= memory_limit(spec)


CACHE = """
import os, sys
with open('/workspace/big', 'wb', buffering=0) as file:
    for _ in range(int(sys.argv[1])):
        file.write(b'x' * (1 << 20))
with open('/workspace/big', 'rb', buffering=0) as file:
    while file.read(1 << 20):
        pass
print('read', int(sys.argv[1]), flush=True)
"""


async def test_the_hosts_page_cache_is_the_tenants_memory(arena: Arena) -> None:
    wide = await arena.attack(
        arena.python(CACHE, 200, memory_bytes=768 * MIB, disk_bytes=512 * MIB)
    )
    assert wide.number("read") == 200
    assert wide.peak >= 200 * MIB  # what the host would have kept for it
    spec = arena.python(CACHE, 200, memory_bytes=64 * MIB, disk_bytes=512 * MIB)
    tight = await arena.attack(spec)
    assert tight.number("read") == 200  # it is given up, not refused
    assert tight.peak <= memory_limit(spec)


# -- disk

FILL = """
import sys
written = 0
try:
    with open(sys.argv[2], 'wb', buffering=0) as file:
        for _ in range(int(sys.argv[1])):
            written += file.write(b'x' * (1 << 20))
except OSError:
    pass
print('wrote', written >> 20, flush=True)
"""


@pytest.mark.parametrize("place", ["/workspace/fill", "/root/fill", "/usr/fill"])
async def test_disk_ends_at_the_quota(arena: Arena, place: str) -> None:
    wide = await arena.attack(arena.python(FILL, 60, place, disk_bytes=512 * MIB))
    assert wide.number("wrote") == 60
    spec = arena.python(FILL, 60, place)
    quotas = Quotas.of(spec.disk_bytes)
    tight = await arena.attack(spec)
    bound = quotas.volume if place.startswith("/workspace") else quotas.layer
    assert tight.number("wrote") <= bound >> 20
    assert tight.held <= spec.disk_bytes + spec.log_bytes + MIB


async def test_files_end_at_the_volumes_own(arena: Arena) -> None:
    wide = await arena.attack(
        arena.python(EMPTY_FILES, 8_000, "/workspace/many", disk_bytes=256 * MIB)
    )
    assert wide.number("made") == 8_000
    before = os.statvfs(arena.data).f_files - os.statvfs(arena.data).f_ffree
    spec = arena.python(EMPTY_FILES, 8_000, "/workspace/many", disk_bytes=16 * MIB)
    async with arena.running(spec) as order:
        state = await arena.box.wait(order)
        assert (await arena.outcome(order, state)).number("made") < 8_000
        after = os.statvfs(arena.data).f_files - os.statvfs(arena.data).f_ffree
        assert after - before < 4_000  # other programs make files as well


FLOOD = """
import os, sys
line = b'x' * 65536
for at in range(int(sys.argv[1])):
    os.write(1 + at % 2, line)
"""


async def test_a_log_flood_keeps_to_its_bound(arena: Arena) -> None:
    spec = arena.python(FLOOD, 1024)
    async with arena.running(spec) as order:
        async with asyncio.timeout(40):
            state = await arena.box.wait(order)
        assert state.log_end > 60 * MIB  # the flood came
        kept = sum(path.stat().st_size for path in arena.directory(order).log.iterdir())
        assert kept <= spec.log_bytes
        assert (await arena.outcome(order, state)).held <= spec.disk_bytes + spec.log_bytes + MIB


# -- processors

SPIN = """
import os, sys
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
while True:
    pass
"""


async def measured(arena: Arena, orders: list[int], seconds: float = 2.0) -> list[float]:
    """Cores that each tenant gets, over the same time."""
    before = [arena.cpu_seconds(order) for order in orders]
    began = time.monotonic()
    await asyncio.sleep(seconds)
    after = [arena.cpu_seconds(order) for order in orders]
    elapsed = time.monotonic() - began
    return [(late - early) / elapsed for early, late in zip(before, after, strict=True)]


async def test_a_cpu_hog_leaves_its_neighbour_its_share(arena: Arena) -> None:
    async with arena.running(arena.python(SPIN, 8, cpu_milli=4000)) as wide:
        await asyncio.sleep(1)
        (unbounded,) = await measured(arena, [wide])
    hog, meek = arena.python(SPIN, 8, cpu_milli=300), arena.python(SPIN, 1, cpu_milli=300)
    async with arena.running(hog) as first, arena.running(meek) as second:
        await asyncio.sleep(1)
        taken, left = await measured(arena, [first, second])
    assert taken <= 0.3 * 1.2
    assert unbounded > 2 * taken  # the hog would have taken it
    assert left >= 0.3 * 0.6  # this machine may be busy with other things


# -- the host's own

SYSTEM_WRITES = """
import os
wrote = 0
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger',
             '/proc/sys/vm/drop_caches', '/proc/1/oom_score_adj', '/sys/kernel/uevent_helper',
             '/sys/power/state', '/sys/fs/cgroup/cgroup.procs', '/proc/sys/kernel/modprobe'):
    try:
        with open(path, 'w') as file:
            file.write('|/workspace/evil')
        wrote += 1
        print('opened', path)
    except OSError:
        pass
print('wrote', wrote, flush=True)
"""
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


def host_settings() -> tuple[str, str]:
    return CORE_PATTERN.read_text(), os.uname().nodename


def namespaced_root_writes(path: Path) -> bool:
    """Whether root in namespaces of its own gets at it. It writes what is there already."""
    command = ["unshare", "--mount", "--ipc", "--uts", "--pid", "--fork", "tee", str(path)]
    content = path.read_bytes()
    return not subprocess.run(command, input=content, capture_output=True, check=False).returncode


async def test_what_is_written_to_proc_and_sys_stays_inside(arena: Arena) -> None:
    assert namespaced_root_writes(CORE_PATTERN)  # control: without gVisor it reaches the host
    before = host_settings()
    outcome = await arena.attack(arena.python(SYSTEM_WRITES))
    assert outcome.reason == "exited"
    assert host_settings() == before
    assert "core_pattern" not in outcome.out


DEVICES = """
import os, stat, sys
device = os.makedev(int(sys.argv[1]), int(sys.argv[2]))
for place in ('/workspace/disk', '/tmp/disk', '/dev/disk0', '/root/disk'):
    try:
        os.mknod(place, stat.S_IFBLK | 0o666, device)
        with open(place, 'rb') as file:
            print('content', file.read(64).hex())
    except OSError as error:
        print('refused', error.errno)
"""


@pytest.fixture
def host_disk(tmp_path: Path) -> Iterator[tuple[int, int, bytes]]:
    """A block device of the host with something on it that nobody else knows."""
    secret = os.urandom(64)
    (tmp_path / "image").write_bytes(secret + bytes(1 << 20))
    loop = ["losetup", "--find", "--show", str(tmp_path / "image")]
    name = subprocess.run(loop, capture_output=True, text=True, check=True).stdout.strip()
    try:
        device = Path(name).stat().st_rdev
        yield os.major(device), os.minor(device), secret
    finally:
        subprocess.run(["losetup", "--detach", name], check=True)


async def test_device_nodes_lead_nowhere(
    arena: Arena, tmp_path: Path, host_disk: tuple[int, int, bytes]
) -> None:
    major, minor, secret = host_disk
    os.mknod(tmp_path / "disk", 0o060600, os.makedev(major, minor))
    with (tmp_path / "disk").open("rb") as disk:
        assert disk.read(64) == secret  # control: whoever may make the node reads the disk
    content = secret.hex()
    async with arena.running(arena.python(DEVICES, major, minor)) as order:
        state = await arena.box.wait(order)
        outcome = await arena.outcome(order, state)
        for made in arena.directory(
            order
        ).volume.iterdir():  # on the host its mount forbids devices
            with pytest.raises(OSError, match=r"denied|No such"):
                made.open("rb").close()
    assert content not in outcome.out
    assert "refused" in outcome.out


def as_stranger(program: Path) -> bytes:
    """What an ordinary user of the host becomes by running a file, whatever directories are closed."""
    handle = os.open(program, os.O_RDONLY)
    try:
        return subprocess.run(
            [f"/proc/self/fd/{handle}", "-u"], pass_fds=[handle], user=STRANGER, group=STRANGER,
            extra_groups=[], capture_output=True, check=False,
        ).stdout  # fmt: skip
    finally:
        os.close(handle)


async def test_a_setuid_file_makes_nobody_root(arena: Arena, tmp_path: Path) -> None:
    theirs = tmp_path / "id"
    shutil.copy("/usr/bin/id", theirs)
    theirs.chmod(0o4755)
    assert as_stranger(theirs) == b"0\n"  # control: elsewhere on this host it would
    # The very file: no library of the image is asked for on the host.
    async with arena.running(arena.spec("sleep", "60")) as order:
        volume = arena.directory(order).volume
        shutil.copy("/usr/bin/id", volume / "id")
        session = await arena.box.exec(
            order, ["sh", "-c", "cp /workspace/id /workspace/own; chmod 4755 /workspace/own"]
        )
        assert await session.wait() == 0
        await session.close()
        await arena.box.signal(order, 9)
        await arena.box.wait(order)  # while gVisor has it open for writing, nobody can run it
        made = volume / "own"
        assert made.stat().st_mode & 0o4000
        assert made.stat().st_uid == 0
        assert as_stranger(made) == f"{STRANGER}\n".encode()


# -- races on files

SWAP = """
import os, shutil, sys, time
target, end = sys.argv[1], time.monotonic() + float(sys.argv[2])
os.chdir('/workspace')
os.mkdir('real'); open('real/secret', 'w').write('inside')
os.symlink(target, 'link')

def show(name):
    while True:
        try:
            return os.rename(name, 'spot')
        except OSError:  # what is copied in makes the directory where it is missing
            shutil.rmtree('spot', ignore_errors=True)

swaps = 0
while time.monotonic() < end:
    show('real'); os.rename('spot', 'real')
    show('link'); os.rename('spot', 'link')
    swaps += 1
show('link')
print('swaps', swaps, flush=True)
"""


async def copied_out(arena: Arena, order: int, *paths: str) -> bytes:
    content = b""
    with suppress(SandboxError):  # not there in this very moment
        async for chunk in arena.box.export(order, paths):
            content += chunk
    return content


async def test_links_lead_no_copy_out_of_the_workspace(arena: Arena, tmp_path: Path) -> None:
    secret = os.urandom(16).hex().encode()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(secret)
    async with arena.running(arena.python(SWAP, outside, 3)) as order:
        content, rounds = b"", 0
        while (await arena.box.state(order)).phase is Phase.RUNNING:
            content += await copied_out(arena, order, "spot/secret", "spot")
            await _copy_in(arena, order)
            rounds += 1
        after = await copied_out(arena, order, "spot/secret", "spot", ".")
        outcome = await arena.outcome(order, await arena.box.state(order))
        volume = arena.directory(order).volume
        # Control: whoever follows paths on the host does read what the link names.
        assert (volume / "spot" / "secret").read_bytes() == secret
    assert outcome.number("swaps") > 100
    assert rounds > 1
    assert b"inside" in content + after or b"real" in after  # the copying itself works
    assert secret not in content + after
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_bytes() == secret


async def _copy_in(arena: Arena, order: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("secret", "planted"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"evil"))

    async def chunks() -> AsyncIterator[bytes]:
        yield buffer.getvalue()

    with suppress(SandboxError):  # a link, or nothing, in this very moment
        await arena.box.import_(order, chunks(), "spot")


# -- words

WORDS = """
import os, sys
print('bytes', sum(len(word) for word in sys.argv[1:]), flush=True)
print('variables', len(os.environ), flush=True)
"""


async def test_huge_words_are_carried_or_refused_in_a_sentence(arena: Arena) -> None:
    few = arena.python(WORDS, "x" * 100_000, env=tuple((f"V{at}", "y" * 100) for at in range(500)))
    outcome = await arena.attack(few)
    assert outcome.number("bytes") == 100_000
    assert outcome.number("variables") > 500
    for spec in (
        arena.python(WORDS, "x" * (1 << 20)),
        arena.python(WORDS, *["x"] * 5000),
        arena.python(WORDS, env=tuple((f"V{at}", "") for at in range(2000))),
        arena.python(WORDS, "zero\0byte"),
    ):
        with pytest.raises(SandboxError, match=r"words|MiB|zero"):
            await arena.box.prepare(spec)
    too_long = await arena.attack(
        arena.python(WORDS, "x" * 200_000)
    )  # of one word, for most kernels
    assert too_long.state.phase is Phase.EXITED
    async with arena.running(arena.spec("sleep", "60")) as order:
        for words in (["x"] * 5000, ["x" * (1 << 20), "y"]):
            with pytest.raises(SandboxError, match=r"words|MiB"):
                await arena.box.exec(order, ["echo", *words])
        session = await arena.box.exec(order, ["echo", "alive"])
        assert await session.wait() == 0
        await session.close()

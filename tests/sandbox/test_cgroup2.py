"""Where tenants go in version 2's tree: decided on trees made up, done on the kernel's own.

Machines whose memory, cpu and pids are version 1's still have a tree of version 2, with what is left:
the rules that matter here are the same for every controller. `tests/qemu` runs all of it with systemd.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepbrain.sandbox.cgroup2 import LEAF, Place, find_place, own_group
from deepbrain.sandbox.cgroups import Version2
from deepbrain.sandbox.sandbox import SandboxError


def group(root: Path, path: str) -> Path:
    made = root / path
    made.mkdir(parents=True)
    (made / "cgroup.type").write_text("domain")
    return made


def test_under_systemd_tenants_have_a_scope_of_their_own(tmp_path: Path) -> None:
    place = find_place(tmp_path, own="/system.slice/dbc.service", booted=tmp_path, uid=0)
    assert place.scope
    assert place.tenants == "/system.slice/deepbrain-tenants.scope"
    assert place.holders == (place.tenants,)


def test_the_real_root_may_hold_processes(tmp_path: Path) -> None:
    place = find_place(tmp_path, own="/", booted=tmp_path / "no", uid=0)
    assert (place.tenants, place.holders) == ("/deepbrain", ())


def test_in_a_container_what_is_in_the_root_moves_to_a_leaf(tmp_path: Path) -> None:
    (tmp_path / "cgroup.type").write_text("domain")
    for own in ("/", f"/{LEAF}"):
        place = find_place(tmp_path, own=own, booted=tmp_path / "no", uid=0)
        assert (place.tenants, place.holders, place.leaf) == ("/deepbrain", ("/",), f"/{LEAF}")


def test_a_group_that_is_somebody_elses_is_refused(tmp_path: Path) -> None:
    group(tmp_path, "user.slice/session")
    with pytest.raises(SandboxError, match="Delegate=yes"):
        find_place(tmp_path, own="/user.slice/session", booted=tmp_path / "no", uid=0)


def test_a_delegated_group_is_divided(tmp_path: Path) -> None:
    ours = group(tmp_path, "a/dbc.service")
    try:
        os.setxattr(ours, "user.delegate", b"1")
    except OSError:
        pytest.skip("this file system keeps no extended attributes of users")
    for own in ("/a/dbc.service", f"/a/dbc.service/{LEAF}"):
        place = find_place(tmp_path, own=own, booted=tmp_path / "no", uid=0)
        assert place.tenants == "/a/dbc.service/deepbrain"
        assert place.holders == ("/a/dbc.service",)


# -- on the kernel's tree


@pytest.fixture
def tree() -> Iterator[tuple[Path, Path, str]]:
    """The mount, a group below this process's own, and a controller that can be handed down."""
    for mount in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        known = mount / "cgroup.controllers"
        own = mount / own_group().lstrip("/")
        if not known.is_file() or not os.access(own, os.W_OK) or os.geteuid() != 0:
            continue
        control = own / "cgroup.subtree_control"
        # Only what leaves this process where it is: the real root, or what is handed down already.
        free = known.read_text().split() if not (own / "cgroup.type").exists() else []
        for controller in (*control.read_text().split(), *free):
            before = control.read_text().split()
            control.write_text(f"+{controller}")
            top = own / f"deepbrain-test-{os.getpid()}"
            top.mkdir()
            yield mount, top, controller
            for child in sorted(top.rglob("*"), reverse=True):
                if child.is_dir():
                    child.rmdir()
            top.rmdir()
            if controller not in before:
                control.write_text(f"-{controller}")
            return
    pytest.skip("no cgroup of version 2 can be divided here; tests/qemu does it")


@pytest.fixture
def sleepers() -> Iterator[list["subprocess.Popen[bytes]"]]:
    started = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_no_process_stays_beside_tenants(
    tree: tuple[Path, Path, str], sleepers: list["subprocess.Popen[bytes]"]
) -> None:
    mount, top, controller = tree
    for process in sleepers:
        (top / "cgroup.procs").write_text(str(process.pid))
    with pytest.raises(OSError, match="busy"):  # what would happen without the leaf
        (top / "cgroup.subtree_control").write_text(f"+{controller}")
    below = f"/{top.relative_to(mount)}"
    place = Place(f"{below}/tenants", (below,), f"{below}/{LEAF}")
    for _ in range(2):
        place.open(mount, [controller])
    assert (top / "cgroup.procs").read_text() == ""
    found = (top / LEAF / "cgroup.procs").read_text().split()
    assert {int(pid) for pid in found} == {process.pid for process in sleepers}
    assert controller in (top / "tenants" / "cgroup.subtree_control").read_text().split()
    tenant = top / "tenants" / "t"
    tenant.mkdir()
    assert controller in (tenant / "cgroup.controllers").read_text().split()
    for process in sleepers:
        process.kill()
        process.wait()


IN_A_CONTAINER = """
import subprocess, sys
from pathlib import Path
from deepbrain.sandbox.cgroup2 import find_place, own_group
root, controller = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "cgroup2", "none", str(root)], check=True)
for _ in range(2):
    place = find_place(root, booted=root / "no", uid=0)
    print(own_group(), place.tenants, *place.holders)
    place.open(root, [controller])
print(*(root / "deepbrain" / "cgroup.subtree_control").read_text().split())
"""


def test_in_a_container_its_own_tree_is_divided(
    tree: tuple[Path, Path, str], tmp_path: Path
) -> None:
    """With a cgroup namespace, as container engines give: the container's group is its root."""
    _, top, controller = tree
    enter = f'echo $$ >{top}/cgroup.procs && exec unshare --cgroup --mount "$@"'
    program = [sys.executable, "-c", IN_A_CONTAINER, str(tmp_path), controller]
    done = subprocess.run(
        ["sh", "-c", enter, "sh", *program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second, controllers = done.stdout.splitlines()
    assert first == "/ /deepbrain /"
    assert second == f"/{LEAF} /deepbrain /"
    assert controllers.split() == [controller]


def test_a_tenant_is_killed_whole_and_removed(
    tree: tuple[Path, Path, str], sleepers: list["subprocess.Popen[bytes]"]
) -> None:
    mount, top, controller = tree
    cgroups = Version2(mount, Place(f"/{top.relative_to(mount)}/tenants"), [controller])
    inner = top / "tenants" / "t" / "inner"
    inner.mkdir(parents=True)
    for process in sleepers:
        (inner / "cgroup.procs").write_text(str(process.pid))
    assert cgroups.members("t") == {process.pid for process in sleepers}
    assert not cgroups.holds_all("t")
    cgroups.remove("t")
    assert not (top / "tenants").exists()  # the last one takes its parent along
    assert [process.wait(5) for process in sleepers] == [-9, -9, -9]

"""Device files: what is read of them, what is refused, and what of it enters a sandbox."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from deepbrain.sandbox.bundle import environment as job_environment
from deepbrain.sandbox.cdi import MAX_FILE, CdiError, Edits, Hook, Mount, Node, parse, read_registry
from deepbrain.sandbox.devices import allow, environment, given
from deepbrain.sandbox.sandbox import TenantSpec

ME = os.geteuid()

NVIDIA = """
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - path: /dev/dri/card1
- name: GPU-1234abcd-0000-1111-2222-333344445555
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - path: /dev/dri/card1
- name: "1"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia1
      hostPath: /dev/nvidia1
      type: c
      major: 195
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - path: /dev/nvidia1
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/nvidiactl
  - path: /dev/nvidia-uvm
  - path: /dev/nvidia-uvm-tools
  - path: /dev/nvidia-modeset
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]
  mounts:
  - hostPath: /usr/bin/env
    containerPath: /usr/bin/nvidia-smi
    options: [ro, nosuid, nodev, bind]
"""


def spec(**changes: Any) -> dict[str, Any]:
    device = {"name": "a", "containerEdits": {"env": ["A=1"]}}
    return {"cdiVersion": "0.6.0", "kind": "deepbrain.test/gpu", "devices": [device]} | changes


def device(**edits: Any) -> dict[str, Any]:
    return spec(devices=[{"name": "a", "containerEdits": edits}])


def read(found: object) -> dict[str, Edits]:
    return parse(Path("/etc/cdi/x.json"), json.dumps(found).encode())


def write(directory: Path, name: str, found: object) -> Path:
    directory.mkdir(exist_ok=True, mode=0o755)
    path = directory / name
    path.write_text(found if isinstance(found, str) else json.dumps(found))
    path.chmod(0o644)
    return path


def test_nvidias_own_file(tmp_path: Path) -> None:
    write(tmp_path / "cdi", "nvidia.yaml", NVIDIA)
    registry = read_registry([tmp_path / "cdi", tmp_path / "none"], owner=ME)
    assert registry.names("nvidia.com/gpu") == ("nvidia.com/gpu=0", "nvidia.com/gpu=1")
    edits = registry.edits(["nvidia.com/gpu=0", "nvidia.com/gpu=1"])
    nodes = [node.path for node in edits.nodes]
    assert nodes.count("/dev/nvidiactl") == 1
    assert {"/dev/nvidia0", "/dev/nvidia1"} < set(nodes)
    assert len(edits.mounts) == len(edits.hooks) == 1


def test_the_later_directory_counts_and_doubles_are_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "etc", tmp_path / "run"
    write(first, "a.json", device(env=["A=etc"]))
    write(second, "a.json", device(env=["A=run"]))
    registry = read_registry([first, second], owner=ME)
    assert registry.edits(["deepbrain.test/gpu=a"]).env == (("A", "run"),)
    write(second, "b.json", device(env=["A=other"]))
    with pytest.raises(CdiError, match="two files"):
        read_registry([first, second], owner=ME).edits(["deepbrain.test/gpu=a"])
    with pytest.raises(CdiError, match=r"no device deepbrain\.test/gpu=b"):
        registry.edits(["deepbrain.test/gpu=b"])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "no object"),
        (spec(cdiVersion="0.2.0"), "cdiVersion"),
        (spec(cdiVersion="2.0.0"), "cdiVersion"),
        (spec(kind="../x"), "kind"),
        (spec(devices={}), None),
        (spec(devices=[{"name": "a"}, {"name": "a"}]), "twice"),
        (spec(devices=[{"name": "a/b"}]), "name"),
        (spec(surprise=1), "'surprise'"),
        (device(netDevices=[{}]), "'netDevices'"),
        (device(additionalGIDs=[0]), "'additionalGIDs'"),
        (device(intelRdt={"closID": "x"}), "'intelRdt'"),
        (device(env=["NOVALUE"]), "sets no variable"),
        (device(env=["A\n=1"]), "no text"),
        (device(env=["A=1"] * 2000), "list of at most"),
        (device(env="A=1"), "list"),
        (device(deviceNodes=[{"path": "dev/null"}]), "absolute"),
        (device(deviceNodes=[{"path": "/dev/../etc"}]), "absolute"),
        (device(deviceNodes=[{"path": "/dev/null", "gift": 1}]), "'gift'"),
        (device(mounts=[{"hostPath": "/a", "containerPath": "/b", "type": "overlay"}]), "bind"),
        (device(mounts=[{"hostPath": "/a"}]), "containerPath"),
        (device(hooks=[{"hookName": "x", "path": "relative"}]), "absolute"),
    ],
)
def test_what_is_not_known_is_an_error(found: object, words: str | None) -> None:
    if words is None:
        assert read(found) == {}  # no devices
        return
    with pytest.raises(CdiError, match=words):
        read(found)


def test_yaml_without_anchors_and_tags() -> None:
    path = Path("/etc/cdi/x.yaml")
    for text in ("a: &x 1\nb: *x\n", "a: !!python/object/apply:os.system ['true']\n", "{", "\x00"):
        with pytest.raises(CdiError, match=r"/etc/cdi/x\.yaml"):
            parse(path, text.encode())


@for_all(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_devices_or_an_error(content: bytes) -> None:
    for name in ("x.json", "x.yaml"):
        try:
            parse(Path(name), content)
        except CdiError:
            continue


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=12)
    keys = st.sampled_from(["name", "path", "hostPath", "env", "hooks", "mounts", "x"])
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )


@for_all(json_values(), json_values())
def test_any_structure_is_devices_or_an_error(devices: Any, edits: Any) -> None:
    for found in (spec(devices=devices), spec(containerEdits=edits)):
        try:
            read(found)
        except CdiError:
            continue


def test_files_that_others_can_write_are_not_believed(tmp_path: Path) -> None:
    directory = tmp_path / "cdi"
    path = write(directory, "a.json", spec())
    assert read_registry([directory], owner=ME).devices
    path.chmod(0o666)
    with pytest.raises(CdiError, match="written by others"):
        read_registry([directory], owner=ME)
    path.chmod(0o644)
    directory.chmod(0o777)
    with pytest.raises(CdiError, match="written by others"):
        read_registry([directory], owner=ME)
    directory.chmod(0o755)
    with pytest.raises(CdiError, match="written by others"):
        read_registry([directory], owner=ME + 1)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CdiError, match="cannot be read"):
        read_registry([directory], owner=ME)
    path.unlink()
    os.mkfifo(path, 0o644)
    with pytest.raises(CdiError, match="no file"):
        read_registry([directory], owner=ME)
    path.unlink()
    path.write_bytes(b" " * (MAX_FILE + 1))
    with pytest.raises(CdiError, match="no file"):
        read_registry([directory], owner=ME)


# -- what enters a sandbox


def test_only_what_gvisors_proxy_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Path("/dev/null").stat()
    monkeypatch.setattr(Path, "stat", lambda *_args, **_kwargs: numbers)
    wanted = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm")
    left_out = ("/dev/nvidia-modeset", "/dev/nvidia-uvm-tools", "/dev/dri/card0")
    edits = Edits(nodes=tuple(Node(path, path) for path in (*wanted, *left_out)))
    found = allow(edits)
    assert [node["path"] for node in found.nodes] == list(wanted)
    assert found.is_nvidia
    with pytest.raises(CdiError, match="MIG"):
        allow(Edits(nodes=(Node("/dev/nvidia-caps/nvidia-cap1", "/dev/nvidia-caps/nvidia-cap1"),)))


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        (Edits(nodes=(Node("/dev/none", "/dev/none"),)), "driver loaded"),
        (Edits(nodes=(Node("/dev/x", "/etc/passwd"),)), "not below /dev"),
        (Edits(nodes=(Node("/etc/x", "/dev/null"),)), "not below /dev"),
        (Edits(nodes=(Node("/dev/shm", "/dev/shm"),)), "no character device"),
        (Edits(mounts=(Mount("/etc", "/"),)), "the sandbox's own"),
        (Edits(mounts=(Mount("/etc", "/workspace/x"),)), "the sandbox's own"),
        (Edits(mounts=(Mount("/etc", "/.dbc/tool"),)), "the sandbox's own"),
        (Edits(mounts=(Mount("/", "/host"),)), "whole host"),
        (Edits(mounts=(Mount("/not/there", "/x"),)), "is not there"),
        (Edits(env=(("LD_PRELOAD", "/x.so"),)), "LD_PRELOAD"),
        (Edits(hooks=(Hook("/bin/sh", ("sh", "-c", "evil")),)), "run as root"),
        (Edits(hooks=(Hook("/usr/bin/nvidia-ctk", ("nvidia-ctk", "hook", "new")),)), "'new'"),
    ],
)
def test_what_no_tenant_may_have(edits: Edits, words: str) -> None:
    with pytest.raises(CdiError, match=words):
        allow(edits)


def test_hooks_are_replaced_by_mounts_and_a_path(tmp_path: Path) -> None:
    library = tmp_path / "libcuda.so.580.1"
    library.write_text("x")
    (tmp_path / "libcuda.so.1").symlink_to(library.name)
    (tmp_path / "libother.so.1").symlink_to("elsewhere")
    hook = "/usr/bin/nvidia-cdi-hook"
    links = ("nvidia-cdi-hook", "create-symlinks", "--link", "libcuda.so.1::/usr/lib/libcuda.so")
    folders = ("nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib", "--folder=/opt/lib")
    found = allow(
        Edits(mounts=(Mount(str(library), "/usr/lib/libcuda.so.580.1"),),
              hooks=(Hook(hook, links), Hook(hook, folders), Hook(hook, ("h", "chmod", "--mode", "1"))))
    )  # fmt: skip
    assert {mount.path for mount in found.mounts} == {
        "/usr/lib/libcuda.so.580.1", "/usr/lib/libcuda.so.1", "/usr/lib/libcuda.so",
    }  # fmt: skip
    assert {mount.host_path for mount in found.mounts} == {str(library)}
    assert set(found.libraries) == {"/usr/lib", "/opt/lib"}


def test_a_socket_is_left_out(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as way_out:
        way_out.bind(str(tmp_path / "s"))
        assert allow(Edits(mounts=(Mount(str(tmp_path / "s"), "/run/s"),))).mounts == ()


def test_what_renters_and_images_say_of_gpus_counts_for_nothing() -> None:
    words = job_environment(
        TenantSpec(
            order=1, image="", env=(("NVIDIA_VISIBLE_DEVICES", "all"), ("LD_LIBRARY_PATH", "/mine"))
        )
    )
    assert not any(word.startswith("NVIDIA_") for word in words)
    edits = Edits(
        env=(("NVIDIA_VISIBLE_DEVICES", "void"),),
        hooks=(
            Hook("/usr/bin/nvidia-ctk", ("nvidia-ctk", "hook", "update-ldcache", "--folder", "/l")),
        ),
    )
    merged = environment(words, allow(edits))
    assert "NVIDIA_VISIBLE_DEVICES=void" in merged
    assert "LD_LIBRARY_PATH=/mine:/l" in merged


def test_only_known_kinds_are_given(tmp_path: Path) -> None:
    write(tmp_path / "cdi", "a.json", spec())
    name = "deepbrain.test/gpu=a"
    with pytest.raises(CdiError, match="not given to tenants"):
        given([name], directories=[tmp_path / "cdi"])
    if ME == 0:
        found = given([name], kinds=("deepbrain.test/gpu",), directories=[tmp_path / "cdi"])
        assert found.env == (("A", "1"),)
    assert given([]).nodes == ()

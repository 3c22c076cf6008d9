"""A workspace is packed the same everywhere, and holds nothing its owner would regret."""

import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from deepbrain.client.workspace import Packed, WorkspaceError, pack, scan, scan_file


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "job"
    root.mkdir()
    return root


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        put(root, name.replace("__", "/"), text)


def put(root: Path, name: str, text: str = "x") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(root: Path) -> list[str]:
    return [entry.path for entry in scan(root).entries]


def members(root: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(packed_beside(root).path) as tar:
        return tar.getmembers()


def packed_beside(root: Path) -> Packed:
    target = root.with_suffix(".tar")
    target.unlink(missing_ok=True)
    return pack(scan(root), target)


def test_the_same_tree_gives_the_same_bytes_whatever_its_times_owner_and_order(
    tmp_path: Path,
) -> None:
    digests = []
    for number, order in enumerate((["a.py", "b/c.txt"], ["b/c.txt", "a.py"])):
        root = tmp_path / str(number) / "job"
        for name in order:
            put(root, name, f"content of {name}")
        os.utime(root / "a.py", (number * 1000, number * 1000))
        digests.append(packed_beside(root).sha256)
    assert digests[0] == digests[1]


def test_the_digest_size_and_count_are_those_of_the_tar(tree: Path) -> None:
    write(tree, a="1", b__c="22")
    packed = packed_beside(tree)
    data = packed.path.read_bytes()
    assert packed.path.stat().st_mode & 0o777 == 0o600
    assert packed.sha256 == hashlib.sha256(data).digest()
    assert (packed.size, packed.files) == (len(data), 2)
    assert [member.name for member in members(tree)] == ["a", "b", "b/c"]


@pytest.mark.parametrize(
    "secret",
    [".git/config", ".env", ".env.local", ".envrc", ".ssh/id_ed25519", "sub/.venv/x",
     "p/__pycache__/m.pyc", "dbc-out/1/model.npy"],
)  # fmt: skip
def test_secrets_and_rubbish_are_never_sent_even_if_asked_for(tree: Path, secret: str) -> None:
    put(tree, secret)
    put(tree, ".dbcignore", f"!{secret.split('/')[0]}\n!{secret}\n")
    sent = names(tree)
    assert secret not in sent


def test_gitignore_is_honoured_at_every_level_the_deepest_first(tree: Path) -> None:
    put(tree, ".gitignore", "*.log\n/build/\n")
    put(tree, "a.log")
    put(tree, "build/out")
    put(tree, "sub/build/kept")
    put(tree, "sub/.gitignore", "!b.log\nlocal\n")
    put(tree, "sub/b.log")
    put(tree, "sub/local")
    put(tree, "local")
    sent = set(names(tree))
    assert {"sub/b.log", "local", "sub/build/kept"} <= sent
    assert not sent & {"a.log", "build", "build/out", "sub/local"}


def test_dbcignore_has_the_last_word(tree: Path) -> None:
    put(tree, ".gitignore", "data/\n")
    put(tree, "data/set.npy")
    put(tree, "notes.md")
    put(tree, ".dbcignore", "!data/\nnotes.md\n")
    sent = names(tree)
    assert "data/set.npy" in sent
    assert "notes.md" not in sent


def test_a_gitignore_above_the_workspace_counts_up_to_the_top_of_the_repository(
    tmp_path: Path,
) -> None:
    put(tmp_path, ".gitignore", "everything\n")  # above the repository: not ours
    put(tmp_path, "repo/.git/HEAD")
    put(tmp_path, "repo/.gitignore", "/pkg/secret\n")
    put(tmp_path, "repo/pkg/secret")
    put(tmp_path, "repo/pkg/everything")
    assert names(tmp_path / "repo" / "pkg") == ["everything"]


def test_links_travel_as_copies_of_files_that_are_sent_anyway(tree: Path) -> None:
    put(tree, "inside", "content").chmod(0o755)
    put(tree, ".gitignore", "ignored\n")
    put(tree, "ignored")
    put(tree, ".env")
    put(tree, "sub/file")
    (tree / "good").symlink_to("inside")
    (tree / "chain").symlink_to("good")
    (tree / "absolute").symlink_to(tree / "inside")
    for number, target in enumerate(["ignored", ".env", "sub", "nothing", "loop3"]):
        (tree / f"loop{number - 1}").symlink_to(target)
    workspace = scan(tree)
    with tarfile.open(packed_beside(tree).path) as tar:
        for name in ("inside", "good", "chain", "absolute"):
            member = tar.getmember(name)
            assert member.isreg()
            assert member.mode == 0o755
            content = tar.extractfile(member)
            assert content is not None
            assert content.read() == b"content"
        assert ".env" not in tar.getnames()
    assert len(workspace.notes) == 5


def test_links_that_leave_the_tree_are_left_out_with_a_note(tree: Path, tmp_path: Path) -> None:
    put(tmp_path, "outside")
    (tree / "up").symlink_to("../outside")
    (tree / "absolute").symlink_to(tmp_path / "outside")
    (tree / "hop").symlink_to(tmp_path)
    (tree / "through").symlink_to("hop/outside")
    workspace = scan(tree)
    assert workspace.entries == ()
    assert len(workspace.notes) == 4
    assert all("link leaves" in note for note in workspace.notes)


def test_pipes_and_names_that_are_not_text_are_left_out_with_a_note(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    (Path(os.fsdecode(os.fsencode(tree) + b"/bad\xff"))).write_text("x")
    workspace = scan(tree)
    assert workspace.entries == ()
    assert len(workspace.notes) == 2


def test_many_notes_end_in_a_count(tree: Path) -> None:
    for number in range(25):
        os.mkfifo(tree / f"pipe{number}")
    assert scan(tree).notes[-1] == "left out 5 more"


def test_only_the_executable_bit_travels(tree: Path) -> None:
    put(tree, "run").chmod(0o4755)
    put(tree, "data").chmod(0o600)
    modes = {member.name: member.mode for member in members(tree)}
    assert modes == {"data": 0o644, "run": 0o755}


def test_hard_links_are_sent_as_files(tree: Path) -> None:
    os.link(put(tree, "a"), tree / "b")
    assert all(member.isreg() for member in members(tree))


def test_long_names_survive(tree: Path) -> None:
    long = "/".join(["d" * 100] * 4) + "/ü"
    put(tree, long)
    assert long in [member.name for member in members(tree)]


@pytest.mark.parametrize("root", ["/", "~", "~/.."])
def test_the_system_and_the_home_directory_are_refused_in_one_sentence(root: str) -> None:
    with pytest.raises(WorkspaceError, match="never sent"):
        scan(Path(root).expanduser())


def test_a_home_reached_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path.home())
    with pytest.raises(WorkspaceError, match="never sent"):
        scan(tmp_path / "link")


def test_what_is_not_a_directory_is_refused(tree: Path) -> None:
    with pytest.raises(WorkspaceError, match="does not exist"):
        scan(tree / "nothing")
    with pytest.raises(WorkspaceError, match="not a directory"):
        scan(put(tree, "file"))


def test_bounds_name_the_way_out(tree: Path) -> None:
    write(tree, a="12345", b="12345")
    with pytest.raises(WorkspaceError, match=r"\.dbcignore"):
        scan(tree, max_files=1)
    with pytest.raises(WorkspaceError, match=r"\.dbcignore"):
        scan(tree, max_bytes=9)


@pytest.mark.parametrize("change", ["grow", "shrink", "vanish", "link"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tree: Path, change: str) -> None:
    path = put(tree, "a", "12345")
    workspace = scan(tree)
    if change == "grow":
        path.write_text("123456")
    elif change == "shrink":
        path.write_text("1")
    else:
        path.unlink()
        if change == "link":
            path.symlink_to("/etc/passwd")
    target = tree.with_suffix(".tar")
    with pytest.raises(WorkspaceError):
        pack(workspace, target)
    assert not target.exists()


def test_progress_adds_up_to_the_content(tree: Path) -> None:
    write(tree, a="1" * 70_000, b="2")
    seen: list[int] = []
    pack(scan(tree), tree.with_suffix(".tar"), seen.append)
    assert sum(seen) == 70_001


def test_an_ignore_file_that_is_not_text_is_an_error(tree: Path) -> None:
    (tree / ".dbcignore").write_bytes(b"\xff\xfe")
    with pytest.raises(WorkspaceError, match="UTF-8"):
        scan(tree)


def test_an_existing_file_is_never_packed_over(tree: Path) -> None:
    target = put(tree.parent, "old.tar", "old")
    with pytest.raises(WorkspaceError):
        pack(scan(tree), target)
    assert target.read_text() == "old"


def test_one_file_is_packed_alone_also_through_a_link(tree: Path) -> None:
    put(tree, "data", "content")
    (tree / "link").symlink_to("data")
    packed = pack(scan_file(tree / "link"), tree / "one.tar")
    with tarfile.open(packed.path) as tar:
        assert tar.getnames() == ["link"]
        assert tar.getmember("link").isreg()
    for wrong in (tree, tree / "nothing"):
        with pytest.raises(WorkspaceError):
            scan_file(wrong)

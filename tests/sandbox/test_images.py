"""Images from strangers: what is accepted, and every trick that is not."""

import gzip
import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from deepbrain.sandbox import images
from deepbrain.sandbox.baseimage import build
from deepbrain.sandbox.images import ImageConfig, digest_of, unpack
from deepbrain.sandbox.sandbox import ImageError

Entry = tuple[str, bytes | str | None]


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode, member.mtime = kind, link, mode, 1000
    return member


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def file(name: str, content: bytes = b"x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, mode=mode), content


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.SYMTYPE, target), b""


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.LNKTYPE, target), b""


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.DIRTYPE, mode=mode), b""


IMPOSSIBLE_SIZES = -(1 << 40), -512, 1 << 62, 1 << 63, 1 << 80
KINDS_READ_BY_SIZE = (
    tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_SPARSE, b"Z",
)  # fmt: skip


def says(kind: bytes, size: int) -> bytes:
    """The header of a member that says how long it is, and no more."""
    member = entry("a", kind)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def docker(*layers: bytes, config: object = None) -> io.BytesIO:
    names = [f"{at}/layer.tar" for at in range(len(layers))]
    manifest = [{"Config": "config.json", "Layers": names, "RepoTags": ["a:b"]}]
    document = {"config": {}} if config is None else config
    files = [file("config.json", json.dumps(document).encode())]
    files += [file(name, content) for name, content in zip(names, layers, strict=True)]
    files.append(file("manifest.json", json.dumps(manifest).encode()))
    return io.BytesIO(layer(*files))


def oci(*layers: bytes, architecture: str = "amd64") -> io.BytesIO:
    blobs: dict[str, bytes] = {}

    def blob(data: bytes) -> dict[str, object]:
        digest = sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    config = blob(json.dumps({"config": {"Cmd": ["run"], "Env": ["A=b=c"]}}).encode())
    manifest = blob(
        json.dumps({"config": config, "layers": [blob(data) for data in layers]}).encode()
    )
    platform = {"architecture": architecture, "os": "linux"}
    index = json.dumps({"manifests": [{**manifest, "platform": platform}]}).encode()
    return io.BytesIO(
        layer(*(file(name, data) for name, data in blobs.items()), file("index.json", index))
    )


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs"
    path.mkdir()
    (tmp_path / "outside").mkdir()
    return path


def outside(rootfs: Path) -> list[Path]:
    """What lies beside the root file system: nothing must ever arrive there."""
    return [path for path in rootfs.parent.rglob("*") if not path.is_relative_to(rootfs)]


def test_docker_archive(rootfs: Path) -> None:
    config = {
        "config": {"Entrypoint": ["/run"], "Cmd": ["a", "b"], "Env": ["K=v"], "WorkingDir": "/w"}
    }
    found = unpack(docker(layer(file("etc/x", b"content", 0o755)), config=config), rootfs)
    assert found == ImageConfig((("K", "v"),), ("/run", "a", "b"), "/w")
    assert (rootfs / "etc/x").read_bytes() == b"content"
    assert (rootfs / "etc/x").stat().st_mode & 0o7777 == 0o755
    for name in (*images.MOUNT_DIRECTORIES, *images.MOUNT_FILES):
        assert (rootfs / name).exists()


def test_oci_layout_with_gzip(rootfs: Path) -> None:
    found = unpack(oci(gzip.compress(layer(file("a"))), layer(file("b"))), rootfs)
    assert found == ImageConfig((("A", "b=c"),), ("run",), "")
    assert (rootfs / "a").exists()
    assert (rootfs / "b").exists()


def test_other_architecture(rootfs: Path) -> None:
    with pytest.raises(ImageError, match="architecture"):
        unpack(oci(layer(file("a")), architecture="riscv64"), rootfs)


def test_whiteouts(rootfs: Path) -> None:
    lower = layer(folder("d"), file("d/old"), file("d/gone"), file("e/x"), file("keep"))
    upper = layer(
        file("d/.wh.gone", b""),
        file("e/new"),
        file("e/.wh..wh..opq", b""),
        file(".wh.nothing", b""),
    )
    unpack(docker(lower, upper), rootfs)
    assert sorted(path.name for path in (rootfs / "d").iterdir()) == ["old"]
    assert sorted(path.name for path in (rootfs / "e").iterdir()) == ["new"]
    assert (rootfs / "keep").exists()


def test_later_layers_replace(rootfs: Path) -> None:
    unpack(
        docker(
            layer(file("a", b"1"), folder("b"), file("b/c")),
            layer(file("a", b"2"), file("b", b"now a file")),
        ),
        rootfs,
    )
    assert (rootfs / "a").read_bytes() == b"2"
    assert (rootfs / "b").read_bytes() == b"now a file"


def test_setuid_is_stripped(rootfs: Path) -> None:
    unpack(docker(layer(file("su", mode=0o6755), folder("dir", 0o3777))), rootfs)
    assert (rootfs / "su").stat().st_mode & 0o7000 == 0
    assert (rootfs / "dir").stat().st_mode & 0o7000 == 0


def test_links_resolve_inside(rootfs: Path) -> None:
    lower = layer(
        folder("usr/lib"),
        link("lib", "usr/lib"),
        link("abs", "/usr"),
        link("up", "../../../../usr"),
    )
    upper = layer(file("lib/a"), file("abs/b"), file("up/c"))
    unpack(docker(lower, upper), rootfs)
    assert (rootfs / "usr/lib/a").exists()
    assert (rootfs / "usr/b").exists()
    assert (rootfs / "usr/c").exists()
    assert [path.name for path in outside(rootfs)] == ["outside"]


@pytest.mark.parametrize(
    "members",
    [
        (file("../outside/evil"),),
        (file("a/../../outside/evil"),),
        (folder("../outside/evil"),),
        (link("../outside/evil", "x"),),
        (hard("evil", "../../../../etc/passwd"),),
        (file("loop/x"), link("a", "b"), link("b", "a"), file("a/x")),
        (file("f"), file("f/below")),
    ],
)
def test_refused(rootfs: Path, members: tuple[tuple[tarfile.TarInfo, bytes], ...]) -> None:
    with pytest.raises(ImageError):
        unpack(docker(layer(*members)), rootfs)
    assert [path.name for path in outside(rootfs)] == ["outside"]


def test_planted_links_are_replaced_not_followed(rootfs: Path) -> None:
    target = rootfs.parent / "outside"
    members = (
        link("dir", str(target)),
        link("file", str(target / "new")),
        link("etc", "/nowhere"),
        link("tmp", "/etc"),
    )
    unpack(
        docker(layer(*members), layer(folder("dir"), file("dir/evil"), file("file", b"mine"))),
        rootfs,
    )
    assert outside(rootfs) == [target]
    assert not (rootfs / "file").is_symlink()
    assert not (rootfs / "etc").is_symlink()
    assert not (rootfs / "tmp").is_symlink()


def test_hard_links_stay_inside(rootfs: Path) -> None:
    unpack(
        docker(
            layer(
                file("a", b"a"), hard("b", "a"), hard("none", "missing"), hard("c", "/etc/passwd")
            )
        ),
        rootfs,
    )
    assert (rootfs / "b").read_bytes() == b"a"
    assert not (rootfs / "none").exists()
    assert not (rootfs / "c").exists()


def test_devices_are_left_out(rootfs: Path) -> None:
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    unpack(docker(layer(*((entry(f"n{at}", kind), b"") for at, kind in enumerate(kinds)))), rootfs)
    assert not list(rootfs.glob("n*"))


def test_bounds(rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = docker(layer(*(file(f"f{at}") for at in range(20))))
    monkeypatch.setattr(images, "MAX_FILES", 19)
    with pytest.raises(ImageError, match="files"):
        unpack(many, rootfs)
    monkeypatch.undo()
    monkeypatch.setattr(images, "MAX_UNPACKED", 100)
    with pytest.raises(ImageError, match="unpacks to"):
        unpack(docker(layer(file("big", b"x" * 101))), rootfs)
    monkeypatch.undo()
    monkeypatch.setattr(images, "MAX_LAYERS", 1)
    with pytest.raises(ImageError, match="layers"):
        unpack(docker(layer(), layer()), rootfs)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage" * 1000,
        layer(file("manifest.json", b"[]")),
        layer(file("manifest.json", b"{")),
        layer(file("manifest.json", b"[" * 100_000)),
        layer(file("manifest.json", b'[{"Config": "c", "Layers": ["../../etc/passwd"]}]')),
        layer(file("manifest.json", b'[{"Config": "c", "Layers": 7}]')),
        layer(link("manifest.json", "/etc/passwd")),
        layer(file("index.json", b'{"manifests": [{"digest": "md5:1"}]}')),
        layer(file("index.json", b'{"manifests": 1}')),
        layer(file("other", b"")),
        *(says(kind, size) for kind in KINDS_READ_BY_SIZE for size in IMPOSSIBLE_SIZES),
        says(tarfile.XHDTYPE, 0) * 2000,
    ],
)
def test_malformed_archives(rootfs: Path, data: bytes) -> None:
    with pytest.raises(ImageError):
        unpack(io.BytesIO(data), rootfs)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", IMPOSSIBLE_SIZES)
@pytest.mark.parametrize("kind", KINDS_READ_BY_SIZE)
def test_a_layer_of_impossible_sizes(rootfs: Path, kind: bytes, size: int) -> None:
    """A reader that looked for what follows such a member would read the layer's end for ever."""
    with pytest.raises(ImageError):
        unpack(docker(layer(file("a"))[:1024] + says(kind, size)), rootfs)


def test_a_file_as_large_as_the_bound_is_in_it(rootfs: Path) -> None:
    unpack(docker(layer(file("a", b"x" * 8193))), rootfs, 8193)
    with pytest.raises(ImageError, match="unpacks to more"):
        unpack(docker(layer(file("a", b"x" * 8194))), rootfs, 8193)


@pytest.mark.timeout(20)
def test_an_archive_whose_members_lead_back_ends(rootfs: Path) -> None:
    """A reader that believed the size would read the same two members for ever."""
    with pytest.raises(ImageError, match="less than no bytes"):
        unpack(io.BytesIO(says(tarfile.REGTYPE, 0) + says(tarfile.REGTYPE, -1024)), rootfs)


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"config": []},
        {"config": {"Env": [1]}},
        {"config": {"Cmd": ["a\0b"]}},
        {"config": {"WorkingDir": 1}},
    ],
)
def test_malformed_configurations(rootfs: Path, config: object) -> None:
    if config == []:
        assert unpack(docker(layer(), config=config), rootfs) == ImageConfig()
        return
    with pytest.raises(ImageError):
        unpack(docker(layer(), config=config), rootfs)


def test_every_truncation_is_refused_or_whole(rootfs: Path) -> None:
    whole = docker(layer(file("a", b"y" * 600))).getvalue()
    for length in range(0, len(whole) - 10_240, 512):
        rootfs.mkdir(exist_ok=True)
        with pytest.raises(ImageError):
            unpack(io.BytesIO(whole[:length]), rootfs)


def test_the_base_image_is_the_same_bytes_twice(tmp_path: Path) -> None:
    first, second = (build(tmp_path / name, python=False) for name in ("a", "b"))
    assert first == second
    with (tmp_path / "a").open("rb") as archive:
        assert digest_of(archive) == first
        (tmp_path / "rootfs").mkdir()
        config = unpack(archive, tmp_path / "rootfs")
    assert config.argv == ("sh",)
    assert (tmp_path / "rootfs/bin/sh").exists()

"""Every parser of bytes from outside, on bytes that are nearly right: a value, or its one declared error.

`make test` gives each a short run and `make fuzz` a long one. Those of messages, results, keystores and
the root helper have such tests beside their others.
"""

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.seeds import damaged, tars
from tests.node.test_rpc_server import Fixture
from tests.sandbox.test_images import docker

from deepbrain.client.results import Limits, ResultsRefused, receive
from deepbrain.net.access import DOMAIN, Circumstances, ensure_signed, ensure_usable
from deepbrain.net.errors import MalformedMessage, NetError, Refused
from deepbrain.net.frames import parse_reply, parse_request, read_request, request_bytes
from deepbrain.net.lasting import Lasting
from deepbrain.net.messages import Access, AccessProof, Exec, Manifest
from deepbrain.net.records import log_records, read_record, record
from deepbrain.net.stream import Stream
from deepbrain.net.striped import WINDOW, Striped
from deepbrain.net.transport import TransportKey
from deepbrain.node.rpc.subscriptions import Peer
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import AccountId, Hash, MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import U8, U16, BlockNumber
from deepbrain.provider import unpack
from deepbrain.sandbox import images

ALICE = Keypair.from_uri("//Alice")
slow = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Pieces:
    """A raw stream of such bytes, in such pieces."""

    def __init__(self, data: bytes, step: int) -> None:
        self._pieces = iter([data[at : at + step] for at in range(0, len(data), step)])

    async def read(self, _limit: int) -> bytes:
        return next(self._pieces, b"")

    async def write(self, _data: bytes) -> None:
        return

    async def finish(self) -> None:
        return

    async def reset(self, _code: int) -> None:
        return

    async def stop(self, _code: int) -> None:
        return


def stream_of(data: bytes, step: int = 7) -> Stream:
    return Stream(Pieces(data, step))


PROOF = AccessProof(
    genesis=Hash(bytes(32)), machine=MachineId(b"\1" * 32), order=OrderId(7),
    session=TransportKey(b"\2" * 32), scopes=U8(15), last_block=BlockNumber(100),
)  # fmt: skip
SIGNED = Access(
    proof=PROOF, scheme=U8(ALICE.scheme.value), signature=ALICE.sign(DOMAIN + PROOF.encode())
)
COMMAND = Exec(argv=("a", "é"), env=(("B", "c"),), cwd="", tty=True, cols=U16(1), rows=U16(2))
REQUESTS = st.sampled_from([request_bytes(SIGNED), request_bytes(COMMAND)])


@given(damaged(REQUESTS), st.integers(1, 300))
async def test_requests_on_a_stream(data: bytes, step: int) -> None:
    stream = stream_of(data, step)
    try:
        while True:
            await read_request(stream, 4096)
    except NetError:
        return


@given(damaged(REQUESTS.map(lambda data: data[4:])))
def test_a_damaged_proof_is_never_accepted(data: bytes) -> None:
    here = Circumstances(
        genesis=PROOF.genesis, machine=PROOF.machine, remote=PROOF.session,
        block=BlockNumber(50), blocks_per_day=100,
    )  # fmt: skip
    try:
        access = parse_request(data)
    except MalformedMessage:
        return
    if not isinstance(access, Access) or access == SIGNED:
        return
    try:
        ensure_usable(access.proof, here)
        ensure_signed(access, AccountId(ALICE.public))
    except Refused:
        return
    raise AssertionError(f"accepted: {access}")


@given(damaged(st.binary(max_size=300)))
def test_replies_and_manifests(data: bytes) -> None:
    for parse, error in ((parse_reply, MalformedMessage), (Manifest.decode, DecodeError)):
        try:
            parse(data)
        except error:
            continue


RECORDS = st.lists(st.builds(record, st.integers(0, 6), st.binary(max_size=200)), max_size=6).map(
    b"".join
)


@given(damaged(RECORDS), st.integers(1, 100))
async def test_records(data: bytes, step: int) -> None:
    stream = stream_of(data, step)
    try:
        while await read_record(stream) is not None:
            continue
    except NetError:
        pass
    end = 5
    try:
        async for piece in log_records(stream_of(data, step), 5):
            assert piece.end > end
            end = piece.end
    except NetError:
        return


@given(
    damaged(
        st.lists(
            st.sampled_from([
                b"\0\x03\0\0\0abc", b"\1" + bytes(8), b"\1\3" + bytes(7), b"\2", b"\3\0\0\0\0",
            ]),
            max_size=8,
        ).map(b"".join)
    )
)  # fmt: skip
async def test_streams_that_last(data: bytes) -> None:
    lasting = Lasting()
    await lasting.write(b"xyz")
    try:
        async with asyncio.timeout(5):
            await lasting.carry(stream_of(data), 0)
    except NetError:
        pass
    lasting.fail(NetError("the test is over"))


PIECES = {number: bytes((number,)) * (number % 5 + 1) for number in (*range(12), 126, 127, 128)}
LANE = damaged(
    st.lists(
        st.one_of(
            st.sampled_from([
                b"\0" + number.to_bytes(8, "little") + len(piece).to_bytes(4, "little") + piece
                for number, piece in PIECES.items()
            ]),
            st.sampled_from([
                b"\1" + bytes(8) + (200).to_bytes(8, "little"), b"\1\1" + bytes(15), b"\2",
                b"\0\3" + bytes(11), b"\0\x0c" + bytes(11),
            ]),
        ),
        max_size=12,
    ).map(b"".join)
)  # fmt: skip


@given(st.lists(LANE, min_size=1, max_size=3), st.integers(1, 40))
async def test_lanes_of_striped_streams(lanes: list[bytes], step: int) -> None:
    striped = Striped()
    await striped.write(b"xyz")
    carrying = [asyncio.create_task(striped.carry(stream_of(data, step))) for data in lanes]
    async with asyncio.timeout(5):
        ends = await asyncio.gather(*carrying, return_exceptions=True)
    assert all(end is None or isinstance(end, NetError) for end in ends)
    assert striped.is_over
    assert striped.lanes == 0
    assert len(striped._ahead) + len(striped._came) <= WINDOW


@slow
@given(damaged(tars()), st.integers(1, 2000))
async def test_results(tmp_path_factory: pytest.TempPathFactory, data: bytes, step: int) -> None:
    place = tmp_path_factory.mktemp("results")

    async def arriving() -> AsyncIterator[bytes]:
        for at in range(0, len(data), step):
            yield data[at : at + step]

    try:
        await receive(arriving(), place / "out", Limits(files=20, size=1 << 20))
    except ResultsRefused:
        assert list(place.iterdir()) == []
        return
    ensure_plain(place, place / "out")


def ensure_plain(place: Path, root: Path) -> None:
    """Only plain files and directories, and all of them below `root`."""
    assert list(place.iterdir()) == [root]
    for path in root.rglob("*"):
        assert not path.is_symlink()
        assert path.is_dir() or path.is_file()
        assert path.lstat().st_mode & 0o7000 == 0


@slow
@given(damaged(tars()))
def test_workspaces(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """In this process; the agent gives it one of its own, and the same exceptions are its sentences."""
    place = tmp_path_factory.mktemp("workspace")
    archive = tmp_path_factory.mktemp("archive") / "workspace.tar"
    archive.write_bytes(data)
    root = place / "volume"
    root.mkdir()
    try:
        unpack.unpack(str(archive), str(root), 1 << 20, 20)
    except (unpack.Refused, *unpack.UNREADABLE, OSError):
        pass
    ensure_plain(place, root)


def test_a_workspace_reader_that_falls_is_a_sentence(tmp_path: Path) -> None:
    """Whatever `unpack` raises, its process ends with one line."""
    archive = tmp_path / "workspace.tar"
    archive.write_bytes(b"\0" * 100 + os.urandom(5000))
    (tmp_path / "volume").mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "-S", unpack.__file__, archive, tmp_path / "volume", "100", "9"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert len(done.stdout.splitlines()) == 1


@slow
@given(damaged(tars()), st.booleans())
def test_images(tmp_path_factory: pytest.TempPathFactory, data: bytes, is_layer: bool) -> None:
    """As the archive, and as a layer inside a right one."""
    place = tmp_path_factory.mktemp("image")
    root = place / "rootfs"
    root.mkdir()
    with contextlib.suppress(images.ImageError):
        images.unpack(docker(data) if is_layer else io.BytesIO(data), root, 8 << 20)
    assert list(place.iterdir()) == [root]
    for path in root.rglob("*"):
        if not path.is_symlink():
            assert path.is_dir() or path.is_file()
            assert path.lstat().st_mode & 0o6000 == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
METHODS = st.sampled_from(["echo", "keys", "fail", "submit", "watch", "unwatch", "nosuch"])
CALLS = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | JSON, "id": st.integers() | JSON, "method": METHODS | JSON},
    optional={"params": JSON},
)


@given(
    damaged(
        st.one_of(CALLS, st.lists(CALLS, max_size=3), JSON).map(lambda v: json.dumps(v).encode())
    )
)
async def test_rpc_frames(data: bytes) -> None:
    answer = await Fixture().table().answer(data, Peer(local=True))
    assert answer is None or json.loads(answer) is not None

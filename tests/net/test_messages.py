"""Frames, records and proofs: round trips, and bytes that are none of it."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.net.ends import connected

from deepbrain.net.access import DOMAIN, Circumstances, Grant, ensure_signed, ensure_usable
from deepbrain.net.errors import MalformedMessage, RefusalCode, Refused, StreamEnded
from deepbrain.net.frames import expect_reply, parse_reply, parse_request, read_frame, reply_bytes
from deepbrain.net.messages import (
    MAX_FRAME,
    Done,
    Exec,
    Granted,
    Hello,
    Logs,
    Manifest,
    Network,
    PutManifest,
    Refusal,
    Reply,
    Request,
    Salt,
)
from deepbrain.net.messages import Digest as BlobDigest
from deepbrain.net.records import ERR, OUT, log_records, read_record, record
from deepbrain.net.transport import TransportKey
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import AccountId, Hash, MachineId, OrderId
from deepbrain.primitives.keys import Keypair, Scheme, domain_message
from deepbrain.primitives.units import U8, U16, U64, BlockNumber
from deepbrain.scale import codec_of

MANIFEST = Manifest(
    version=U8(1),
    salt=Salt(bytes(32)),
    image=BlobDigest(bytes(32)),
    argv=("python", "train.py"),
    env=(("A", "1"),),
    workdir="",
    pull="",
    workspace=None,
    out=("*.bin",),
    tty=False,
    network=Network.INTERNET,
)
REQUESTS = [
    Hello(),
    PutManifest(manifest=MANIFEST.encode()),
    Logs(offset=U64(9), follow=True),
    Exec(argv=("sh",), env=(), cwd="", tty=True, cols=U16(80), rows=U16(24)),
]
CONNECTION_KEY = TransportKey(b"\x05" * 32)
GRANT = Grant(Hash(b"\x01" * 32), MachineId(b"\x02" * 32), OrderId(7), BlockNumber(150))
HERE = Circumstances(
    genesis=GRANT.genesis,
    machine=GRANT.machine,
    remote=CONNECTION_KEY,
    block=BlockNumber(100),
    blocks_per_day=100,
)


@pytest.mark.parametrize("request_", REQUESTS)
def test_requests_come_back(request_):
    assert parse_request(codec_of(Request).encode(request_)) == request_


@given(st.binary(max_size=300))
def test_nonsense_is_malformed_and_nothing_worse(data):
    for parse, kind in ((parse_request, Request), (parse_reply, Reply)):
        try:
            value = parse(data)
        except MalformedMessage:
            continue
        assert codec_of(kind).encode(value) == data
    with contextlib.suppress(DecodeError):
        Manifest.decode(data)


@given(st.sampled_from(REQUESTS), st.data())
def test_a_damaged_request_is_malformed_or_another_request(request_, data):
    encoded = bytearray(codec_of(Request).encode(request_))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MalformedMessage):
        parse_request(bytes(encoded))


def test_a_manifests_hash_hides_it_by_its_salt():
    assert MANIFEST.hash() != MANIFEST.but(salt=Salt(b"\x01" * 32)).hash()


async def test_frames_are_bounded_and_refusals_raised():
    async with connected("fake") as pair:
        near = await pair.near.open()
        await near.write((MAX_FRAME + 1).to_bytes(4, "little"))
        far = await pair.far.accept()
        with pytest.raises(MalformedMessage, match="1 to 65536 bytes"):
            await read_frame(far)
        await far.write(reply_bytes(Refusal(code=RefusalCode.LIMIT, reason="too much")))
        with pytest.raises(Refused, match="too much") as caught:
            await expect_reply(near, Done)
        assert caught.value.code is RefusalCode.LIMIT
        await far.write(reply_bytes(Done()) + b"\x00\x00")
        with pytest.raises(MalformedMessage, match="Done, not Granted"):
            await expect_reply(near, Granted)
        await far.finish()
        with pytest.raises(StreamEnded):
            await expect_reply(near, Done)


async def test_logs_are_cut_into_records_however_they_arrive():
    log = record(OUT, b"one") + record(ERR, b"") + record(OUT, b"x" * 70_000) + record(OUT, b"half")
    async with connected("fake") as pair:
        near = await pair.near.open()

        async def drip():
            for start in range(0, len(log) - 2, 4999):
                await near.write(log[start : min(start + 4999, len(log) - 2)])
            await near.finish()

        sender = asyncio.create_task(drip())
        far = await pair.far.accept()
        pieces = [piece async for piece in log_records(far, 100)]
        await sender
    assert [(piece.stream, len(piece.data)) for piece in pieces] == [
        (OUT, 3),
        (ERR, 0),
        (OUT, 70_000),
    ]
    assert pieces[0].end == 108
    assert pieces[-1].end == 100 + len(log) - 9


async def test_what_is_not_a_log_is_refused():
    async with connected("fake") as pair:
        for garbage in (b"\x07\x00\x00\x00\x00", b"\x01\xff\xff\xff\xff"):
            near = await pair.near.open()
            await near.write(garbage)
            far = await pair.far.accept()
            with pytest.raises(MalformedMessage):
                async for _ in log_records(far, 0):
                    pass
        near = await pair.near.open()
        await near.write(record(OUT, bytes(70_000)))
        with pytest.raises(MalformedMessage, match="at most"):
            await read_record(await pair.far.accept())


@pytest.mark.parametrize("scheme", [Scheme.SR25519, Scheme.ED25519])
def test_a_proof_holds_where_it_was_made_for_and_nowhere_else(scheme):
    renter = Keypair.from_uri("//Alice", scheme)
    access = GRANT.proven(CONNECTION_KEY, renter)
    ensure_usable(access.proof, HERE)
    ensure_signed(access, AccountId(renter.public))
    other = Keypair.from_uri("//Bob", scheme)
    for broken in (
        access.but(scheme=U8(1 - int(access.scheme))),
        access.but(scheme=U8(2)),
        access.but(scheme=U8(77)),
        access.but(signature=b""),
        access.but(signature=bytes(65)),
        access.but(proof=access.proof.but(order=OrderId(8))),
        access.but(proof=access.proof.but(scopes=U8(1))),
        GRANT.proven(CONNECTION_KEY, other),
    ):
        with pytest.raises(Refused, match="not signed"):
            ensure_signed(broken, AccountId(renter.public))


def test_the_signed_bytes_are_a_domain_message():
    proof = GRANT.proven(CONNECTION_KEY, Keypair.from_uri("//Alice")).proof
    rest = proof.encode()[32:]
    assert DOMAIN + proof.encode() == domain_message("access", GRANT.genesis, rest)


@pytest.mark.parametrize(
    ("last_block", "is_usable"), [(100, False), (101, True), (200, True), (201, False)]
)
def test_a_proof_has_its_day(last_block, is_usable):
    proof = GRANT.proven(CONNECTION_KEY, Keypair.from_uri("//Alice")).proof
    proof = proof.but(last_block=BlockNumber(last_block))
    if is_usable:
        ensure_usable(proof, HERE)
    else:
        with pytest.raises(Refused):
            ensure_usable(proof, HERE)

"""Nodes that join late: one node's snapshot, another node's questions; no CometBFT needed."""

import asyncio
import random
import tracemalloc
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.node.test_comet import KEY, OWN, block, finalize
from tests.node.world import Wallet, account
from tests.validators.chain import spec_file

from deepbrain.frame.consensus import ConsensusKey
from deepbrain.node import __main__ as program
from deepbrain.node import snapshots as rooms
from deepbrain.node.chain import Chain
from deepbrain.node.comet import abci_pb2 as abci
from deepbrain.node.comet import retaining
from deepbrain.node.comet import snapshots as shelves
from deepbrain.node.comet.app import App
from deepbrain.node.comet.home import CometConfig, StateSync, settings_of
from deepbrain.node.comet.retaining import Retaining
from deepbrain.node.comet.snapshots import Applied, Metadata, Offered, Shelf, Snapshots, take
from deepbrain.node.errors import NodeError
from deepbrain.node.examiner import HeadExaminer
from deepbrain.node.ledger import NodeLedger
from deepbrain.node.pool import Pool
from deepbrain.node.signatures import InlineSignatures
from deepbrain.pallets.system import System
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.runtime.chainspec import ChainSpec
from deepbrain.state import snapshots as streams
from deepbrain.state.errors import BadSnapshot, UnknownState
from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.memory import MemoryStore
from deepbrain.state.snapshots import parse_rows
from deepbrain.state.store import Retention
from deepbrain.state.trie import prove, verify_proof

SPEC = ChainSpec.parse(spec_file([ConsensusKey(KEY.public)]))
OTHER_SPEC = ChainSpec.parse(spec_file([ConsensusKey(bytes(32))]))
CHUNK = 4096


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """A state of some kilobytes has many chunks then."""
    monkeypatch.setattr(streams, "CHUNK", CHUNK)
    monkeypatch.setattr(shelves, "CHUNK", CHUNK)


@asynccontextmanager
async def node(data, *, spec=SPEC, store=None, every=0, archive=False):
    """A node as CometBFT sees it."""
    store = store or MemoryStore()
    chain = Chain(store, spec, "cometbft")
    pool = Pool(HeadExaminer(chain), InlineSignatures())
    ledger = NodeLedger(chain, pool)
    snapshots = Snapshots.at(data, chain, ledger, every)
    app = App(
        chain,
        ledger,
        pool,
        chain_id="dbc-x",
        own=OWN,
        last_signed=1 << 40,
        snapshots=snapshots,
        retaining=Retaining(chain, archive=archive),
    )
    app.chain, app.store, app.snapshots = chain, store, snapshots
    keeping = asyncio.create_task(snapshots.keeper.keep())
    try:
        yield app
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        ledger.close()
        store.close()
        if app.failed.done():
            app.failed.exception()
        else:
            app.failed.cancel()


async def with_blocks(app, count):
    """Blocks, with people who move money in some of them."""
    wallet = Wallet(app.chain.genesis_hash)
    for number in range(count):
        names = ("Alice", "Bob")[: number % 3]
        await block(app, *(wallet.transfer(name, to=f"new {number}") for name in names))


def taken(app, number=None):
    """The app's snapshot of a block, its head by default, as CometBFT lists it."""
    take(app.store, number or app.chain.head.number, app.snapshots.shelf.path)
    app.snapshots.shelf.look()
    return listed(app)[-1]


def names_in(directory):
    return sorted(each.name for each in directory.iterdir())


async def until(holds):
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.05)


def listed(app):
    return list(app.at_once(abci.Request(list_snapshots={})).list_snapshots.snapshots)


async def load(app, snapshot, index):
    request = abci.LoadSnapshotChunk(height=snapshot.height, format=snapshot.format, chunk=index)
    answer = await app.answer(abci.Request(load_snapshot_chunk=request))
    return answer.load_snapshot_chunk.chunk


async def chunks_of(app, snapshot):
    return [await load(app, snapshot, index) for index in range(snapshot.chunks)]


async def offer(app, snapshot, root):
    request = abci.OfferSnapshot(snapshot=snapshot, app_hash=bytes(root))
    return (await app.answer(abci.Request(offer_snapshot=request))).offer_snapshot.result


async def apply(app, index, chunk, sender="peer"):
    request = abci.ApplySnapshotChunk(index=index, chunk=chunk, sender=sender)
    answer = await app.answer(abci.Request(apply_snapshot_chunk=request))
    return answer.apply_snapshot_chunk


async def join(app, snapshot, root, chunks):
    """Offer and apply; the last answer."""
    assert await offer(app, snapshot, root) == Offered.ACCEPT
    for index, chunk in enumerate(chunks):
        answer = await apply(app, index, chunk)
        if answer.result != Applied.ACCEPT:
            return answer.result
    return answer.result


async def is_untouched(app):
    info = (await app.answer(abci.Request(info={}))).info
    assert not list(app.snapshots.shelf.path.glob(".*"))
    return (
        info.last_block_height == 0
        and app.chain.head.hash == app.chain.genesis_hash
        and app.store.root == app.chain.head.header.state_root
    )


@pytest.fixture(params=["memory", "lmdb"])
def fresh_store(request, tmp_path):
    if request.param == "memory":
        return MemoryStore()
    return LmdbStore(tmp_path / "second" / "chain", sync=False, min_free=0)


async def test_a_node_joins_by_another_s_snapshot_and_goes_on(tmp_path, fresh_store):
    async with (
        node(tmp_path / "first") as first,
        node(tmp_path / "second", store=fresh_store) as second,
    ):
        await with_blocks(first, 30)
        snapshot = taken(first)
        head = first.chain.head
        chunks = await chunks_of(first, snapshot)
        assert snapshot.chunks > 2
        heard = []
        second.chain.subscribe(heard.append)
        root = head.header.state_root
        assert await join(second, snapshot, root, chunks) == Applied.ACCEPT
        info = (await second.answer(abci.Request(info={}))).info
        assert (info.last_block_height, info.last_block_app_hash) == (30, bytes(root))
        assert second.chain.head == head
        assert heard[0].head == head
        # Whoever follows a key hears of it, though no block has changed it.
        paid = System.account.key_of(account("new 29"))
        with first.chain.snapshot() as state:
            assert heard[0].changes[paid] == state.get(paid) is not None
        assert b"nothing" in heard[0].changes
        assert heard[0].changes[b"nothing"] is None
        assert list(second.snapshots.shelf.path.iterdir()) == []
        # Old blocks: hashes and headers, and block 0 whole; what it cannot have it does not have.
        for number in range(31):
            digest = first.chain.hash_of(number)
            assert second.chain.hash_of(number) == digest
            assert second.chain.header(digest) == first.chain.header(digest)
            assert second.chain.number_of(digest) == number
        assert second.chain.block(second.chain.genesis_hash) is not None
        assert second.chain.block(first.chain.hash_of(9)) is None
        assert second.chain.events(30) == first.chain.events(30)
        with pytest.raises(UnknownState):
            second.chain.snapshot(first.chain.hash_of(29))
        # Both go on alike, and the one that joined proves what it says.
        wallet = Wallet(first.chain.genesis_hash)
        wallet.nonces = {"Bob": 10}
        more = wallet.transfer("Bob")
        for app in (first, second):
            answer = await block(app, more)
            assert answer.tx_results[0].code == 0
        assert second.chain.head == first.chain.head
        key = System.account.key_of(account("Bob"))
        with second.chain.snapshot() as state:
            proof = prove(state, [key])
            assert verify_proof(first.chain.head.header.state_root, proof, key) == state.get(key)
        # And its own snapshots are the same as those of who was there from the start.
        assert taken(second) == taken(first)


async def test_a_node_that_joined_is_opened_again(tmp_path):
    async with node(tmp_path / "first") as first:
        await with_blocks(first, 12)
        snapshot = taken(first)
        chunks = await chunks_of(first, snapshot)
        root = first.chain.head.header.state_root
        path = tmp_path / "second" / "chain"
        async with node(tmp_path / "second", store=LmdbStore(path, min_free=0)) as second:
            assert await join(second, snapshot, root, chunks) == Applied.ACCEPT
        async with node(tmp_path / "second", store=LmdbStore(path, min_free=0)) as second:
            assert second.chain.head == first.chain.head
            assert second.chain.oldest_block == 13
            # Had CometBFT not got so far, it would join again.
            assert second.chain.is_fresh
            assert await join(second, snapshot, root, chunks) == Applied.ACCEPT
            await block(second)
            assert not second.chain.is_fresh
            assert await offer(second, snapshot, root) == Offered.ABORT
        with pytest.raises(NodeError, match="another chain"):
            Chain(LmdbStore(path, min_free=0), OTHER_SPEC, "cometbft")


async def test_snapshots_of_nodes_with_another_past_are_the_same(tmp_path):
    path = tmp_path / "second" / "chain"
    async with (
        node(tmp_path / "first") as first,
        node(tmp_path / "second", store=LmdbStore(path, sync=False, min_free=0)) as second,
    ):
        wallet = Wallet(first.chain.genesis_hash)
        for number in range(20):
            paid = wallet.transfer("Alice", to=f"new {number}")
            for app in (first, second)[number >= 10 :]:
                await block(app, paid)
        one, other = taken(first), taken(second, 10)
        assert one == other
        assert await chunks_of(first, one) == await chunks_of(second, other)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"height": 0},
        {"height": 1 << 40},
        {"height": 13},
        {"chunks": 1},
        {"hash": bytes(32)},
        {"metadata": b""},
        {"metadata": bytes(40)},
    ],
    ids=str,
)
async def test_an_offer_that_contradicts_itself_is_refused(tmp_path, change):
    async with node(tmp_path / "first") as first, node(tmp_path / "second") as second:
        await with_blocks(first, 12)
        snapshot = taken(first)
        for name, value in change.items():
            setattr(snapshot, name, value)
        result = Offered.REJECT_FORMAT if "format" in change else Offered.REJECT
        assert await offer(second, snapshot, first.chain.head.header.state_root) == result
        assert (await apply(second, 0, b"")).result == Applied.REJECT_SNAPSHOT
        assert await is_untouched(second)


async def test_an_offer_of_another_chain_is_refused(tmp_path):
    async with (
        node(tmp_path / "first") as first,
        node(tmp_path / "second", spec=OTHER_SPEC) as second,
    ):
        await with_blocks(first, 3)
        snapshot, root = taken(first), first.chain.head.header.state_root
        assert await offer(second, snapshot, root) == Offered.REJECT
        # Nor does it help to say that it is of this one: the state says whose it is.
        chunks = await chunks_of(first, snapshot)
        known = Metadata.decode(snapshot.metadata)
        lie = Metadata(second.chain.genesis_hash, known.size, known.hashes)
        snapshot.metadata, snapshot.hash = lie.encode(), bytes(lie.hash_at(3))
        assert await join(second, snapshot, root, chunks) == Applied.REJECT_SNAPSHOT
        assert await is_untouched(second)


async def test_a_wrong_chunk_costs_its_sender_and_no_more(tmp_path):
    async with node(tmp_path / "first") as first, node(tmp_path / "second") as second:
        await with_blocks(first, 12)
        snapshot = taken(first)
        chunks = await chunks_of(first, snapshot)
        root = first.chain.head.header.state_root
        assert await offer(second, snapshot, root) == Offered.ACCEPT
        flipped = bytes([chunks[0][0] ^ 1]) + chunks[0][1:]
        for wrong in (b"", flipped, chunks[1], chunks[0] + b"x", chunks[0][:-1], bytes(CHUNK)):
            answer = await apply(second, 0, wrong, "liar")
            assert answer.result == Applied.RETRY
            assert list(answer.refetch_chunks) == [0]
            assert list(answer.reject_senders) == ["liar"]
        assert (await apply(second, 0, chunks[0])).result == Applied.ACCEPT
        # In any order, and one twice.
        for index in (*reversed(range(1, snapshot.chunks)),):
            assert second.chain.head.number == 0
            assert (await apply(second, index, chunks[index])).result == Applied.ACCEPT
            if index > 1:
                assert (await apply(second, index, chunks[index])).result == Applied.ACCEPT
        assert second.chain.head == first.chain.head


async def test_chunks_that_nobody_asked_for_are_no_snapshot(tmp_path):
    async with node(tmp_path / "first") as first, node(tmp_path / "second") as second:
        assert (await apply(second, 0, b"x")).result == Applied.REJECT_SNAPSHOT
        await with_blocks(first, 12)
        snapshot = taken(first)
        assert await offer(second, snapshot, bytes(32)) == Offered.ACCEPT
        for index in (snapshot.chunks, (1 << 32) - 1):
            assert (await apply(second, index, b"x")).result == Applied.REJECT_SNAPSHOT
        assert await load(first, snapshot, snapshot.chunks) == b""
        assert await load(first, abci.Snapshot(height=5, format=1), 0) == b""
        assert await load(first, abci.Snapshot(height=12, format=2), 0) == b""
        assert await load(first, abci.Snapshot(height=1 << 63, format=1), (1 << 32) - 1) == b""


async def test_a_state_that_nobody_vouches_for_is_not_kept(tmp_path, fresh_store):
    async with (
        node(tmp_path / "first") as first,
        node(tmp_path / "second", store=fresh_store) as second,
    ):
        await with_blocks(first, 12)
        snapshot = taken(first)
        chunks = await chunks_of(first, snapshot)
        other = Hash(bytes(31) + b"\x01")
        assert await join(second, snapshot, other, chunks) == Applied.REJECT_SNAPSHOT
        assert await is_untouched(second)
        # The next one is welcome.
        root = first.chain.head.header.state_root
        assert await join(second, snapshot, root, chunks) == Applied.ACCEPT


def offered(rows, height, genesis):
    """A snapshot of rows that somebody made up, its hashes right, and its chunks."""
    stream = b"".join(streams.pack_row(*row) for row in rows)
    chunks = [stream[at : at + CHUNK] for at in range(0, len(stream), CHUNK)]
    known = Metadata(genesis, len(stream), tuple(map(blake2_256, chunks)))
    return abci.Snapshot(
        height=height,
        format=1,
        chunks=len(chunks),
        hash=bytes(known.hash_at(height)),
        metadata=known.encode(),
    ), chunks


async def test_what_is_made_up_is_refused_whatever_was_changed(tmp_path):
    rng = random.Random(4)
    async with node(tmp_path / "first") as first, node(tmp_path / "second") as second:
        await with_blocks(first, 8)
        head, genesis = first.chain.head, first.chain.genesis_hash
        rows = list(rooms.rows_of(first.store, 8))
        assert await join(second, *within(rows, 8, genesis, head)) == Applied.ACCEPT
    async with node(tmp_path / "third") as third:
        for at in (0, 6, 7, 8, 20, -1, *(rng.randrange(len(rows)) for _ in range(30))):
            key, value = rows[at]
            at %= len(rows)
            other = {
                "gone": [*rows[:at], *rows[at + 1 :]],
                "value": [*rows[:at], (key, value + b"\x00"), *rows[at + 1 :]],
                "more": [*rows[:at], (key, value), (key + b"\x00", value), *rows[at + 1 :]],
                "kind": [*rows, (b"x" + key, value)],
                "swapped": [*rows[at:], *rows[:at]] if at else rows[::-1],
            }
            for name, lie in other.items():
                found = await join(third, *within(lie, 8, genesis, head))
                assert found == Applied.REJECT_SNAPSHOT, (name, key)
                assert await is_untouched(third)


def within(rows, height, genesis, head):
    snapshot, chunks = offered(rows, height, genesis)
    return snapshot, head.header.state_root, chunks


async def test_chunks_of_another_length_are_refused_though_their_hashes_fit(tmp_path):
    async with node(tmp_path / "first") as first, node(tmp_path / "second") as second:
        await with_blocks(first, 8)
        head, genesis = first.chain.head, first.chain.genesis_hash
        chunks = await chunks_of(first, taken(first))
        for shift in (1, -1):
            cut = CHUNK + shift
            both = chunks[0] + chunks[1]
            moved = [both[:cut], both[cut:], *chunks[2:]]
            size = sum(map(len, moved))
            known = Metadata(genesis, size, tuple(map(blake2_256, moved)))
            snapshot = abci.Snapshot(
                height=8,
                format=1,
                chunks=len(moved),
                hash=bytes(known.hash_at(8)),
                metadata=known.encode(),
            )
            assert await offer(second, snapshot, head.header.state_root) == Offered.ACCEPT
            assert (await apply(second, 0, moved[0])).result == Applied.REJECT_SNAPSHOT
            assert await is_untouched(second)


async def test_what_the_disk_has_no_room_for_is_refused(tmp_path, monkeypatch):
    async with node(tmp_path / "first") as first, node(tmp_path / "second") as second:
        await with_blocks(first, 3)
        snapshot, root = taken(first), first.chain.head.header.state_root
        monkeypatch.setattr(shelves, "MIN_FREE", 1 << 60)
        assert await offer(second, snapshot, root) == Offered.REJECT
        assert await is_untouched(second)


def test_of_a_stream_without_end_little_is_kept():
    """Headers of any number and entries of any number: refused at once, or passed over."""
    headers = ((b"h" + number.to_bytes(4, "big"), bytes(4000)) for number in range(1, 1 << 32))
    with pytest.raises(BadSnapshot, match="other headers"):
        rooms.examine(headers, 3, Hash(bytes(32)), Hash(bytes(32)))
    hashes = (
        (b"s" + System.block_hash.prefix + number.to_bytes(8, "big"), bytes(1 << 20))
        for number in range(3000)
    )
    tracemalloc.start()
    with pytest.raises(BadSnapshot):
        rooms.examine(hashes, 1, Hash(bytes(32)), Hash(bytes(32)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 << 20


@given(st.binary(max_size=200))
def test_metadata_that_is_garbage_is_refused_or_is_its_one_form(garbage):
    try:
        found = Metadata.decode(garbage)
    except BadSnapshot:
        return
    assert found.encode() == garbage


@given(st.dictionaries(st.binary(min_size=2, max_size=9), st.binary(max_size=40), max_size=8))
def test_rows_of_nothing_are_no_snapshot(rows):
    with pytest.raises(BadSnapshot):
        rooms.examine(iter(sorted(rows.items())), 3, Hash(bytes(32)), Hash(bytes(32)))


async def test_what_is_half_done_is_gone_at_the_next_start_and_it_begins_again(tmp_path):
    async with node(tmp_path / "first") as first:
        await with_blocks(first, 12)
        snapshot = taken(first)
        chunks = await chunks_of(first, snapshot)
        root = first.chain.head.header.state_root
        async with node(tmp_path / "second") as second:
            assert await offer(second, snapshot, root) == Offered.ACCEPT
            for index in range(snapshot.chunks - 1):
                await apply(second, index, chunks[index])
        (tmp_path / "second" / "snapshots" / ".7-x").mkdir()
        assert len(names_in(tmp_path / "second" / "snapshots")) == 2
        async with node(tmp_path / "second") as second:
            assert await is_untouched(second)
            answer = await apply(second, snapshot.chunks - 1, chunks[-1])
            assert answer.result == Applied.REJECT_SNAPSHOT
            assert await join(second, snapshot, root, chunks) == Applied.ACCEPT


async def test_a_shelf_keeps_the_newest_two_and_shows_no_damaged_one(tmp_path):
    async with node(tmp_path) as app:
        for _ in range(4):
            await with_blocks(app, 1)
            taken(app)
        assert [each.height for each in listed(app)] == [3, 4]
        assert names_in(tmp_path / "snapshots") == ["3", "4"]
        (tmp_path / "snapshots" / "4" / "metadata").write_bytes(b"x")
        (tmp_path / "snapshots" / "3" / "rows").unlink()
        again = Shelf(tmp_path / "snapshots", app.chain.genesis_hash)
        assert [each.height for each in again.listed()] == [3]
        assert again.chunk(3, 1, 0) == b""
        assert names_in(tmp_path / "snapshots") == ["3"]
        assert Shelf(tmp_path / "snapshots", Hash(bytes(32))).listed() == []
        assert names_in(tmp_path / "snapshots") == []


async def test_a_snapshot_that_somebody_reads_stays_a_while(tmp_path):
    async with node(tmp_path) as app:
        read = []
        for _ in range(6):
            await with_blocks(app, 1)
            read.append(taken(app))
            for each in read:
                await load(app, each, 0)
        # Never more than four, however many are read.
        assert names_in(tmp_path / "snapshots") == ["3", "4", "5", "6"]
        assert [each.height for each in listed(app)] == [5, 6]
        assert await load(app, read[2], 0)
        assert not await load(app, read[1], 0)


async def test_a_snapshot_that_cannot_be_finished_leaves_nothing(tmp_path):
    store = MemoryStore(retention=Retention(states=5, proofs=5))
    async with node(tmp_path, store=store) as app:
        await with_blocks(app, 12)
        shelf = app.snapshots.shelf.path
        with pytest.raises(UnknownState):
            take(store, 3, shelf)
        with pytest.raises(UnknownState):
            take(store, 13, shelf)
        store.write_tables({"headers": {(4).to_bytes(4, "big"): None}})
        with pytest.raises(BadSnapshot, match="header of block 4"):
            take(store, 12, shelf)
        assert names_in(shelf) == []


async def test_a_process_of_its_own_takes_them_every_so_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(shelves, "CHUNK", 1 << 20)  # the other process cuts as ever
    store = LmdbStore(tmp_path / "chain", sync=False, min_free=0)
    async with node(tmp_path, store=store, every=5) as app:
        for _ in range(2):
            await with_blocks_of(app, 5)
            head = app.chain.head.number
            await until(lambda head=head: [each.height for each in listed(app)][-1:] == [head])
        assert [each.height for each in listed(app)] == [5, 10]
        rows = (tmp_path / "snapshots" / "10" / "rows").read_bytes()
        assert list(parse_rows([rows])) == list(rooms.rows_of(store, 10))


async def with_blocks_of(app, count):
    for _ in range(count):
        await block(app)


async def test_a_process_that_fails_is_told_of(tmp_path, caplog):
    async with node(tmp_path, every=2) as app:  # its store is in memory: nobody else can read it
        await with_blocks_of(app, 2)
        await until(lambda: "no snapshot of block 2" in caplog.text)
        assert names_in(tmp_path / "snapshots") == []
        assert not app.failed.done()


# What CometBFT may forget.


async def test_blocks_are_kept_while_anything_needs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(retaining, "AT_LEAST", 40)
    monkeypatch.setattr(retaining, "EVERY", 10)
    monkeypatch.setattr(retaining, "evidence_blocks", lambda runtime: 60)
    async with node(tmp_path) as app:
        keep = Retaining(app.chain, archive=False)
        await with_blocks_of(app, 99)  # a second each
        constants = app.chain.executive(app.chain.spec_version()).runtime.constants["Validators"]
        monkeypatch.setitem(constants, "unbonding", 70)
        assert keep.from_height(None) == 0  # not a hundredth block
        await with_blocks_of(app, 1)
        assert keep.from_height(None) == 30
        assert keep.from_height(20) == 20
        assert keep.from_height(95) == 30
        monkeypatch.setitem(constants, "unbonding", 50)
        assert keep.from_height(None) == 40
        monkeypatch.setitem(constants, "unbonding", 1000)
        assert keep.from_height(None) == 0
        assert Retaining(app.chain, archive=True).from_height(None) == 0
        # And CometBFT is told.
        monkeypatch.setitem(constants, "unbonding", 50)
        told = []
        for _ in range(10):
            await finalize(app)
            told.append((await app.answer(abci.Request(commit={}))).commit.retain_height)
        assert told == [0] * 9 + [50]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--state-sync", "a:1"), "two nodes or more"),
        (("--state-sync", "a:1,nowhere"), "two nodes or more"),
        (("--state-sync", "a:1,b:2"), "a block that you trust"),
        (("--state-sync", "a:1,b:2", "--trust-height", "5"), "a block that you trust"),
        (("--state-sync", "a:1,b:2", "--trust-height", "5", "--trust-hash", "xy"), "you trust"),
        (("--snapshot-interval", "-1"), "--snapshot-interval"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(options, words):
    parsed = program._parser().parse_args(["--engine", "cometbft", *options])
    with pytest.raises(NodeError, match=words):
        program._config(parsed)


def test_options_become_settings():
    given = ["--state-sync", "a:1,b:2", "--trust-height", "5", "--trust-hash"]
    parsed = program._parser().parse_args(["--engine", "cometbft", *given, "ab" * 32])
    comet = program._config(parsed).comet
    assert comet.sync == StateSync(servers=("a:1", "b:2"), height=5, hash="AB" * 32)
    assert comet.snapshot_interval == 1000


def test_settings_say_how_to_join_only_while_there_are_no_blocks():
    sync = StateSync(servers=("a:1", "b:2"), height=7, hash="AB" * 32)
    joins = settings_of(CometConfig(sync=sync), 1000, first=True, trust_seconds=300)
    assert 'rpc_servers = "a:1,b:2"' in joins
    assert "trust_height = 7" in joins
    assert 'trust_period = "300s"' in joins
    for config, seconds in ((CometConfig(sync=sync), 0), (CometConfig(), 300)):
        assert "[statesync]\nenable = false" in settings_of(
            config, 1000, first=True, trust_seconds=seconds
        )

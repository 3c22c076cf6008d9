"""Every block once more: what is right passes, and whatever is changed is found, in its block."""

import asyncio
import json
import signal
import subprocess
import sys
import time

import pytest
from tests.node.test_comet import KEY, OWN, block
from tests.node.test_state_sync import node
from tests.node.world import DEV, Wallet, account, key, running_node
from tests.upgrade.next_version import NEXT, SOURCE, NextRuntime
from tests.validators.chain import spec_file

from deepbrain.cli.main import run
from deepbrain.frame.consensus import ConsensusAddress, ConsensusKey
from deepbrain.frame.header import NO_DIGEST, Header
from deepbrain.node.chain import Chain, InherentData, Order
from deepbrain.node.comet import abci_pb2 as abci
from deepbrain.node.errors import NodeError
from deepbrain.node.replay import Difference, StoredBlocks, replay, spec_for
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.offences import Offences, Outcome
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import System
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.keys import Keypair, Scheme
from deepbrain.primitives.units import PLANCK, U32, Balance, BlockNumber, Moment
from deepbrain.runtime.chainspec import ChainSpec
from deepbrain.runtime.runtime import RUNTIMES
from deepbrain.scale import codec_of
from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.memory import MemoryStore
from deepbrain.state.trie import ordered_root

BODY = codec_of(tuple[bytes, ...])
BLOCKS = 12


def name(number):
    return number.to_bytes(4, "big")


def add_block(chain, *extrinsics):
    data = InherentData(Moment(int(chain.earliest) + 1000), account("Alice"))
    return chain.finalize(Order(chain.head.hash, data, extrinsics), ())


def burn(wallet, who):
    return wallet.sign(who, Balances.burn.make(value=Balance(PLANCK), keep_alive=True))


def chain_in(store, blocks=BLOCKS, spec=DEV):
    """A chain with transfers and burned money."""
    chain = Chain(store, spec, "solo")
    wallet = Wallet(chain.genesis_hash)
    for number in range(blocks):
        paid = [wallet.transfer("Alice", to=f"new {number}")] if number % 2 else []
        add_block(chain, *paid, burn(wallet, "Bob"))
    return chain


async def replayed(store, spec=DEV):
    """What comes of the blocks in a store: how far it got, and the difference."""
    last = None
    async for found in replay(StoredBlocks(store), spec, MemoryStore()):
        if isinstance(found, Difference):
            return last, found
        last = found
    return last, None


@pytest.fixture
def store():
    store = MemoryStore()
    chain_in(store)
    return store


async def test_a_chain_that_is_right_is_right(store):
    assert await replayed(store) == (BLOCKS, None)


def stored_header(store, number):
    return Header.decode(store.table_get("headers", name(number)))


def write(store, table, number, value):
    store.write_tables({table: {name(number): value}})


def forge(store, number, /, **changes):
    """Another header in its place, under its own hash, as somebody would who forges with care."""
    header = stored_header(store, number).but(**changes)
    store.write_tables(
        {
            "headers": {name(number): header.encode()},
            "hashes": {header.hash(): name(number)},
        }
    )


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("state_root", {"state_root": Hash(b"x" * 32)}),
        ("extrinsics_root", {"extrinsics_root": Hash(b"x" * 32)}),
        ("parent", {"parent_hash": Hash(b"x" * 32)}),
        ("number", {"number": BlockNumber(8)}),
        ("author", {"digest": NO_DIGEST}),
    ],
)
async def test_a_forged_header_is_found_in_its_block(store, what, change):
    forge(store, 7, **change)
    last, found = await replayed(store)
    assert (last, found.number, found.what) == (6, 7, what)


async def test_a_forged_author_is_found(store):
    mine = stored_header(store, 7)
    other = bytearray(mine.digest.encode())
    other[-1] ^= 1
    forge(store, 7, digest=type(mine.digest).decode(bytes(other)))
    last, found = await replayed(store)
    # Whoever makes a block is in the state, too.
    assert (last, found.number, found.what) == (6, 7, "state_root")


async def test_a_forged_body_is_found_even_where_its_root_fits(store):
    body = BODY.decode(store.table_get("blocks", name(7)))
    for forged in (body[:-1], body + body[-1:], (body[0], *reversed(body[1:]), b"x"), body[1:], ()):
        write(store, "blocks", 7, BODY.encode(forged))
        last, found = await replayed(store)
        assert (last, found.number, found.what) == (6, 7, "extrinsics_root")
    before = stored_header(store, 7)
    for forged, what in (
        (body[:-1], "state_root"),
        (body + body[-1:], "execution"),
        ((*body, b"x"), "execution"),
        (body[1:], "execution"),
        ((), "execution"),
        (body[:1] * 2, "execution"),
    ):
        write(store, "blocks", 7, BODY.encode(forged))
        forge(store, 7, extrinsics_root=ordered_root(forged))
        last, found = await replayed(store)
        assert (last, found.number, found.what) == (6, 7, what)
        store.write_tables({"headers": {name(7): before.encode()}})


async def test_a_forged_signature_is_found(store):
    body = list(BODY.decode(store.table_get("blocks", name(7))))
    at = body[-1].index(bytes(key("Bob").public)) + 32 + 10
    body[-1] = body[-1][:at] + bytes([body[-1][at] ^ 1]) + body[-1][at + 1 :]
    write(store, "blocks", 7, BODY.encode(tuple(body)))
    forge(store, 7, extrinsics_root=ordered_root(body))
    last, found = await replayed(store)
    assert (last, found.number, found.what) == (6, 7, "execution")
    assert "BAD_PROOF" in found.stored or "signature" in found.stored


@pytest.mark.parametrize(
    ("table", "value", "what"),
    [
        ("headers", b"\x00", "header"),
        ("headers", b"", "header"),
        ("blocks", b"\xff\xff\xff\xff", "extrinsics_root"),
        ("receipts", b"\x00", "events"),
    ],
)
async def test_what_is_damaged_is_found(store, table, value, what):
    write(store, table, 7, value)
    last, found = await replayed(store)
    assert (last, found.number, found.what) == (6, 7, what)


async def test_a_hash_that_leads_elsewhere_is_found(store):
    store.write_tables({"hashes": {stored_header(store, 7).hash(): name(6)}})
    last, found = await replayed(store)
    assert (last, found.number, found.what) == (6, 7, "hash")


@pytest.mark.parametrize("table", ["headers", "blocks"])
async def test_a_missing_block_is_no_difference_but_a_refusal(store, table):
    write(store, table, 7, None)
    with pytest.raises(NodeError, match="Block 7 is not kept there"):
        await replayed(store)


async def test_another_block_0_is_found(store):
    write(store, "headers", 0, stored_header(store, 0).but(number=BlockNumber(1)).encode())
    last, found = await replayed(store)
    assert (last, found.number, found.what) == (None, 0, "header")


async def test_another_spec_is_a_refusal(store):
    with pytest.raises(NodeError, match="name the right one with --spec"):
        await replayed(store, ChainSpec.parse(spec_file([])))
    assert spec_for(StoredBlocks(store).genesis).id == DEV.id
    assert spec_for(Hash(bytes(32))) is None


@pytest.mark.parametrize("change", ["other", "more", "fewer"])
async def test_a_state_that_was_changed_behind_the_blocks_is_found(tmp_path, change):
    store = LmdbStore(tmp_path, sync=False, min_free=0)
    chain_in(store)
    key_of_alice = System.account.key_of(account("Alice"))
    with store._env.begin(write=True) as txn:
        if change == "fewer":
            txn.delete(key_of_alice, db=store._flat.current)
        else:
            place = key_of_alice if change == "other" else b"\xff\xff"
            txn.put(place, bytes(4) + b"rich", db=store._flat.current)
    last, found = await replayed(store)
    assert (last, found.number, found.what) == (BLOCKS, BLOCKS, "state")
    assert (key_of_alice.hex() if change != "more" else "ffff") in found.stored
    store.close()


@pytest.mark.parametrize(
    ("method", "what"), [("silent", "burned"), ("uncounted", "burned"), ("leak", "accounts")]
)
async def test_money_that_the_rules_lose_is_found(monkeypatch, method, what):
    """The rules themselves have the bug here: every root fits, and the sums do not."""
    if method == "silent":
        emit = Balances.emit
        monkeypatch.setattr(
            Balances,
            "emit",
            lambda self, event: None if "Burned" in type(event).__name__ else emit(self, event),
        )
    elif method == "uncounted":
        monkeypatch.setattr(
            Balances, "_count_burned", lambda self, amount: self.total_issuance.sub(amount)
        )
    else:
        withdraw = Balances._withdraw
        monkeypatch.setattr(
            Balances,
            "_withdraw",
            lambda self, who, value, *, keep_alive: withdraw(
                self, who, Balance(int(value) + 1), keep_alive=keep_alive
            ),
        )
    store = MemoryStore()
    chain_in(store, 4)
    _, found = await replayed(store)
    assert found.what == what
    assert found.number == (4 if what == "accounts" else 1)


async def test_an_invariant_that_is_broken_at_the_end_is_found(store, monkeypatch):
    monkeypatch.setattr(Balances, "try_state", lambda self: iter(["B9: it is broken"]))
    _, found = await replayed(store)
    assert (found.number, found.what, found.stored) == (BLOCKS, "invariant", "B9: it is broken")


async def test_slashes_are_added_up(tmp_path, monkeypatch):
    other = Keypair.from_uri("//another validator", Scheme.ED25519)
    third = Keypair.from_uri("//a third validator", Scheme.ED25519)
    keys = [ConsensusKey(each.public) for each in (KEY, other, third)]
    spec = ChainSpec.parse(spec_file(keys, Offences={"slash_delay": 5}))
    async with node(tmp_path, spec=spec) as app:
        await block(app)
        validator = abci.Validator(address=ConsensusAddress.of(keys[1]), power=1)
        seen = abci.Misbehavior(type=abci.Misbehavior.DUPLICATE_VOTE, validator=validator, height=1)
        await block(app, misbehavior=[seen])
        for _ in range(12):
            await block(app)
        with app.chain.snapshot() as state:
            ((slot, row),) = state.iterate(Offences.offences.prefix)
        offence = Offences.offences.decode(row)
        assert offence.outcome is Outcome.SLASHED
        assert offence.amount > 0
        assert await replayed(app.store, spec) == (14, None)
        # Rules that say another amount in the event than they write down.
        emit = Offences.emit

        def lie(self, event):
            if type(event).__name__ == "Slashed":
                event = event.but(amount=Balance(1))
            emit(self, event)

        monkeypatch.setattr(Offences, "emit", lie)
    monkeypatch.setattr(Offences, "emit", lie)
    async with node(tmp_path / "lies", spec=spec) as app:
        await block(app)
        await block(app, misbehavior=[seen])
        for _ in range(12):
            await block(app)
        last, found = await replayed(app.store, spec)
        assert (last, found.what, found.found) == (14, "slashed", "1")
    assert slot
    assert OWN


async def test_it_crosses_versions_of_the_rules(monkeypatch):
    monkeypatch.setitem(RUNTIMES, NEXT, NextRuntime)
    store = MemoryStore()
    chain = Chain(store, DEV, "solo")
    wallet = Wallet(chain.genesis_hash)
    call = System.schedule_upgrade.make(spec_version=U32(NEXT), source=SOURCE, block=BlockNumber(4))
    add_block(chain, wallet.sign("Alice", Sudo.sudo.make(call=call)))
    for _ in range(6):
        add_block(chain)
    assert chain.spec_version() == NEXT
    assert await replayed(store) == (7, None)
    monkeypatch.delitem(RUNTIMES, NEXT)
    with pytest.raises(NodeError, match="upgrade it"):
        await replayed(store)


# The command.


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DBC_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DBC_NODE", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return tmp_path


def data_of(home):
    store = LmdbStore(home / "data" / "chain", sync=False, min_free=0)
    chain_in(store)
    return store


def test_the_command_verifies_a_stopped_node_s_directory(home, capsys):
    data_of(home).close()
    assert run(["replay", "--verify", "--data", str(home / "data")]) == 0
    assert "12 blocks executed, all as they say" in capsys.readouterr().out
    store = LmdbStore(home / "data" / "chain", sync=False, min_free=0)
    forge(store, 7, state_root=Hash(b"x" * 32))
    store.close()
    assert run(["replay", "--verify", "--data", str(home / "data")]) == 1
    said = capsys.readouterr().out
    assert "after 6 blocks that are right, block 7: state_root is 0x7878" in said
    assert run(["replay", "--verify", "--data", str(home / "data"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["difference"]["block"] == 7
    assert found["difference"]["what"] == "state_root"
    assert list((home / "scratch").iterdir()) == []


def test_the_command_refuses_in_one_sentence(home, capsys):
    store = data_of(home)
    data = str(home / "data")
    for args, code, words in (
        ((), 2, "--verify"),
        (("--verify", "--data", data), 1, "is in use by process"),
        (("--verify", "--data", str(home)), 1, "no node's data directory"),
        (("--verify", "--data", str(home / "none")), 2, "does not exist"),
        (("--verify", "--data", data, "--node", "ws://x"), 2, "not from both"),
        (("--verify", "--node", "ws://127.0.0.1:1"), 1, "127.0.0.1:1"),
    ):
        assert run(["replay", *args]) == code
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line
    store.close()
    assert list((home / "scratch").iterdir()) == []


async def test_the_command_verifies_a_running_node(home, capsys):
    async with running_node(None, interval=0.02) as running:
        wallet = Wallet(running.chain.genesis_hash)
        await running.pool.submit([wallet.transfer("Alice", to=f"new {n}") for n in range(50)])
        while running.chain.head.number < 70:  # noqa: ASYNC110 - its engine makes them
            await asyncio.sleep(0.02)
        args = ["replay", "--verify", "--node", running_url(running), "--json"]
        assert await asyncio.to_thread(run, args) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["blocks"] >= 70
        forge(running.store, 40, state_root=Hash(b"x" * 32))
        assert await asyncio.to_thread(run, args) == 1
        found = json.loads(capsys.readouterr().out)
        assert found["difference"]["block"] == 40
        write(running.store, "blocks", 39, None)
        assert await asyncio.to_thread(run, args) == 1
        assert "Block 39 is not kept there" in capsys.readouterr().err


def running_url(running):
    return f"ws://127.0.0.1:{running.server.port}"


def test_ctrl_c_leaves_nothing(home):
    store = LmdbStore(home / "data" / "chain", sync=False, min_free=0)
    chain_in(store, 300)
    store.close()
    command = ("-m", "deepbrain.cli.main", "replay", "--verify", "--data", str(home / "data"))
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 20
        while not list((home / "scratch").glob("*/data.mdb")) and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert said.strip() == b"dbc: interrupted"
    assert list((home / "scratch").iterdir()) == []
    # Nor is the node's directory held.
    LmdbStore(home / "data" / "chain", sync=False, min_free=0).close()

"""The pool's promises to those who submit and to those who make blocks."""

import asyncio

import pytest

from deepbrain.node.errors import NodeError
from deepbrain.node.journal import PoolJournal
from deepbrain.node.pool import BAN_SECONDS, Banned, Examined, Pool
from deepbrain.node.queue import Bounds, NotQueued, Refusal
from deepbrain.node.signatures import Check, InlineSignatures
from deepbrain.primitives.errors import DecodeError, DeepBrainError
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.keys import Keypair, Scheme

BLOCK = blake2_256(b"block")


class Toy(DeepBrainError):
    pass


class ToyChain:
    """Extrinsics are `sender name | nonce | tip | salt` and a signature of that."""

    def __init__(self):
        self.number = 0
        self.nonces = {}
        self.examined = []
        self.lifetime = 1000

    def examine(self, extrinsics):
        self.examined += extrinsics
        return [self._examine(extrinsic) for extrinsic in extrinsics]

    def _examine(self, extrinsic):
        body, signature = extrinsic[:-64], extrinsic[-64:]
        try:
            name, nonce, tip, _ = body.decode().split("|")
        except ValueError:
            return DecodeError("garbage")
        sender = key(name).public
        state_nonce = self.nonce_of(sender)
        if int(nonce) < state_nonce:
            return self.stale()
        return Examined(
            sender=sender,
            nonce=int(nonce),
            state_nonce=state_nonce,
            priority=int(tip),
            expires=self.number + self.lifetime,
            check=Check(Scheme.SR25519.value, bytes(sender), signature, body),
        )

    def nonce_of(self, account):
        return self.nonces.get(account, 0)

    def bad_signature(self):
        return Toy("bad signature")

    def stale(self):
        return Toy("stale")

    def sender_of(self, extrinsic):
        name, nonce, *_ = extrinsic[:-64].decode().split("|")
        return key(name).public, int(nonce)

    def block(self, pool, *extrinsics):
        self.number += 1
        for extrinsic in extrinsics:
            sender, nonce = self.sender_of(extrinsic)
            self.nonces[sender] = nonce + 1
        pool.on_block(self.number, BLOCK, extrinsics)


KEYS = {}


def key(name):
    if name not in KEYS:
        KEYS[name] = Keypair.from_uri(f"//{name}")
    return KEYS[name]


def extrinsic(name, nonce, tip=0, salt=""):
    body = f"{name}|{nonce}|{tip}|{salt}".encode()
    return body + key(name).sign(body)


@pytest.fixture
def chain():
    return ToyChain()


@pytest.fixture
def pool(chain):
    return Pool(chain, InlineSignatures())


async def watched(pool, one):
    seen = []
    (outcome,) = await pool.submit([one], seen.append)
    assert isinstance(outcome, Hash), outcome
    return seen


async def test_a_watcher_sees_ready_in_block_and_finalized(chain, pool):
    first = extrinsic("Alice", 0)
    seen = await watched(pool, first)
    assert pool.candidates(10) == [first]
    assert blake2_256(first) in pool
    chain.block(pool, first)
    assert seen == ["ready", {"inBlock": str(BLOCK)}, {"finalized": str(BLOCK)}]
    assert len(pool) == 0


async def test_a_gap_in_the_nonces_is_future_until_it_closes(chain, pool):
    seen = await watched(pool, extrinsic("Alice", 1))
    assert seen == ["future"]
    assert (pool.ready, pool.future) == (0, 1)
    await pool.submit([extrinsic("Alice", 0)])
    assert seen == ["future", "ready"]
    assert pool.next_nonce(key("Alice").public) == 2


async def test_a_better_tip_usurps_and_a_used_nonce_ends_the_rest(chain, pool):
    cheap = await watched(pool, extrinsic("Alice", 0, tip=100))
    better = extrinsic("Alice", 0, tip=110)
    seen = await watched(pool, better)
    assert cheap == ["ready", {"usurped": str(blake2_256(better))}]
    foreign = extrinsic("Alice", 0, tip=1, salt="made elsewhere")
    chain.block(pool, foreign)
    assert seen == ["ready", {"usurped": str(blake2_256(foreign))}]


async def test_each_refusal_says_why(chain, pool):
    good = extrinsic("Alice", 0)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    outcomes = await pool.submit([b"garbage" * 20, forged, good, good])
    assert [type(outcome) for outcome in outcomes] == [DecodeError, Toy, Hash, NotQueued]
    assert outcomes[3].refusal is Refusal.ALREADY_HERE
    chain.block(pool, good)
    (stale,) = await pool.submit([extrinsic("Alice", 0, salt="again")])
    assert str(stale) == "stale"


async def test_a_forged_signature_is_not_checked_twice(chain):
    now = [0.0]
    pool = Pool(chain, InlineSignatures(), clock=lambda: now[0])
    good = extrinsic("Alice", 0)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    await pool.submit([forged])
    (banned,) = await pool.submit([forged])
    assert isinstance(banned, Banned)
    assert chain.examined == [forged]
    now[0] = BAN_SECONDS + 1.0
    (again,) = await pool.submit([forged])
    assert isinstance(again, Toy)


async def test_what_a_block_maker_finds_bad_leaves_and_stays_out(chain, pool):
    bad = extrinsic("Alice", 0)
    seen = await watched(pool, bad)
    assert pool.remove(blake2_256(bad))
    assert seen == ["ready", "invalid"]
    (banned,) = await pool.submit([bad])
    assert isinstance(banned, Banned)
    assert not pool.remove(blake2_256(bad))


async def test_what_expires_is_invalid_and_what_is_crowded_out_is_dropped(chain):
    pool = Pool(chain, InlineSignatures(), bounds=Bounds(entries=2))
    poor = await watched(pool, extrinsic("Alice", 0, tip=1))
    chain.lifetime = 1
    late = await watched(pool, extrinsic("Bob", 0, tip=5))
    await pool.submit([extrinsic("Charlie", 0, tip=9)])
    assert poor == ["ready", "dropped"]
    chain.block(pool)
    assert late == ["ready", "invalid"]


async def test_batches_are_taken_in_the_order_of_arrival_whoever_checks_first(chain):
    class Slow(InlineSignatures):
        def __init__(self):
            self.calls = 0

        async def verify(self, checks):
            self.calls += 1
            await asyncio.sleep(0.05 if self.calls == 1 else 0)
            return await super().verify(checks)

    pool = Pool(chain, Slow(), bounds=Bounds(future=1))
    first = asyncio.create_task(pool.submit([extrinsic("Alice", n) for n in range(3)]))
    await asyncio.sleep(0)
    second = asyncio.create_task(pool.submit([extrinsic("Alice", n) for n in range(3, 6)]))
    outcomes = [*await first, *await second]
    assert all(isinstance(outcome, Hash) for outcome in outcomes)


async def test_a_block_that_comes_while_signatures_are_checked_counts(chain):
    class Late(InlineSignatures):
        async def verify(self, checks):
            chain.block(pool, *blocks)
            return await super().verify(checks)

    blocks = []
    pool = Pool(chain, Late())
    blocks.append(extrinsic("Alice", 0, salt="elsewhere"))
    outcomes = await pool.submit([extrinsic("Alice", 0), extrinsic("Alice", 1)])
    assert str(outcomes[0]) == "stale"
    assert isinstance(outcomes[1], Hash)
    assert pool.ready == 1


async def test_unfinished_extrinsics_survive_the_process(chain, tmp_path):
    path = tmp_path / "pool.journal"
    first = Pool(chain, InlineSignatures())
    await first.restore(PoolJournal(path, first.own))
    done, open_ = extrinsic("Alice", 0), extrinsic("Alice", 1)
    await first.submit([done])
    await first.submit([open_])
    chain.block(first, done)
    # No close: the process was killed. And the last write was torn.
    with path.open("ab") as file:
        file.write(b"\x50\x00\x00\x00half")
    second = Pool(chain, InlineSignatures())
    await second.restore(PoolJournal(path, second.own))
    assert second.pending() == [open_]
    third = extrinsic("Alice", 2)
    await second.submit([third])
    last = Pool(chain, InlineSignatures())
    await last.restore(PoolJournal(path, last.own))
    assert last.pending() == [open_, third]
    for pool in (first, second, last):
        pool.close()


async def test_a_journal_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(NodeError, match="cannot be written"):
        PoolJournal(tmp_path / "missing" / "pool.journal", list)


async def test_everything_is_checked_again_after_an_upgrade(chain, pool):
    keeps = await watched(pool, extrinsic("Alice", 0))
    loses = await watched(pool, extrinsic("Bob", 0))
    chain.nonces[key("Bob").public] = 1
    await pool.revalidate()
    assert keeps == ["ready"]
    assert loses == ["ready", "invalid"]

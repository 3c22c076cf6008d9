"""The order of the pool: nonces, priorities, replacement, bounds, expiry."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbrain.node.queue import Bounds, NotQueued, Pooled, Queue, Refusal
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId

ALICE = AccountId(b"a" * 32)
BOB = AccountId(b"b" * 32)


def entry(sender=ALICE, nonce=0, priority=1, expires=1000, salt=b"", size=100):
    body = sender + nonce.to_bytes(4, "little") + priority.to_bytes(8, "little") + salt
    return Pooled(
        hash=blake2_256(body),
        extrinsic=body.ljust(size, b"\0"),
        sender=sender,
        nonce=nonce,
        priority=priority,
        expires=expires,
    )


def order(queue, limit=100):
    return [(chosen.sender[:1], chosen.nonce) for chosen in queue.candidates(limit)]


def test_what_skips_a_nonce_waits_until_the_gap_closes():
    queue = Queue()
    assert queue.insert(entry(nonce=2), 0).promoted == []
    assert queue.insert(entry(nonce=1), 0).promoted == []
    assert (queue.ready, queue.future) == (0, 2)
    assert order(queue) == []
    promoted = queue.insert(entry(nonce=0), 0).promoted
    assert [one.nonce for one in promoted] == [1, 2]
    assert (queue.ready, queue.future) == (3, 0)
    assert order(queue) == [(b"a", 0), (b"a", 1), (b"a", 2)]
    assert queue.next_nonce(ALICE, 0) == 3
    assert queue.next_nonce(BOB, 7) == 7


def test_blocks_take_the_highest_priority_first_and_each_senders_nonces_in_order():
    queue = Queue()
    queue.insert(entry(ALICE, 0, priority=1), 0)
    queue.insert(entry(ALICE, 1, priority=100), 0)
    queue.insert(entry(BOB, 5, priority=10), 5)
    assert order(queue) == [(b"b", 5), (b"a", 0), (b"a", 1)]
    assert order(queue, limit=2) == [(b"b", 5), (b"a", 0)]


def test_equals_go_by_arrival():
    queue = Queue()
    queue.insert(entry(BOB, 0), 0)
    queue.insert(entry(ALICE, 0), 0)
    assert order(queue) == [(b"b", 0), (b"a", 0)]


def test_a_replacement_must_offer_a_tenth_more():
    queue = Queue()
    first = entry(priority=100)
    queue.insert(first, 0)
    with pytest.raises(NotQueued) as refused:
        queue.insert(entry(priority=109), 0)
    assert (refused.value.refusal, refused.value.against) == (Refusal.UNDERPRICED, 100)
    assert queue.insert(entry(priority=110), 0).replaced is first
    assert len(queue) == 1
    with pytest.raises(NotQueued) as refused:
        queue.insert(entry(priority=110), 0)
    assert refused.value.refusal is Refusal.ALREADY_HERE


def test_two_free_extrinsics_do_not_replace_one_another():
    queue = Queue()
    queue.insert(entry(priority=0, salt=b"1"), 0)
    with pytest.raises(NotQueued):
        queue.insert(entry(priority=0, salt=b"2"), 0)


def test_a_block_takes_out_what_it_holds_and_what_it_made_stale():
    queue = Queue()
    for nonce in (0, 1, 3):
        queue.insert(entry(nonce=nonce), 0)
    gone, promoted = queue.included(ALICE, 2)
    assert [one.nonce for one in gone] == [0, 1]
    assert [one.nonce for one in promoted] == [3]
    assert (queue.ready, queue.future) == (1, 0)
    assert queue.included(BOB, 9) == ([], [])


def test_removing_one_makes_its_followers_wait():
    queue = Queue()
    for nonce in range(4):
        queue.insert(entry(nonce=nonce), 0)
    queue.remove(entry(nonce=1).hash)
    assert (queue.ready, queue.future) == (1, 2)
    assert order(queue) == [(b"a", 0)]
    assert queue.remove(entry(nonce=1).hash) is None
    promoted = queue.insert(entry(nonce=1, priority=5), 0).promoted
    assert [one.nonce for one in promoted] == [2, 3]


def test_a_full_pool_drops_its_worst_for_a_better_one_and_refuses_a_worse_one():
    queue = Queue(Bounds(entries=2))
    worst = entry(ALICE, priority=5)
    queue.insert(worst, 0)
    queue.insert(entry(BOB, priority=6), 0)
    with pytest.raises(NotQueued) as refused:
        queue.insert(entry(AccountId(b"c" * 32), priority=5), 0)
    assert refused.value.refusal is Refusal.POOL_FULL
    assert len(queue) == 2
    assert queue.insert(entry(AccountId(b"c" * 32), priority=7), 0).evicted == [worst]


def test_bytes_and_future_ones_are_bounded_too():
    queue = Queue(Bounds(total_bytes=250, future=1))
    queue.insert(entry(nonce=5, priority=1), 0)
    evicted = queue.insert(entry(nonce=7, priority=2), 0).evicted
    assert [one.nonce for one in evicted] == [5]
    queue.insert(entry(BOB, priority=3), 0)
    assert [one.nonce for one in queue.insert(entry(BOB, 1, priority=3), 0).evicted] == [7]


def test_one_sender_cannot_fill_the_pool():
    queue = Queue(Bounds(per_sender=2))
    queue.insert(entry(nonce=0), 0)
    queue.insert(entry(nonce=1), 0)
    with pytest.raises(NotQueued) as refused:
        queue.insert(entry(nonce=2), 0)
    assert refused.value.refusal is Refusal.SENDER_FULL
    queue.insert(entry(BOB), 0)


def test_what_no_later_block_may_hold_expires():
    queue = Queue()
    queue.insert(entry(ALICE, expires=10), 0)
    queue.insert(entry(BOB, expires=11), 0)
    assert queue.expire(9) == []
    assert [one.sender for one in queue.expire(10)] == [ALICE]
    assert len(queue) == 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "insert", "insert", "remove", "include", "expire"]),
        st.integers(0, 2),
        st.integers(0, 5),
        st.integers(0, 30),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_queue_keeps_its_own_books_straight(steps):
    bounds = Bounds(entries=8, future=4, per_sender=5, total_bytes=900)
    queue = Queue(bounds)
    state: Counter = Counter()
    senders = [AccountId(bytes([index]) * 32) for index in range(3)]
    head = 0
    for step, who, nonce, priority in steps:
        sender = senders[who]
        if step == "insert" and nonce >= state[sender]:
            try:
                made = entry(sender, nonce, priority, expires=head + 1 + priority)
                queue.insert(made, state[sender])
            except NotQueued:
                pass
        elif step == "remove":
            for one in list(queue.entries())[:1]:
                queue.remove(one.hash)
        elif step == "include":
            state[sender] = max(state[sender], nonce)
            queue.included(sender, state[sender] - 1)
        elif step == "expire":
            head += 1
            queue.expire(head)
        check(queue, bounds, state)


def check(queue, bounds, state):
    live = list(queue.entries())
    assert len(live) == len(queue) == queue.ready + queue.future <= bounds.entries
    assert queue.future <= bounds.future
    assert sum(len(one.extrinsic) for one in live) <= bounds.total_bytes
    expected = set()
    for sender in {one.sender for one in live}:
        nonces = {one.nonce for one in live if one.sender == sender}
        assert min(nonces) >= state[sender]
        nonce = state[sender]
        while nonce in nonces:
            expected.add((sender, nonce))
            nonce += 1
    chosen = queue.candidates(100)
    assert {(one.sender, one.nonce) for one in chosen} == expected
    assert all(one.ready for one in chosen)

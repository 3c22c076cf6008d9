"""The plan: each rule by example, then all of it against a world that does its worst."""

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.provider.actual import Actual, Tenant
from deepbrain.provider.chain import Closing, Known, Order, OrderPhase, Unknown
from deepbrain.provider.plan import (
    KEEP_MS,
    Adopt,
    Close,
    DeclareStarted,
    Destroy,
    EndJob,
    Keep,
    Launch,
    MoveEnd,
    Policy,
    Prepare,
    Refuse,
    plan,
)
from deepbrain.provider.record import OrderRecord
from deepbrain.sandbox.sandbox import ExitReason, Phase, TenantExit, TenantSpec, TenantState

GENESIS, OTHER = Hash(b"\x01" * 32), Hash(b"\x02" * 32)
RENTER = AccountId(b"\x03" * 32)
NOW = 1_000_000
OPEN = Policy(serves_strangers=True)

RECORD = OrderRecord(
    order=1,
    genesis=GENESIS,
    seen_block=50,
    seen_hash=Hash(bytes(32)),
    renter=RENTER,
    manifest_hash=Hash(bytes(32)),
    units=1,
    seconds=60,
    latest_end=NOW + 60_000,
)
ORDER = Order(
    id=1,
    renter=RENTER,
    units=1,
    manifest_hash=Hash(bytes(32)),
    phase=OrderPhase.PLACED,
    seconds=60,
    start_by=500,
)
RUNNING = replace(ORDER, phase=OrderPhase.RUNNING, ends_at=160)
ENDED = replace(ORDER, phase=OrderPhase.ENDED)
EXIT = TenantExit(3, ExitReason.EXITED, 0, 1)


def state(phase: Phase) -> TenantState:
    left = EXIT if phase is Phase.EXITED else None
    return TenantState(1, phase, TenantSpec(order=1, image="00"), left)


def tenant(phase: Phase | None = None, *, ready: bool = True, **record) -> Tenant:
    return Tenant(
        record=replace(RECORD, **record),
        has_manifest=ready,
        has_image=ready,
        has_workspace=ready,
        state=None if phase is None else state(phase),
    )


def known(*orders: Order, block: int = 100, service: int = 100, genesis: Hash = GENESIS) -> Known:
    shown = {order.id: order for order in orders}
    return Known(genesis=genesis, block=block, service=service, orders=shown)


def step(desired, *tenants: Tenant, policy: Policy = OPEN, now: int = NOW):
    actual = Actual({one.record.order: one for one in tenants})
    actions = plan(desired, actual, policy, now)
    return actions[0] if actions else None


@pytest.mark.parametrize(
    ("order", "found", "expected"),
    [
        (ORDER, None, Adopt(1)),
        (ORDER, tenant(ready=False), None),
        (ORDER, replace(tenant(), has_image=False), None),
        (ORDER, replace(tenant(), has_workspace=False), None),
        (ORDER, tenant(), Prepare(1)),
        (ORDER, tenant(Phase.PREPARED), Prepare(1)),
        (ORDER, tenant(Phase.PREPARED, unpacked=True), Launch(1)),
        (ORDER, tenant(Phase.RUNNING), DeclareStarted(1)),
        (ORDER, tenant(Phase.EXITED), DeclareStarted(1)),
        (ORDER, tenant(Phase.LOST), Close(1, Closing.FAILED)),
        (ORDER, tenant(failure="bad image"), Close(1, Closing.FAILED)),
        (replace(ORDER, start_by=100), tenant(ready=False), Close(1, Closing.LAPSED)),
        (replace(ORDER, start_by=100), None, Close(1, Closing.LAPSED)),
        (RUNNING, tenant(Phase.RUNNING), MoveEnd(1, NOW + 60_000, 160)),
        (RUNNING, tenant(Phase.RUNNING, ends_at=160), None),
        (
            replace(RUNNING, ends_at=400),
            tenant(Phase.RUNNING, ends_at=160),
            MoveEnd(1, NOW + 300_000, 400),
        ),
        (
            RUNNING,
            tenant(Phase.RUNNING, ends_at=160, latest_end=NOW),
            MoveEnd(1, NOW + 60_000, 160),
        ),
        (RUNNING, tenant(Phase.EXITED), Close(1, Closing.EXITED, 3)),
        (RUNNING, tenant(Phase.LOST), Close(1, Closing.FAILED)),
        (RUNNING, tenant(Phase.PREPARED), Close(1, Closing.FAILED)),
        (RUNNING, tenant(), Close(1, Closing.FAILED)),
        (RUNNING, None, Close(1, Closing.FAILED)),
        (replace(RUNNING, ends_at=100), tenant(Phase.RUNNING), Close(1, Closing.EXITED)),
        (ENDED, None, None),
        (ENDED, tenant(Phase.RUNNING), EndJob(1)),
        (ENDED, tenant(Phase.EXITED), Keep(1, NOW + KEEP_MS)),
        (ENDED, tenant(Phase.EXITED, kept_until=NOW + 1), None),
        (ENDED, tenant(Phase.EXITED, kept_until=NOW), Destroy(1)),
        (ENDED, tenant(ready=False), Destroy(1)),
        (ENDED, tenant(failure="bad image"), Keep(1, NOW + KEEP_MS)),
        (None, tenant(Phase.EXITED), Destroy(1)),
        (None, tenant(Phase.RUNNING), Destroy(1)),
    ],
)
def test_one_step(order, found, expected):
    desired = known() if order is None else known(order)
    assert step(desired, *([] if found is None else [found])) == expected


def test_strangers_are_refused_where_isolation_is_weak():
    weak = Policy(serves_strangers=False)
    assert isinstance(step(known(ORDER), policy=weak), Refuse)
    assert step(known(ORDER), policy=replace(weak, own=frozenset({RENTER}))) == Adopt(1)


def test_what_has_no_room_is_refused_and_what_was_adopted_goes_on():
    two = replace(ORDER, units=2)
    assert isinstance(step(known(two), policy=replace(OPEN, room_units=1)), Refuse)
    assert step(known(two), policy=replace(OPEN, room_units=2)) == Adopt(1)
    full = replace(OPEN, room_units=0)
    assert not isinstance(step(known(ORDER), Tenant(record=RECORD), policy=full), Refuse)


NOT_TO_BE_BELIEVED = [
    Unknown("silence"),
    known(block=49),  # behind: it has not seen the order yet
    known(block=0),  # empty
    known(genesis=OTHER, block=10_000),
    known(ENDED, genesis=OTHER, block=10_000),
    known(ENDED, block=49),
]


@pytest.mark.parametrize("desired", NOT_TO_BE_BELIEVED)
@pytest.mark.parametrize("phase", [None, *Phase])
def test_a_node_that_is_silent_empty_behind_or_foreign_kills_nobody(desired, phase):
    assert step(desired, tenant(phase)) is None


@pytest.mark.parametrize("desired", NOT_TO_BE_BELIEVED)
def test_without_the_chain_the_recorded_ends_count(desired):
    running = tenant(Phase.RUNNING)
    assert step(desired, running, now=RECORD.latest_end - 1) is None
    assert step(desired, running, now=RECORD.latest_end) == EndJob(1)
    exited = tenant(Phase.EXITED)
    assert step(desired, exited, now=RECORD.latest_end + KEEP_MS - 1) is None
    assert step(desired, exited, now=RECORD.latest_end + KEEP_MS) == Destroy(1)
    kept = tenant(Phase.EXITED, kept_until=NOW + 5)
    assert step(desired, kept, now=NOW + 4) is None
    assert step(desired, kept, now=NOW + 5) == Destroy(1)


def test_strays_go_only_by_the_word_of_a_chain():
    assert plan(Unknown(""), Actual({}, (9,)), OPEN, NOW) == ()
    assert plan(known(replace(ENDED, id=9)), Actual({}, (9,)), OPEN, NOW) == ()
    assert plan(known(), Actual({}, (9,)), OPEN, NOW) == (Destroy(9),)


class World(RuleBasedStateMachine):
    """A chain, a machine and a node that lies by omission. Actions are carried out at random times.

    Checked: at most one action an order; nothing is destroyed that the rule protects; and once the
    node is honest and quiet comes, everything settles: no tenant without an order, no order running
    without a job.
    """

    @initialize()
    def begin(self) -> None:
        self.block, self.service, self.now = 100, 1000, NOW
        self.orders: dict[int, Order] = {}
        self.pruned: set[int] = set()
        self.tenants: dict[int, Tenant] = {}
        self.node: object = None

    def honest(self) -> Known:
        return Known(
            genesis=GENESIS, block=self.block, service=self.service, orders=dict(self.orders)
        )

    @rule()
    def place(self) -> None:
        number = len(self.orders) + len(self.pruned) + 1
        self.orders[number] = replace(ORDER, id=number, start_by=self.service + 50)
        self.tick()

    @rule(seconds=st.integers(1, 40))
    def tick(self, seconds: int = 1) -> None:
        self.block, self.service, self.now = (
            self.block + 1,
            self.service + seconds,
            self.now + seconds * 1000,
        )

    @rule(data=st.data())
    @precondition(lambda self: self.orders)
    def renter_closes(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.orders)))
        self.orders[number] = replace(self.orders[number], phase=OrderPhase.ENDED)
        self.tick()

    @rule(data=st.data())
    @precondition(lambda self: any(o.phase is OrderPhase.ENDED for o in self.orders.values()))
    def chain_prunes(self, data) -> None:
        ended = sorted(n for n, o in self.orders.items() if o.phase is OrderPhase.ENDED)
        number = data.draw(st.sampled_from(ended))
        del self.orders[number]
        self.pruned.add(number)
        self.tick()

    @rule(data=st.data(), phase=st.sampled_from([Phase.EXITED, Phase.LOST]))
    @precondition(lambda self: any(t.phase is Phase.RUNNING for t in self.tenants.values()))
    def job_ends(self, data, phase) -> None:
        running = sorted(n for n, t in self.tenants.items() if t.phase is Phase.RUNNING)
        number = data.draw(st.sampled_from(running))
        self.tenants[number] = replace(self.tenants[number], state=state(phase))

    @rule(data=st.data())
    @precondition(lambda self: self.tenants)
    def renter_delivers(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.tenants)))
        self.tenants[number] = replace(
            self.tenants[number], has_manifest=True, has_image=True, has_workspace=True
        )

    @rule(lie=st.sampled_from(["none", "silent", "empty", "behind", "foreign"]))
    def node_changes(self, lie) -> None:
        self.node = {
            "none": None,
            "silent": Unknown("silence"),
            "empty": Known(genesis=GENESIS, block=1, service=1),
            "behind": Known(genesis=GENESIS, block=60, service=500),
            "foreign": Known(genesis=OTHER, block=9999, service=9999),
        }[lie]

    @rule(picks=st.lists(st.booleans(), max_size=6))
    def agent_looks(self, picks) -> None:
        desired = self.honest() if self.node is None else self.node
        for action, chosen in zip(self.look(desired), picks, strict=False):
            if chosen:  # the agent may be killed between any two actions
                self.carry_out(action, desired)

    def look(self, desired):
        actions = plan(desired, Actual(dict(self.tenants)), OPEN, self.now)
        numbers = [action.order for action in actions]
        assert len(numbers) == len(set(numbers))
        for action in actions:
            if isinstance(action, Destroy):
                self.check_destroy(action.order, desired)
        return actions

    def check_destroy(self, number, desired) -> None:
        found = self.tenants[number]
        believed = (
            isinstance(desired, Known)
            and desired.genesis == found.record.genesis
            and desired.block >= found.record.seen_block
        )
        gone_at = found.record.kept_until or found.record.latest_end + KEEP_MS
        if not believed:
            assert self.now >= gone_at
        else:
            order = self.orders.get(number)
            assert order is None or order.phase is OrderPhase.ENDED
            assert found.phase is not Phase.RUNNING or order is None

    def carry_out(self, action, desired) -> None:
        number = action.order
        order = self.orders.get(number)
        match action:
            case Adopt():
                seconds = ORDER.seconds + 50
                self.tenants[number] = tenant(
                    ready=False,
                    order=number,
                    seen_block=desired.block,
                    seen_hash=Hash(bytes(32)),
                    latest_end=self.now + seconds * 1000,
                )
            case Prepare():
                self.change(number, unpacked=True, phase=Phase.PREPARED)
            case Launch():
                self.change(number, phase=Phase.RUNNING)
            case DeclareStarted() if order is not None and order.phase is OrderPhase.PLACED:
                ends = self.service + order.seconds
                self.orders[number] = replace(order, phase=OrderPhase.RUNNING, ends_at=ends)
                self.block += 1
            case Close() | Refuse() if order is not None:
                self.orders[number] = replace(order, phase=OrderPhase.ENDED)
                self.block += 1
            case MoveEnd(latest_end=latest_end, ends_at=ends_at):
                self.change(number, latest_end=latest_end, ends_at=ends_at)
            case EndJob():
                self.change(number, phase=Phase.EXITED)
            case Keep(kept_until=kept_until):
                self.change(number, kept_until=kept_until)
            case Destroy():
                del self.tenants[number]

    def change(self, number, phase=None, **record) -> None:
        found = self.tenants[number]
        new_state = found.state if phase is None else state(phase)
        self.tenants[number] = replace(
            found, record=replace(found.record, **record), state=new_state
        )

    @invariant()
    def jobs_have_orders(self) -> None:
        for number, found in self.tenants.items():
            if found.phase is Phase.RUNNING:
                assert number in self.orders or number in self.pruned

    def teardown(self) -> None:
        if not hasattr(self, "orders"):
            return
        for _ in range(60):
            desired = self.honest()
            for action in self.look(desired):
                self.carry_out(action, desired)
            self.tick(10)
        for number, order in self.orders.items():
            found = self.tenants.get(number)
            if order.phase is OrderPhase.RUNNING:
                raise AssertionError(f"order {number} never ends")
            if order.phase is OrderPhase.PLACED:
                raise AssertionError(f"order {number} is held for ever")
            assert found is None or found.phase is not Phase.RUNNING
        self.now += KEEP_MS
        desired = self.honest()
        for action in self.look(desired):
            self.carry_out(action, desired)
        assert self.tenants == {}


TestWorld = World.TestCase

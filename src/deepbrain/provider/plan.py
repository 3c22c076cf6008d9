"""What to do next: desired and actual in, actions out. Pure: no clock, no disk, no network.

    placed    adopt → (manifest, blobs, or pull) → prepare → launch → declare started
    running   keep the recorded end right; when the job has ended, close
    ended     end the job, keep log and files for a day, then destroy
    unknown   serve on; end jobs at their recorded latest end, destroy a day later

A tenant is destroyed only on a `Known` with the tenant's own genesis, at a block not below the one
that showed its order, of a chain that holds that block (`act.py` asks, before it ends anything); or a
day after its recorded latest end. So a node that is empty, behind or on another chain kills nobody.

At most one action per order: the next plan sees what came of it.
"""

from dataclasses import dataclass
from typing import Final

from deepbrain.primitives.ids import AccountId
from deepbrain.provider.actual import Actual, Tenant
from deepbrain.provider.chain import Closing, Desired, Known, Order, OrderPhase
from deepbrain.provider.record import OrderRecord
from deepbrain.sandbox.sandbox import Phase

KEEP_MS: Final = 24 * 3600 * 1000
"""How long log and files are kept after the end, unbilled."""

DRIFT_MS: Final = 5_000
"""How far the chain's end may lie behind the recorded one before that is moved (a halted chain)."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make room for an order's record and wait for its renter."""

    order: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Close an order that this machine may not run."""

    order: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetch the image from its registry. Ended as soon as the plan says anything else."""

    order: int


@dataclass(frozen=True, slots=True)
class Prepare:
    """Unpack image and workspace."""

    order: int


@dataclass(frozen=True, slots=True)
class Launch:
    """Start the job."""

    order: int


@dataclass(frozen=True, slots=True)
class DeclareStarted:
    """Tell the chain that the job runs: billing begins."""

    order: int


@dataclass(frozen=True, slots=True)
class MoveEnd:
    """Set the job's latest end (monotonic ms), made from the chain's `ends_at`."""

    order: int
    latest_end: int
    ends_at: int


@dataclass(frozen=True, slots=True)
class Close:
    """End and settle the order on the chain."""

    order: int
    closing: Closing
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class EndJob:
    """SIGTERM, 30 s, SIGKILL."""

    order: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Remember until when (monotonic ms) an ended order's log and files are kept."""

    order: int
    kept_until: int


@dataclass(frozen=True, slots=True)
class Destroy:
    """Remove the tenant and everything of the order."""

    order: int


Action = (
    Adopt
    | Refuse
    | Pull
    | Prepare
    | Launch
    | DeclareStarted
    | MoveEnd
    | Close
    | EndJob
    | Keep
    | Destroy
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Whose orders this machine runs."""

    serves_strangers: bool
    """Whether the sandbox's mode is strong enough for anybody's code."""
    own: frozenset[AccountId] = frozenset()
    """Accounts whose orders are the provider's own."""
    room_units: int | None = None
    """How many more units the disk has room for; None: it was not measured."""

    def allows(self, renter: AccountId) -> bool:
        return self.serves_strangers or renter in self.own

    def has_room(self, units: int) -> bool:
        return self.room_units is None or units <= self.room_units


def plan(desired: Desired, actual: Actual, policy: Policy, now: int) -> tuple[Action, ...]:
    """The actions that bring the machine closer to the chain. `now` is monotonic ms."""
    orders = desired.orders if isinstance(desired, Known) else {}
    numbers = sorted(orders.keys() | actual.tenants.keys())
    steps = [_step(desired, number, actual.tenants.get(number), policy, now) for number in numbers]
    # A tenant without a record says nothing of its chain; only a chain that we believe may end it.
    strays = [
        Destroy(order)
        for order in actual.strays
        if isinstance(desired, Known) and order not in orders
    ]
    return tuple(step for step in (*steps, *strays) if step is not None)


def _step(
    desired: Desired, number: int, tenant: Tenant | None, policy: Policy, now: int
) -> Action | None:
    if not isinstance(desired, Known):
        return None if tenant is None else _by_the_clock(tenant, now)
    order = desired.orders.get(number)
    if tenant is None:
        return None if order is None else _without_tenant(desired, order, policy)
    if tenant.record.genesis != desired.genesis or desired.block < tenant.record.seen_block:
        return _by_the_clock(tenant, now)
    if order is None:
        return Destroy(number)
    if order.manifest_hash != tenant.record.manifest_hash:
        return _by_the_clock(tenant, now)  # another order: the chain was begun anew
    match order.phase:
        case OrderPhase.PLACED:
            return _placed(desired, order, tenant)
        case OrderPhase.RUNNING:
            return _running(desired, order, tenant, now)
        case OrderPhase.ENDED:
            return _ended(order, tenant, now)


def _without_tenant(desired: Known, order: Order, policy: Policy) -> Action | None:
    match order.phase:
        case OrderPhase.PLACED if desired.service >= order.start_by:
            return Close(order.id, Closing.LAPSED)
        case OrderPhase.PLACED if not policy.allows(order.renter):
            return Refuse(order.id, "this machine's isolation is for its owner's own orders only")
        case OrderPhase.PLACED if not policy.has_room(order.units):
            return Refuse(order.id, "the machine's disk is too full")
        case OrderPhase.PLACED:
            return Adopt(order.id)
        case OrderPhase.RUNNING:
            return Close(order.id, Closing.FAILED)  # its data is gone: the machine's fault
        case OrderPhase.ENDED:
            return None


def _placed(desired: Known, order: Order, tenant: Tenant) -> Action | None:
    if tenant.record.failure or tenant.phase is Phase.LOST:
        return Close(order.id, Closing.FAILED)
    if desired.service >= order.start_by:
        return Close(order.id, Closing.LAPSED)
    if tenant.phase in (Phase.RUNNING, Phase.EXITED):
        return DeclareStarted(order.id)
    if tenant.wants_pull:
        return Pull(order.id)
    if not (tenant.has_manifest and tenant.has_image and tenant.has_workspace):
        return None
    if tenant.phase is Phase.PREPARED and tenant.record.unpacked:
        return Launch(order.id)
    return Prepare(order.id)


def _running(desired: Known, order: Order, tenant: Tenant, now: int) -> Action | None:
    state = tenant.state
    if state is None or state.phase in (Phase.PREPARED, Phase.LOST):
        return Close(order.id, Closing.FAILED)
    if state.phase is Phase.EXITED:
        return Close(order.id, Closing.EXITED, None if state.exit is None else state.exit.code)
    if order.ends_at is None:
        return None
    if desired.service >= order.ends_at:
        return Close(order.id, Closing.EXITED)
    return _end_as_on_chain(desired, order, order.ends_at, tenant, now)


def _end_as_on_chain(
    desired: Known, order: Order, ends_at: int, tenant: Tenant, now: int
) -> Action | None:
    """The recorded end follows the chain's: after the start, an extension, or a halt."""
    expected = now + (ends_at - desired.service) * 1000
    record = tenant.record
    if record.ends_at != ends_at or expected > record.latest_end + DRIFT_MS:
        return MoveEnd(order.id, expected, ends_at)
    return None


def _ended(order: Order, tenant: Tenant, now: int) -> Action | None:
    if tenant.phase is Phase.RUNNING:
        return EndJob(order.id)
    never_ran = tenant.phase in (None, Phase.PREPARED)
    if never_ran and not tenant.record.failure:
        return Destroy(order.id)
    if tenant.record.kept_until is None:
        return Keep(order.id, now + KEEP_MS)
    return Destroy(order.id) if now >= tenant.record.kept_until else None


def gone_at(record: OrderRecord) -> int:
    """Monotonic ms from which on a tenant is destroyed whatever the chain says."""
    return record.latest_end + KEEP_MS if record.kept_until is None else record.kept_until


def _by_the_clock(tenant: Tenant, now: int) -> Action | None:
    """Without a chain to believe, only the recorded ends count."""
    record = tenant.record
    if now >= gone_at(record):
        return Destroy(record.order)
    if tenant.phase is Phase.RUNNING and now >= record.latest_end:
        return EndJob(record.order)
    return None

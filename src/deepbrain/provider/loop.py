"""The agent of a machine: its loop. `agent.py` starts it.

One task group: watch the chain, reconcile, serve the gate. Nothing here is a truth: after a restart,
the ordinary path, the same plan follows from the chain and the disk.

    changes of the chain ─┐
    gate, jobs, actions ──┴─▶ look ─▶ plan (pure) ─▶ act, at most one action an order at a time
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from deepbrain import __version__
from deepbrain.net.messages import Digest, Greeting, ImageOffer, Stage
from deepbrain.net.transport import Endpoint
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import Hash, MachineId
from deepbrain.primitives.units import U64, BlockNumber
from deepbrain.provider.act import Actor
from deepbrain.provider.actual import Actual, read_actual
from deepbrain.provider.admission import Admission
from deepbrain.provider.attach import Attachments
from deepbrain.provider.book import Book
from deepbrain.provider.cache import ImageCache
from deepbrain.provider.chain import Chain, Desired, Known, OrderPhase, Unknown
from deepbrain.provider.enduring import Enduring
from deepbrain.provider.gate import Gate
from deepbrain.provider.guard import DiskGuard
from deepbrain.provider.identity import AgentConfig
from deepbrain.provider.metrics import Snapshot, Tally
from deepbrain.provider.plan import (
    Action,
    Close,
    DeclareStarted,
    Destroy,
    Policy,
    Pull,
    Refuse,
    plan,
)
from deepbrain.provider.pulls import PullRules
from deepbrain.provider.record import RecordDamaged, Records, monotonic_ms
from deepbrain.provider.requests import Service
from deepbrain.provider.status import status_of
from deepbrain.sandbox.sandbox import ImageInfo, Phase, Sandbox

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
"""The longest the agent goes without looking, whatever hints are lost."""

RETRY_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""How long an order waits after one, two, … actions that failed in a row."""

MAX_OFFERED_IMAGES: Final = 64

OFFERS_SECONDS: Final = 1.0
"""How long a greeting may name images of a moment ago."""

DECLARATIONS: Final = (DeclareStarted, Close, Refuse)
"""Actions that change the chain."""


class HelperLost(DeepBrainError):
    """The root helper is gone; a new one starts a new agent."""


async def _end_with(lost: asyncio.Event) -> None:
    await lost.wait()
    raise HelperLost("the root helper is gone; this agent ends, and is started anew with the next")


def _offer(image: ImageInfo) -> ImageOffer:
    return ImageOffer(
        name=image.name[:128], digest=Digest.from_hex(image.digest), size=U64(image.size)
    )


@dataclass(slots=True)
class _Setback:
    """An order whose last action failed."""

    count: int = 0
    until: float = 0.0


@dataclass(slots=True)
class Agent:
    """`run` serves until it is cancelled."""

    machine: MachineId
    config: AgentConfig
    data: Path
    chain: Chain
    sandbox: Sandbox
    endpoint: Endpoint
    host_lost: asyncio.Event | None = None
    """Set when the root helper has gone."""
    enduring: Enduring = field(default_factory=Enduring, init=False)
    attachments: Attachments = field(init=False)
    records: Records = field(init=False)
    book: Book = field(init=False)
    snapshot: Snapshot = field(default_factory=Snapshot)
    """What `/metrics` shows; replaced as a whole at each look."""
    _actor: Actor = field(init=False)
    _guard: DiskGuard = field(init=False)
    _gate: Gate = field(init=False)
    _service: Service = field(init=False)
    _tally: Tally = field(default_factory=Tally)
    _guarding: bool = False
    _chain_read_at: float = 0.0
    _doing: dict[int, Action] = field(default_factory=dict)
    _setbacks: dict[int, _Setback] = field(default_factory=dict)
    _pulls: "dict[int, asyncio.Task[None]]" = field(default_factory=dict)
    _watched: set[int] = field(default_factory=set)
    _offered: tuple[ImageOffer, ...] = ()
    _offered_until: float = 0.0

    def __post_init__(self) -> None:
        self.records = Records(self.data)
        self.book = Book(self.records, self.config.genesis or self._remembered_genesis())
        config = self.config
        cache = ImageCache(self.sandbox, self.data, config.image_cache_bytes)
        rules = PullRules(config.image_bytes, config.stall_seconds, config.private_registries)
        self._actor = Actor(
            self.chain, self.sandbox, self.records, config.capacity, cache, rules,
            on_pull=self._note_pull,
        )  # fmt: skip
        self.attachments = Attachments(
            self.endpoint, self.chain, self.config.relays, self.config.addresses
        )
        self._guard = DiskGuard(self.data, self.data, self.config.capacity)
        self._service = Service(
            self.book, self.records, self.sandbox, self.config.capacity, self.config.image_bytes,
            self._actor.credentials, tally=self._tally,
        )  # fmt: skip
        admission = Admission(self.machine, self.book, self.greeting)
        serve = self._service.serve
        self._gate = Gate(self.endpoint, admission, self.book, serve, self.enduring, self._tally)

    def _remembered_genesis(self) -> Hash | None:
        """The chain of the orders that are here."""
        for files in self.records.all():
            with contextlib.suppress(RecordDamaged):
                return files.record().genesis
        return None

    async def run(self) -> None:
        """Raises: ExceptionGroup: of HelperLost, or a fault of ours; the process ends then, and its
        starter starts it anew.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_chain())
            group.create_task(self._reconcile(group))
            group.create_task(self._gate.run())
            group.create_task(self.attachments.run())
            if self.host_lost is not None:
                group.create_task(_end_with(self.host_lost))

    async def greeting(self) -> Greeting:
        return Greeting(
            version=__version__,
            genesis=self.book.genesis,
            machine=self.machine,
            block=BlockNumber(self.book.block),
            mode=self.sandbox.report.mode.value,
            network=self.sandbox.report.network.value,
            images=await self._offers(),
        )

    async def _offers(self) -> tuple[ImageOffer, ...]:
        """Read anew once a second at most: anybody may ask for a greeting, as often as they like."""
        now = asyncio.get_running_loop().time()
        if now >= self._offered_until:
            # A renter's own image has no name here: it is nobody else's to see, nor anybody's default.
            named = [image for image in await self.sandbox.images() if image.name]
            self._offered = tuple(_offer(image) for image in named[:MAX_OFFERED_IMAGES])
            self._offered_until = now + OFFERS_SECONDS
        return self._offered

    async def _watch_chain(self) -> None:
        await self._read_chain()
        async for _ in self.chain.changes():
            await self._read_chain()

    async def _read_chain(self) -> None:
        before, desired = self.book.desired, await self.chain.snapshot()
        match desired:
            case Unknown(reason) if desired != before:
                why = "the chain cannot be read: %s; serving on"
                log.warning(why, reason, extra={"event": "chain-lost"})
            case Known() if not isinstance(before, Known):
                said = "the chain is read at block %s"
                log.info(said, desired.block, extra={"event": "chain-read"})
        if isinstance(desired, Known):
            self._chain_read_at = self.now()
        self.book.note_desired(desired)
        self.book.hint()

    async def _reconcile(self, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                await self._look(group)
            except (DeepBrainError, OSError) as error:
                why = "cannot look at the machine: %s"
                log.warning(why, error, extra={"event": "look-failed"})
            try:
                async with asyncio.timeout(self._pause()):
                    await self.book.wait_hint()
            except TimeoutError:
                continue

    async def _look(self, group: asyncio.TaskGroup) -> None:
        desired = self._believed()
        known = desired if isinstance(desired, Known) else None
        actual = await read_actual(self.records, self.sandbox, self._actor.credentials.keys())
        own = self.config.own | (known.owners if known is not None else frozenset())
        self._guard.look()
        room = self._guard.room_units(actual.tenants.values())
        policy = Policy(self.sandbox.report.mode.serves_strangers, own, room)
        now = asyncio.get_running_loop().time()
        actions = plan(desired, actual, policy, monotonic_ms())
        self._end_pulls(actions, is_known=known is not None)
        for action in actions:
            setback = self._setbacks.get(action.order)
            if action.order in self._doing or (setback is not None and now < setback.until):
                continue
            self._doing[action.order] = action
            task = group.create_task(self._do(action, known))
            if isinstance(action, Pull):
                self._pulls[action.order] = task
        self._publish(actual)
        self._watch_jobs(actual, group)
        self._guard_disk(known, group)
        self.snapshot = self._take_snapshot(known, actual)

    def _end_pulls(self, actions: tuple[Action, ...], *, is_known: bool) -> None:
        """A pull takes long. One that is not wanted any more, since its order ended, ends now."""
        planned = {action.order: action for action in actions}
        for order, task in self._pulls.items():
            action = planned.get(order)
            if not isinstance(action, Pull) and (is_known or action is not None):
                task.cancel()

    def _note_pull(self, order: int, done: int, total: int) -> None:
        status = self.book.status(order)
        if status is not None and status.stage is Stage.PULLING:
            self.book.publish(status.but(done=U64(done), total=U64(total)))

    def _believed(self) -> Desired:
        """What the node says, unless it is a node of another chain than this machine's."""
        desired = self.book.desired
        if isinstance(desired, Known) and desired.genesis != self.book.genesis:
            return Unknown("the node is on another chain than this machine's")
        return desired

    async def _do(self, action: Action, known: Known | None) -> None:
        """One action to its end. What fails for now is tried again later, slower each time."""
        order = action.order
        name = type(action).__name__
        log.info("order %s: %s begins", order, name, extra={"event": "begin"})
        try:
            await self._actor.act(action, known)
            self._setbacks.pop(order, None)
            log.info("order %s: %s is done", order, name, extra={"event": "done"})
            if isinstance(action, Destroy):
                self.book.forget(order)
        except (DeepBrainError, OSError) as error:
            setback = self._setbacks.setdefault(order, _Setback())
            wait = RETRY_SECONDS[min(setback.count, len(RETRY_SECONDS) - 1)]
            setback.count += 1
            setback.until = asyncio.get_running_loop().time() + wait
            self._tally.failed_actions += 1
            log.warning("order %s: %s failed: %s", order, name, error, extra={"event": "failed"})
        finally:
            if isinstance(action, DECLARATIONS):
                # The next plan must not be made from a state that this action has changed.
                await self._read_chain()
            del self._doing[order]
            self._pulls.pop(order, None)
            self.book.hint()

    def _guard_disk(self, known: Known | None, group: asyncio.TaskGroup) -> None:
        if known is not None and not self._guarding:
            self._guarding = True
            group.create_task(self._do_guard(known))

    async def _do_guard(self, known: Known) -> None:
        try:
            if await self._guard.act(self.chain, known):
                await self._read_chain()
        except (DeepBrainError, OSError) as error:
            why = "the machine cannot be paused or resumed now: %s"
            log.warning(why, error, extra={"event": "guard-failed"})
        finally:
            self._guarding = False

    def _counted(self) -> Tally:
        """What has passed, streams that are still open included."""
        received, sent = self._gate.passed()
        return replace(
            self._tally,
            received_bytes=self._tally.received_bytes + received,
            sent_bytes=self._tally.sent_bytes + sent,
        )

    def now(self) -> float:
        return time.monotonic()

    def _take_snapshot(self, known: Known | None, actual: Actual) -> Snapshot:
        orders = Counter(dict.fromkeys((*OrderPhase, "kept"), 0))
        shown = known.orders if known is not None else {}
        orders.update(order.phase for order in shown.values())
        orders["kept"] = sum(one.record.kept_until is not None for one in actual.tenants.values())
        disk, last = self._guard.state, self.snapshot
        return Snapshot(
            tally=self._counted(),
            orders={getattr(state, "value", state): count for state, count in orders.items()},
            units=self.config.capacity.units,
            free_units=last.free_units if known is None else self._guard.free_units(known),
            live_sessions=sum(self._service.execs.values()),
            live_connections=self._gate.visits,
            relays=sum(one.holds for one in self.attachments.all),
            billed_unit_seconds=last.billed_unit_seconds if known is None else known.unit_seconds,
            chain_block=self.book.block,
            chain_read_at=self._chain_read_at,
            paused=last.paused if known is None else known.paused,
            disk_free_bytes=disk.free,
            disk_budget_bytes=self.config.capacity.disk_bytes,
            disk_needed_bytes=disk.needed,
        )

    def _pause(self) -> float:
        """Until the next look, unless somebody hints: sooner where something is to be retried."""
        now = asyncio.get_running_loop().time()
        waits = [setback.until - now for setback in self._setbacks.values()]
        return max(min([LOOK_SECONDS, *waits]), 0.05)

    def _publish(self, actual: Actual) -> None:
        mode, now = self.sandbox.report.mode.value, monotonic_ms()
        for order, tenant in actual.tenants.items():
            fresh = status_of(tenant, self._doing.get(order), mode, now)
            shown = self.book.status(order)
            if shown is not None and shown.stage is fresh.stage:
                # The upload under way publishes its own progress.
                fresh = fresh.but(done=shown.done, total=shown.total)
            self.book.publish(fresh)

    def _watch_jobs(self, actual: Actual, group: asyncio.TaskGroup) -> None:
        for order, tenant in actual.tenants.items():
            if tenant.phase is Phase.RUNNING and order not in self._watched:
                self._watched.add(order)
                group.create_task(self._watch_job(order))

    async def _watch_job(self, order: int) -> None:
        """Hint as soon as a job ends."""
        try:
            await self.sandbox.wait(order)
        except DeepBrainError as error:
            why = "order %s: cannot wait for the job: %s"
            log.warning(why, order, error, extra={"event": "watch-failed"})
            await asyncio.sleep(1)
        finally:
            self._watched.discard(order)
            self.book.hint()

"""The agent of a machine: its loop. `agent.py` starts it.

One task group: watch the chain, reconcile, serve the gate. Nothing here is a truth: after a restart,
the ordinary path, the same plan follows from the chain and the disk.

    changes of the chain ─┐
    gate, jobs, actions ──┴─▶ look ─▶ plan (pure) ─▶ act, at most one action an order at a time
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deepbrain import __version__
from deepbrain.net.messages import Digest, Greeting, ImageOffer
from deepbrain.net.transport import Endpoint
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import Hash, MachineId
from deepbrain.primitives.units import U64, BlockNumber
from deepbrain.provider.act import Actor
from deepbrain.provider.actual import Actual, read_actual
from deepbrain.provider.admission import Admission
from deepbrain.provider.book import Book
from deepbrain.provider.chain import Chain, Desired, Known, Unknown
from deepbrain.provider.enduring import Enduring
from deepbrain.provider.gate import Gate
from deepbrain.provider.identity import AgentConfig
from deepbrain.provider.plan import Action, Close, DeclareStarted, Destroy, Policy, Refuse, plan
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
    records: Records = field(init=False)
    book: Book = field(init=False)
    _actor: Actor = field(init=False)
    _doing: dict[int, Action] = field(default_factory=dict)
    _setbacks: dict[int, _Setback] = field(default_factory=dict)
    _watched: set[int] = field(default_factory=set)
    _offered: tuple[ImageOffer, ...] = ()
    _offered_until: float = 0.0

    def __post_init__(self) -> None:
        self.records = Records(self.data)
        self.book = Book(self.records, self.config.genesis or self._remembered_genesis())
        self._actor = Actor(self.chain, self.sandbox, self.records, self.config.capacity)

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
        service = Service(
            self.book, self.records, self.sandbox, self.config.capacity, self.config.image_bytes
        )
        admission = Admission(self.machine, self.book, self.greeting)
        gate = Gate(self.endpoint, admission, self.book, service.serve, self.enduring)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_chain())
            group.create_task(self._reconcile(group))
            group.create_task(gate.run())
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
                log.warning("the chain cannot be read: %s; serving on", reason)
            case Known() if not isinstance(before, Known):
                log.info("the chain is read at block %s", desired.block)
        self.book.note_desired(desired)
        self.book.hint()

    async def _reconcile(self, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                await self._look(group)
            except (DeepBrainError, OSError) as error:
                log.warning("cannot look at the machine: %s", error)
            try:
                async with asyncio.timeout(self._pause()):
                    await self.book.wait_hint()
            except TimeoutError:
                continue

    async def _look(self, group: asyncio.TaskGroup) -> None:
        desired = self._believed()
        known = desired if isinstance(desired, Known) else None
        actual = await read_actual(self.records, self.sandbox)
        own = self.config.own | (known.owners if known is not None else frozenset())
        policy = Policy(self.sandbox.report.mode.serves_strangers, own)
        now = asyncio.get_running_loop().time()
        for action in plan(desired, actual, policy, monotonic_ms()):
            setback = self._setbacks.get(action.order)
            if action.order in self._doing or (setback is not None and now < setback.until):
                continue
            self._doing[action.order] = action
            group.create_task(self._do(action, known))
        self._publish(actual)
        self._watch_jobs(actual, group)

    def _believed(self) -> Desired:
        """What the node says, unless it is a node of another chain than this machine's."""
        desired = self.book.desired
        if isinstance(desired, Known) and desired.genesis != self.book.genesis:
            return Unknown("the node is on another chain than this machine's")
        return desired

    async def _do(self, action: Action, known: Known | None) -> None:
        """One action to its end. What fails for now is tried again later, slower each time."""
        order = action.order
        log.info("order %s: %s", order, type(action).__name__)
        try:
            await self._actor.act(action, known)
            self._setbacks.pop(order, None)
            if isinstance(action, Destroy):
                self.book.forget(order)
        except (DeepBrainError, OSError) as error:
            setback = self._setbacks.setdefault(order, _Setback())
            wait = RETRY_SECONDS[min(setback.count, len(RETRY_SECONDS) - 1)]
            setback.count += 1
            setback.until = asyncio.get_running_loop().time() + wait
            log.warning("order %s: %s failed: %s", order, type(action).__name__, error)
        finally:
            if isinstance(action, DECLARATIONS):
                # The next plan must not be made from a state that this action has changed.
                await self._read_chain()
            del self._doing[order]
            self.book.hint()

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
            log.warning("order %s: cannot wait for the job: %s", order, error)
            await asyncio.sleep(1)
        finally:
            self._watched.discard(order)
            self.book.hint()

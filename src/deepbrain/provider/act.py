"""Carry out one action of a plan. Every step may be interrupted anywhere and begun again.

What goes wrong for good (a workspace that cannot be unpacked, a sandbox that does not come up) becomes
the record's `failure`, which the next plan turns into a refund. What may pass (the chain) is raised,
and the agent tries again later.
"""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from deepbrain.net.messages import Manifest
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.provider.actual import has_image, images_of
from deepbrain.provider.cache import ImageCache, NoRoom
from deepbrain.provider.chain import Chain, ChainUnavailable, Closing, Known, Order
from deepbrain.provider.identity import Capacity
from deepbrain.provider.plan import (
    Action,
    Adopt,
    Close,
    DeclareStarted,
    Destroy,
    EndJob,
    Keep,
    Launch,
    MoveEnd,
    Prepare,
    Pull,
    Refuse,
    gone_at,
)
from deepbrain.provider.pulls import Puller, PullFailed, PullRules
from deepbrain.provider.record import (
    OrderFiles,
    OrderRecord,
    RecordDamaged,
    Records,
    monotonic_ms,
)
from deepbrain.sandbox.reference import Credentials
from deepbrain.sandbox.sandbox import (
    HostLost,
    ImageError,
    Network,
    NoSuchTenant,
    Phase,
    Sandbox,
    SandboxError,
    TenantSpec,
)

START_MARGIN_MS: Final = 15_000
"""Between the job's start and the block that shows it: the recorded end allows for so much."""

MAX_FILES: Final = 100_000
"""Entries of a workspace."""

_UNPACK: Final = Path(__file__).with_name("unpack.py")


OnPull = Callable[[int, int, int], None]
"""`(order, bytes done, bytes in all)`."""

Step = Callable[[OrderFiles, OrderRecord], Awaitable[None]]


class DevicesHeld(DeepBrainError):
    """The GPUs of an order are not free yet; it is tried again."""


class CannotRun(DeepBrainError):
    """The order cannot run here; the text is the sentence the renter reads."""


@dataclass(frozen=True, slots=True)
class Actor:
    chain: Chain
    sandbox: Sandbox
    records: Records
    capacity: Capacity
    cache: ImageCache
    rules: PullRules
    credentials: dict[int, Credentials] = field(default_factory=dict, repr=False)
    """Who pulls an order's image: here alone, and until it is pulled."""
    on_pull: OnPull = lambda _order, _done, _total: None
    pulling: dict[str, asyncio.Lock] = field(default_factory=dict)
    """By digest: what two orders want is fetched once."""

    async def act(self, action: Action, known: Known | None) -> None:
        """Do it. `known` is the state the plan was made from.

        Raises: ChainUnavailable: try again later; SandboxError, OSError: likewise.
        """
        match action:
            case Adopt(order):
                self._adopt(order, known)
            case Refuse(order):
                await self.chain.close(order, Closing.FAILED, None)
            case Pull(order):
                await self._or_fail(order, self._pull)
            case Prepare(order):
                await self._or_fail(order, self._prepare)
            case Launch(order):
                await self._or_fail(order, self._launch)
            case DeclareStarted(order):
                await self.chain.start(order)
            case MoveEnd(order, latest_end, ends_at):
                await self._move_end(order, latest_end, ends_at)
            case Close(order, closing, exit_code):
                await self.chain.close(order, closing, exit_code)
            case EndJob(order):
                await self._ensure_entitled(order, known, lambda record: record.latest_end)
                await self.sandbox.stop(order)
            case Keep(order, kept_until):
                await self._keep(order, kept_until)
            case Destroy(order):
                await self._ensure_entitled(order, known, gone_at)
                await self._destroy(order)

    def _adopt(self, number: int, known: Known | None) -> None:
        if known is None or number not in known.orders:
            return
        order = known.orders[number]
        files = self.records.files(number)
        files.create()
        files.save(_record_of(order, known))

    async def _or_fail(self, order: int, step: Step) -> None:
        files = self.records.files(order)
        try:
            await step(files, files.record())
        except HostLost:
            raise
        except (CannotRun, PullFailed, NoRoom, SandboxError) as error:
            self.credentials.pop(order, None)
            files.save(replace(files.record(), failure=str(error)))

    async def _pull(self, files: OrderFiles, record: OrderRecord) -> None:
        """Fetch the image, or, where it is here, see that this renter may have it."""
        manifest = _expect_manifest(files)
        digest, credentials = manifest.image.hex(), self.credentials.get(record.order)
        puller = Puller(manifest.pull, digest, self.rules, credentials)
        lock = self.pulling.setdefault(digest, asyncio.Lock())
        try:
            async with lock:
                self.cache.note_use(digest)
                known = (await images_of(self.sandbox)).get(digest)
                if known is None:
                    await self._fetch(files, puller)
                elif known.private:
                    await puller.check(files.pull)
        except asyncio.CancelledError:
            raise  # what has come stays, and is gone with the order
        except Exception:
            await asyncio.to_thread(shutil.rmtree, files.pull, ignore_errors=True)
            raise
        await asyncio.to_thread(shutil.rmtree, files.pull, ignore_errors=True)
        self.credentials.pop(record.order, None)
        files.save(replace(files.record(), pulled=True))

    async def _fetch(self, files: OrderFiles, puller: Puller) -> None:
        async with contextlib.AsyncExitStack() as stack:
            room = 0

            async def make_room(size: int) -> None:
                nonlocal room
                holding = self.cache.room(puller.digest, size, self._wanted_images())
                room = await stack.enter_async_context(holding)

            def report(done: int, total: int) -> None:
                self.on_pull(files.order, done, total)

            await puller.fetch(files.pull, make_room, report)
            private = puller.credentials is not None
            try:
                await self.sandbox.import_image(
                    files.pull, puller.digest, limit=room, private=private
                )
            except ImageError as error:
                raise CannotRun(f"the image is refused: {error}") from error

    def _wanted_images(self) -> frozenset[str]:
        """What orders need that are to run; the sandbox knows the others."""
        found = set()
        for files in self.records.all():
            with contextlib.suppress(RecordDamaged):
                record, manifest = files.record(), files.manifest()
                if manifest is not None and not record.failure and record.kept_until is None:
                    found.add(manifest.image.hex())
        return frozenset(found)

    async def _prepare(self, files: OrderFiles, record: OrderRecord) -> None:
        manifest = _expect_manifest(files)
        await self._import_image(files, manifest)
        record = await self._with_devices(files, record)
        spec = tenant_spec(record, manifest, self.capacity)
        if await self._has_other_spec(spec):
            await self.sandbox.destroy(record.order)
            record = replace(record, unpacked=False)
        volume = await self.sandbox.prepare(spec)
        if not record.unpacked:
            await asyncio.to_thread(_empty, volume)
            await _unpack(files, manifest, volume, volume_bytes(spec))
            files.save(replace(files.record(), unpacked=True))

    async def _with_devices(self, files: OrderFiles, record: OrderRecord) -> OrderRecord:
        """Give the order its GPUs, on disk before anything is made of them.

        Raises: DevicesHeld: an order that is ending has them still; CannotRun: there are too few.
        """
        number = record.units if self.capacity.devices else 0
        if len(record.devices) == number:
            return record
        phases = {state.order: state.phase for state in await self.sandbox.list()}
        # From here to the writing nothing else runs: two orders never choose from the same rest.
        free = [name for name in self.capacity.devices if name not in self._held(phases)]
        if number > len(self.capacity.devices):
            raise CannotRun("the machine has not so many GPUs any more")
        if number > len(free):
            raise DevicesHeld("its GPUs are held by an order that is ending")
        record = replace(record, devices=tuple(free[:number]))
        files.save(record)
        return record

    def _held(self, phases: Mapping[int, Phase]) -> set[str]:
        held: set[str] = set()
        for files in self.records.all():
            with contextlib.suppress(RecordDamaged):
                record = files.record()
                over = record.failure or record.kept_until is not None
                if not over and phases.get(record.order) not in (Phase.EXITED, Phase.LOST):
                    held.update(record.devices)
        return held

    async def _has_other_spec(self, spec: TenantSpec) -> bool:
        """Whether a tenant was prepared before a reboot moved its latest end."""
        try:
            state = await self.sandbox.state(spec.order)
        except NoSuchTenant:
            return False
        return state.phase is Phase.PREPARED and state.spec.end_at != spec.end_at

    async def _import_image(self, files: OrderFiles, manifest: Manifest) -> None:
        digest = manifest.image.hex()
        blob = files.blob(manifest.image)
        images = await images_of(self.sandbox)
        known = images.get(digest)
        if not manifest.pull and known is not None and known.private:
            raise CannotRun("the image is not on the machine for this order; name its registry")
        if not has_image(files, manifest, files.record(), images):
            raise CannotRun("the image is not on the machine any more")
        self.cache.note_use(digest)
        if blob.exists():
            size = blob.stat().st_size
            try:
                async with self.cache.room(digest, size, self._wanted_images()) as room:
                    await self.sandbox.import_image(blob, digest, limit=room)
            except ImageError as error:
                raise CannotRun(f"the image is refused: {error}") from error
            blob.unlink()

    async def _launch(self, files: OrderFiles, record: OrderRecord) -> None:
        await self.sandbox.start(record.order)
        await asyncio.to_thread(_empty, files.blobs)
        latest_end = monotonic_ms() + record.seconds * 1000 + START_MARGIN_MS
        await self._set_end(files, replace(record, latest_end=latest_end))

    async def _move_end(self, order: int, latest_end: int, ends_at: int) -> None:
        files = self.records.files(order)
        await self._set_end(files, replace(files.record(), latest_end=latest_end, ends_at=ends_at))

    async def _set_end(self, files: OrderFiles, record: OrderRecord) -> None:
        await self.sandbox.set_end(record.order, record.latest_end)
        files.save(record)

    async def _keep(self, order: int, kept_until: int) -> None:
        files = self.records.files(order)
        await asyncio.to_thread(_empty, files.blobs)
        with contextlib.suppress(NoSuchTenant):
            await self.sandbox.release(order)
        files.save(replace(files.record(), kept_until=kept_until))

    async def _ensure_entitled(
        self, order: int, known: Known | None, due: Callable[[OrderRecord], int]
    ) -> None:
        """Before `due`, only the chain that showed an order may end what belongs to it.

        The block that the plan was made from must be of that chain as well: the node may have been
        another one then. Raises: ChainUnavailable: it is a fork, or a chain begun anew.
        """
        files = self.records.files(order)
        if not files.path.exists():
            return
        record = files.record()
        if monotonic_ms() >= due(record):
            return
        ours = (record.seen_block, record.seen_hash)
        if known is None or not await self.chain.holds(ours, (known.block, known.block_hash)):
            raise ChainUnavailable(
                f"the node's chain does not hold block {record.seen_block} of ours"
            )

    async def _destroy(self, order: int) -> None:
        await self.sandbox.destroy(order)
        self.credentials.pop(order, None)
        files = self.records.files(order)
        if files.path.exists():
            await asyncio.to_thread(files.remove)


def tenant_spec(record: OrderRecord, manifest: Manifest, capacity: Capacity) -> TenantSpec:
    """The tenant of an order: its share of the machine. The same inputs give the same spec."""
    return TenantSpec(
        order=record.order,
        image=manifest.image.hex(),
        argv=manifest.argv,
        env=manifest.env,
        workdir=manifest.workdir,
        cpu_milli=_share(capacity.cpu_milli, record, capacity),
        memory_bytes=_share(capacity.memory_bytes, record, capacity),
        disk_bytes=_share(capacity.disk_bytes, record, capacity),
        pids=_share(capacity.pids, record, capacity),
        log_bytes=_share(capacity.log_bytes, record, capacity),
        network=Network[manifest.network.name],
        bandwidth_mbit=_bandwidth(record, capacity),
        end_at=record.latest_end,
        devices=record.devices,
    )


def volume_bytes(spec: TenantSpec) -> int:
    """How much the volume may hold: three quarters of the tenant's disk."""
    return spec.disk_bytes // 4 * 3


def _bandwidth(record: OrderRecord, capacity: Capacity) -> int:
    """At least one megabit a second where there is a limit at all: 0 would be none."""
    return max(_share(capacity.bandwidth_mbit, record, capacity), int(capacity.bandwidth_mbit > 0))


def _share(whole: int, record: OrderRecord, capacity: Capacity) -> int:
    return whole * record.units // capacity.units


def _record_of(order: Order, known: Known) -> OrderRecord:
    """Until the job starts, the latest end is the last one it could have."""
    window = max(order.start_by - known.service, 0)
    return OrderRecord(
        order=order.id,
        genesis=known.genesis,
        seen_block=known.block,
        seen_hash=known.block_hash,
        renter=order.renter,
        manifest_hash=order.manifest_hash,
        units=order.units,
        seconds=order.seconds,
        latest_end=monotonic_ms() + (window + order.seconds) * 1000 + START_MARGIN_MS,
    )


def _expect_manifest(files: OrderFiles) -> Manifest:
    manifest = files.manifest()
    if manifest is None:
        raise CannotRun("the manifest is gone")
    return manifest


async def _unpack(files: OrderFiles, manifest: Manifest, volume: Path, limit: int) -> None:
    """Fill the volume in a process of its own. Raises: CannotRun: the tar is refused."""
    if manifest.workspace is None:
        return
    tar = files.blob(manifest.workspace.sha256)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", _UNPACK, tar, volume, str(limit), str(MAX_FILES)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        reason = output[:500].decode(errors="replace").strip()
        raise CannotRun(reason or "the workspace is refused: unpacking it did not end well")


def _empty(directory: Path) -> None:
    """Remove what is in a directory, following no links."""
    if not directory.exists():
        return
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            Path(entry.path).unlink()

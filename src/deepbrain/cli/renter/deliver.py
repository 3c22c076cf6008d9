"""Hand an order's manifest, image and workspace to its machine, until the job runs.

Errors: a connection that breaks is opened again, and an upload goes on where it stopped; a machine
that makes no progress for `PATIENCE_SECONDS` is given up.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepbrain.cli.output import progress
from deepbrain.cli.quantity import size
from deepbrain.cli.renter.reach import Reach, closing
from deepbrain.client.errors import ConnectionLost, NodeUnreachable
from deepbrain.net.errors import MalformedMessage, NetError, RefusalCode, Refused
from deepbrain.net.messages import Digest, Manifest, OrderStatus, Stage
from deepbrain.net.session import Session
from deepbrain.primitives.errors import DeepBrainError

if TYPE_CHECKING:
    from deepbrain.sandbox.reference import Credentials

PATIENCE_SECONDS: Final = 60.0
UNPACKING_SECONDS: Final = 1800.0
"""A large image takes its time and says nothing meanwhile; the chain's start window ends it too."""
STORING_SECONDS: Final = 600.0
"""What was sent is written to a disk before it is acknowledged."""
_PAUSE: Final = 0.2

_WORDS: Final = {
    Stage.AWAITING_MANIFEST: "waiting for the manifest",
    Stage.UPLOADING: "uploading",
    Stage.PULLING: "unpacking",
    Stage.STARTING: "starting",
}


class NotStarted(DeepBrainError):
    """The machine did not start the job; the text says why."""


@dataclass(frozen=True, slots=True)
class Cargo:
    """What the machine is to have before it can start."""

    manifest: Manifest
    workspace: Path | None
    image: Path | None
    """An image's tar of the renter's own."""
    credentials: "Credentials | None" = field(default=None, repr=False)
    """Who pulls the image, where the machine pulls it and its registry asks."""


async def deliver(reach: Reach, cargo: Cargo, report: Callable[[str], None]) -> OrderStatus:
    """Return once the job runs, or has run. Raises: NotStarted."""
    patience = Patience()
    while True:
        try:
            session = await reach.session()
            await _within(patience, _hand_over(session, cargo, patience))
            return await _await_start(session, report, patience)
        except Refused as refusal:
            if refusal.code not in (RefusalCode.UNKNOWN_ORDER, RefusalCode.LIMIT):
                raise NotStarted(f"the machine refused: {refusal}") from refusal
            patience.ensure(str(refusal))
        except MalformedMessage as error:
            raise NotStarted(f"the machine breaks the rules: {error}") from error
        except NetError as error:
            reach.lost()
            patience.ensure(str(error))
        except (NodeUnreachable, ConnectionLost) as error:
            patience.ensure(str(error))  # to open a session the chain is asked, too
        except OSError as error:
            raise NotStarted(f"{error.filename}: {(error.strerror or '').lower()}") from error
        await asyncio.sleep(_PAUSE)


async def await_start(reach: Reach, report: Callable[[str], None]) -> OrderStatus:
    """As `deliver`, where somebody else hands it over. Raises: NotStarted."""
    patience = Patience()
    while True:
        try:
            session = await reach.session()
            return await _await_start(session, report, patience)
        except NetError as error:
            if not isinstance(error, Refused):
                reach.lost()
            patience.ensure(str(error))
        except (NodeUnreachable, ConnectionLost) as error:
            patience.ensure(str(error))
        await asyncio.sleep(_PAUSE)


class Patience:
    """Time without any progress, after which a machine is given up."""

    def __init__(self) -> None:
        self.renew()

    def renew(self, seconds: float | None = None) -> None:
        span = PATIENCE_SECONDS if seconds is None else seconds
        self._until = asyncio.get_running_loop().time() + span

    @property
    def is_over(self) -> bool:
        return asyncio.get_running_loop().time() >= self._until

    @property
    def left(self) -> float:
        return max(0.0, self._until - asyncio.get_running_loop().time())

    def ensure(self, trouble: str) -> None:
        """Raises: NotStarted: it is over."""
        if self.is_over:
            raise NotStarted(trouble)


async def _within(patience: Patience, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` as long as there is patience, which it may renew. Raises: NotStarted: it is over."""
    working = asyncio.ensure_future(work)
    try:
        while not working.done() and not patience.is_over:
            await asyncio.wait((working,), timeout=patience.left)
        if not working.done():
            raise NotStarted("the machine does not get on with it")
        await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _hand_over(session: Session, cargo: Cargo, patience: Patience) -> None:
    if cargo.credentials is not None:
        await session.put_credentials(cargo.credentials.username, cargo.credentials.secret)
    wanted = await session.put_manifest(cargo.manifest)
    if wanted.image:
        if cargo.image is None:
            raise NotStarted("the machine does not have the image any more; choose another")
        await _upload(session, "image", cargo.image, cargo.manifest.image, patience)
    workspace = cargo.manifest.workspace
    if wanted.workspace and workspace is not None:
        if cargo.workspace is None:
            raise NotStarted("the workspace was packed on another machine, and is not there yet")
        await _upload(session, "workspace", cargo.workspace, workspace.sha256, patience)


async def _upload(
    session: Session, what: str, path: Path, digest: Digest, patience: Patience
) -> None:
    total = await asyncio.to_thread(lambda: path.stat().st_size)
    with progress(f"sending the {what}, {size(total)}", total) as advance:
        sent = 0

        def moved(done: int, whole: int) -> None:
            nonlocal sent
            advance(done - sent)
            sent = done
            patience.renew(STORING_SECONDS if done == whole else None)

        await session.put_blob(path, digest, moved)


def _words(status: OrderStatus) -> str:
    done, total = int(status.done), int(status.total)
    if status.stage is Stage.PULLING and done < total:
        return f"pulling the image, {size(done)} of {size(total)}"
    return status.detail or _WORDS.get(status.stage, "preparing")


async def _await_start(
    session: Session, report: Callable[[str], None], patience: Patience
) -> OrderStatus:
    """Raises: NotStarted; NetError: the connection broke."""
    loop = asyncio.get_running_loop()
    try:
        async with closing(session.watch()) as updates, asyncio.timeout(patience.left) as limit:
            async for status in updates:
                if status.stage in (Stage.RUNNING, Stage.EXITED):
                    return status
                if status.stage in (Stage.FAILED, Stage.DESTROYED):
                    raise NotStarted(status.detail or "the machine gave the order up")
                patience.renew(UNPACKING_SECONDS if status.stage is Stage.PULLING else None)
                limit.reschedule(loop.time() + patience.left)
                report(_words(status))
    except TimeoutError:
        raise NotStarted("the machine does not get on with it") from None
    raise NotStarted("the machine gave the order up")

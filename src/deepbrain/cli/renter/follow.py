"""Stay with a running order: its output live, its end, its results.

Errors: a connection that breaks is opened again, and the log goes on at the byte where it stopped. A
machine that cannot be reached for `PATIENCE_SECONDS` while its order runs is lost: the order is closed,
so that nothing more is billed.
"""

import asyncio
import contextlib
import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from deepbrain.cli.interrupts import Interrupted, Interrupts, Wish
from deepbrain.cli.output import files_and_size, progress, say
from deepbrain.cli.renter.deliver import Patience
from deepbrain.cli.renter.reach import Reach, closing
from deepbrain.cli.terminal import write_out
from deepbrain.client.errors import CallFailed, ConnectionLost, NodeUnreachable
from deepbrain.client.results import Results, ResultsRefused, receive
from deepbrain.net.errors import NetError, RefusalCode, Refused
from deepbrain.net.messages import JobExit, OrderStatus, Stage
from deepbrain.pallets.rent import AlreadyEnded, Order, Rent, Running
from deepbrain.primitives.errors import DeepBrainError

SETTLE_SECONDS: Final = 20.0
"""How long a machine may take to close the order of a job that has ended, before we do."""
LAST_WORDS_SECONDS: Final = 40.0
"""A job that is told to end has 30 s to do so; its last output is worth waiting for."""
_OVER: Final = (Stage.EXITED, Stage.FAILED, Stage.DESTROYED)
BILLED_SECONDS: Final = 60.0
"""How long an order may be billed while its machine does not say that it runs: a lost connection is
opened again meanwhile."""
RESULTS_SECONDS: Final = 30.0
"""How long a machine that breaks off while it sends results is asked again."""
_SOUND_SECONDS: Final = 5.0
"""A connection that held so long was a good one: patience begins anew when it breaks."""
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 3.0


class Way(Enum):
    """How following ended."""

    ENDED = "ended"
    DETACHED = "detached"
    LOST = "lost"


@dataclass(slots=True)
class Followed:
    way: Way
    job: JobExit | None = None


class _Lost(Exception):
    """The machine cannot be reached any more."""


async def follow(reach: Reach, interrupts: Interrupts) -> Followed:
    """Print the job's output until its order has ended, or somebody wishes otherwise.

    A wish to stop closes the order first, and then waits for the job's last words.
    """
    output = asyncio.create_task(_print_output(reach))
    ended = asyncio.create_task(await_end(reach))
    wish: asyncio.Task[Wish] = asyncio.create_task(interrupts.next())
    try:
        await asyncio.wait({output, ended, wish}, return_when=asyncio.FIRST_COMPLETED)
        if wish.done() and wish.result() is Wish.DETACH:
            return Followed(Way.DETACHED)
        if wish.done() or _is_broken_pipe(output):
            await close_order(reach)
        if output.done() and isinstance(output.exception(), _Lost):
            await close_order(reach)
            return Followed(Way.LOST)
        return Followed(Way.ENDED, await _wait_for_both(reach, output, ended, interrupts))
    finally:
        for task in (output, ended, wish):
            task.cancel()
        await asyncio.gather(output, ended, wish, return_exceptions=True)


async def _wait_for_both(
    reach: Reach,
    output: asyncio.Task[JobExit | None],
    ended: asyncio.Task[Order | None],
    interrupts: Interrupts,
) -> JobExit | None:
    """Whichever came first, the job's end or the order's, the other follows soon."""
    with contextlib.suppress(TimeoutError, Interrupted):
        if output.done():
            await interrupts.unless(_within(SETTLE_SECONDS, ended))
        else:
            await interrupts.unless(_within(LAST_WORDS_SECONDS, output))
    if ended.done():
        ended.result()
    else:
        await close_order(reach)
    if output.done() and output.exception() is None:
        return output.result()
    _raise_if_ours(output)
    return None


async def _within(
    seconds: float, task: "asyncio.Task[JobExit | None] | asyncio.Task[Order | None]"
) -> None:
    async with asyncio.timeout(seconds):
        await asyncio.wait({task})


def _is_broken_pipe(output: asyncio.Task[JobExit | None]) -> bool:
    """Nobody reads what we print any more: as if Ctrl-C had been pressed."""
    return output.done() and isinstance(output.exception(), BrokenPipeError)


def _raise_if_ours(output: asyncio.Task[JobExit | None]) -> None:
    """What is neither the machine's fault nor a closed pipe is a bug and must be seen."""
    error = output.exception() if output.done() else None
    if error is not None and not isinstance(error, _Lost | BrokenPipeError | DeepBrainError):
        raise error


async def _print_output(reach: Reach) -> JobExit | None:
    """Until the job has ended and everything it printed is shown. Raises: _Lost."""
    loop = asyncio.get_running_loop()
    offset, pause, patience = 0, _FIRST_PAUSE, Patience()
    while True:
        opened: float | None = None
        try:
            session = await reach.session()
            opened = loop.time()
            async with closing(session.logs(offset, follow=True)) as records:
                async for piece in records:
                    write_out(piece.stream, piece.data)
                    offset, pause = piece.end, _FIRST_PAUSE
            status = await session.status()
            if status.stage in _OVER:
                return status.exit
        except BrokenPipeError:
            raise
        except Refused as refusal:
            if refusal.code is RefusalCode.UNKNOWN_ORDER:
                return None
            if (seen := await _status(reach)) is not None and seen.stage in _OVER:
                return seen.exit
        except (NetError, OSError):
            reach.lost()
        except (NodeUnreachable, ConnectionLost):
            patience.renew()  # without the chain nobody can open a session: not the machine's fault
        if opened is not None and loop.time() - opened > _SOUND_SECONDS:
            patience.renew()
        if patience.is_over:
            raise _Lost
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _status(reach: Reach) -> OrderStatus | None:
    """What the machine says of the order, if it says anything."""
    with contextlib.suppress(NetError):
        return await (await reach.session()).status()
    return None


async def look_back(reach: Reach) -> Followed:
    """Print what an ended order's job printed, as far as the machine still has it."""
    with contextlib.suppress(NetError):
        session = await reach.session()
        async with closing(session.logs()) as records:
            async for piece in records:
                write_out(piece.stream, piece.data)
    status = await _status(reach)
    return Followed(Way.ENDED, None if status is None else status.exit)


async def billed_too_long(reach: Reach) -> None:
    """Return once the chain has shown the order running, and so billed, for `BILLED_SECONDS`."""
    while True:
        if await _runs_on_chain(reach):
            await asyncio.sleep(BILLED_SECONDS)
            return
        await asyncio.sleep(_LONGEST_PAUSE)


async def _runs_on_chain(reach: Reach) -> bool:
    with contextlib.suppress(NodeUnreachable, ConnectionLost):
        order = await reach.client.at().get(Rent.orders, reach.order)
        return order is not None and isinstance(order.status, Running)
    return False


async def await_end(reach: Reach) -> Order | None:
    """The order once it has ended; `None` when the chain has forgotten it.

    A node that is away is waited for: whether the order has ended is for the chain to say.
    """
    while True:
        with contextlib.suppress(NodeUnreachable, ConnectionLost):
            async for _ in reach.client.heads():
                order = await reach.client.at().get(Rent.orders, reach.order)
                if order is None or not order.is_open():
                    return order
        await asyncio.sleep(_LONGEST_PAUSE)


async def close_order(reach: Reach) -> None:
    """End and settle the order now. One that has ended already is fine."""
    order = await reach.client.at().get(Rent.orders, reach.order)
    if order is None or not order.is_open():
        return
    try:
        await reach.client.submit(Rent.close.make(order=reach.order, exit_code=None), reach.pair)
    except CallFailed as error:
        if error.reason is not AlreadyEnded:
            raise


async def _receive_results(reach: Reach, target: Path) -> Results:
    """A machine whose agent is just starting again is waited for.

    Raises: ResultsRefused; NetError, NodeUnreachable: it did not come back.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RESULTS_SECONDS
    while True:
        try:
            session = await reach.session()
            with progress("fetching results", None) as advance:
                async with closing(session.copy_out()) as chunks:
                    return await receive(chunks, target, progress=advance)
        except Refused:
            raise
        except NetError:
            reach.lost()
            if loop.time() > deadline:
                raise
        await asyncio.sleep(_LONGEST_PAUSE)


async def fetch_results(reach: Reach, target: Path) -> None:
    """Bring the order's results into the new directory `target`, and say what came of it."""
    try:
        results = await _receive_results(reach, target)
    except ResultsRefused as error:
        say(f"results: {error}")
        return
    except (NetError, NodeUnreachable, ConnectionLost) as error:
        if isinstance(error, Refused) and error.code is RefusalCode.FAILED:
            say(f"results: {error}")  # such as: there is no file of that name or pattern
            return
        say(f"results could not be fetched ({error}); try `dbc attach {reach.order}` later")
        return
    for omission in results.omitted:
        say(f"results: left out {omission}")
    if results.omitted_count > len(results.omitted):
        say(f"results: left out {results.omitted_count - len(results.omitted)} more")
    if not results.files:
        await asyncio.to_thread(shutil.rmtree, target)
        say("results: the job left no new files")
        return
    say(f"results: {files_and_size(results.files, results.size)} in {target}/")

"""One order from its wish to its end: choose, place, deliver, follow, settle.

The steps are in the order in which a kill could fall between them; what each leaves behind is enough
for `dbc attach` to go on (ADR 0052).
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepbrain.cli import quantity
from deepbrain.cli.failure import NOT_STARTED, PROVIDER_LOST, UserError
from deepbrain.cli.interrupts import Interrupted, Interrupts
from deepbrain.cli.interrupts import Wish as Signal
from deepbrain.cli.output import say, waiting
from deepbrain.cli.renter import ending
from deepbrain.cli.renter.deliver import Cargo, NotStarted, await_start, deliver
from deepbrain.cli.renter.follow import (
    Followed,
    Way,
    await_end,
    billed_too_long,
    close_order,
    fetch_results,
    follow,
)
from deepbrain.cli.renter.journal import Run
from deepbrain.cli.renter.market import Offered, mode_name
from deepbrain.cli.renter.reach import Reach, fresh_endpoint
from deepbrain.cli.renter.registry import Pinned, credentials_for, pin_soon
from deepbrain.cli.renter.relays import ways_for_renters
from deepbrain.cli.renter.wish import Wish, choose_image, terms_of
from deepbrain.client.errors import CallFailed
from deepbrain.net import messages
from deepbrain.net.errors import NetError
from deepbrain.net.messages import PROTOCOL_VERSION, Digest, Greeting, Manifest, Salt
from deepbrain.net.messages import Workspace as WorkspaceClaim
from deepbrain.net.session import greet
from deepbrain.pallets.machines import Machines, Network, NotEnoughUnits
from deepbrain.pallets.rent import (
    BadTerm,
    MachineUnavailable,
    OfferChanged,
    OrderPlaced,
    PriceAboveLimit,
    Rent,
)
from deepbrain.primitives.errors import DeepBrainError
from deepbrain.primitives.ids import MachineId, OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import U8, U16, U32, U64, Balance

if TYPE_CHECKING:
    from deepbrain.client import Client
    from deepbrain.client.workspace import Packed
    from deepbrain.net.transport import Endpoint


_ANOTHER_MAY_DO = (OfferChanged, MachineUnavailable, NotEnoughUnits, PriceAboveLimit)
"""Refusals of one machine's offer, not of the renter."""


@dataclass(frozen=True, slots=True)
class Renter:
    """Who rents, over which connections."""

    client: "Client"
    endpoint: "Endpoint"
    pair: Keypair

    def reach(self, order: OrderId, machine: MachineId) -> Reach:
        return Reach(self.client, self.endpoint, self.pair, order, machine)


@dataclass(frozen=True, slots=True)
class Package:
    """What is sent along, whichever machine it goes to."""

    workspace: "Packed | None"
    image: Path | None
    image_digest: Digest | None
    pins: "dict[str, Pinned | str]" = field(default_factory=dict)
    """What registries said of an image's name, once for all machines; a sentence where they failed."""


@dataclass(frozen=True, slots=True)
class Deal:
    """What was agreed: machines in the order to try them, and the most that may be held."""

    offers: tuple[Offered, ...]
    limit: Balance


class Unwilling(DeepBrainError):
    """This machine cannot take the order; another one may."""


async def start_somewhere(
    renter: Renter,
    wish: Wish,
    deal: Deal,
    package: Package,
    run: Run,
    interrupts: Interrupts,
) -> Reach:
    """The order, running on the first machine that starts it; one order is held at a time.

    Raises: UserError: none did; Interrupted: somebody wished otherwise, and nothing is held.
    """
    troubles: list[str] = []
    for offer in deal.offers:
        if troubles:
            say(f"{troubles[-1]}; trying {offer.name}")
        try:
            return await _start_on(renter, wish, offer, deal.limit, package, run, interrupts)
        except (Unwilling, NotStarted) as trouble:
            troubles.append(f"{offer.name}: {trouble}")
    run.discard()
    raise UserError(
        "no machine started the job: " + "; ".join(troubles) + "; nothing is held", NOT_STARTED
    )


async def _start_on(
    renter: Renter,
    wish: Wish,
    offer: Offered,
    limit: Balance,
    package: Package,
    run: Run,
    interrupts: Interrupts,
) -> Reach:
    with waiting(f"asking {offer.name}") as report:
        greeting = await interrupts.unless(_greeting_of(renter, wish, offer))
        image = await interrupts.unless(_image_for(wish, greeting, package, report))
        manifest = _manifest_for(wish, offer, image, package)
        run.write_manifest(manifest.encode())
        run.note(
            genesis=str(renter.client.genesis_hash),
            manifest=str(manifest.hash()),
            machine=offer.id.hex(),
            order=None,
            image=None if package.image is None else str(package.image.absolute()),
        )
        report("placing the order")
        order = await _place(renter, wish, offer, limit, manifest)
        run.note(order=int(order))
        report(f"order {order} is placed")
        reach = renter.reach(order, offer.id)
        cargo = Cargo(
            manifest,
            None if package.workspace is None else package.workspace.path,
            package.image,
            image.credentials,
        )
        await _deliver(reach, cargo, report, interrupts)
    run.delivered()
    return reach


async def _deliver(
    reach: Reach, cargo: Cargo, report: Callable[[str], None], interrupts: Interrupts
) -> None:
    """Raises: NotStarted, Interrupted: and then the order is closed, unless we only detach."""
    try:
        await interrupts.unless(unless_ended(reach, deliver(reach, cargo, report)))
    except Interrupted as interrupted:
        if interrupted.wish is Signal.STOP:
            await close_order(reach)
        raise
    except NotStarted:
        await close_order(reach)
        raise


async def unless_ended(reach: Reach, work: Coroutine[Any, Any, object]) -> None:
    """Do `work`, unless the order has run without our seeing it start.

    Raises: NotStarted: it ended and had not run, whoever ended it; or its machine has it billed, and
    does not say that it runs.
    """
    task, ended = asyncio.ensure_future(work), asyncio.ensure_future(await_end(reach))
    billed = asyncio.ensure_future(billed_too_long(reach))
    try:
        await asyncio.wait({task, ended, billed}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done() and not task.done():
            # The machine's own sentence says more than the chain's, and comes at about the same time.
            await asyncio.wait({task}, timeout=2.0)
        if task.done():
            task.result()
            return
        if not ended.done():
            billed.result()
            raise NotStarted("the machine has the order billed, and does not run it")
        order = ended.result()
        if order is not None and ending.has_run(order):
            return
        how = "is gone" if order is None else ending.state_name(order)
        raise NotStarted(f"the order ended before the job ran: {how}")
    finally:
        for pending in (task, ended, billed):
            pending.cancel()
        await asyncio.gather(task, ended, billed, return_exceptions=True)


async def _greeting_of(renter: Renter, wish: Wish, offer: Offered) -> Greeting:
    """Raises: Unwilling: it does not answer, or is not what the chain says it is."""
    ways = await ways_for_renters(renter.client, offer.machine.address)
    try:
        # An endpoint of its own: the renter's shows its relays an access proof, and has none yet.
        async with fresh_endpoint() as visitor:
            greeting = await greet(visitor, offer.id, ways)
    except NetError as error:
        raise Unwilling(str(error)) from error
    if greeting.genesis != renter.client.genesis_hash:
        raise Unwilling("it serves another chain")
    if greeting.mode != offer.mode:
        raise Unwilling(f"it isolates by {greeting.mode}, and its offer says {offer.mode}")
    if wish.network_on(offer) is Network.INTERNET and greeting.network != offer.network:
        raise Unwilling(f"its network is {greeting.network}, and its offer says {offer.network}")
    return greeting


async def _image_for(
    wish: Wish, greeting: Greeting, package: Package, report: Callable[[str], None]
) -> "Pinned":
    """A file of the renter's, an image of the machine's, or one of a registry: in that order.

    Raises: Unwilling: it is none of them.
    """
    if package.image_digest is not None:
        return Pinned("", package.image_digest, None)
    image = choose_image(greeting.images, wish.image)
    if image is not None:
        return Pinned("", image.digest, None)
    names = ", ".join(image.name for image in greeting.images) or "none"
    lacking = f"it does not have the image {wish.image or 'asked for'} (it has {names})"
    if wish.image is None:
        raise Unwilling(lacking)
    if wish.image not in package.pins:
        report(f"asking the registry for {wish.image}")
        package.pins[wish.image] = await _pin(wish.image)
    found = package.pins[wish.image]
    if isinstance(found, str):
        raise Unwilling(f"{lacking}, and {found}")
    return found


async def _pin(name: str) -> "Pinned | str":
    try:
        found = await pin_soon(name)
    except DeepBrainError as error:
        return str(error)
    say(f"the image is {found}")
    return found


def _manifest_for(wish: Wish, offer: Offered, image: "Pinned", package: Package) -> Manifest:
    packed = package.workspace
    return Manifest(
        version=U8(PROTOCOL_VERSION),
        salt=Salt(os.urandom(32)),
        image=image.digest,
        argv=wish.argv,
        env=wish.env,
        workdir="",
        pull=image.source,
        workspace=None
        if packed is None
        else WorkspaceClaim(
            sha256=Digest(packed.sha256), size=U64(packed.size), files=U32(packed.files)
        ),
        out=wish.out,
        tty=False,
        network=messages.Network[wish.network_on(offer).name],
    )


async def _place(
    renter: Renter, wish: Wish, offer: Offered, limit: Balance, manifest: Manifest
) -> OrderId:
    """Raises: Unwilling: the offer is not what we saw; UserError, CallFailed: we may not rent like this."""
    call = Rent.place.make(
        machine=offer.id,
        units=U16(wish.units),
        seconds=wish.seconds,
        manifest_hash=manifest.hash(),
        max_total=limit,
        offer_version=offer.machine.offer_version,
        start_within=wish.start_within,
    )
    try:
        receipt = await renter.client.submit(call, renter.pair)
    except CallFailed as error:
        if error.reason in _ANOTHER_MAY_DO:
            raise Unwilling(str(error)) from error
        if error.reason is BadTerm:
            raise UserError(f"{await terms_of(renter.client)}; change --for") from error
        raise
    return receipt.one(OrderPlaced).order


async def follow_to_the_end(
    reach: Reach, run: Run | None, into: Path, interrupts: Interrupts
) -> int:
    """Print the output of an order that runs, bring its results, tell its bill; the exit code."""
    followed = await follow(reach, interrupts)
    if followed.way is Way.DETACHED:
        say(f"detached; order {reach.order} goes on: dbc attach {reach.order}")
        return 0
    return await conclude(reach, followed, run, into)


async def conclude(reach: Reach, followed: Followed, run: Run | None, into: Path) -> int:
    """Results, the last line, the exit code of an order that has ended."""
    if followed.way is Way.LOST:
        say(f"the machine of order {reach.order} cannot be reached any more; the order is closed")
    else:
        await fetch_results(reach, _place_for(reach, into))
    order = await reach.client.at().get(Rent.orders, reach.order)
    if order is None:
        say(f"order {reach.order} ended more than a day ago; its bill is gone")
        return PROVIDER_LOST
    say(ending.last_line(reach.order, order, followed.job, await _mode_of(reach)))
    if run is not None:
        run.discard()
    if followed.way is Way.LOST:
        return PROVIDER_LOST
    return ending.exit_code(order, followed.job)


def _place_for(reach: Reach, into: Path) -> Path:
    """`<into>/<order>`; where that is taken, maybe by an order of another chain, with the chain's name."""
    plain = into / str(reach.order)
    if not os.path.lexists(plain):
        return plain
    return into / f"{reach.order}-{reach.client.genesis_hash.hex()[:8]}"


async def resume(
    renter: Renter, order: OrderId, machine: MachineId, run: Run | None, interrupts: Interrupts
) -> Reach:
    """Go on with an order that is placed and not started yet. Raises: NotStarted, Interrupted."""
    reach = renter.reach(order, machine)
    with waiting(f"waiting for order {order} to start") as report, _alone(run) as alone:
        if run is not None and alone:
            await _deliver(reach, _cargo_of(run), report, interrupts)
            run.delivered()
        else:
            await interrupts.unless(unless_ended(reach, await_start(reach, report)))
    return reach


def _alone(run: Run | None) -> "contextlib.AbstractContextManager[bool]":
    return contextlib.nullcontext(False) if run is None else run.held()


def _cargo_of(run: Run) -> Cargo:
    image = run.facts.get("image")
    workspace = run.workspace if run.workspace.exists() else None
    manifest = Manifest.decode(run.manifest)
    credentials = credentials_for(manifest.pull)
    return Cargo(manifest, workspace, None if image is None else Path(image), credentials)


async def _mode_of(reach: Reach) -> str:
    machine = await reach.client.at().get(Machines.machines, reach.machine)
    return "machine gone" if machine is None else mode_name(machine.isolation)


def price_line(wish: Wish, offer: Offered, cost: Balance, limit: Balance, fee: Balance) -> str:
    """What a person agrees to."""
    network = wish.network_on(offer).name.lower()
    more = f" (at most {quantity.dbc(limit)} on another machine)" if limit > cost else ""
    return (
        f"{wish.units} × {offer.model or offer.unit_name} on {offer.name} ({offer.mode}, network {network}) for "
        f"{quantity.span(wish.seconds)} at {quantity.usd(offer.machine.price)} per unit and hour: "
        f"holds {quantity.dbc(cost)}{more}, what is not used comes back; "
        f"fee {quantity.dbc(fee)}"
    )

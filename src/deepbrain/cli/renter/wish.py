"""What a renter asks for, and which machines can give it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deepbrain.cli import quantity
from deepbrain.cli.failure import UserError
from deepbrain.cli.renter.market import Market, Offered
from deepbrain.net.messages import Digest, ImageOffer
from deepbrain.pallets.machines import Network
from deepbrain.pallets.rent import Rent
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import MicroUsd, Seconds

if TYPE_CHECKING:
    from deepbrain.client import Client

MAX_MACHINES = 3
"""Machines that `run` tries, one after the other."""

START_WITHIN: Final = Seconds(600)
"""How long the money waits for a start, unless asked otherwise: uploads take their time."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A run as it was asked for."""

    argv: tuple[str, ...]
    seconds: Seconds
    units: int = 1
    gpu: str | None = None
    machine: str | None = None
    max_price: MicroUsd | None = None
    image: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    out: tuple[str, ...] = ()
    start_within: Seconds = START_WITHIN
    network: Network | None = None
    """None: whatever the machine offers."""

    def network_on(self, offer: Offered) -> Network:
        return offer.machine.network if self.network is None else self.network

    @property
    def image_file(self) -> Path | None:
        """An image of the renter's own: anything that is a file, or looks like a path."""
        if self.image is None:
            return None
        path = Path(self.image)
        if path.is_file():
            return path
        if "/" in self.image and not path.exists() and self.image.startswith((".", "/")):
            raise UserError(f"{self.image} does not exist; name an image file or an image")
        return None


def candidates(market: Market, wish: Wish, renter: AccountId) -> tuple[Offered, ...]:
    """Up to `MAX_MACHINES` machines for the wish, cheapest first.

    Raises: UserError: there is none; the text says what stands in the way.
    """
    left: Sequence[Offered] = market.offers
    if wish.machine is not None:
        left = [market.expect(wish.machine)]
    if not left:
        raise UserError("no machine is offered on this network; try later, or run `dbc join`")
    for narrowed, complaint in _narrowings(left, wish, renter):
        if not narrowed:
            raise UserError(complaint)
        left = narrowed
    return tuple(left[:MAX_MACHINES])


def _narrowings(
    left: Sequence[Offered], wish: Wish, renter: AccountId
) -> "Sequence[tuple[list[Offered], str]]":
    """Each condition on top of those before it, with what to say when nothing is left."""
    gpu = wish.gpu
    of_model = [
        offer
        for offer in left
        if gpu is None or (offer.machine.hardware.gpus and gpu.lower() in offer.model.lower())
    ]
    serving = [offer for offer in of_model if offer.serves(renter)]
    free = [offer for offer in serving if offer.free >= wish.units]
    limit = wish.max_price
    connected = [
        offer
        for offer in free
        if wish.network is not Network.INTERNET or offer.machine.network is Network.INTERNET
    ]
    affordable = [offer for offer in connected if limit is None or offer.machine.price <= limit]
    cheapest = quantity.usd(connected[0].machine.price) if connected else ""
    most = max((offer.free for offer in serving), default=0)
    taken = (
        f"no machine has {wish.units} units free now (the most is {most}); "
        "ask for fewer with --units, or try later"
    )
    return (
        (of_model, f"no machine offers a {gpu}; `dbc gpus` lists what there is"),
        (serving, "what is offered serves only its owner's orders: no machine there has isolation"),
        (free, taken),
        (
            connected,
            "no machine that is free offers internet; ask for --network none, or try later",
        ),
        (affordable, f"the cheapest costs {cheapest} per unit and hour; raise --max-price"),
    )


def choose_image(offered: Sequence[ImageOffer], name: str | None) -> ImageOffer | None:
    """The image of that name (or whose digest starts so); without a name the first one."""
    if name is None:
        return offered[0] if offered else None
    exact = [image for image in offered if image.name == name]
    by_tag = [image for image in offered if image.name.split(":")[0] == name]
    by_digest = [
        image
        for image in offered
        if len(name) >= 8 and image.digest.hex().startswith(name.removeprefix("sha256:"))
    ]
    return next(iter(exact + by_tag + by_digest), None)


def digest_of_file(path: Path) -> Digest:
    """SHA-256 of an image's tar. Raises: UserError: it cannot be read."""
    import hashlib

    try:
        with path.open("rb") as file:
            return Digest(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise UserError(f"{path} cannot be read; name an image file that you can read") from error


def parse_env(entries: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`KEY=VALUE`, or `KEY` alone: then its value is ours, and stands on no command line.

    Raises: UserError: a name is none, or is not set here.
    """
    found: dict[str, str] = {}
    for entry in entries:
        name, given, value = entry.partition("=")
        if not name or not name.replace("_", "a").isalnum() or name[0].isdigit():
            raise UserError(f"{name or entry!r} is no name of a variable; write --env NAME=VALUE")
        if not given and name not in os.environ:
            raise UserError(f"{name} is not set here; write --env {name}=VALUE")
        found[name] = value if given else os.environ[name]
    return tuple(found.items())


async def terms_of(client: "Client") -> str:
    """For how long this chain rents, in words."""
    least, most = [await client.constant(Rent, name) for name in ("min_term", "max_term")]
    return f"this network rents for {quantity.span(least)} to {quantity.span(most)}"

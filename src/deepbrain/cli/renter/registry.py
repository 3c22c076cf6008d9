"""Images named as in registries: pinned to a digest before anything is placed or paid."""

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deepbrain.net.messages import Digest

if TYPE_CHECKING:
    from deepbrain.sandbox.reference import Credentials


@dataclass(frozen=True, slots=True)
class Pinned:
    """One image, whatever its tag will name tomorrow."""

    source: str
    """`registry/repository`."""
    digest: Digest
    credentials: "Credentials | None" = field(repr=False)

    def __str__(self) -> str:
        return f"{self.source}@sha256:{self.digest.hex()}"


def pin(name: str) -> Pinned:
    """Ask the registry which image a name means now; one named by its digest is taken at its word.

    Blocks, for seconds. Raises: ImageError: it is no name; RegistryError: the registry has no such image,
    or does not answer.
    """
    from contextlib import closing
    from hashlib import sha256

    from deepbrain.sandbox.reference import Reference
    from deepbrain.sandbox.registry import Registry, docker_credentials

    reference = Reference.parse(name)
    credentials = docker_credentials(reference)
    if reference.digest:
        return Pinned(reference.source, Digest.from_hex(reference.digest), credentials)
    with closing(Registry(reference, credentials)) as registry:
        manifest = registry.manifest(reference.version)
    return Pinned(reference.source, Digest(sha256(manifest).digest()), credentials)


async def pin_soon(name: str) -> Pinned:
    """As `pin`, and whoever is tired of waiting can leave: nothing waits for the registry at the end."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Pinned] = loop.create_future()

    def tell(found: "Pinned | Exception") -> None:
        if answer.done():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def work() -> None:
        found: Pinned | Exception
        try:
            found = pin(name)
        except Exception as error:  # noqa: BLE001 - told to who waits
            found = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=work, name="registry", daemon=True).start()
    return await answer


def credentials_for(source: str) -> "Credentials | None":
    """What `docker login` left here for a repository; nothing where the image is not pulled.

    Raises: RegistryError.
    """
    from deepbrain.sandbox.reference import Reference
    from deepbrain.sandbox.registry import docker_credentials

    return docker_credentials(Reference.parse_source(source)) if source else None

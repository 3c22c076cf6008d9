"""Names of images in registries, as everybody writes them: `python:3.12`, `ghcr.io/x/y@sha256:…`."""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final, Self

from deepbrain.sandbox.sandbox import ImageError

HUB: Final = "docker.io"
_HUB_HOST: Final = "registry-1.docker.io"
_HUB_KEY: Final = "https://index.docker.io/v1/"
MAX_NAME: Final = 255

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_REGISTRY: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_PART: Final = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Reference:
    """`registry/repository`, and the tag or digest that chooses one image of it."""

    registry: str
    """Host, with its port where one is named; `docker.io` for Docker Hub."""
    repository: str
    tag: str = ""
    digest: str = ""
    """Lower-case hex SHA-256; above the tag where both are named."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises: ImageError: it is no name of an image."""
        name, has_digest, digest = text.partition("@")
        first, slash, rest = name.partition("/")
        is_host = slash and (first == "localhost" or "." in first or ":" in first)
        registry, path = (first.lower(), rest) if is_host else (HUB, name)
        path, has_tag, tag = path.partition(":")
        registry = HUB if registry in (f"index.{HUB}", _HUB_HOST) else registry
        if registry == HUB and "/" not in path:
            path = f"library/{path}"
        matched = _DIGEST.fullmatch(digest)
        if (
            len(name) > MAX_NAME
            or not _REGISTRY.fullmatch(registry)
            or not _REPOSITORY.fullmatch(path)
            or (has_tag and not _TAG.fullmatch(tag))
            or (has_digest and matched is None)
        ):
            raise ImageError(
                f"{text[:100]!r} names no image; write registry/name:tag or name@sha256:…"
            )
        return cls(registry, path, tag, "" if matched is None else matched[1])

    @classmethod
    def parse_source(cls, text: str) -> Self:
        """A `registry/repository` in its one full form. Raises: ImageError: anything else."""
        found = cls.parse(text)
        if found.source != text or found.tag or found.digest:
            raise ImageError(f"{text[:100]!r} is not the full name of a repository")
        return found

    @property
    def source(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def version(self) -> str:
        """What is asked for in the repository."""
        return f"sha256:{self.digest}" if self.digest else self.tag or "latest"

    @property
    def host(self) -> str:
        """Who answers for the registry, with port."""
        return _HUB_HOST if self.registry == HUB else self.registry

    @property
    def credentials_key(self) -> str:
        """Under which name Docker's configuration keeps the credentials."""
        return _HUB_KEY if self.registry == HUB else self.registry

    @property
    def is_loopback(self) -> bool:
        """On the very machine that asks: the only place where plain HTTP is spoken."""
        return is_loopback_host(self.host.rpartition(":")[0] if _has_port(self.host) else self.host)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who pulls. Never on disk, in a log, in an argument or in an error."""

    username: str
    secret: str = field(repr=False)


def _has_port(host: str) -> bool:
    return re.search(r":[0-9]{1,5}$", host) is not None and not host.endswith("]")


def is_loopback_host(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

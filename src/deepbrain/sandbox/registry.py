"""A registry of images as its client sees it, bounded on every side.

`oras` speaks the protocol: challenges, tokens, basic authentication. What is ours is the distrust: plain
HTTP on loopback only, few redirects, short answers, no proxy and no configuration from the environment,
a time without a byte after which it is over, and a hash for everything.
"""

import inspect
import io
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

import oras.auth
import oras.container
import oras.logger
import oras.provider
import requests
import urllib3
from requests.adapters import HTTPAdapter

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.sandbox.addresses import PrivateAddress
from deepbrain.sandbox.reference import Credentials, Reference, is_loopback_host

MAX_MANIFEST: Final = 4 << 20
MAX_ANSWER: Final = 64 << 10
"""Bytes of an answer that is neither manifest nor blob: a token, a redirect, an error."""
MAX_REDIRECTS: Final = 5
CONNECT_SECONDS: Final = 15.0
READ_SECONDS: Final = 30.0
CHUNK: Final = 256 << 10

_request: Final = inspect.unwrap(oras.provider.Registry.do_request)
"""Without the library's own patience, which sleeps for minutes on what no patience helps with."""

MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


class RegistryError(DeepBrainError):
    """A registry does not give the image; the text is one sentence."""


class RegistryBusy(RegistryError):
    """It may, if asked again: it was cut off, or is overloaded."""


def docker_credentials(reference: Reference) -> Credentials | None:
    """What `docker login` left here for the registry, by its credential helpers too.

    Raises: RegistryError: there are some, of a kind that cannot be handed on.
    """
    backend = oras.auth.get_auth_backend("token")
    container = oras.container.Container(reference.source)
    container.registry = reference.credentials_key
    try:
        backend.load_configs(container)
        found = getattr(backend, "_basic_auth", None)
        username, _, secret = b64decode(found).decode().partition(":") if found else ("", "", "")
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise RegistryError(
            "the credentials in ~/.docker/config.json cannot be read; log in again with docker login"
        ) from error
    if not found:
        return None
    if username == "<token>":
        raise RegistryError(
            f"docker is logged in to {reference.registry} by a browser; "
            "log in with a user name and an access token"
        )
    return Credentials(username, secret)


class Registry:
    """One repository, reached as one user."""

    def __init__(
        self,
        reference: Reference,
        credentials: Credentials | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._name = reference.registry
        scheme = "http" if reference.is_loopback else "https"
        self._root = f"{scheme}://{reference.host}/v2/"
        self._base = f"{self._root}{reference.repository}"
        self._credentials = credentials
        self._oras = _quiet_oras(reference, read_seconds)
        self._is_greeted = False

    def close(self) -> None:
        self._oras.session.close()

    def manifest(self, version: str) -> bytes:
        """A manifest or an index, by tag or by `sha256:…`; by digest it is checked.

        Raises: RegistryError.
        """
        accept = {"Accept": ", ".join(MANIFEST_TYPES)}
        with self._trouble(), self._get(f"manifests/{version}", accept) as response:
            data = _read_bounded(response, MAX_MANIFEST)
        if version.startswith("sha256:") and f"sha256:{sha256(data).hexdigest()}" != version:
            raise RegistryError(f"{self._name} sent another image than the one that was named")
        return data

    def blob(self, digest: str, offset: int) -> Iterator[bytes]:
        """Bytes of a blob, from `offset` on where the registry can, else from its beginning: then the
        first piece is empty. Nothing is checked here, neither length nor hash. Raises: RegistryError.
        """
        headers = {"Accept": "*/*"} | ({"Range": f"bytes={offset}-"} if offset else {})
        with self._trouble(), self._get(f"blobs/{digest}", headers) as response:
            if offset and not _starts_at(response, offset):
                yield b""
            while chunk := response.raw.read1(CHUNK, decode_content=False):
                yield chunk

    def _get(self, path: str, headers: dict[str, str]) -> Any:
        self._greet()
        url = f"{self._base}/{path}"
        response = self._ask(url, headers)
        if response.status_code == 401 and getattr(self._oras.auth, "token", None):
            self._oras.auth.token = None  # it was for a few minutes
            response.close()
            response = self._ask(url, headers)
        if response.status_code in (200, 206):
            return response
        response.close()
        raise self._refusal(response.status_code)

    def _ask(self, url: str, headers: dict[str, str]) -> Any:
        known = {}
        if isinstance(self._oras.auth, oras.auth.BasicAuth):
            known = self._oras.auth.get_auth_header()
        fixed = {"Accept-Encoding": "identity", "User-Agent": "deepbrain"}
        return _request(self._oras, url, "GET", headers=fixed | headers | known, stream=True)

    def _greet(self) -> None:
        """Learn which kind of authentication is wanted: the library is told, and does it."""
        if self._is_greeted:
            return
        answer = self._oras.session.get(self._root)
        challenge = answer.headers.get("Www-Authenticate", "").lower()
        found = self._credentials
        if answer.status_code == 401 and challenge.startswith("basic"):
            if found is None:
                raise self._refusal(401)
            self._oras.auth = oras.auth.get_auth_backend("basic", self._oras.session)
        if found is not None:
            self._oras.auth.set_basic_auth(found.username, found.secret)
        self._is_greeted = True

    def _refusal(self, status: int) -> RegistryError:
        if status in (401, 403):
            how = "refuses these credentials" if self._credentials else "wants credentials"
            return RegistryError(
                f"{self._name} {how}, or has no such image; check the name and `docker login`"
            )
        if status == 404:
            return RegistryError(f"{self._name} has no such image; check its name and tag")
        if status == 429:
            return RegistryBusy(f"{self._name} has had too many requests; try again later")
        if status >= 500:
            return RegistryBusy(f"{self._name} fails with {status}; try again later")
        return RegistryError(f"{self._name} answers with {status}, which no registry should")

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Whatever goes wrong below becomes one sentence; strangers' words are not repeated."""
        try:
            yield
        except RegistryError:
            raise
        except requests.exceptions.TooManyRedirects as error:
            raise RegistryError(f"{self._name} redirects without end") from error
        except requests.exceptions.SSLError as error:
            raise RegistryError(f"{self._name} cannot prove who it is (TLS)") from error
        except (
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            raise self._failure(error) from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise RegistryError(
                f"{self._name} wants credentials, or does not speak as a registry should"
            ) from error

    def _failure(self, error: BaseException) -> RegistryError:
        found: BaseException | None = error
        while found is not None:
            if isinstance(found, PrivateAddress):
                return RegistryError(
                    f"{self._name} leads to a private address, and this machine serves "
                    "images from public registries only"
                )
            if isinstance(found, _NotAllowed):
                return RegistryError(f"{self._name} {found}")
            if isinstance(found, TimeoutError | requests.exceptions.Timeout):
                return RegistryBusy(f"{self._name} does not answer")
            found = found.__cause__ or found.__context__
        return RegistryBusy(f"{self._name} cannot be reached, or broke off")


class _NotAllowed(requests.exceptions.InvalidURL):
    """The text goes on after the registry's name."""


class _Bounded(HTTPAdapter):
    """Every request passes here, redirects and token requests too."""

    def __init__(self, read_seconds: float) -> None:
        super().__init__()
        self._timeouts = (CONNECT_SECONDS, read_seconds)

    def send(self, request: Any, stream: bool = False, *_: Any, **options: Any) -> Any:
        url = urlsplit(request.url)
        if url.scheme != "https" and not is_loopback_host(url.hostname or ""):
            raise _NotAllowed("leads to a place without encryption")
        options |= {"timeout": self._timeouts, "proxies": {}, "verify": True, "cert": None}
        response = super().send(request, stream=True, **options)
        is_wanted = response.status_code in (200, 206)
        if not (stream and is_wanted):  # then all of it is read somewhere, or nobody closes it
            held = response.raw
            try:
                response.raw = io.BytesIO(_read_bounded(response, MAX_ANSWER, cut=not is_wanted))
            finally:
                held.close()
        return response


def _quiet_oras(reference: Reference, read_seconds: float) -> Any:
    oras.logger.setup_logger(quiet=True)
    made = oras.provider.Registry(hostname=reference.host, insecure=reference.is_loopback)
    made.session.trust_env = False  # no proxy, no .netrc of whoever runs this
    made.session.max_redirects = MAX_REDIRECTS
    for scheme in ("https://", "http://"):
        made.session.mount(scheme, _Bounded(read_seconds))
    return made


def _read_bounded(response: Any, limit: int, *, cut: bool = False) -> bytes:
    found = bytearray()
    while chunk := response.raw.read1(CHUNK, decode_content=False):
        found += chunk
        if len(found) > limit and cut:
            break
        if len(found) > limit:
            raise _NotAllowed(f"sends more than {limit >> 10} KiB where little is expected")
    return bytes(found)


def _starts_at(response: Any, offset: int) -> bool:
    range_ = response.headers.get("Content-Range", "")
    return response.status_code == 206 and str(range_).startswith(f"bytes {offset}-")

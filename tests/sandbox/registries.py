"""A real registry on loopback, images in it, and a proxy before it that misbehaves."""

import base64
import contextlib
import gzip
import http.client
import io
import json
import os
import re
import socket
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
USER, PASSWORD = "renter", "sesame"
HTPASSWD: Final = f"{USER}:$2b$05$kMf3/Y5G0rZN66lChs8.GenFoWvWnoZgy2nQvuB88j3ihj/lvbNey\n"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"


def program() -> Path:
    """Debian's docker-registry; skips the test where it cannot be had, unless nothing may be skipped."""
    found = ROOT / ".cache" / "bin" / "docker-registry"
    if not found.exists():
        done = subprocess.run(
            [ROOT / "scripts" / "get-registry", found.parent],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1]
            if os.environ.get("REQUIRE_GVISOR"):
                pytest.fail(reason)
            pytest.skip(reason)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(place: Path, *, with_password: bool = False) -> Iterator[int]:
    """The port of a fresh registry."""
    place.mkdir(exist_ok=True)
    port = free_port()
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(place / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if with_password:
        (place / "htpasswd").write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(place / "htpasswd")}}
    (place / "config.yml").write_text(json.dumps(config))  # JSON is YAML, too
    log = (place / "log").open("wb")
    command = [program(), "serve", place / "config.yml"]
    process = subprocess.Popen(command, stdout=log, stderr=log, env={"HOME": str(place)})
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, (place / "log").read_text()
            assert time.monotonic() < deadline, "the registry does not come up"
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()
        log.close()


# -- images


def base_layer(archive: Path, wanted: Callable[[str], bool] = lambda _: True) -> bytes:
    """The layer of an image that `baseimage.build` made, or those files of it that are wanted."""
    with tarfile.open(archive) as outer:
        name = next(name for name in outer.getnames() if name.endswith("/layer.tar"))
        content = outer.extractfile(name)
        assert content is not None
        whole = content.read()
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(whole)) as old,
        tarfile.open(fileobj=buffer, mode="w") as new,
    ):
        for member in old:
            if wanted(member.name):
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
    return buffer.getvalue()


def layer(files: Mapping[str, bytes], owner: tuple[int, int] = (0, 0), mode: int = 0o755) -> bytes:
    """A tar of files; a name that ends with a slash is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size, member.mode, (member.uid, member.gid) = len(content), mode, owner
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@dataclass
class Made:
    """An image's blobs and manifests, by digest."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    digest: str = ""
    """Hex; of the manifest or index made last."""

    def _blob(self, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{sha256(data).hexdigest()}"
        self.blobs[digest] = data
        return {"digest": digest, "size": len(data), "mediaType": "application/octet-stream"}

    def add(self, layers: list[bytes], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A manifest; layers are gzipped unless they are compressed already."""
        packed = [data if data[:4] == b"\x28\xb5\x2f\xfd" else gzip.compress(data, mtime=0)
                  for data in layers]  # fmt: skip
        whole = {"architecture": "amd64", "os": "linux", "config": dict(config or {})}
        described = self._blob(json.dumps(whole).encode())
        described["mediaType"] = "application/vnd.oci.image.config.v1+json"
        named = [self._blob(data) for data in packed]
        for entry in named:
            entry["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
        return self.add_manifest(
            MANIFEST,
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": named},
        )

    def add_index(self, *entries: tuple[dict[str, Any], str]) -> dict[str, Any]:
        manifests = [
            {**entry, "platform": {"architecture": name, "os": "linux"}} for entry, name in entries
        ]
        return self.add_manifest(
            INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        )

    def add_manifest(self, kind: str, document: Any) -> dict[str, Any]:
        data = json.dumps(document).encode()
        self.digest = sha256(data).hexdigest()
        self.manifests[f"sha256:{self.digest}"] = (kind, data)
        return {"mediaType": kind, "digest": f"sha256:{self.digest}", "size": len(data)}

    def write(self, place: Path) -> None:
        """As a puller leaves it: a file for each blob, by the hex of its digest."""
        place.mkdir(exist_ok=True)
        manifests = {digest: data for digest, (_, data) in self.manifests.items()}
        for digest, data in (self.blobs | manifests).items():
            (place / digest.removeprefix("sha256:")).write_bytes(data)

    def push(self, port: int, repository: str, tag: str, *, with_password: bool = False) -> None:
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        known = {"Authorization": f"Basic {auth}"} if with_password else {}
        for digest, data in self.blobs.items():
            began = ask(port, "POST", f"/v2/{repository}/blobs/uploads/", known)
            place = re.sub(r"^https?://[^/]+", "", began.headers["Location"])
            done = ask(port, "PUT", f"{place}&digest={digest}", known, data)
            assert done.status == 201, done.body
        for digest, (kind, data) in self.manifests.items():
            for name in (digest, tag):
                done = ask(port, "PUT", f"/v2/{repository}/manifests/{name}",
                           known | {"Content-Type": kind}, data)  # fmt: skip
                assert done.status == 201, done.body


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    port: int, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, dict(headers))
        found = connection.getresponse()
        return Answer(found.status, dict(found.getheaders()), found.read())
    finally:
        connection.close()


# -- what stands between


@dataclass
class Asked:
    """A request as the proxy got it."""

    path: str
    headers: Mapping[str, str]


Misdeed = Callable[["Proxy", Any, Answer], bool]
"""Whether it has answered itself. Gets the proxy, the handler and the registry's own answer."""


class Proxy:
    """Passes GETs on to a registry, unless `misdeed` answers otherwise."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.misdeed: Misdeed | None = None
        self.asked: list[Asked] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.asked.append(Asked(self.path, dict(self.headers)))
                passed = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                answer = ask(proxy.upstream, "GET", self.path, passed)
                with contextlib.suppress(ConnectionError):
                    if proxy.misdeed is None or not proxy.misdeed(proxy, self, answer):
                        send(self, answer)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wrap(self, context: ssl.SSLContext) -> None:
        """From now on speak TLS."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def blobs_asked(self) -> list[Asked]:
        return [asked for asked in self.asked if "/blobs/" in asked.path]


def send(handler: Any, answer: Answer, *, length: int | None = None) -> None:
    handler.send_response(answer.status)
    for name, value in answer.headers.items():
        if name.lower() not in ("content-length", "date", "connection"):
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(answer.body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(answer.body)
    handler.wfile.flush()


def is_blob(handler: Any, least: int = 0) -> Callable[[Answer], bool]:
    return lambda answer: "/blobs/" in handler.path and len(answer.body) > least


def break_off(handler: Any) -> None:
    """End the connection in the middle."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


# Fixtures, over the `made` of the module that takes them.


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, made: Made) -> Iterator[int]:
    """Of a registry that is open to all."""
    with serving(tmp_path_factory.mktemp("registry")) as port:
        made.push(port, "team/job", "1.0")
        yield port


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, made: Made) -> Iterator[int]:
    """Of one that wants a password."""
    with serving(tmp_path_factory.mktemp("locked"), with_password=True) as port:
        made.push(port, "team/job", "1.0", with_password=True)
        yield port


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    with Proxy(port) as proxy:
        yield proxy

"""Images out of registries: everything a registry may do instead of its duty ends in one sentence."""

import datetime as dt
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.sandbox import registries
from tests.sandbox.registries import (
    PASSWORD,
    USER,
    Answer,
    Made,
    Proxy,
    break_off,
    layer,
    send,
)

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.sandbox import addresses, pull, registry
from deepbrain.sandbox.images import unpack_blobs
from deepbrain.sandbox.pull import Pull, Refused, Wanted
from deepbrain.sandbox.reference import Credentials, Reference
from deepbrain.sandbox.registry import Registry, RegistryError
from deepbrain.sandbox.sandbox import ImageError

BIG = os.urandom(3 << 20)


@pytest.fixture(scope="module")
def made() -> Made:
    """An index whose first image is for another machine, and which has a large layer."""
    made = Made()
    other = made.add([layer({"wrong": b""})])
    right = made.add(
        [layer({"bin/": b"", "bin/job": b"job"}), layer({"big": BIG})], {"Cmd": ["/bin/job"]}
    )
    made.add_index((other, "riscv64"), (right, "amd64"))
    return made


port, locked, proxy = registries.port, registries.locked, registries.proxy


@pytest.fixture
def at(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "blobs").mkdir()
    descriptor = os.open(tmp_path / "blobs", os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def wanted(port: int, made: Made, **changes: Any) -> Wanted:
    reference = Reference.parse_source(f"127.0.0.1:{port}/team/job")
    return replace(Wanted(reference, made.digest, 64 << 20, 2.0), **changes)


def fetch(what: Wanted, at: int) -> list[int]:
    """Pull; what was told beforehand of the size."""
    told: list[int] = []
    Pull(what, at, sleep=lambda _: None).run(told.append)
    return told


def sentence(what: Wanted, at: int) -> str:
    """How a pull fails, in one line."""
    with pytest.raises((Refused, RegistryError, ImageError)) as caught:
        fetch(what, at)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


def whole(at: int) -> list[str]:
    return [name for name in os.listdir(at) if not name.endswith(".part")]


# -- what should work


def test_an_image_by_digest_for_this_machine(
    port: int, made: Made, at: int, tmp_path: Path
) -> None:
    told = fetch(wanted(port, made), at)
    assert told == [sum(os.stat(name, dir_fd=at).st_size for name in whole(at)
                        if f"sha256:{name}" in made.blobs)]  # fmt: skip
    rootfs = tmp_path / "rootfs"
    rootfs.mkdir()
    config = unpack_blobs(at, made.digest, rootfs)
    assert config.argv == ("/bin/job",)
    assert (rootfs / "big").read_bytes() == BIG
    assert not (rootfs / "wrong").exists()


def test_a_tag_is_what_the_registry_says(port: int, made: Made) -> None:
    reference = Reference.parse(f"127.0.0.1:{port}/team/job:1.0")
    with closing(Registry(reference)) as asked:
        assert sha256(asked.manifest(reference.version)).hexdigest() == made.digest
        with pytest.raises(RegistryError, match="no such image"):
            asked.manifest("2.0")


def test_layers_of_zstd_and_many_frames(port: int, at: int, tmp_path: Path) -> None:
    made = Made()
    data = layer({"z": b"zstd"})
    frames = b"".join(zstandard.compress(part) for part in (data[:700], data[700:]))
    made.add([frames])
    made.push(port, "team/job", "zstd")
    fetch(wanted(port, made), at)
    (tmp_path / "rootfs").mkdir()
    unpack_blobs(at, made.digest, tmp_path / "rootfs")
    assert (tmp_path / "rootfs" / "z").read_bytes() == b"zstd"


def test_a_password_and_who_lacks_it(locked: int, made: Made, at: int) -> None:
    assert "wants credentials" in sentence(wanted(locked, made), at)
    bad = Credentials(USER, "wrong")
    assert "refuses these credentials" in sentence(wanted(locked, made, credentials=bad), at)
    assert whole(at) == []
    fetch(wanted(locked, made, credentials=Credentials(USER, PASSWORD)), at)
    assert f"{made.digest}" in whole(at)


def test_a_token_that_runs_out_is_fetched_anew(proxy: Proxy, made: Made, at: int) -> None:
    tokens: list[str] = []

    def guard(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if handler.path.startswith("/token"):
            known = handler.headers["Authorization"]
            assert known == "Basic cmVudGVyOnNlc2FtZQ=="
            tokens.append(f"token-{len(tokens)}")
            send(handler, Answer(200, {}, json.dumps({"token": tokens[-1]}).encode()))
            return True
        if tokens and handler.headers.get("Authorization") == f"Bearer {tokens[-1]}":
            if "/blobs/" in handler.path and len(tokens) == 1:
                tokens.append("another")  # from now on the first is worth nothing
            return False
        realm = f'Bearer realm="http://127.0.0.1:{proxy.port}/token",service="r",scope="pull"'
        send(handler, Answer(401, {"Www-Authenticate": realm}, b"{}"))
        return True

    proxy.misdeed = guard
    fetch(wanted(proxy.port, made, credentials=Credentials(USER, PASSWORD)), at)
    assert len(tokens) > 2


def test_what_was_cut_off_goes_on_where_it_was(proxy: Proxy, made: Made, at: int) -> None:
    cuts = []

    def cut(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/blobs/" in handler.path and len(answer.body) > (1 << 20) and len(cuts) < 2:
            cuts.append(handler.headers.get("Range"))
            half = replace_body(answer, answer.body[: len(answer.body) // 3])
            send(handler, half, length=len(answer.body))
            break_off(handler)
            return True
        return False

    proxy.misdeed = cut
    fetch(wanted(proxy.port, made), at)
    ranges = [asked.headers.get("Range") for asked in proxy.blobs_asked()]
    assert len(cuts) == 2
    assert sum(found is not None for found in ranges) == 2, ranges
    assert not [name for name in os.listdir(at) if name.endswith(".part")]


def test_a_registry_without_ranges_begins_anew(proxy: Proxy, made: Made, at: int) -> None:
    cuts = []

    def cut(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/blobs/" not in handler.path or len(answer.body) < 1 << 20:
            return False
        if not cuts:
            cuts.append(1)
            send(handler, replace_body(answer, answer.body[:500_000]), length=len(answer.body))
            break_off(handler)
        else:
            plain = registries_ask(proxy.upstream, handler.path)
            send(handler, plain)
        return True

    proxy.misdeed = cut
    fetch(wanted(proxy.port, made), at)
    assert cuts


def test_a_second_pull_goes_on_behind_the_first(proxy: Proxy, made: Made, at: int) -> None:
    def cut(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/blobs/" in handler.path and len(answer.body) > 1 << 20:
            send(handler, replace_body(answer, answer.body[: 1 << 20]), length=len(answer.body))
            raise_all(handler)
        return "/blobs/" in handler.path and len(answer.body) > 1 << 20

    def raise_all(handler: Any) -> None:
        break_off(handler)
        proxy.misdeed = lambda _p, h, _a: (send(h, Answer(503, {}, b"")), True)[1]

    proxy.misdeed = cut
    assert "503" in sentence(wanted(proxy.port, made), at)
    proxy.misdeed = None
    proxy.asked.clear()
    fetch(wanted(proxy.port, made), at)
    assert [asked.headers["Range"] for asked in proxy.blobs_asked()] == [f"bytes={1 << 20}-"]


# -- what a registry does wrong


def test_a_stall_is_given_up(proxy: Proxy, made: Made, at: int) -> None:
    def stall(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/blobs/" not in handler.path or len(answer.body) < 1 << 20:
            return False
        send(handler, replace_body(answer, answer.body[:1000]), length=len(answer.body))
        time.sleep(2.0)
        return True

    proxy.misdeed = stall
    began = time.monotonic()
    found = sentence(wanted(proxy.port, made, stall_seconds=0.3), at)
    assert "does not answer" in found or "broke off" in found
    assert time.monotonic() - began < 20


def test_a_drip_is_a_stall(proxy: Proxy, made: Made, at: int) -> None:
    def drip(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/blobs/" not in handler.path or len(answer.body) < 1 << 20:
            return False
        send(handler, replace_body(answer, b""), length=len(answer.body))
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.05)
        return True

    proxy.misdeed = drip
    what = Pull(wanted(proxy.port, made, stall_seconds=0.4), at, sleep=lambda _: None)
    with closing(what._registry), pytest.raises(RegistryError, match="stalled"):
        for _ in what._watched(large(made), 0, 3 << 20):
            continue


def test_other_bytes_than_the_digest_says(proxy: Proxy, made: Made, at: int) -> None:
    def lie(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/blobs/" not in handler.path or len(answer.body) < 1 << 20:
            return False
        send(handler, replace_body(answer, b"!" + answer.body[1:]))
        return True

    proxy.misdeed = lie
    assert "not the one its manifest names" in sentence(wanted(proxy.port, made), at)
    assert large(made) not in whole(at)


def test_another_manifest_than_the_digest_says(proxy: Proxy, made: Made, at: int) -> None:
    def lie(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/manifests/" not in handler.path:
            return False
        send(handler, replace_body(answer, answer.body + b" "))
        return True

    proxy.misdeed = lie
    assert "another image" in sentence(wanted(proxy.port, made), at)
    assert whole(at) == []


def test_more_bytes_than_announced(proxy: Proxy, made: Made, at: int) -> None:
    def flood(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/blobs/" not in handler.path or len(answer.body) < 1 << 20:
            return False
        send(handler, replace_body(answer, answer.body + bytes(1 << 20)))
        return True

    proxy.misdeed = flood
    assert "more than its manifest says" in sentence(wanted(proxy.port, made), at)


def test_bounds(port: int, made: Made, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has room for 1 MiB" in sentence(wanted(port, made, max_bytes=1 << 20), at)
    assert not [name for name in whole(at) if f"sha256:{name}" in made.blobs]
    monkeypatch.setattr(pull, "MAX_LAYERS", 1)
    assert "more than 1 layers" in sentence(wanted(port, made), at)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"config": {"digest": "md5:1", "size": 1}, "layers": []}, "without a SHA-256"),
        ({"config": {"digest": "sha256:" + "../" * 21 + "x", "size": 1}, "layers": []}, "SHA-256"),
        (
            {"config": {"digest": "sha256:" + "0" * 64, "size": -1}, "layers": []},
            "without its size",
        ),
        ({"config": None, "layers": []}, "malformed"),
        ({"config": {}, "layers": 7}, "malformed"),
        ([], "leads to no manifest"),
        ({"manifests": []}, "architecture"),
    ],
)
def test_hostile_manifests(
    proxy: Proxy, made: Made, at: int, document: object, complaint: str
) -> None:
    data = json.dumps(document).encode()

    def serve(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/manifests/" not in handler.path:
            return False
        send(handler, Answer(200, {}, data))
        return True

    proxy.misdeed = serve
    what = wanted(proxy.port, made, digest=sha256(data).hexdigest())
    assert complaint in sentence(what, at)


def test_endless_answers_are_cut(proxy: Proxy, made: Made, at: int) -> None:
    def flood(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if handler.path != "/v2/":
            return False
        send(handler, Answer(200, {}, bytes(registry.MAX_ANSWER + 1)))
        return True

    proxy.misdeed = flood
    assert "little is expected" in sentence(wanted(proxy.port, made), at)


def test_redirects_without_end(proxy: Proxy, made: Made, at: int) -> None:
    def turn(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/blobs/" not in handler.path:
            return False
        send(handler, Answer(307, {"Location": handler.path + "x"}, b""))
        return True

    proxy.misdeed = turn
    assert "redirects without end" in sentence(wanted(proxy.port, made), at)


@pytest.mark.parametrize("place", ["http://192.0.2.1/blob", "ftp://127.0.0.1/x"])
def test_redirects_out_of_encryption(proxy: Proxy, made: Made, at: int, place: str) -> None:
    def turn(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/blobs/" not in handler.path:
            return False
        send(handler, Answer(307, {"Location": place}, b""))
        return True

    proxy.misdeed = turn
    found = sentence(wanted(proxy.port, made), at)
    assert "without encryption" in found or "broke off" in found


# -- encryption


@pytest.fixture
def sealed(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reference:
    """The proxy speaks TLS as `registry.test`, vouched for by an authority of its own."""
    certificate = make_certificate(tmp_path, "registry.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    proxy.wrap(context)
    plain = socket.getaddrinfo

    def resolve(host: Any, *more: Any, **options: Any) -> Any:
        return plain("127.0.0.1" if host == "registry.test" else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(certificate))
    return Reference.parse_source(f"registry.test:{proxy.port}/team/job")


def make_certificate(place: Path, name: str) -> Path:
    """A key and a certificate that vouches for itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(named, named, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = place / "tls.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


def test_registries_elsewhere_are_asked_by_tls(sealed: Reference, made: Made, at: int) -> None:
    fetch(wanted(0, made, reference=sealed), at)
    assert large(made) in whole(at)


def test_who_cannot_prove_its_name_is_not_believed(
    sealed: Reference, made: Made, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    plain = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **options: plain(
        "127.0.0.1", *more, **options))  # fmt: skip
    assert "cannot prove who it is" in sentence(wanted(0, made, reference=sealed), at)
    assert whole(at) == []


# -- where it may connect to


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "0.0.0.0", "168.63.129.16", "::ffff:168.63.129.16",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fc00::1", "fd12::1", "fe80::1",
        "fe80::1%eth0", "ff02::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::a00:1",
        "64:ff9b::7f00:1", "2002:a00:1::", "2002:7f00:1::1", "nonsense",
    ],
)  # fmt: skip
def test_addresses_that_are_nearer_than_the_internet(address: str) -> None:
    assert not addresses.is_outside(address)


def test_public_addresses_unless_they_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert addresses.is_outside("1.1.1.1")
    assert addresses.is_outside("2606:4700::1111")
    assert addresses.is_outside("64:ff9b::101:101")
    monkeypatch.setattr(addresses, "_is_ours", lambda address: str(address) == "1.1.1.1")
    assert not addresses.is_outside("1.1.1.1")
    monkeypatch.undo()
    routes = [
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask",
        "eth0\t00000000\t01000001\t0003\t0\t0\t0\t00000000",
        "eth0\t00010101\t00000000\t0001\t0\t0\t0\t00FFFFFF",
    ]
    monkeypatch.setattr(addresses, "_lines", lambda path: routes if path.endswith("route") and
                        "ipv6" not in path else [])  # fmt: skip
    assert not addresses.is_outside("1.1.1.77"), "a network that this machine is in"
    assert addresses.is_outside("1.1.2.77")


def test_an_address_that_can_be_bound_is_ours() -> None:
    import ipaddress

    assert addresses._is_ours(ipaddress.ip_address("127.0.0.1"))
    assert not addresses._is_ours(ipaddress.ip_address("1.1.1.1"))


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a puller, but 127.0.0.1 stands for the internet; the rest of loopback is private."""
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)  # to be put back
    monkeypatch.setattr(addresses, "is_outside", lambda text: text == "127.0.0.1")
    addresses.admit_outside_only()


@pytest.mark.usefixtures("guarded")
def test_a_private_registry_is_not_asked(proxy: Proxy, made: Made, at: int) -> None:
    reference = Reference.parse_source(f"127.0.0.2:{proxy.port}/team/job")
    assert "private address" in sentence(wanted(proxy.port, made, reference=reference), at)
    assert proxy.asked == []


@pytest.mark.usefixtures("guarded")
def test_a_redirect_to_a_private_address(proxy: Proxy, made: Made, at: int) -> None:
    def turn(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        if "/blobs/" not in handler.path:
            return False
        send(handler, Answer(307, {"Location": f"http://127.0.0.2:{proxy.port}/secret"}, b""))
        return True

    proxy.misdeed = turn
    assert "private address" in sentence(wanted(proxy.port, made), at)
    assert not [asked for asked in proxy.asked if "secret" in asked.path]


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("credentials", [None, Credentials(USER, PASSWORD)])
def test_a_realm_at_a_private_address(
    proxy: Proxy, made: Made, at: int, credentials: Credentials | None
) -> None:
    def turn(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        realm = f'Bearer realm="http://127.0.0.2:{proxy.port}/token",service="s"'
        send(handler, Answer(401, {"Www-Authenticate": realm}, b""))
        return True

    proxy.misdeed = turn
    found = sentence(wanted(proxy.port, made, credentials=credentials), at)
    assert "private address" in found
    assert not [asked for asked in proxy.asked if "token" in asked.path]


def test_a_name_that_changes_its_mind(
    proxy: Proxy, made: Made, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: each connection goes to what was checked for it, and to nothing else."""
    plain, answers = socket.getaddrinfo, ["127.0.0.2", "127.0.0.2", "127.0.0.1"]

    def rebind(host: Any, *more: Any, **options: Any) -> Any:
        return plain(answers.pop() if host == "localhost" else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    monkeypatch.setattr(addresses, "is_outside", lambda text: text == "127.0.0.1")
    addresses.admit_outside_only()

    def close(proxy: Proxy, handler: Any, answer: Answer) -> bool:
        handler.close_connection = True
        send(
            handler,
            Answer(answer.status, {"Connection": "close"} | dict(answer.headers), answer.body),
        )
        return True

    proxy.misdeed = close
    reference = Reference.parse_source(f"localhost:{proxy.port}/team/job")
    assert "private address" in sentence(wanted(proxy.port, made, reference=reference), at)


# -- small things


def replace_body(answer: Answer, body: bytes) -> Answer:
    return Answer(answer.status, answer.headers, body)


def registries_ask(port: int, path: str) -> Answer:
    from tests.sandbox.registries import ask

    return ask(port, "GET", path, {})


def large(made: Made) -> str:
    """The hex of the large layer."""
    digest = next(name for name, data in made.blobs.items() if len(data) > 1 << 20)
    return digest.removeprefix("sha256:")


def test_a_secret_is_in_no_text() -> None:
    known = Credentials("me", "s3cret")
    assert "s3cret" not in repr(known)
    assert "s3cret" not in repr(Wanted(Reference.parse("a/b"), "0" * 64, 1, 1.0, known))
    assert issubclass(RegistryError, DeepBrainError)

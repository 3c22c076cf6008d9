"""Keys on disk: the JSON of polkadot{.js} wallets, and a directory of them.

A key written here opens in a wallet with its password, and the other way round. The file is
`scrypt parameters ‖ nonce ‖ secretbox(PKCS #8 of the secret and the public key)` in base64.

    wallet = Wallet(Path("~/.config/deepbrain/wallet").expanduser())
    phrase = wallet.create("main", password)       # show it once: it is the only backup
    wallet.unlock("main", password).sign(b"…")

Cost: a password check takes about half a second and 128 MiB, on purpose.
Source: `@polkadot/keyring` (`pair/encode`, `pair/decode`), `@polkadot/util-crypto` (`json`, `scrypt`).
"""

import json
import os
import re
import stat
import tempfile
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import scrypt
from pathlib import Path
from secrets import token_bytes
from typing import Any, Final, NamedTuple

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from deepbrain.primitives import ss58
from deepbrain.primitives.errors import InvalidKey
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.keys import Keypair, Scheme, generate_phrase
from deepbrain.primitives.uri import encode_text

MAX_FILE_BYTES: Final = 64 * 1024
"""Far above any keystore: reading one never fills the memory."""

ENCRYPTED: Final = ["scrypt", "xsalsa20-poly1305"]
PLAIN: Final = ["none"]

_VERSION: Final = "3"
_HEADER: Final = bytes((48, 83, 2, 1, 1, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32))
_DIVIDER: Final = bytes((161, 35, 3, 33, 0))
_SECRET_BYTES: Final = 64
_SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 24
_PARAMETER_BYTES: Final = 12
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DEFAULT_FILE: Final = "default"


class Cost(NamedTuple):
    """scrypt's parameters."""

    n: int
    p: int
    r: int


STANDARD_COST: Final = Cost(1 << 17, 1, 8)

# What wallets write, now and formerly. Anything else is a mistake, or an attempt to exhaust us.
_KNOWN_COSTS: Final = (
    Cost(1 << 13, 10, 8),
    Cost(1 << 14, 5, 8),
    Cost(1 << 15, 3, 8),
    Cost(1 << 15, 1, 8),
    Cost(1 << 16, 2, 8),
    STANDARD_COST,
)
_MAX_MEMORY: Final = 192 << 20


def encrypt(pair: Keypair, password: str, *, name: str = "", cost: Cost = STANDARD_COST) -> str:
    """The keystore of `pair`, as JSON. Raises: InvalidKey: the password is empty."""
    if not password:
        raise InvalidKey("choose a password: a key file without one is open to whoever reads it")
    salt, nonce = token_bytes(_SALT_BYTES), token_bytes(_NONCE_BYTES)
    box = SecretBox(_stretch(password, salt, cost))
    sealed = box.encrypt(_pack(pair), nonce).ciphertext
    parameters = b"".join(number.to_bytes(4, "little") for number in cost)
    return _write(pair, salt + parameters + nonce + sealed, ENCRYPTED, name)


def write_plain(pair: Keypair, *, name: str = "", dev: bool) -> str:
    """The keystore of `pair` without a password, for throw-away networks.

    Raises: InvalidKey: `dev` is false.
    """
    if not dev:
        raise InvalidKey("a key file without a password is for development networks only")
    return _write(pair, _pack(pair), PLAIN, name)


def decrypt(text: str | bytes, password: str, *, dev: bool = False) -> Keypair:
    """The key pair in a keystore. `dev` also opens one without a password.

    Raises: InvalidKey: the file is damaged or of a form we do not know, or the password is wrong.
    """
    keystore = parse(text)
    if keystore.is_encrypted:
        packed = _open(keystore.encoded, password)
    elif dev:
        packed = keystore.encoded
    else:
        raise InvalidKey("the key file has no password: such keys are for development only")
    pair = _unpack(packed, keystore.scheme)
    if pair.public != keystore.account:
        raise InvalidKey("the key file is damaged: its address is not that of its key")
    return pair


@dataclass(frozen=True, slots=True)
class Keystore:
    """What a keystore says of itself before it is opened. Nothing of it is proven."""

    account: AccountId
    scheme: Scheme
    is_encrypted: bool
    encoded: bytes


def parse(text: str | bytes) -> Keystore:
    """Raises: InvalidKey: the file is damaged, or of a form we do not know."""
    if len(text) > MAX_FILE_BYTES:
        raise InvalidKey("this is not a key file: it is far too large")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidKey("the key file is damaged: it is not JSON") from None
    try:
        return _parse_document(document)
    except (KeyError, TypeError):
        raise InvalidKey("the key file is damaged: a part of it is missing") from None


def _parse_document(document: Any) -> Keystore:
    encoding = document["encoding"]
    if encoding["version"] != _VERSION:
        raise InvalidKey("the key file has an old form: export it anew from a current wallet")
    if encoding["type"] not in (ENCRYPTED, PLAIN):
        raise InvalidKey("the key file is sealed in a way we do not know")
    return Keystore(
        account=ss58.decode(_text(document["address"]), prefix=None),
        scheme=_scheme(encoding["content"]),
        is_encrypted=encoding["type"] == ENCRYPTED,
        encoded=_bytes(_text(document["encoded"])),
    )


def _scheme(content: Any) -> Scheme:
    for scheme in (Scheme.SR25519, Scheme.ED25519):
        if content == ["pkcs8", scheme.name.lower()]:
            return scheme
    raise InvalidKey("the key file holds a kind of key we do not use: we use sr25519 and ed25519")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text[2:]) if text.startswith("0x") else b64decode(text, validate=True)
    except ValueError:
        raise InvalidKey("the key file is damaged: its key is not base64") from None


def _stretch(password: str, salt: bytes, cost: Cost) -> bytes:
    return scrypt(
        encode_text(password),
        salt=salt,
        n=cost.n,
        r=cost.r,
        p=cost.p,
        maxmem=_MAX_MEMORY,
        dklen=SecretBox.KEY_SIZE,
    )


def _open(encoded: bytes, password: str) -> bytes:
    if not password:
        raise InvalidKey("the key file needs its password")
    salt, rest = encoded[:_SALT_BYTES], encoded[_SALT_BYTES:]
    numbers, rest = rest[:_PARAMETER_BYTES], rest[_PARAMETER_BYTES:]
    nonce, sealed = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
    if not sealed:
        raise InvalidKey("the key file is damaged: it is cut short")
    cost = Cost(*(int.from_bytes(numbers[i : i + 4], "little") for i in (0, 4, 8)))
    if cost not in _KNOWN_COSTS:
        raise InvalidKey("the key file asks for scrypt parameters that no wallet writes")
    try:
        return SecretBox(_stretch(password, salt, cost)).decrypt(sealed, nonce)
    except CryptoError:
        raise InvalidKey("the password is wrong, or the key file is damaged") from None


def _pack(pair: Keypair) -> bytes:
    return _HEADER + pair.export().expose() + _DIVIDER + pair.public


def _unpack(packed: bytes, scheme: Scheme) -> Keypair:
    middle = len(_HEADER) + _SECRET_BYTES
    body, public = packed[:middle], packed[middle + len(_DIVIDER) :]
    if body[: len(_HEADER)] != _HEADER or packed[middle : middle + len(_DIVIDER)] != _DIVIDER:
        raise InvalidKey("the key file is damaged: its key has an unknown form")
    pair = Keypair.from_exported(scheme, body[len(_HEADER) :])
    if pair.public != public:
        raise InvalidKey("the key file is damaged: its secret and public keys do not match")
    return pair


def _write(pair: Keypair, encoded: bytes, kind: list[str], name: str) -> str:
    document = {
        "encoded": b64encode(encoded).decode(),
        "encoding": {
            "content": ["pkcs8", pair.scheme.name.lower()],
            "type": kind,
            "version": _VERSION,
        },
        "address": pair.address(),
        "meta": {"name": name},
    }
    return json.dumps(document, indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class WalletEntry:
    """A key in the wallet directory; `problem` says why one cannot be used."""

    name: str
    account: AccountId | None
    scheme: Scheme | None
    is_encrypted: bool
    is_default: bool
    problem: str | None = None


class Wallet:
    """A directory of keystores, one file a key, readable by its owner only.

    Every method may raise InvalidKey with one sentence that says what to do. Not for several
    programs that write at once; readers never see half a file.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or Path.home() / ".config" / "deepbrain" / "wallet"

    def names(self) -> tuple[str, ...]:
        """The names of all keys, sorted."""
        if not self.directory.is_dir():
            return ()
        found = (path.stem for path in self.directory.glob("*.json"))
        return tuple(sorted(name for name in found if _NAME.fullmatch(name)))

    def entries(self) -> tuple[WalletEntry, ...]:
        """All keys by name, the unusable ones included."""
        default = self.default()
        return tuple(self._entry(name, default) for name in self.names())

    def default(self) -> str | None:
        """The name of the key used where none is named: the chosen one, or else the only one."""
        names = self.names()
        try:
            chosen = (self.directory / _DEFAULT_FILE).read_text().strip()
        except (OSError, UnicodeDecodeError):
            chosen = ""
        if chosen in names:
            return chosen
        return names[0] if len(names) == 1 else None

    def choose_default(self, name: str) -> None:
        """Use the key called `name` where none is named."""
        self._existing(name)
        self._save(self.directory / _DEFAULT_FILE, name + "\n")

    def create(
        self, name: str, password: str, *, words: int = 12, scheme: Scheme = Scheme.SR25519
    ) -> str:
        """Make a new key. The phrase that is returned is its only backup and is not kept."""
        phrase = generate_phrase(words)
        self.add(name, Keypair.from_phrase(phrase, scheme=scheme), password)
        return phrase

    def add(self, name: str, pair: Keypair, password: str) -> None:
        """Keep a key pair, such as one made of a phrase."""
        path = self._free(name)
        self._save(path, encrypt(pair, password, name=name))

    def add_plain(self, name: str, pair: Keypair, *, dev: bool) -> None:
        """Keep a key pair without a password, on development networks only."""
        path = self._free(name)
        self._save(path, write_plain(pair, name=name, dev=dev))

    def import_json(self, name: str, text: str | bytes, password: str) -> AccountId:
        """Keep a wallet's exported key, after its password has opened it."""
        path = self._free(name)
        pair = decrypt(text, password)
        self._save(path, encrypt(pair, password, name=name))
        return pair.public

    def export_json(self, name: str) -> str:
        """The keystore as a wallet imports it, sealed with the same password."""
        return self._read(self._existing(name)).decode()

    def account(self, name: str) -> AccountId:
        """The account of a key, which needs no password."""
        return self._parsed(name).account

    def unlock(self, name: str, password: str, *, dev: bool = False) -> Keypair:
        """The key pair called `name`."""
        path = self._existing(name)
        if not self._parsed(name).is_encrypted and path.stat().st_mode & (
            stat.S_IRWXG | stat.S_IRWXO
        ):
            raise InvalidKey(f"others can read the open key {path}: run `chmod 600` on it")
        try:
            return decrypt(self._read(path), password, dev=dev)
        except InvalidKey as error:
            raise InvalidKey(f"{error} ({path})") from None

    def remove(self, name: str) -> None:
        """Delete a key for good."""
        self._existing(name).unlink()

    def _entry(self, name: str, default: str | None) -> WalletEntry:
        try:
            found = self._parsed(name)
        except InvalidKey as error:
            return WalletEntry(name, None, None, True, name == default, str(error))
        return WalletEntry(name, found.account, found.scheme, found.is_encrypted, name == default)

    def _parsed(self, name: str) -> Keystore:
        path = self._existing(name)
        try:
            return parse(self._read(path))
        except InvalidKey as error:
            raise InvalidKey(f"{error} ({path})") from None

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidKey(
                "a key is called by 1 to 32 lower-case letters, digits, dashes or underscores"
            )
        return self.directory / f"{name}.json"

    def _free(self, name: str) -> Path:
        path = self._path(name)
        if path.exists():
            raise InvalidKey(f"there is a key called {name} already: choose another name")
        return path

    def _existing(self, name: str) -> Path:
        path = self._path(name)
        if not path.is_file():
            known = ", ".join(self.names()) or "none yet"
            raise InvalidKey(f"there is no key called {name} in {self.directory} (it has: {known})")
        return path

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InvalidKey(f"cannot read the key file {path}: {error.strerror}") from error

    def _sync_directory(self) -> None:
        """Make the rename itself survive a power cut."""
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _save(self, path: Path, text: str) -> None:
        """Write beside the file and rename over it: after a crash it is the old or the new one."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self.directory, prefix=".new-")
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
                self._sync_directory()
            except OSError:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise InvalidKey(f"cannot write the key file {path}: {error.strerror}") from error

"""Secret URIs: `phrase//hard/soft///password`, where every part may be missing."""

from typing import Final

from deepbrain.primitives.errors import InvalidKey
from deepbrain.primitives.hashing import blake2_256

HARD: Final = "hard"
SOFT: Final = "soft"

_MAX_LETTERS: Final = 1024
_CHAIN_CODE_BYTES: Final = 32


class Junction:
    """One step from a key to its child."""

    __slots__ = ("chain_code", "kind")

    def __init__(self, kind: str, name: str) -> None:
        """Raises: InvalidKey: `name` is a number that wallets disagree on."""
        self.kind = kind
        self.chain_code = _chain_code(name)

    def __repr__(self) -> str:
        return f"Junction({self.kind})"


class SecretUri:
    """A secret URI in its parts. It shows none of them."""

    __slots__ = ("junctions", "password", "phrase", "seed")

    def __init__(
        self, phrase: str, seed: bytes | None, junctions: tuple[Junction, ...], password: str
    ) -> None:
        self.phrase = phrase
        self.seed = seed
        self.junctions = junctions
        self.password = password

    @classmethod
    def parse(cls, text: str) -> "SecretUri":
        """Raises: InvalidKey: it is malformed."""
        if len(text) > _MAX_LETTERS:
            raise InvalidKey("the secret URI is too long")
        body, has_password, password = text.partition("///")
        phrase, path = _split_path(body)
        seed = _seed(phrase) if phrase.startswith("0x") else None
        if has_password and seed is not None:
            raise InvalidKey("a hex seed takes no password: remove `///` and what follows")
        return cls(phrase, seed, _junctions(path), password)

    def __repr__(self) -> str:
        return "SecretUri(***)"


def _split_path(body: str) -> tuple[str, str]:
    start = body.find("/")
    return (body, "") if start < 0 else (body[:start], body[start:])


def _seed(phrase: str) -> bytes:
    try:
        return bytes.fromhex(phrase[2:])
    except ValueError:
        raise InvalidKey("a seed is `0x` and 64 hex digits") from None


def _junctions(path: str) -> tuple[Junction, ...]:
    found = []
    while path:
        kind = HARD if path.startswith("//") else SOFT
        rest = path[2 if kind == HARD else 1 :]
        end = rest.find("/")
        name, path = (rest, "") if end < 0 else (rest[:end], rest[end:])
        if not name:
            raise InvalidKey("the secret URI has an empty junction: check its slashes")
        found.append(Junction(kind, name))
    return tuple(found)


def _chain_code(name: str) -> bytes:
    # deterministic: keys are made outside blocks
    if name.isascii() and name.isdigit():
        number = int(name)
        if number >> 64:
            raise InvalidKey("a numeric junction is below 2^64: wallets disagree beyond")
        return number.to_bytes(_CHAIN_CODE_BYTES, "little")
    encoded = _scale_text(encode_text(name))
    if len(encoded) > _CHAIN_CODE_BYTES:
        return blake2_256(encoded)
    return encoded.ljust(_CHAIN_CODE_BYTES, b"\0")


def encode_text(text: str) -> bytes:
    """UTF-8 of what somebody typed. Raises: InvalidKey: the terminal delivered broken text."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidKey("the text is not valid UTF-8: check the terminal's encoding") from None


def _scale_text(text: bytes) -> bytes:
    """SCALE of a string; the codec lies a floor above."""
    size = len(text)
    prefix = bytes((size << 2,)) if size < 64 else (size << 2 | 1).to_bytes(2, "little")
    return prefix + text

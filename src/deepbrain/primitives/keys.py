"""Key pairs and signatures: sr25519 (wallets), ed25519 (machines), and ecdsa, which is only checked.

One library per scheme on every node, pinned: implementations disagree on edge cases, and a node
that accepts a signature its peers refuse has left the chain. ed25519 follows ZIP-215. `self_test`
proves at start that the installed libraries are the ones this chain was made with.

An ecdsa account is the BLAKE2b-256 of its compressed public key, which a signature gives away: 64 bytes
and the number of the point. Only nodes check such, with a library that comes with `deepbrain[node]`.

Source: `sp_core::crypto` (secret URIs), `sp_core::ecdsa`, `substrate-bip39` (phrases), schnorrkel, ZIP-215.
"""

from contextlib import suppress
from enum import Enum
from hashlib import pbkdf2_hmac
from typing import Any, Final, NoReturn

import ed25519_zebra
import sr25519
from mnemonic import Mnemonic

from deepbrain.primitives import ss58
from deepbrain.primitives.errors import InvalidKey
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId, FixedBytes, Hash
from deepbrain.primitives.uri import HARD, Junction, SecretUri, encode_text

DEV_PHRASE: Final = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"
"""The public phrase behind `//Alice` and kin. Whatever it owns belongs to everybody."""

SEED_BYTES: Final = 32
_PBKDF2_ROUNDS: Final = 2048
_STRENGTH: Final = {12: 128, 24: 256}
_EXPORTED_BYTES: Final = 64
_NOBODY: Final = bytes(32)

_secp256k1: Any = None
with suppress(ImportError):  # a renter or a machine, not a node: `verify` says so
    import coincurve as _secp256k1


class Scheme(Enum):
    """A signature scheme. The value is the index in `MultiSignature`."""

    ED25519 = 0
    SR25519 = 1
    ECDSA = 2
    """Checked by nodes; there are no keys of it here."""


class Signature(FixedBytes, size=64):
    """An sr25519 or ed25519 signature."""

    __slots__ = ()


class RecoverableSignature(FixedBytes, size=65):
    """An ecdsa signature, with the number of the point it gives away as the last byte."""

    __slots__ = ()


class Secret:
    """Bytes that no log, traceback or pickle may show. `expose` hands them out, on purpose."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def expose(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret does not leave its process")


class Keypair:
    """A public key and the secret that signs for it."""

    __slots__ = ("_secret", "public", "scheme")

    def __init__(self, scheme: Scheme, public: AccountId, secret: Secret) -> None:
        """`secret` is the seed of ed25519, or the 64-byte schnorrkel secret of sr25519.

        Raises: InvalidKey: the secret is malformed, or belongs to another public key.
        """
        if _public_of(scheme, secret) != public:
            raise InvalidKey("the secret key does not belong to the public key")
        self.scheme = scheme
        self.public = public
        self._secret = secret

    @classmethod
    def from_seed(cls, seed: bytes, scheme: Scheme = Scheme.SR25519) -> "Keypair":
        """Raises: InvalidKey: `seed` has not 32 bytes, or the scheme has no keys here."""
        if len(seed) != SEED_BYTES:
            raise InvalidKey(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        if scheme is Scheme.SR25519:
            public, secret = sr25519.pair_from_seed(seed)
            return cls(scheme, AccountId(public), Secret(secret))
        secret = Secret(seed)
        return cls(scheme, AccountId(_public_of(scheme, secret)), secret)

    @classmethod
    def from_phrase(
        cls, phrase: str, password: str = "", scheme: Scheme = Scheme.SR25519
    ) -> "Keypair":
        """Raises: InvalidKey: the phrase is mistyped."""
        return cls.from_seed(seed_of_phrase(phrase, password), scheme)

    @classmethod
    def from_uri(cls, uri: str, scheme: Scheme = Scheme.SR25519) -> "Keypair":
        """From `phrase//hard/soft///password`; `//Alice` alone stands on the public dev phrase.

        In place of the phrase may stand a seed, `0x` and 64 hex digits. Raises: InvalidKey.
        """
        parsed = SecretUri.parse(uri)
        seed = parsed.seed
        if seed is None:
            seed = seed_of_phrase(parsed.phrase or DEV_PHRASE, parsed.password)
        pair = cls.from_seed(seed, scheme)
        for junction in parsed.junctions:
            pair = pair.derive(junction)
        return pair

    @classmethod
    def from_exported(cls, scheme: Scheme, exported: bytes) -> "Keypair":
        """From the 64 bytes a wallet stores. Raises: InvalidKey: they are not a secret key."""
        if len(exported) != _EXPORTED_BYTES:
            raise InvalidKey(f"an exported secret key has {_EXPORTED_BYTES} bytes")
        if scheme is Scheme.ED25519:
            pair = cls.from_seed(exported[:SEED_BYTES], scheme)
            if pair.public != exported[SEED_BYTES:]:
                raise InvalidKey("the secret key does not belong to the public key")
            return pair
        try:
            public, secret = sr25519.pair_from_ed25519_secret_key(exported)
        except ValueError:
            raise InvalidKey("the secret key is malformed") from None
        return cls(scheme, AccountId(public), Secret(secret))

    def export(self) -> Secret:
        """The 64 bytes a wallet stores: seed and public key of ed25519; of sr25519 the scalar times
        the cofactor 8, as ed25519 expands keys, and the nonce.
        """
        secret = self._secret.expose()
        if self.scheme is Scheme.ED25519:
            return Secret(secret + self.public)
        return Secret(sr25519.convert_secret_key_to_ed25519(secret))

    def derive(self, junction: Junction) -> "Keypair":
        """The child key of a junction. Raises: InvalidKey: soft, with ed25519."""
        if self.scheme is Scheme.ED25519:
            return self._derive_ed25519(junction)
        grow = sr25519.hard_derive_keypair if junction.kind == HARD else sr25519.derive_keypair
        parent = (junction.chain_code, bytes(self.public), self._secret.expose())
        _, public, secret = grow(parent, b"")
        return Keypair(self.scheme, AccountId(public), Secret(secret))

    def _derive_ed25519(self, junction: Junction) -> "Keypair":
        if junction.kind != HARD:
            raise InvalidKey("ed25519 keys have hard junctions only: write `//`, not `/`")
        # SCALE of ("Ed25519HDKD", seed, chain code).
        material = b"\x2cEd25519HDKD" + self._secret.expose() + junction.chain_code
        return Keypair.from_seed(blake2_256(material), self.scheme)

    def sign(self, message: bytes) -> Signature:
        """Sign. sr25519 signatures carry randomness: two of the same message differ."""
        if self.scheme is Scheme.SR25519:
            pair = (bytes(self.public), self._secret.expose())
            return Signature(sr25519.sign(pair, message))
        return Signature(ed25519_zebra.ed_sign(self._secret.expose(), message))

    def address(self, prefix: int = ss58.PREFIX) -> str:
        """The SS58 address."""
        return ss58.encode(self.public, prefix)

    def __repr__(self) -> str:
        # deterministic: keys are made outside blocks
        return f"Keypair({self.scheme.name.lower()}, {self.address()})"


def verify(scheme: Scheme, public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is one of `message` by `public`. False, never an error, on nonsense.

    `public` is the account of an ecdsa key. The all-zero key signs nothing: in both other schemes it is
    a point that anybody can sign for, and people send what they want to destroy to it.
    Cost: about 40 µs sr25519, 60 µs ed25519, 50 µs ecdsa.
    Raises: InvalidKey: an ecdsa signature where the library for it is not installed.
    """
    if scheme is Scheme.ECDSA:
        return _verify_ecdsa(public, signature, message)
    if len(public) != AccountId.SIZE or len(signature) != Signature.SIZE or public == _NOBODY:
        return False
    if scheme is Scheme.ED25519:
        return bool(ed25519_zebra.ed_verify(bytes(signature), message, bytes(public)))
    try:
        return bool(sr25519.verify(bytes(signature), message, bytes(public)))
    except ValueError:
        return False


def _verify_ecdsa(account: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the key that the signature gives away is the account's."""
    if _secp256k1 is None:
        raise InvalidKey("ecdsa signatures need the package coincurve: pip install deepbrain[node]")
    if len(signature) != RecoverableSignature.SIZE:
        return False
    digest = bytes(blake2_256(message))
    try:
        recovered: Any = _secp256k1.PublicKey.from_signature_and_message(
            bytes(signature), digest, None
        )
    # The library raises plain `Exception` where no point fits.
    except Exception:  # noqa: BLE001  determinism: allow
        return False
    return bool(blake2_256(recovered.format(compressed=True)) == account)


def generate_phrase(words: int = 12) -> str:
    """A new BIP-39 phrase from the system's randomness. Raises: InvalidKey: not 12 or 24 words."""
    strength = _STRENGTH.get(words)
    if strength is None:
        raise InvalidKey("a phrase has 12 or 24 words")
    return str(Mnemonic("english").generate(strength))


def seed_of_phrase(phrase: str, password: str = "") -> bytes:
    """The 32-byte seed of a phrase, as Polkadot wallets stretch it: from the entropy, unlike BIP-39.

    Raises: InvalidKey: the phrase is mistyped. Cost: about 2 ms, on purpose.
    """
    try:
        entropy = bytes(Mnemonic("english").to_entropy(" ".join(phrase.split())))
    except (ValueError, LookupError):
        # Without the cause: it would print the words.
        raise InvalidKey(
            "the phrase is not valid: check the spelling and order of its 12 to 24 words"
        ) from None
    salt = b"mnemonic" + encode_text(password)
    return pbkdf2_hmac("sha512", entropy, salt, _PBKDF2_ROUNDS)[:SEED_BYTES]


_PURPOSE_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz-"


def domain_message(purpose: str, genesis: Hash, payload: bytes) -> bytes:
    """What to sign for `purpose` on the chain of `genesis`, so that it means nothing elsewhere."""
    name = purpose.encode()
    if not name or name.strip(_PURPOSE_LETTERS):
        raise InvalidKey("a purpose is made of lower-case letters and dashes")
    return b"DBC/" + name + b"/v1" + genesis + payload


def _public_of(scheme: Scheme, secret: Secret) -> bytes:
    try:
        if scheme is Scheme.SR25519:
            return bytes(sr25519.public_from_secret_key(secret.expose()))
        if scheme is Scheme.ED25519 and len(secret.expose()) == SEED_BYTES:
            return bytes(ed25519_zebra.ed_public_from_secret(secret.expose()))
    except ValueError:
        raise InvalidKey("the secret key is malformed") from None
    raise InvalidKey("the secret key is malformed, or of a scheme that has no keys here")


_VECTORS: Final = (
    # RFC 8032, test 2.
    (
        Scheme.ED25519,
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
        b"\x72",
    ),
    # The identity in a non-canonical spelling: ZIP-215 accepts it, RFC 8032 libraries refuse.
    (Scheme.ED25519, "ee" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f" + "00" * 32, b"zip-215"),
    # Signed by //Alice with @polkadot/util-crypto.
    (
        Scheme.SR25519,
        "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d",
        (
            "1ac5b5fdbcb5633d2d6d2797e9a56399d5ba16a102cb95a7c156b619c78d7509"
            "18e9235e4f53f1de4d03d0b04972d2731e7b83464a41e991ece4ad1d6a93fc8e"
        ),
        b"deepbrain self-test",
    ),
    # The same, with an ecdsa key.
    (
        Scheme.ECDSA,
        "01e552298e47454041ea31273b4b630c64c104e4514aa3643490b8aaca9cf8ed",
        (
            "a1cfaf9d05387d3ad39e2850041030f1133d28da7de8f07ff955ecec7370d39b"
            "798deaf27a1d38b21303038cde01694d39d1983f5f145ff39aa94868b5d6421c01"
        ),
        b"deepbrain self-test",
    ),
)


def self_test() -> None:
    """Check the installed libraries against fixed vectors. Raises: InvalidKey: they disagree."""
    for scheme, public, signature, message in _VECTORS:
        key, good = bytes.fromhex(public), bytes.fromhex(signature)
        bad = good[:32] + bytes((good[32] ^ 1,)) + good[33:]
        if not verify(scheme, key, good, message) or verify(scheme, key, bad, message):
            # deterministic: keys are made outside blocks
            raise InvalidKey(f"the installed {scheme.name.lower()} library is not this chain's")
    for scheme, address in (
        (Scheme.SR25519, "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"),
        (Scheme.ED25519, "5FA9nQDVg267DEd8m1ZypXLBnvN7SFxYwV7ndqSYGiN9TTpu"),
    ):
        if Keypair.from_uri("//Alice", scheme).address() != address:
            # deterministic: keys are made outside blocks
            raise InvalidKey(f"the installed {scheme.name.lower()} library derives other keys")

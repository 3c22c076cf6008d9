"""An ecdsa wallet: only nodes check such signatures, so the keys are the tests'."""

from coincurve import PrivateKey

from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.keys import RecoverableSignature, Scheme


class EcdsaPair:
    scheme = Scheme.ECDSA

    def __init__(self, seed: bytes) -> None:
        self._key = PrivateKey(seed)
        self.public = AccountId(blake2_256(self._key.public_key.format(compressed=True)))

    def sign(self, message: bytes) -> RecoverableSignature:
        digest = bytes(blake2_256(message))
        return RecoverableSignature(self._key.sign_recoverable(digest, hasher=None))

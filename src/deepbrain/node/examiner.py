"""The runtime as the pool sees it: may an extrinsic enter a block after the head?"""

from collections.abc import Sequence
from typing import Final

from deepbrain.node.chain import Chain, Head
from deepbrain.node.pool import Examined
from deepbrain.node.signatures import Check
from deepbrain.primitives.errors import DecodeError, DeepBrainError
from deepbrain.primitives.ids import AccountId
from deepbrain.runtime.errors import Invalid, InvalidTransaction
from deepbrain.runtime.executive import Validator, Validity
from deepbrain.runtime.runtime import version_for
from deepbrain.state.store import Snapshot

MAX_WAIT: Final = 4096
"""Blocks that an immortal extrinsic may wait in the pool."""


class HeadExaminer:
    """A pool's `Examiner`, by the rules of the next block."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    @property
    def number(self) -> int:
        return self._chain.head.number

    def examine(self, extrinsics: Sequence[bytes]) -> list[Examined | DeepBrainError]:
        if not extrinsics:
            return []
        head = self._chain.head
        with self._chain.snapshot(head.hash) as state:
            validator = self._validator(state, head)
            answers = [_examine(validator, extrinsic, head.number) for extrinsic in extrinsics]
            validator.close()
        return answers

    def nonce_of(self, account: AccountId) -> int:
        head = self._chain.head
        with self._chain.snapshot(head.hash) as state:
            return int(self._validator(state, head).nonce_of(account))

    def bad_signature(self) -> DeepBrainError:
        return InvalidTransaction(Invalid.BAD_PROOF)

    def stale(self) -> DeepBrainError:
        return InvalidTransaction(Invalid.STALE)

    def sender_of(self, extrinsic: bytes) -> tuple[AccountId, int] | None:
        executive = self._chain.executive(self._chain.spec_version())
        signed = executive.decode(extrinsic).signed
        return None if signed is None else (signed.signer, int(signed.nonce))

    def _validator(self, state: Snapshot, head: Head) -> Validator:
        version = version_for(state, head.number + 1)
        return self._chain.executive(version).validator(state, head.hash)


def _examine(validator: Validator, extrinsic: bytes, head: int) -> Examined | DeepBrainError:
    try:
        validity = validator.validate(extrinsic)
    except (DecodeError, InvalidTransaction) as error:
        return error
    return Examined(
        sender=validity.sender,
        nonce=int(validity.nonce),
        state_nonce=int(validity.state_nonce),
        priority=validity.priority,
        expires=min(validity.longevity - 1, head + MAX_WAIT),
        check=_plain(validity),
        decoded=validity.extrinsic,
    )


def _plain(validity: Validity) -> Check:
    check = validity.check
    return Check(
        check.scheme.value, bytes(check.public), bytes(check.signature), bytes(check.message)
    )

"""Sign, submit, watch: one extrinsic from a call to what came of it.

Errors: a connection that breaks while we watch leaves the extrinsic's fate open. It is then looked for
in the blocks until its era is over: after that it can never be included, and that is certain.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeVar

from deepbrain.client.errors import (
    ALREADY_IMPORTED,
    TOO_LOW_PRIORITY,
    CallFailed,
    ConnectionLost,
    InvalidExtrinsic,
    NodeUnreachable,
    NotIncluded,
    RpcError,
    SubmissionUnknown,
)
from deepbrain.client.reads import At, unhex
from deepbrain.client.rpc import Rpc
from deepbrain.frame.calls import Call
from deepbrain.frame.dispatch import DispatchError, Module, Token, read_error
from deepbrain.frame.errors import PalletError, TokenError
from deepbrain.frame.events import EventRecords, EventTable
from deepbrain.pallets.system import ExtrinsicFailed, System
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import BlockNumber
from deepbrain.runtime.era import Era
from deepbrain.runtime.extrinsic import Signing, sign
from deepbrain.runtime.runtime import PALLETS
from deepbrain.scale import Struct

E = TypeVar("E", bound=Struct)

LIFE_BLOCKS: Final = 64
"""How long an extrinsic may wait for a block, unless asked otherwise."""
NONCE_TRIES: Final = 5
"""Another program that signs with the same key may take a nonce just before us."""

Wait = Literal["in_block", "finalized"]

EVENTS: Final = EventTable({pallet.index: pallet.event_types for pallet in PALLETS})
ERRORS: Final = {pallet.index: pallet.error_types for pallet in PALLETS}

_STALE: Final = ("outdated", "valid in the future")
_TOKEN_WORDS: Final = {
    TokenError.FUNDS_UNAVAILABLE: "the account has too little free money for this",
    TokenError.BELOW_MINIMUM: "what would arrive is less than an account may have",
    TokenError.NOT_EXPENDABLE: "what would be left is less than an account may have",
}


@dataclass(frozen=True, slots=True)
class BlockRef:
    """A block by its number and hash."""

    number: BlockNumber
    hash: Hash


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an extrinsic did."""

    block: BlockRef
    index: int
    hash: Hash
    events: tuple[Struct, ...]

    def one(self, kind: type[E]) -> E:
        """The first event of this kind. Raises: DecodeError: there is none."""
        for event in self.events:
            if isinstance(event, kind):
                return event
        raise DecodeError(f"the call emitted no {kind.__name__}")


class Turn:
    """An account's turn to submit. It ends once, and never ends somebody else's."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock = lock
        self._is_ours = False

    async def __aenter__(self) -> Self:
        await self._lock.acquire()
        self._is_ours = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Let the next one submit. Idempotent."""
        if self._is_ours:
            self._is_ours = False
            self._lock.release()


class Submitter:
    """Signs and submits over one connection; submissions of one account wait for each other."""

    def __init__(self, rpc: Rpc, signing: Signing) -> None:
        self._rpc = rpc
        self._signing = signing
        self._turns: dict[AccountId, asyncio.Lock] = {}

    async def submit(
        self, call: Call, keypair: Keypair, *, tip: int, wait: Wait, life: int
    ) -> Receipt:
        """See `Client.submit`."""
        for attempt in range(NONCE_TRIES):
            try:
                return await self._submit_once(call, keypair, tip=tip, wait=wait, life=life)
            except InvalidExtrinsic as error:
                if not _is_nonce_taken(error) or attempt == NONCE_TRIES - 1:
                    raise
        raise AssertionError("the loop returns or raises")

    async def _submit_once(
        self, call: Call, keypair: Keypair, *, tip: int, wait: Wait, life: int
    ) -> Receipt:
        async with Turn(self._turns.setdefault(keypair.public, asyncio.Lock())) as turn:
            head = await head_of(self._rpc)
            era = Era.mortal(life, int(head.number))
            raw = sign(
                call,
                keypair,
                self._signing,
                nonce=await self._rpc.call("system_accountNextIndex", keypair.address()),
                tip=tip,
                era=era,
                birth=await hash_of(self._rpc, era.birth(int(head.number))),
            )
            last = era.death(int(head.number)) or int(head.number) + life
            return await self._watch(raw, head, last, wait, turn)

    async def _watch(
        self, raw: bytes, head: BlockRef, last: int, wait: Wait, turn: Turn
    ) -> Receipt:
        text = "0x" + raw.hex()
        try:
            async with self._rpc.subscribe(
                "author_submitAndWatchExtrinsic", text, unsubscribe="author_unwatchExtrinsic"
            ) as updates:
                # It is in the pool, which counts its nonce from here on.
                turn.end()
                block = await _included(updates, wait)
        except (ConnectionLost, NodeUnreachable):
            block = await self._look_for(raw, int(head.number), last)
        return await self._receipt(raw, block)

    async def _look_for(self, raw: bytes, since: int, last: int) -> Hash:
        """The block that holds `raw`, among those from `since` to before `last`.

        Raises: NotIncluded: it is in none of them; SubmissionUnknown: the node stays away.
        """
        text, number = "0x" + raw.hex(), since
        try:
            await self._offer_again(text)
            while number < last:
                head = await head_of(self._rpc)
                while number <= min(int(head.number), last - 1):
                    block = await hash_of(self._rpc, BlockNumber(number))
                    if text in await self._body(block):
                        return block
                    number += 1
                await asyncio.sleep(0.2)
        except (ConnectionLost, NodeUnreachable) as error:
            raise SubmissionUnknown(
                "the node went away before it said what became of the call; "
                "look at the account's state before trying again"
            ) from error
        raise NotIncluded("no block took the call in time, and none can any more; try again")

    async def _offer_again(self, text: str) -> None:
        try:
            await self._rpc.call("author_submitExtrinsic", text)
        except RpcError as error:
            # Known already, or included meanwhile: the blocks will tell.
            if error.code != ALREADY_IMPORTED and not isinstance(error, InvalidExtrinsic):
                raise

    async def _receipt(self, raw: bytes, block: Hash) -> Receipt:
        body = await self._body(block)
        try:
            index = body.index("0x" + raw.hex())
        except ValueError:
            raise DecodeError("the node names a block that does not hold the extrinsic") from None
        records: EventRecords = await At(self._rpc, block).get(System.events)
        events = tuple(record.event for record in EVENTS.decode(records) if record.phase == index)
        for event in events:
            if isinstance(event, ExtrinsicFailed):
                raise call_failed(event.dispatch_error)
        header = await self._rpc.call("chain_getHeader", str(block))
        return Receipt(BlockRef(number_of(header), block), index, blake2_256(raw), events)

    async def _body(self, block: Hash) -> list[str]:
        found = await self._rpc.call("chain_getBlock", str(block))
        try:
            return [str(extrinsic) for extrinsic in found["block"]["extrinsics"]]
        except (TypeError, KeyError) as error:
            raise DecodeError("the node sent no block") from error


def _is_nonce_taken(error: InvalidExtrinsic) -> bool:
    """Used by now, or by something that waits in the pool."""
    return error.code == TOO_LOW_PRIORITY or any(word in str(error.data) for word in _STALE)


async def _included(updates: Any, wait: Wait) -> Hash:
    """The block of an extrinsic. Raises: NotIncluded; ConnectionLost."""
    async for status in updates:
        if isinstance(status, dict):
            if "finalized" in status or ("inBlock" in status and wait == "in_block"):
                return Hash(unhex(status.get("finalized") or status["inBlock"]))
            if "usurped" in status:
                raise NotIncluded(
                    "another call with the same nonce and a higher tip took its place"
                )
        elif status in ("dropped", "invalid"):
            raise NotIncluded(f"the node's pool let the call go ({status}); try again")
    raise ConnectionLost


def call_failed(error: DispatchError) -> CallFailed:
    """A failure in the words of the pallet that declared it."""
    found = read_error(error, ERRORS)
    if isinstance(found, type) and issubclass(found, PalletError):
        return CallFailed(found, " ".join((found.__doc__ or "").split()).rstrip("."))
    match error:
        case Token(value=token):
            return CallFailed(f"Token.{token.name}", _TOKEN_WORDS.get(token, ""))
        case Module(value=module):
            return CallFailed(f"error {module.error[0]} of pallet {module.index}")
        case _:
            return CallFailed(type(error).__name__)


async def head_of(rpc: Rpc) -> BlockRef:
    """The newest block."""
    block = Hash(unhex(await rpc.call("chain_getBlockHash")))
    return BlockRef(number_of(await rpc.call("chain_getHeader", str(block))), block)


async def hash_of(rpc: Rpc, number: BlockNumber) -> Hash:
    """Raises: DecodeError: there is no such block."""
    return Hash(unhex(await rpc.call("chain_getBlockHash", int(number))))


def number_of(header: Any) -> BlockNumber:
    """Of a header as JSON. Raises: DecodeError."""
    try:
        return BlockNumber(int(header["number"], 16))
    except (TypeError, KeyError, ValueError) as error:
        raise DecodeError("the node sent no header") from error

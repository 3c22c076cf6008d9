"""`wallet_`: signing with an injected wallet from a page that knows no SCALE.

    page ──wallet_buildPayload──► node      a call in plain JSON → the payload that wallets sign
    page ──signPayload──────────► wallet    shows it, signs it
    page ──wallet_submitSigned──► node      payload and signature → an extrinsic, followed to its end

The page trusts its node for the bytes, and shows what `wallet_decodePayload` reads out of them; a wallet
that was given the metadata (`wallet_metadata`) reads them by itself.
Source: `SignerPayloadJSON` of polkadot.js.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from deepbrain.frame.calls import Call, CallDefinition, Nested
from deepbrain.frame.dispatch import Module, read_error
from deepbrain.frame.docs import lines_of
from deepbrain.frame.origin import SIGNED
from deepbrain.frame.signed_types import EXTENSIONS
from deepbrain.node.chain import Chain
from deepbrain.node.pool import Pool, Status
from deepbrain.node.rpc.author import AuthorRpc
from deepbrain.node.rpc.dispatch import Method, Starter, Stream
from deepbrain.node.rpc.errors import invalid_params
from deepbrain.node.rpc.params import JsonObject, hex_bytes
from deepbrain.node.rpc.system import DECIMALS, SYMBOL, account_of
from deepbrain.node.rpc.wire import Json
from deepbrain.pallets.fees import TransactionFeePaid
from deepbrain.pallets.system import ExtrinsicFailed
from deepbrain.primitives import ss58
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.keys import RecoverableSignature, Scheme, Signature
from deepbrain.runtime.era import Era
from deepbrain.runtime.executive import weight_of
from deepbrain.runtime.extrinsic import Extrinsic, assemble, decode_extrinsic, extra_of
from deepbrain.scale import decode_compact
from deepbrain.scale.plain import NotPlain, from_plain, to_plain
from deepbrain.scale.registry import type_name

LIFE: Final = 64
"""Blocks within which what is signed must be in the chain."""
MAX_TIP: Final = (1 << 128) - 1


class WalletRpc:
    def __init__(self, chain: Chain, pool: Pool) -> None:
        self._chain = chain
        self._pool = pool
        self._author = AuthorRpc(pool)

    def methods(self) -> Iterator[Method | Stream]:
        yield Method("wallet_calls", self.calls)
        yield Method("wallet_balance", self.balance)
        yield Method("wallet_metadata", self.metadata)
        yield Method("wallet_buildPayload", self.build_payload)
        yield Method("wallet_decodePayload", self.decode_payload)
        yield Stream(
            "wallet_submitSigned",
            "wallet_unwatch",
            "wallet_update",
            self.submit_signed,
            quiet=True,
        )

    def calls(self) -> Json:
        """Every call that an account can make, with its fields and its documentation."""
        return [
            _call_json(definition)
            for pallet in self._runtime.pallets
            for definition in pallet.call_definitions.values()
            if definition.origin == SIGNED and not _nests(definition)
        ]

    def balance(self, address: str) -> Json:
        """What an account has, in planck, as text."""
        account = account_of(address)
        with self._chain.snapshot() as state:
            data = self._runtime.at(state, self._chain.head.hash).system.account_of(account).data
        return {"free": str(data.free), "held": str(data.reserved)}

    def metadata(self) -> Json:
        """What an injected wallet is given so that it can show calls of this chain by itself."""
        encoded = self._chain.call("Metadata_metadata", b"")  # which is made once a version
        _, start = decode_compact(encoded, 0)
        return {
            "chain": self._chain.spec.name,
            "chainType": "substrate",
            "color": "#3c6e71",
            "genesisHash": str(self._chain.genesis_hash),
            "icon": "substrate",
            "metaCalls": None,
            "rawMetadata": "0x" + encoded[start:].hex(),
            "specVersion": int(self._runtime.version.spec_version),
            "ss58Format": ss58.PREFIX,
            "tokenDecimals": DECIMALS,
            "tokenSymbol": SYMBOL,
            "types": {},
        }

    def build_payload(
        self, address: str, pallet: str, call: str, arguments: JsonObject, tip: str = "0"
    ) -> Json:
        """The `SignerPayloadJSON` of a call that this account may sign within the next blocks."""
        signer = account_of(address)
        made = self._call_of(pallet, call, arguments)
        if not (tip.isdecimal() and len(tip) <= 39 and int(tip) <= MAX_TIP):
            raise invalid_params("the tip is a number of planck, as text")
        head = self._chain.head
        era = Era.mortal(LIFE, head.number)
        birth = era.birth(head.number)
        version = self._runtime.version
        return {
            "address": ss58.encode(signer),
            "assetId": None,
            "blockHash": str(self._chain.hash_of(int(birth))),
            "blockNumber": _big_endian(int(birth), 4),
            "era": "0x" + era.encode().hex(),
            "genesisHash": str(self._chain.genesis_hash),
            "metadataHash": None,
            "method": "0x" + made.encode().hex(),
            "mode": 0,
            "nonce": _big_endian(self._pool.next_nonce(signer), 4),
            "signedExtensions": [extension.identifier for extension in EXTENSIONS],
            "specVersion": _big_endian(int(version.spec_version), 4),
            "tip": _big_endian(int(tip), 16),
            "transactionVersion": _big_endian(int(version.transaction_version), 4),
            "version": 4,
            "withSignedTransaction": False,
        }

    def decode_payload(self, payload: JsonObject) -> Json:
        """What the bytes of a payload say: the call in words, its cost, and how long it can wait."""
        extrinsic = self._assembled(payload, Scheme.SR25519, bytes(Signature.SIZE))
        signed = extrinsic.signed
        if signed is None:
            raise AssertionError("it was put together with a signature")
        with self._chain.snapshot() as state:
            fees = self._runtime.at(state, self._chain.head.hash).fees
            fee = fees.fee_of(weight_of(extrinsic), len(extrinsic.raw))
        definition = extrinsic.call.definition
        return {
            "chain": self._chain.spec.name,
            "signer": ss58.encode(signed.signer),
            "call": _told(extrinsic.call),
            "docs": list(lines_of(definition.doc)),
            "fee": str(fee),
            "tip": str(signed.tip),
            "nonce": int(signed.nonce),
            "until_block": signed.era.death(self._chain.head.number),
        }

    async def submit_signed(self, payload: JsonObject, signature: bytes) -> Starter:
        """Put the extrinsic together and follow it, as `author_submitAndWatchExtrinsic` does; its last
        status tells what came of it.
        """
        kinds = {kind.value: kind for kind in Scheme}
        scheme = kinds.get(signature[0]) if signature else None
        size = RecoverableSignature.SIZE if scheme is Scheme.ECDSA else Signature.SIZE
        if scheme is None or len(signature) != 1 + size:
            raise invalid_params("the signature is not one that a wallet gives")
        extrinsic = self._assembled(payload, scheme, signature[1:])

        def tell(status: Status) -> Json:
            if isinstance(status, dict) and isinstance(block := status.get("finalized"), str):
                return {**status, **_outcome(self._chain, Hash.from_hex(block), extrinsic.hash)}
            return status

        return await self._author.follow(extrinsic.raw, tell)

    @property
    def _runtime(self) -> Any:
        return self._chain.executive(self._chain.spec_version()).runtime

    def _call_of(self, pallet: str, name: str, arguments: Mapping[str, Json]) -> Call:
        """A call from plain JSON. Raises: RpcFault."""
        definition = next(
            (
                each
                for kind in self._runtime.pallets
                for each in kind.call_definitions.values()
                if (kind.chain_name, each.name) == (pallet, name)
            ),
            None,
        )
        if definition is None or _nests(definition):
            raise invalid_params(f"there is no call {pallet}.{name} to be made from a page")
        names = [field.wire_name for field in definition.fields]
        if sorted(arguments) != sorted(names):
            raise invalid_params(f"{pallet}.{name} takes {', '.join(names) or 'no arguments'}")
        try:
            values = tuple(
                from_plain(field.hint, arguments[field.wire_name], field.wire_name, texts=True)
                for field in definition.fields
            )
        except NotPlain as error:
            raise invalid_params(str(error)) from None
        return Call(definition, values)

    def _assembled(self, payload: JsonObject, scheme: Scheme, signature: bytes) -> Extrinsic:
        """The extrinsic of a payload. Raises: RpcFault: the payload is not one for this chain, now."""
        if payload.get("genesisHash") != str(self._chain.genesis_hash):
            raise invalid_params("the payload is for another chain")
        version = self._runtime.version
        if payload.get("specVersion") != _big_endian(int(version.spec_version), 4):
            raise invalid_params("the chain's rules have changed meanwhile: build it again")
        try:
            era, _ = Era.decode_at(_bytes_of(payload, "era", 2), 0)
            extra = extra_of(era, _number(payload, "nonce", 4), _number(payload, "tip", 16))
            signer = account_of(str(payload.get("address")))
            raw = assemble(signer, scheme, signature, extra, _bytes_of(payload, "method", 1 << 17))
            return decode_extrinsic(raw, self._runtime.calls)
        except (DecodeError, ValueError) as error:
            raise invalid_params(f"the payload is malformed: {error}") from None


def _outcome(chain: Chain, block: Hash, digest: Hash) -> dict[str, Json]:
    """Whether an extrinsic of a block did what it said, what it cost, and its events."""
    found = chain.block(block)
    if found is None:
        return {}
    index = [blake2_256(each) for each in found.extrinsics].index(digest)
    runtime = chain.executive(chain.spec_version(block)).runtime
    records = runtime.events.decode(chain.events(found.header.number) or b"\0")
    names = {pallet.index: pallet.chain_name for pallet in runtime.pallets}
    events: list[Json] = []
    outcome: dict[str, Json] = {"success": True, "error": None, "fee": None, "events": events}
    for record in records:
        if record.phase != index:
            continue
        event: Any = record.event
        events.append(
            {
                "event": f"{names[record.pallet]}.{type(event).__name__}",
                "data": to_plain(event, texts=True),
            }
        )
        if isinstance(event, TransactionFeePaid):
            outcome["fee"] = str(event.actual_fee)
        if isinstance(event, ExtrinsicFailed):
            outcome |= {"success": False, "error": _reason(event.dispatch_error, runtime.errors)}
    return outcome


def _reason(error: Any, errors: Any) -> str:
    """Why a call failed, in one sentence."""
    known = read_error(error, errors)
    if isinstance(known, type):
        return f"{known.__name__}: {known()}"
    if isinstance(known, Module):
        return "a pallet's error that is not known here"
    value = getattr(known, "value", None)
    return str(to_plain(value)) if value is not None else type(known).__name__


def _nests(definition: CallDefinition) -> bool:
    """Whether other calls are among its arguments."""
    return any(isinstance(codec, Nested) for codec in definition.codecs)


def _call_json(definition: CallDefinition) -> Json:
    return {
        "pallet": definition.pallet_name,
        "call": definition.name,
        "docs": list(lines_of(definition.doc)),
        "fields": [
            {"name": field.wire_name, "type": type_name(field.hint)} for field in definition.fields
        ],
    }


def _told(call: Call) -> Json:
    """A call in plain JSON, with the calls inside it."""

    def plain(value: Any) -> Json:
        if isinstance(value, Call):
            return _told(value)
        if isinstance(value, tuple) and value and isinstance(value[0], Call):
            return [_told(each) for each in value]
        found: Json = to_plain(value, texts=True)
        return found

    return {"name": call.name, "arguments": {name: plain(value) for name, value in call.named()}}


def _big_endian(number: int, size: int) -> str:
    return "0x" + number.to_bytes(size, "big").hex()


def _bytes_of(payload: JsonObject, name: str, most: int) -> bytes:
    """Raises: ValueError."""
    data = hex_bytes(payload.get(name))
    if len(data) > most:
        raise ValueError(f"{name} is too long")
    return data


def _number(payload: JsonObject, name: str, most: int) -> int:
    """A big-endian number in at most so many bytes. Raises: ValueError."""
    return int.from_bytes(_bytes_of(payload, name, most), "big")

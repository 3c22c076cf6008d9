"""The chain as a program sees it: typed reads, heads, and calls that come back as events."""

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from deepbrain.client.errors import ConnectionLost, RpcError, WrongChain
from deepbrain.client.reads import At, unhex
from deepbrain.client.rpc import CONNECT_SECONDS, Rpc
from deepbrain.client.submit import (
    LIFE_BLOCKS,
    BlockRef,
    Receipt,
    Submitter,
    Wait,
    head_of,
    number_of,
)
from deepbrain.frame.calls import Call
from deepbrain.frame.metadata_format import MAGIC, MetadataV14
from deepbrain.frame.pallet import Pallet, chain_name
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import BlockNumber
from deepbrain.runtime.extrinsic import Signing
from deepbrain.runtime.version import SPEC_NAME, SPEC_VERSION, TRANSACTION_VERSION
from deepbrain.scale import codec_of

MAX_RELAYS: Final = 4
_MAX_METADATA: Final = 1 << 20
_MAX_URL: Final = 128


class Client:
    """One node. Make it with `connect`, use it as a context manager.

    Every method may raise RpcError, NodeUnreachable (nobody answers for 30 s) and DecodeError (the
    node says what it must not say). Reads survive a broken connection; it is made again by itself.
    """

    def __init__(self, rpc: Rpc, genesis: Hash, chain_name: str) -> None:
        self._rpc = rpc
        self.genesis_hash = genesis
        """The chain's name for all signatures."""
        self.chain_name = chain_name
        """Its name for people, such as `DeepBrain Dev`."""
        self.runtime_version = SPEC_VERSION
        """The version of the rules, the node's and ours."""
        signing = Signing(int(SPEC_VERSION), int(TRANSACTION_VERSION), genesis)
        self._submitter = Submitter(rpc, signing)
        self._constants: dict[tuple[str, str], bytes] | None = None

    @classmethod
    async def connect(
        cls, url: str, *, genesis: Hash | None = None, seconds: float = CONNECT_SECONDS
    ) -> Self:
        """Raises: NodeUnreachable: nobody answers within `seconds`; WrongChain: it is not the chain
        of `genesis`, or runs other rules than this program.
        """
        expected = _Expected(genesis)
        rpc = await Rpc.open(url, expected.check, seconds=seconds)
        try:
            name = str(await rpc.call("system_chain"))
        except BaseException:
            await rpc.close()
            raise
        if expected.genesis is None:
            raise AssertionError("every connection is greeted")
        return cls(rpc, expected.genesis, name)

    async def close(self) -> None:
        await self._rpc.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def at(self, block: Hash | None = None) -> At:
        """The state after `block`, or after whichever is newest at each read."""
        return At(self._rpc, block)

    async def head(self) -> BlockRef:
        """The newest block, final or not."""
        return await head_of(self._rpc)

    async def finalized(self) -> BlockRef:
        """The newest block that can never be undone."""
        block = Hash(unhex(await self._rpc.call("chain_getFinalizedHead")))
        header = await self._rpc.call("chain_getHeader", str(block))
        return BlockRef(number_of(header), block)

    async def block_hashes(self, numbers: Sequence[BlockNumber]) -> list[Hash | None]:
        """The hashes of blocks by number, all from one node; `None` where it has no such block."""
        outcomes = await self._rpc.batch([("chain_getBlockHash", [int(n)]) for n in numbers])
        for outcome in outcomes:
            if isinstance(outcome, RpcError):
                raise outcome
        return [None if found is None else Hash(unhex(found)) for found in outcomes]

    async def heads(self, *, finalized: bool = False) -> AsyncIterator[BlockRef]:
        """The head now, and every new one; goes on over a broken connection, maybe with a gap."""
        kind = "FinalizedHeads" if finalized else "NewHeads"
        while True:
            try:
                async with self._rpc.subscribe(
                    f"chain_subscribe{kind}", unsubscribe=f"chain_unsubscribe{kind}"
                ) as headers:
                    async for header in headers:
                        number = number_of(header)
                        digest = await self._rpc.call("chain_getBlockHash", int(number))
                        yield BlockRef(number, Hash(unhex(digest)))
            except ConnectionLost:
                continue

    async def submit(
        self,
        call: Call,
        keypair: Keypair,
        *,
        tip: int = 0,
        wait: Wait = "in_block",
        life: int = LIFE_BLOCKS,
    ) -> Receipt:
        """Sign `call`, submit it and return what it did. Safe to call several times at once.

        Raises: CallFailed: it was included and failed, for the reason the pallet declared;
        InvalidExtrinsic: the node refused it (fees, size); NotIncluded: no block took it within `life`
        blocks, and none will; SubmissionUnknown: the node went away for good meanwhile.
        """
        return await self._submitter.submit(call, keypair, tip=tip, wait=wait, life=life)

    async def relays(self) -> tuple[str, ...]:
        """URLs of relays that the node knows, at most `MAX_RELAYS`; none where it names none."""
        try:
            told = await self._rpc.call("deepbrain_relays")
        except RpcError:
            return ()  # an older node, or another software's
        return parse_relays(told, urlsplit(self._rpc.url).hostname or "")

    async def request(self, method: str, *params: Any) -> Any:
        """A bare JSON-RPC request, for what has no method here."""
        return await self._rpc.call(method, *params)

    async def constant(self, pallet: type[Pallet], name: str) -> Any:
        """A constant of a pallet on this chain, as its node says; asked for once."""
        if self._constants is None:
            self._constants = _constants_in(await self._rpc.call("state_getMetadata"))
        try:
            value = self._constants[pallet.chain_name, chain_name(name)]
        except KeyError as error:
            raise DecodeError(
                f"the metadata names no constant {pallet.chain_name}.{name}"
            ) from error
        return codec_of(pallet.constant_hints[name]).decode(value)


class _Expected:
    """What every connection is compared with; the first one teaches the genesis hash."""

    def __init__(self, genesis: Hash | None) -> None:
        self.genesis = genesis

    async def check(self, rpc: Rpc) -> None:
        found = Hash(unhex(await rpc.greeting_call("chain_getBlockHash", 0)))
        if self.genesis is not None and found != self.genesis:
            raise WrongChain(f"{rpc.url} serves another chain now; name the right node with --node")
        version = await rpc.greeting_call("state_getRuntimeVersion")
        if not isinstance(version, dict):
            raise DecodeError(f"what answers at {rpc.url} is not a DeepBrain node")
        if version.get("specName") != SPEC_NAME:
            raise WrongChain(f"{rpc.url} is a node of {version.get('specName')}, not of DeepBrain")
        if version.get("specVersion") != int(SPEC_VERSION):
            raise WrongChain(
                f"{rpc.url} runs version {version.get('specVersion')} of the rules, and this program "
                f"knows version {int(SPEC_VERSION)}; install the release that matches"
            )
        self.genesis = found


def parse_relays(told: Any, host: str) -> tuple[str, ...]:
    """What `deepbrain_relays` answered; `host` is the node's own. Whatever is no URL is left out."""
    if not isinstance(told, dict):
        return ()
    port, urls = told.get("port"), told.get("urls")
    found = [url for url in urls if is_relay_url(url)] if isinstance(urls, list) else []
    if isinstance(port, int) and 0 < port < 1 << 16 and host:
        own = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        if not any(urlsplit(url).port == port for url in found):
            found.append(own)
    return tuple(dict.fromkeys(found))[:MAX_RELAYS]


def is_relay_url(url: object) -> bool:
    """Whether it is `http://host:port` or `https://host`, short, and nothing else."""
    if (
        not isinstance(url, str)
        or len(url) > _MAX_URL
        or not url.isascii()
        or not url.isprintable()
    ):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    bare = not (parts.username or parts.password or parts.query or parts.fragment)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and bare and " " not in url


def _constants_in(told: Any) -> dict[tuple[str, str], bytes]:
    """The encoded constants of metadata in format 14, by pallet and name. Raises: DecodeError."""
    metadata = unhex(told)
    prefix = MAGIC + bytes((14,))
    if not metadata.startswith(prefix) or len(metadata) > _MAX_METADATA:
        raise DecodeError("the node's metadata is not of format 14")
    return {
        (pallet.name, constant.name): constant.value
        for pallet in MetadataV14.decode(metadata[len(prefix) :]).pallets
        for constant in pallet.constants
    }

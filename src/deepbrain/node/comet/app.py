"""What CometBFT asks, and what we answer.

    query, snapshot   Info, Query, snapshots
    mempool           InsertTx: a peer has announced an extrinsic      ReapTxs: what do we announce
    consensus         InitChain, PrepareProposal, ProcessProposal, FinalizeBlock, Commit

InsertTx stands in the way of a peer's votes until it is answered, so it only takes the extrinsic in;
`drain` gives it to the pool when consensus is at rest. FinalizeBlock executes and Commit writes: were
it written before, a crash between the two would leave us ahead of CometBFT, which never recovers.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from deepbrain.frame.consensus import (
    MAX_MISBEHAVIOURS,
    MAX_VALIDATORS,
    CommitReport,
    ConsensusAddress,
    Misbehaviour,
    MisbehaviourKind,
    ValidatorUpdate,
)
from deepbrain.node.chain import Chain, InherentData
from deepbrain.node.comet import abci_pb2 as abci
from deepbrain.node.comet.home import APP_VERSION
from deepbrain.node.comet.retaining import Retaining
from deepbrain.node.comet.snapshots import Snapshots
from deepbrain.node.engine import Ledger
from deepbrain.node.errors import NodeError, UnknownBlock
from deepbrain.node.pool import Pool
from deepbrain.node.solo import calendar
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import BlockNumber, Moment
from deepbrain.runtime.extrinsic import MAX_EXTRINSIC
from deepbrain.scale import encode
from deepbrain.state.errors import UnknownState
from deepbrain.state.store import MAX_KEY
from deepbrain.state.trie import prove

log = logging.getLogger(__name__)

BATCH: Final = 128
"""Extrinsics of peers that the pool judges at once."""
MAX_INBOX: Final = 20_000
MAX_INBOX_BYTES: Final = 32 << 20
MAX_OUTBOX: Final = 40_000
QUIET_SECONDS: Final = 0.002
LONGEST_WAIT: Final = 0.05
"""How long the extrinsics of peers wait for consensus to be at rest."""
CLOCK_SECONDS: Final = 30
"""How far a clock may be off the chain's time before its owner hears of it."""
CLOCK_BLOCKS: Final = 3
"""Blocks in a row that it must be off: after a halt, one block is as old as the halt was long."""
WRONG_CLOCK: Final = (
    "this machine's clock is %d s %s the chain's time: set it, and keep it right with NTP"
)
PER_EXTRINSIC: Final = 4
"""Bytes that CometBFT adds to each in a block, at most."""

OK: Final = 0
BAD: Final = 1
"""Never announce it to this node again."""
LATER: Final = 32_000
"""Announce it again later."""

_KINDS: Final = {
    abci.Misbehavior.DUPLICATE_VOTE: MisbehaviourKind.DOUBLE_SIGN,
    abci.Misbehavior.LIGHT_CLIENT_ATTACK: MisbehaviourKind.LIGHT_CLIENT_ATTACK,
}


class Votes(Protocol):
    """The votes of a commit, as proposals and blocks carry them alike."""

    @property
    def votes(self) -> Iterable[abci.VoteInfo] | Iterable[abci.ExtendedVoteInfo]: ...


class Facts(Protocol):
    """What a proposal and a block have in common."""

    @property
    def height(self) -> int: ...
    @property
    def time(self) -> abci.Time: ...
    @property
    def proposer_address(self) -> bytes: ...
    @property
    def misbehavior(self) -> Iterable[abci.Misbehavior]: ...


class App:
    """Chain and pool, as CometBFT sees them. `own` is this node's address as a validator."""

    def __init__(
        self,
        chain: Chain,
        ledger: Ledger,
        pool: Pool,
        *,
        chain_id: str,
        own: ConsensusAddress,
        last_signed: int,
        snapshots: Snapshots | None = None,
        retaining: Retaining | None = None,
        clock: Callable[[], Moment] = calendar,
    ) -> None:
        self._chain = chain
        self._ledger = ledger
        self._pool = pool
        self._chain_id = chain_id
        self._own = own
        self._last_signed = last_signed
        self._snapshots = snapshots
        self._retaining = retaining
        self._clock = clock
        self._clock_off = 0
        """For how many proposals in a row it was."""
        self._one_at_a_time = asyncio.Lock()
        self._decided: tuple[InherentData, tuple[bytes, ...]] | None = None
        self._inbox: OrderedDict[Hash, bytes] = OrderedDict()
        self._inbox_bytes = 0
        self._outbox: OrderedDict[Hash, bytes] = OrderedDict()
        self._arrived = asyncio.Event()
        self._asked = 0.0
        self.live = False
        """Whether this node has caught up: CometBFT asks for extrinsics and proposals only then."""
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with the reason why the node must stop."""

    def announce(self, extrinsics: Sequence[bytes]) -> None:
        """Tell the other nodes of extrinsics."""
        for extrinsic in extrinsics:
            self._outbox[blake2_256(extrinsic)] = extrinsic
        while len(self._outbox) > MAX_OUTBOX:
            self._outbox.popitem(last=False)

    @property
    def inbox(self) -> int:
        """Extrinsics of peers that the pool has not looked at."""
        return len(self._inbox)

    @property
    def outbox(self) -> int:
        """Extrinsics that peers are to be told of."""
        return len(self._outbox)

    async def drain(self) -> None:
        """Give the pool what peers sent, for ever, a batch at a time and when nobody votes."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            latest = loop.time() + LONGEST_WAIT
            # What is waited for is that nothing happens: no event tells that.
            while (wait := min(self._asked + QUIET_SECONDS, latest) - loop.time()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(wait)
            batch = [
                self._inbox.popitem(last=False)[1] for _ in range(min(BATCH, len(self._inbox)))
            ]
            self._inbox_bytes -= sum(map(len, batch))
            if not self._inbox:
                self._arrived.clear()
            try:
                await self._pool.receive(batch)
            # A stranger made it: a bug that it meets must not stop the node.
            except Exception:
                log.exception("extrinsics of a peer meet a bug")

    # Requests.

    def at_once(self, request: abci.Request) -> abci.Response | None:
        """The answer to what needs no waiting."""
        self._asked = asyncio.get_running_loop().time()
        match request.WhichOneof("value"):
            case "insert_tx":
                code = self._insert(request.insert_tx.tx)
                return abci.Response(insert_tx=abci.InsertTxAnswer(code=code))
            case "reap_txs":
                self.live = True
                txs = self._reap(request.reap_txs.max_bytes)
                return abci.Response(reap_txs=abci.ReapTxsAnswer(txs=txs))
            case "echo":
                return abci.Response(echo=request.echo)
            case "query":
                return abci.Response(query=self._query(request.query))
            case "list_snapshots":
                listed = [] if self._snapshots is None else self._snapshots.shelf.listed()
                return abci.Response(list_snapshots=abci.ListSnapshotsAnswer(snapshots=listed))
            case _:
                return None

    async def answer(self, request: abci.Request) -> abci.Response:
        """The answer to all else. Raises: whatever stops the node; `failed` has it too."""
        try:
            if request.HasField("check_tx"):
                return abci.Response(check_tx=await self._check(request.check_tx.tx))
            # Were CometBFT killed in the middle of a commit, the next one would ask how far we are.
            async with self._one_at_a_time:
                return await self._answer(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not self.failed.done():
                self.failed.set_exception(error)
            raise

    async def _answer(self, request: abci.Request) -> abci.Response:
        match request.WhichOneof("value"):
            case "prepare_proposal":
                return abci.Response(prepare_proposal=await self._prepare(request.prepare_proposal))
            case "process_proposal":
                return abci.Response(process_proposal=await self._process(request.process_proposal))
            case "finalize_block":
                return abci.Response(finalize_block=await self._finalize(request.finalize_block))
            case "commit":
                return abci.Response(commit=await self._commit())
            case "info":
                return abci.Response(info=self._info())
            case "init_chain":
                return abci.Response(init_chain=self._init_chain(request.init_chain))
            case other:
                answer = None if self._snapshots is None else await self._snapshots.answer(request)
                if answer is not None:
                    return answer
                raise NodeError(f"CometBFT asks for {other}, which this node does not answer.")

    # The chain.

    def _info(self) -> abci.InfoAnswer:
        head = self._chain.head
        return abci.InfoAnswer(
            data="deepbrain",
            version=str(self._chain.spec_version()),
            app_version=APP_VERSION,
            last_block_height=head.number,
            last_block_app_hash=bytes(head.header.state_root),
        )

    def _init_chain(self, request: abci.InitChain) -> abci.InitChainAnswer:
        if request.chain_id != self._chain_id or request.initial_height not in (0, 1):
            raise NodeError(
                f"CometBFT has the genesis of {request.chain_id}, and this node is of "
                f"{self._chain_id}: choose another --data directory, or the spec that this one was made with."
            )
        validators = self._chain.validators()
        if not validators:
            raise NodeError(
                "The chain spec has no validators: under CometBFT there is at least one."
            )
        return abci.InitChainAnswer(
            validators=map(_update, validators), app_hash=bytes(self._chain.head.header.state_root)
        )

    def _query(self, request: abci.Query) -> abci.QueryAnswer:
        """`/state`: the value of a storage key, with its read proof if that is asked for."""
        if request.path != "/state" or not 0 < len(request.data) <= MAX_KEY:
            return abci.QueryAnswer(code=BAD, log="the one path is /state, its data a storage key")
        number = request.height or self._chain.head.number
        block = self._chain.hash_of(number) if 0 <= number <= self._chain.head.number else None
        try:
            if block is None:
                raise UnknownBlock(f"this node has no block {number}")
            with self._chain.snapshot(block) as state:
                value = state.get(request.data)
                ops = abci.ProofOps()
                if request.prove:
                    data = encode(tuple[bytes, ...], prove(state, [request.data]))
                    ops.ops.add(type="substrate:trie", key=request.data, data=data)
        except (UnknownBlock, UnknownState) as error:
            return abci.QueryAnswer(code=BAD, log=str(error), height=number)
        return abci.QueryAnswer(key=request.data, value=value or b"", height=number, proof_ops=ops)

    # Extrinsics.

    def _insert(self, extrinsic: bytes) -> int:
        if not 0 < len(extrinsic) <= MAX_EXTRINSIC:
            return BAD
        digest = blake2_256(extrinsic)
        if digest in self._pool or digest in self._inbox:
            return OK
        if len(self._inbox) >= MAX_INBOX or self._inbox_bytes + len(extrinsic) > MAX_INBOX_BYTES:
            return LATER
        self._inbox[digest] = extrinsic
        self._inbox_bytes += len(extrinsic)
        self._arrived.set()
        return OK

    def _reap(self, max_bytes: int) -> list[bytes]:
        """What to announce now, oldest first; what has left the pool is announced no more."""
        taken: list[bytes] = []
        total = 0
        while self._outbox:
            digest, extrinsic = next(iter(self._outbox.items()))
            if digest in self._pool:
                total += len(extrinsic) + PER_EXTRINSIC
                if max_bytes and total > max_bytes and taken:
                    break
                taken.append(extrinsic)
            del self._outbox[digest]
        return taken

    async def _check(self, extrinsic: bytes) -> abci.CheckTxAnswer:
        (outcome,) = await self._pool.submit([extrinsic])
        if isinstance(outcome, Hash):
            return abci.CheckTxAnswer(code=OK)
        return abci.CheckTxAnswer(code=BAD, log=str(outcome))

    # Blocks.

    async def _prepare(self, request: abci.PrepareProposal) -> abci.PrepareProposalAnswer:
        self.live = True
        data = self._data(request, request.local_last_commit)
        extrinsics = await self._ledger.propose(data)
        return abci.PrepareProposalAnswer(txs=_within(extrinsics, request.max_tx_bytes))

    async def _process(self, request: abci.ProcessProposal) -> abci.ProcessProposalAnswer:
        self.live = True
        data = self._data(request, request.proposed_last_commit)
        self._compare_clocks(data.moment)
        good = await self._ledger.accepts(data, tuple(request.txs))
        answer = abci.ProcessProposalAnswer
        return answer(status=answer.ACCEPT if good else answer.REJECT)

    async def _finalize(self, request: abci.FinalizeBlock) -> abci.FinalizeBlockAnswer:
        data = self._data(request, request.decided_last_commit)
        if not self.live:
            self._ensure_no_twin(request.decided_last_commit, request.height - 1)
        extrinsics = tuple(request.txs)
        executed = await self._ledger.execute(data, extrinsics)
        self._decided = data, extrinsics
        receipts = executed.outcome.receipts
        return abci.FinalizeBlockAnswer(
            tx_results=[
                abci.TxResult(code=OK if receipt.success else BAD)
                for receipt in receipts[len(receipts) - len(extrinsics) :]
            ],
            validator_updates=map(_update, executed.outcome.validator_updates),
            app_hash=bytes(executed.root.root),
        )

    async def _commit(self) -> abci.CommitAnswer:
        if self._decided is None:
            raise NodeError("CometBFT commits a block that it has not shown.")
        data, extrinsics = self._decided
        self._decided = None
        head = await self._ledger.finalize(data, extrinsics)
        return abci.CommitAnswer(retain_height=self._after(head.number))

    def _after(self, number: int) -> int:
        """What follows a block: a snapshot, now and then; gives the first block that is still needed."""
        oldest = None
        if self._snapshots is not None:
            self._snapshots.keeper.on_block(number)
            oldest = self._snapshots.shelf.oldest
        return 0 if self._retaining is None else self._retaining.from_height(oldest)

    def _data(self, facts: Facts, commit: Votes) -> InherentData:
        """Raises: NodeError: the block does not follow our head."""
        if facts.height != self._chain.head.number + 1:
            raise NodeError(
                f"CometBFT is at block {facts.height} and this node's data at "
                f"{self._chain.head.number}: forget both with `dbc validate reset` and sync again."
            )
        return InherentData(
            moment=Moment(facts.time.seconds * 1000 + facts.time.nanos // 10**6),
            author=self._chain.author_of(ConsensusAddress(facts.proposer_address)),
            report=CommitReport(
                absent=tuple(
                    ConsensusAddress(vote.validator.address)
                    for vote in commit.votes
                    if vote.block_id_flag == abci.FLAG_ABSENT
                )[:MAX_VALIDATORS],
                misbehaviours=tuple(
                    Misbehaviour(
                        kind=_KINDS[one.type],
                        validator=ConsensusAddress(one.validator.address),
                        height=BlockNumber(one.height),
                    )
                    for one in facts.misbehavior
                    if one.type in _KINDS
                )[:MAX_MISBEHAVIOURS],
            ),
        )

    def _compare_clocks(self, moment: Moment) -> None:
        """Tell whoever runs this machine that its clock is not that of the others."""
        seconds = (int(self._clock()) - int(moment)) // 1000
        self._clock_off = self._clock_off + 1 if abs(seconds) > CLOCK_SECONDS else 0
        if self._clock_off == CLOCK_BLOCKS:
            log.error(WRONG_CLOCK, abs(seconds), "ahead of" if seconds > 0 else "behind")

    def _ensure_no_twin(self, commit: abci.CommitInfo, height: int) -> None:
        """Raises: NodeError: our key has signed a block while this node was away."""
        if height <= self._last_signed:
            return
        for vote in commit.votes:
            if (
                vote.validator.address == self._own
                and vote.block_id_flag in (abci.FLAG_COMMIT, abci.FLAG_NIL)
            ):  # fmt: skip
                raise NodeError(
                    f"This validator's key signed block {height}, and not here: another node runs "
                    "with it. Two of them would be slashed; stop that one first, or give this one "
                    "another key."
                )


def _update(update: ValidatorUpdate) -> abci.ValidatorUpdate:
    return abci.ValidatorUpdate(
        pub_key=abci.PublicKey(ed25519=bytes(update.key)), power=int(update.power)
    )


def _within(extrinsics: Sequence[bytes], most: int) -> Sequence[bytes]:
    """As many as CometBFT's block has room for: all, as long as our own limit is the lower one."""
    total = 0
    for at, extrinsic in enumerate(extrinsics):
        total += len(extrinsic) + PER_EXTRINSIC
        if total > most:
            return extrinsics[:at]
    return extrinsics

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Flag(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLAG_UNKNOWN: _ClassVar[Flag]
    FLAG_ABSENT: _ClassVar[Flag]
    FLAG_COMMIT: _ClassVar[Flag]
    FLAG_NIL: _ClassVar[Flag]

FLAG_UNKNOWN: Flag
FLAG_ABSENT: Flag
FLAG_COMMIT: Flag
FLAG_NIL: Flag

class Request(_message.Message):
    __slots__ = (
        "echo",
        "flush",
        "info",
        "init_chain",
        "query",
        "check_tx",
        "commit",
        "list_snapshots",
        "offer_snapshot",
        "load_snapshot_chunk",
        "apply_snapshot_chunk",
        "prepare_proposal",
        "process_proposal",
        "finalize_block",
        "insert_tx",
        "reap_txs",
    )
    ECHO_FIELD_NUMBER: _ClassVar[int]
    FLUSH_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    INIT_CHAIN_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    CHECK_TX_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    LIST_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    OFFER_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    LOAD_SNAPSHOT_CHUNK_FIELD_NUMBER: _ClassVar[int]
    APPLY_SNAPSHOT_CHUNK_FIELD_NUMBER: _ClassVar[int]
    PREPARE_PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    PROCESS_PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    FINALIZE_BLOCK_FIELD_NUMBER: _ClassVar[int]
    INSERT_TX_FIELD_NUMBER: _ClassVar[int]
    REAP_TXS_FIELD_NUMBER: _ClassVar[int]
    echo: Echo
    flush: Nothing
    info: Nothing
    init_chain: InitChain
    query: Query
    check_tx: CheckTx
    commit: Nothing
    list_snapshots: Nothing
    offer_snapshot: OfferSnapshot
    load_snapshot_chunk: LoadSnapshotChunk
    apply_snapshot_chunk: ApplySnapshotChunk
    prepare_proposal: PrepareProposal
    process_proposal: ProcessProposal
    finalize_block: FinalizeBlock
    insert_tx: InsertTx
    reap_txs: ReapTxs
    def __init__(
        self,
        echo: _Optional[_Union[Echo, _Mapping]] = ...,
        flush: _Optional[_Union[Nothing, _Mapping]] = ...,
        info: _Optional[_Union[Nothing, _Mapping]] = ...,
        init_chain: _Optional[_Union[InitChain, _Mapping]] = ...,
        query: _Optional[_Union[Query, _Mapping]] = ...,
        check_tx: _Optional[_Union[CheckTx, _Mapping]] = ...,
        commit: _Optional[_Union[Nothing, _Mapping]] = ...,
        list_snapshots: _Optional[_Union[Nothing, _Mapping]] = ...,
        offer_snapshot: _Optional[_Union[OfferSnapshot, _Mapping]] = ...,
        load_snapshot_chunk: _Optional[_Union[LoadSnapshotChunk, _Mapping]] = ...,
        apply_snapshot_chunk: _Optional[_Union[ApplySnapshotChunk, _Mapping]] = ...,
        prepare_proposal: _Optional[_Union[PrepareProposal, _Mapping]] = ...,
        process_proposal: _Optional[_Union[ProcessProposal, _Mapping]] = ...,
        finalize_block: _Optional[_Union[FinalizeBlock, _Mapping]] = ...,
        insert_tx: _Optional[_Union[InsertTx, _Mapping]] = ...,
        reap_txs: _Optional[_Union[ReapTxs, _Mapping]] = ...,
    ) -> None: ...

class Response(_message.Message):
    __slots__ = (
        "exception",
        "echo",
        "flush",
        "info",
        "init_chain",
        "query",
        "check_tx",
        "commit",
        "list_snapshots",
        "offer_snapshot",
        "load_snapshot_chunk",
        "apply_snapshot_chunk",
        "prepare_proposal",
        "process_proposal",
        "finalize_block",
        "insert_tx",
        "reap_txs",
    )
    EXCEPTION_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    FLUSH_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    INIT_CHAIN_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    CHECK_TX_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    LIST_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    OFFER_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    LOAD_SNAPSHOT_CHUNK_FIELD_NUMBER: _ClassVar[int]
    APPLY_SNAPSHOT_CHUNK_FIELD_NUMBER: _ClassVar[int]
    PREPARE_PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    PROCESS_PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    FINALIZE_BLOCK_FIELD_NUMBER: _ClassVar[int]
    INSERT_TX_FIELD_NUMBER: _ClassVar[int]
    REAP_TXS_FIELD_NUMBER: _ClassVar[int]
    exception: Exception
    echo: Echo
    flush: Nothing
    info: InfoAnswer
    init_chain: InitChainAnswer
    query: QueryAnswer
    check_tx: CheckTxAnswer
    commit: CommitAnswer
    list_snapshots: ListSnapshotsAnswer
    offer_snapshot: OfferSnapshotAnswer
    load_snapshot_chunk: LoadSnapshotChunkAnswer
    apply_snapshot_chunk: ApplySnapshotChunkAnswer
    prepare_proposal: PrepareProposalAnswer
    process_proposal: ProcessProposalAnswer
    finalize_block: FinalizeBlockAnswer
    insert_tx: InsertTxAnswer
    reap_txs: ReapTxsAnswer
    def __init__(
        self,
        exception: _Optional[_Union[Exception, _Mapping]] = ...,
        echo: _Optional[_Union[Echo, _Mapping]] = ...,
        flush: _Optional[_Union[Nothing, _Mapping]] = ...,
        info: _Optional[_Union[InfoAnswer, _Mapping]] = ...,
        init_chain: _Optional[_Union[InitChainAnswer, _Mapping]] = ...,
        query: _Optional[_Union[QueryAnswer, _Mapping]] = ...,
        check_tx: _Optional[_Union[CheckTxAnswer, _Mapping]] = ...,
        commit: _Optional[_Union[CommitAnswer, _Mapping]] = ...,
        list_snapshots: _Optional[_Union[ListSnapshotsAnswer, _Mapping]] = ...,
        offer_snapshot: _Optional[_Union[OfferSnapshotAnswer, _Mapping]] = ...,
        load_snapshot_chunk: _Optional[_Union[LoadSnapshotChunkAnswer, _Mapping]] = ...,
        apply_snapshot_chunk: _Optional[_Union[ApplySnapshotChunkAnswer, _Mapping]] = ...,
        prepare_proposal: _Optional[_Union[PrepareProposalAnswer, _Mapping]] = ...,
        process_proposal: _Optional[_Union[ProcessProposalAnswer, _Mapping]] = ...,
        finalize_block: _Optional[_Union[FinalizeBlockAnswer, _Mapping]] = ...,
        insert_tx: _Optional[_Union[InsertTxAnswer, _Mapping]] = ...,
        reap_txs: _Optional[_Union[ReapTxsAnswer, _Mapping]] = ...,
    ) -> None: ...

class Nothing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Echo(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class Exception(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: str
    def __init__(self, error: _Optional[str] = ...) -> None: ...

class Time(_message.Message):
    __slots__ = ("seconds", "nanos")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    NANOS_FIELD_NUMBER: _ClassVar[int]
    seconds: int
    nanos: int
    def __init__(self, seconds: _Optional[int] = ..., nanos: _Optional[int] = ...) -> None: ...

class InfoAnswer(_message.Message):
    __slots__ = ("data", "version", "app_version", "last_block_height", "last_block_app_hash")
    DATA_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    APP_VERSION_FIELD_NUMBER: _ClassVar[int]
    LAST_BLOCK_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    LAST_BLOCK_APP_HASH_FIELD_NUMBER: _ClassVar[int]
    data: str
    version: str
    app_version: int
    last_block_height: int
    last_block_app_hash: bytes
    def __init__(
        self,
        data: _Optional[str] = ...,
        version: _Optional[str] = ...,
        app_version: _Optional[int] = ...,
        last_block_height: _Optional[int] = ...,
        last_block_app_hash: _Optional[bytes] = ...,
    ) -> None: ...

class InitChain(_message.Message):
    __slots__ = ("chain_id", "initial_height")
    CHAIN_ID_FIELD_NUMBER: _ClassVar[int]
    INITIAL_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    chain_id: str
    initial_height: int
    def __init__(
        self, chain_id: _Optional[str] = ..., initial_height: _Optional[int] = ...
    ) -> None: ...

class InitChainAnswer(_message.Message):
    __slots__ = ("validators", "app_hash")
    VALIDATORS_FIELD_NUMBER: _ClassVar[int]
    APP_HASH_FIELD_NUMBER: _ClassVar[int]
    validators: _containers.RepeatedCompositeFieldContainer[ValidatorUpdate]
    app_hash: bytes
    def __init__(
        self,
        validators: _Optional[_Iterable[_Union[ValidatorUpdate, _Mapping]]] = ...,
        app_hash: _Optional[bytes] = ...,
    ) -> None: ...

class PublicKey(_message.Message):
    __slots__ = ("ed25519",)
    ED25519_FIELD_NUMBER: _ClassVar[int]
    ed25519: bytes
    def __init__(self, ed25519: _Optional[bytes] = ...) -> None: ...

class ValidatorUpdate(_message.Message):
    __slots__ = ("pub_key", "power")
    PUB_KEY_FIELD_NUMBER: _ClassVar[int]
    POWER_FIELD_NUMBER: _ClassVar[int]
    pub_key: PublicKey
    power: int
    def __init__(
        self, pub_key: _Optional[_Union[PublicKey, _Mapping]] = ..., power: _Optional[int] = ...
    ) -> None: ...

class Validator(_message.Message):
    __slots__ = ("address", "power")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    POWER_FIELD_NUMBER: _ClassVar[int]
    address: bytes
    power: int
    def __init__(self, address: _Optional[bytes] = ..., power: _Optional[int] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("data", "path", "height", "prove")
    DATA_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    PROVE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    path: str
    height: int
    prove: bool
    def __init__(
        self,
        data: _Optional[bytes] = ...,
        path: _Optional[str] = ...,
        height: _Optional[int] = ...,
        prove: _Optional[bool] = ...,
    ) -> None: ...

class ProofOp(_message.Message):
    __slots__ = ("type", "key", "data")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    type: str
    key: bytes
    data: bytes
    def __init__(
        self, type: _Optional[str] = ..., key: _Optional[bytes] = ..., data: _Optional[bytes] = ...
    ) -> None: ...

class ProofOps(_message.Message):
    __slots__ = ("ops",)
    OPS_FIELD_NUMBER: _ClassVar[int]
    ops: _containers.RepeatedCompositeFieldContainer[ProofOp]
    def __init__(self, ops: _Optional[_Iterable[_Union[ProofOp, _Mapping]]] = ...) -> None: ...

class QueryAnswer(_message.Message):
    __slots__ = ("code", "log", "key", "value", "proof_ops", "height")
    CODE_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PROOF_OPS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    code: int
    log: str
    key: bytes
    value: bytes
    proof_ops: ProofOps
    height: int
    def __init__(
        self,
        code: _Optional[int] = ...,
        log: _Optional[str] = ...,
        key: _Optional[bytes] = ...,
        value: _Optional[bytes] = ...,
        proof_ops: _Optional[_Union[ProofOps, _Mapping]] = ...,
        height: _Optional[int] = ...,
    ) -> None: ...

class CheckTx(_message.Message):
    __slots__ = ("tx",)
    TX_FIELD_NUMBER: _ClassVar[int]
    tx: bytes
    def __init__(self, tx: _Optional[bytes] = ...) -> None: ...

class CheckTxAnswer(_message.Message):
    __slots__ = ("code", "log")
    CODE_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    code: int
    log: str
    def __init__(self, code: _Optional[int] = ..., log: _Optional[str] = ...) -> None: ...

class InsertTx(_message.Message):
    __slots__ = ("tx",)
    TX_FIELD_NUMBER: _ClassVar[int]
    tx: bytes
    def __init__(self, tx: _Optional[bytes] = ...) -> None: ...

class InsertTxAnswer(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: int
    def __init__(self, code: _Optional[int] = ...) -> None: ...

class ReapTxs(_message.Message):
    __slots__ = ("max_bytes",)
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_bytes: int
    def __init__(self, max_bytes: _Optional[int] = ...) -> None: ...

class ReapTxsAnswer(_message.Message):
    __slots__ = ("txs",)
    TXS_FIELD_NUMBER: _ClassVar[int]
    txs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, txs: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PrepareProposal(_message.Message):
    __slots__ = (
        "max_tx_bytes",
        "local_last_commit",
        "misbehavior",
        "height",
        "time",
        "proposer_address",
    )
    MAX_TX_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_LAST_COMMIT_FIELD_NUMBER: _ClassVar[int]
    MISBEHAVIOR_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    PROPOSER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    max_tx_bytes: int
    local_last_commit: ExtendedCommitInfo
    misbehavior: _containers.RepeatedCompositeFieldContainer[Misbehavior]
    height: int
    time: Time
    proposer_address: bytes
    def __init__(
        self,
        max_tx_bytes: _Optional[int] = ...,
        local_last_commit: _Optional[_Union[ExtendedCommitInfo, _Mapping]] = ...,
        misbehavior: _Optional[_Iterable[_Union[Misbehavior, _Mapping]]] = ...,
        height: _Optional[int] = ...,
        time: _Optional[_Union[Time, _Mapping]] = ...,
        proposer_address: _Optional[bytes] = ...,
    ) -> None: ...

class PrepareProposalAnswer(_message.Message):
    __slots__ = ("txs",)
    TXS_FIELD_NUMBER: _ClassVar[int]
    txs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, txs: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ProcessProposal(_message.Message):
    __slots__ = ("txs", "proposed_last_commit", "misbehavior", "height", "time", "proposer_address")
    TXS_FIELD_NUMBER: _ClassVar[int]
    PROPOSED_LAST_COMMIT_FIELD_NUMBER: _ClassVar[int]
    MISBEHAVIOR_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    PROPOSER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    txs: _containers.RepeatedScalarFieldContainer[bytes]
    proposed_last_commit: CommitInfo
    misbehavior: _containers.RepeatedCompositeFieldContainer[Misbehavior]
    height: int
    time: Time
    proposer_address: bytes
    def __init__(
        self,
        txs: _Optional[_Iterable[bytes]] = ...,
        proposed_last_commit: _Optional[_Union[CommitInfo, _Mapping]] = ...,
        misbehavior: _Optional[_Iterable[_Union[Misbehavior, _Mapping]]] = ...,
        height: _Optional[int] = ...,
        time: _Optional[_Union[Time, _Mapping]] = ...,
        proposer_address: _Optional[bytes] = ...,
    ) -> None: ...

class ProcessProposalAnswer(_message.Message):
    __slots__ = ("status",)
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[ProcessProposalAnswer.Status]
        ACCEPT: _ClassVar[ProcessProposalAnswer.Status]
        REJECT: _ClassVar[ProcessProposalAnswer.Status]

    UNKNOWN: ProcessProposalAnswer.Status
    ACCEPT: ProcessProposalAnswer.Status
    REJECT: ProcessProposalAnswer.Status
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ProcessProposalAnswer.Status
    def __init__(
        self, status: _Optional[_Union[ProcessProposalAnswer.Status, str]] = ...
    ) -> None: ...

class FinalizeBlock(_message.Message):
    __slots__ = ("txs", "decided_last_commit", "misbehavior", "height", "time", "proposer_address")
    TXS_FIELD_NUMBER: _ClassVar[int]
    DECIDED_LAST_COMMIT_FIELD_NUMBER: _ClassVar[int]
    MISBEHAVIOR_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    PROPOSER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    txs: _containers.RepeatedScalarFieldContainer[bytes]
    decided_last_commit: CommitInfo
    misbehavior: _containers.RepeatedCompositeFieldContainer[Misbehavior]
    height: int
    time: Time
    proposer_address: bytes
    def __init__(
        self,
        txs: _Optional[_Iterable[bytes]] = ...,
        decided_last_commit: _Optional[_Union[CommitInfo, _Mapping]] = ...,
        misbehavior: _Optional[_Iterable[_Union[Misbehavior, _Mapping]]] = ...,
        height: _Optional[int] = ...,
        time: _Optional[_Union[Time, _Mapping]] = ...,
        proposer_address: _Optional[bytes] = ...,
    ) -> None: ...

class FinalizeBlockAnswer(_message.Message):
    __slots__ = ("tx_results", "validator_updates", "app_hash")
    TX_RESULTS_FIELD_NUMBER: _ClassVar[int]
    VALIDATOR_UPDATES_FIELD_NUMBER: _ClassVar[int]
    APP_HASH_FIELD_NUMBER: _ClassVar[int]
    tx_results: _containers.RepeatedCompositeFieldContainer[TxResult]
    validator_updates: _containers.RepeatedCompositeFieldContainer[ValidatorUpdate]
    app_hash: bytes
    def __init__(
        self,
        tx_results: _Optional[_Iterable[_Union[TxResult, _Mapping]]] = ...,
        validator_updates: _Optional[_Iterable[_Union[ValidatorUpdate, _Mapping]]] = ...,
        app_hash: _Optional[bytes] = ...,
    ) -> None: ...

class TxResult(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: int
    def __init__(self, code: _Optional[int] = ...) -> None: ...

class CommitAnswer(_message.Message):
    __slots__ = ("retain_height",)
    RETAIN_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    retain_height: int
    def __init__(self, retain_height: _Optional[int] = ...) -> None: ...

class CommitInfo(_message.Message):
    __slots__ = ("votes",)
    VOTES_FIELD_NUMBER: _ClassVar[int]
    votes: _containers.RepeatedCompositeFieldContainer[VoteInfo]
    def __init__(self, votes: _Optional[_Iterable[_Union[VoteInfo, _Mapping]]] = ...) -> None: ...

class VoteInfo(_message.Message):
    __slots__ = ("validator", "block_id_flag")
    VALIDATOR_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ID_FLAG_FIELD_NUMBER: _ClassVar[int]
    validator: Validator
    block_id_flag: Flag
    def __init__(
        self,
        validator: _Optional[_Union[Validator, _Mapping]] = ...,
        block_id_flag: _Optional[_Union[Flag, str]] = ...,
    ) -> None: ...

class ExtendedCommitInfo(_message.Message):
    __slots__ = ("votes",)
    VOTES_FIELD_NUMBER: _ClassVar[int]
    votes: _containers.RepeatedCompositeFieldContainer[ExtendedVoteInfo]
    def __init__(
        self, votes: _Optional[_Iterable[_Union[ExtendedVoteInfo, _Mapping]]] = ...
    ) -> None: ...

class ExtendedVoteInfo(_message.Message):
    __slots__ = ("validator", "block_id_flag")
    VALIDATOR_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ID_FLAG_FIELD_NUMBER: _ClassVar[int]
    validator: Validator
    block_id_flag: Flag
    def __init__(
        self,
        validator: _Optional[_Union[Validator, _Mapping]] = ...,
        block_id_flag: _Optional[_Union[Flag, str]] = ...,
    ) -> None: ...

class Misbehavior(_message.Message):
    __slots__ = ("type", "validator", "height")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Misbehavior.Type]
        DUPLICATE_VOTE: _ClassVar[Misbehavior.Type]
        LIGHT_CLIENT_ATTACK: _ClassVar[Misbehavior.Type]

    UNKNOWN: Misbehavior.Type
    DUPLICATE_VOTE: Misbehavior.Type
    LIGHT_CLIENT_ATTACK: Misbehavior.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VALIDATOR_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    type: Misbehavior.Type
    validator: Validator
    height: int
    def __init__(
        self,
        type: _Optional[_Union[Misbehavior.Type, str]] = ...,
        validator: _Optional[_Union[Validator, _Mapping]] = ...,
        height: _Optional[int] = ...,
    ) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("height", "format", "chunks", "hash", "metadata")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    height: int
    format: int
    chunks: int
    hash: bytes
    metadata: bytes
    def __init__(
        self,
        height: _Optional[int] = ...,
        format: _Optional[int] = ...,
        chunks: _Optional[int] = ...,
        hash: _Optional[bytes] = ...,
        metadata: _Optional[bytes] = ...,
    ) -> None: ...

class ListSnapshotsAnswer(_message.Message):
    __slots__ = ("snapshots",)
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[Snapshot]
    def __init__(
        self, snapshots: _Optional[_Iterable[_Union[Snapshot, _Mapping]]] = ...
    ) -> None: ...

class OfferSnapshot(_message.Message):
    __slots__ = ("snapshot", "app_hash")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    APP_HASH_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    app_hash: bytes
    def __init__(
        self,
        snapshot: _Optional[_Union[Snapshot, _Mapping]] = ...,
        app_hash: _Optional[bytes] = ...,
    ) -> None: ...

class OfferSnapshotAnswer(_message.Message):
    __slots__ = ("result",)
    class Result(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[OfferSnapshotAnswer.Result]
        ACCEPT: _ClassVar[OfferSnapshotAnswer.Result]
        ABORT: _ClassVar[OfferSnapshotAnswer.Result]
        REJECT: _ClassVar[OfferSnapshotAnswer.Result]
        REJECT_FORMAT: _ClassVar[OfferSnapshotAnswer.Result]
        REJECT_SENDER: _ClassVar[OfferSnapshotAnswer.Result]

    UNKNOWN: OfferSnapshotAnswer.Result
    ACCEPT: OfferSnapshotAnswer.Result
    ABORT: OfferSnapshotAnswer.Result
    REJECT: OfferSnapshotAnswer.Result
    REJECT_FORMAT: OfferSnapshotAnswer.Result
    REJECT_SENDER: OfferSnapshotAnswer.Result
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: OfferSnapshotAnswer.Result
    def __init__(
        self, result: _Optional[_Union[OfferSnapshotAnswer.Result, str]] = ...
    ) -> None: ...

class LoadSnapshotChunk(_message.Message):
    __slots__ = ("height", "format", "chunk")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    height: int
    format: int
    chunk: int
    def __init__(
        self,
        height: _Optional[int] = ...,
        format: _Optional[int] = ...,
        chunk: _Optional[int] = ...,
    ) -> None: ...

class LoadSnapshotChunkAnswer(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class ApplySnapshotChunk(_message.Message):
    __slots__ = ("index", "chunk", "sender")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    index: int
    chunk: bytes
    sender: str
    def __init__(
        self,
        index: _Optional[int] = ...,
        chunk: _Optional[bytes] = ...,
        sender: _Optional[str] = ...,
    ) -> None: ...

class ApplySnapshotChunkAnswer(_message.Message):
    __slots__ = ("result", "refetch_chunks", "reject_senders")
    class Result(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[ApplySnapshotChunkAnswer.Result]
        ACCEPT: _ClassVar[ApplySnapshotChunkAnswer.Result]
        ABORT: _ClassVar[ApplySnapshotChunkAnswer.Result]
        RETRY: _ClassVar[ApplySnapshotChunkAnswer.Result]
        RETRY_SNAPSHOT: _ClassVar[ApplySnapshotChunkAnswer.Result]
        REJECT_SNAPSHOT: _ClassVar[ApplySnapshotChunkAnswer.Result]

    UNKNOWN: ApplySnapshotChunkAnswer.Result
    ACCEPT: ApplySnapshotChunkAnswer.Result
    ABORT: ApplySnapshotChunkAnswer.Result
    RETRY: ApplySnapshotChunkAnswer.Result
    RETRY_SNAPSHOT: ApplySnapshotChunkAnswer.Result
    REJECT_SNAPSHOT: ApplySnapshotChunkAnswer.Result
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REFETCH_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    REJECT_SENDERS_FIELD_NUMBER: _ClassVar[int]
    result: ApplySnapshotChunkAnswer.Result
    refetch_chunks: _containers.RepeatedScalarFieldContainer[int]
    reject_senders: _containers.RepeatedScalarFieldContainer[str]
    def __init__(
        self,
        result: _Optional[_Union[ApplySnapshotChunkAnswer.Result, str]] = ...,
        refetch_chunks: _Optional[_Iterable[int]] = ...,
        reject_senders: _Optional[_Iterable[str]] = ...,
    ) -> None: ...

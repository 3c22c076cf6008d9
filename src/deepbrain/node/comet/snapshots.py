"""Snapshots for nodes that join late: what this one has to offer, and what it is offered.

    <data>/snapshots/<height>/rows       the stream (see `state.snapshots`), cut into chunks by place
                              metadata   what CometBFT passes on beside them
                     .<anything>         not finished: removed at start

Metadata: genesis hash (32) ‖ bytes of the stream (8) ‖ hash of each chunk (32). A snapshot's own hash is
over format, height and metadata, so it says the same of the chunks: CometBFT compares neither. Two honest
nodes' snapshots of a block are the same bytes, and chunks of one are taken from many.

A snapshot is taken by a process of its own, that no block waits for it.
"""

import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from deepbrain.node.chain import Chain
from deepbrain.node.comet import abci_pb2 as abci
from deepbrain.node.comet.home import MAX_CHUNKS
from deepbrain.node.engine import Ledger
from deepbrain.node.errors import NodeError
from deepbrain.node.snapshots import Readable, rows_of
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.primitives.units import BlockNumber
from deepbrain.state.errors import BadSnapshot
from deepbrain.state.lmdb.store import MIN_FREE
from deepbrain.state.snapshots import CHUNK, Row, read_stream, write_stream

log = logging.getLogger(__name__)

FORMAT: Final = 1
KEPT: Final = 2
MAX_KEPT: Final = 4
"""With those that somebody is still reading: gone, they would have to begin with another."""
IN_USE_SECONDS: Final = 60.0
PER_BYTE: Final = 5
"""Bytes of disk for each of a snapshot that is offered: chunks twice, CometBFT's too, and the store."""
TAKING_SECONDS: Final = 1800.0
"""After which the process that takes one is given up."""

_HASH: Final = 32
_SIZE: Final = 8
_FRONT: Final = _HASH + _SIZE

Offered = abci.OfferSnapshotAnswer
Applied = abci.ApplySnapshotChunkAnswer


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of a snapshot before any chunk is here."""

    genesis: Hash
    size: int
    """Bytes of the stream."""
    hashes: tuple[Hash, ...]
    """Of the chunks."""

    def encode(self) -> bytes:
        return bytes(self.genesis) + self.size.to_bytes(_SIZE, "big") + b"".join(self.hashes)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises: BadSnapshot."""
        count, rest = divmod(len(data) - _FRONT, _HASH)
        if rest or not 0 < count <= MAX_CHUNKS:
            raise BadSnapshot("The metadata of a snapshot has a length that none has.")
        size = int.from_bytes(data[_HASH:_FRONT], "big")
        if not (count - 1) * CHUNK < size <= count * CHUNK:
            raise BadSnapshot("A snapshot has another number of chunks than its length asks for.")
        cuts = range(_FRONT, len(data), _HASH)
        return cls(Hash(data[:_HASH]), size, tuple(Hash(data[at : at + _HASH]) for at in cuts))

    def length_of(self, index: int) -> int:
        """Bytes of a chunk."""
        return min(CHUNK, self.size - index * CHUNK)

    def hash_at(self, height: int) -> Hash:
        """The snapshot's own hash."""
        front = FORMAT.to_bytes(4, "big") + height.to_bytes(8, "big")
        return blake2_256(front + self.encode())


class Shelf:
    """The snapshots on this node's disk."""

    def __init__(self, path: Path, genesis: Hash) -> None:
        """Raises: NodeError: the directory cannot be made."""
        self.path = path
        self._genesis = genesis
        self._known: dict[int, bytes] = {}
        """Metadata by height, ascending: what is offered."""
        self._asked: dict[int, float] = {}
        """When somebody last read a chunk, by height, of all that can be read."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for each in path.iterdir():
                if each.name.startswith("."):
                    shutil.rmtree(each)
        except OSError as error:
            raise NodeError(f"{path} cannot be written: {error.strerror}.") from error
        self.look()

    def look(self) -> None:
        """See what is there; remove all but the newest `KEPT` and those that somebody is reading."""
        heights = sorted(int(each.name) for each in self.path.iterdir() if each.name.isdecimal())
        now = time.monotonic()
        for height in heights[:-KEPT]:
            asked = self._asked.get(height, -IN_USE_SECONDS)
            if height in heights[-MAX_KEPT:] and now - asked < IN_USE_SECONDS:
                continue
            shutil.rmtree(self.path / str(height), ignore_errors=True)
            self._asked.pop(height, None)
        known = {}
        for height in heights[-KEPT:]:
            try:
                data = (self.path / str(height) / "metadata").read_bytes()
                if Metadata.decode(data).genesis != self._genesis:
                    raise BadSnapshot("it is of another chain.")
            except (OSError, BadSnapshot) as error:
                log.warning("the snapshot of block %d is removed: %s", height, error)
                shutil.rmtree(self.path / str(height), ignore_errors=True)
                continue
            known[height] = data
            self._asked.setdefault(height, -IN_USE_SECONDS)
        self._known = known

    @property
    def oldest(self) -> int | None:
        """The height of the oldest snapshot offered."""
        return next(iter(self._known), None)

    def listed(self) -> list[abci.Snapshot]:
        return [_snapshot(height, data) for height, data in self._known.items()]

    def chunk(self, height: int, format_: int, index: int) -> bytes:
        """A chunk; empty where there is none, which CometBFT's peers take for missing."""
        if format_ != FORMAT or height not in self._asked:
            return b""
        self._asked[height] = time.monotonic()
        try:
            with (self.path / str(height) / "rows").open("rb") as file:
                file.seek(index * CHUNK)
                return file.read(CHUNK)
        except OSError as error:
            log.warning("a chunk of the snapshot of block %d cannot be read: %s", height, error)
            return b""


def take(store: Readable, number: int, shelf: Path) -> None:
    """Put a snapshot of a block on a shelf, whole or not at all.

    Cost: 5 µs an entry. Raises: UnknownState: the state was pruned meanwhile. BadSnapshot: a header is
    missing, or the state is too large. StoreError, OSError.
    """
    genesis = Hash(store.table_get("meta", b"genesis") or b"")
    fresh = Path(tempfile.mkdtemp(prefix=f".{number}-", dir=shelf))
    try:
        with (fresh / "rows").open("xb") as rows:
            size, hashes = write_stream(_bounded(rows_of(store, number), rows), rows)
            _sync(rows)
        with (fresh / "metadata").open("xb") as metadata:
            metadata.write(Metadata(genesis, size, hashes).encode())
            _sync(metadata)
        fresh.replace(shelf / str(number))
        place = os.open(shelf, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _bounded(rows: Iterator[Row], file: BinaryIO) -> Iterator[Row]:
    """The rows. Raises: BadSnapshot: nobody would accept so many chunks."""
    for row in rows:
        if file.tell() > (MAX_CHUNKS - 32) * CHUNK:
            raise BadSnapshot("The state is too large for a snapshot.")
        yield row


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _snapshot(height: int, metadata: bytes) -> abci.Snapshot:
    known = Metadata.decode(metadata)
    return abci.Snapshot(
        height=height,
        format=FORMAT,
        chunks=len(known.hashes),
        hash=bytes(known.hash_at(height)),
        metadata=metadata,
    )


class Keeper:
    """Has a snapshot taken of every `every`-th block, one at a time; 0: of none."""

    def __init__(self, shelf: Shelf, store: Path, every: int) -> None:
        """`store`: the directory of the chain, which another process reads."""
        self._shelf = shelf
        self._store = store
        self._every = every
        self._wanted: asyncio.Queue[int] = asyncio.Queue(1)

    def on_block(self, number: int) -> None:
        """A block was written."""
        if self._every and number % self._every == 0:
            if self._wanted.full():
                self._wanted.get_nowait()
            self._wanted.put_nowait(number)

    async def keep(self) -> None:
        """Take what is wanted, until it is cancelled. One that fails is told in the log."""
        while True:
            number = await self._wanted.get()
            try:
                said = await asyncio.wait_for(self._take(number), TAKING_SECONDS)
            except (OSError, TimeoutError) as error:
                said = str(error) or f"it took more than {TAKING_SECONDS:.0f} s"
            if said:
                log.warning("no snapshot of block %d: %s", number, said)
            try:
                await asyncio.to_thread(self._shelf.look)
            except OSError as error:
                log.warning("%s cannot be read: %s", self._shelf.path, error)

    async def _take(self, number: int) -> str:
        """Run the process; what it said when it failed, else nothing."""
        command = ("-m", "deepbrain.node.comet.taking")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command, str(self._store), str(number), str(self._shelf.path)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, said = await process.communicate()
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        return "" if process.returncode == 0 else _last_line(said, process.returncode)


def _last_line(said: bytes, code: int | None) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else f"its process ended with {code}"


class Joining:
    """A snapshot that is offered, and its chunks as they come in. Only for a node without blocks."""

    def __init__(self, chain: Chain, ledger: Ledger, shelf: Path) -> None:
        self._chain = chain
        self._ledger = ledger
        self._place = shelf / ".joining"
        self._accepted: _Accepted | None = None

    def offer(self, snapshot: abci.Snapshot, app_hash: bytes) -> Offered.Result:
        """Whether its chunks are wanted; `app_hash` is the state root that the light client vouches for.

        Raises: OSError.
        """
        self._forget()
        if not self._chain.is_fresh:
            log.warning("CometBFT offers a snapshot to a node that has blocks: it is refused")
            return Offered.ABORT
        if snapshot.format != FORMAT:
            return Offered.REJECT_FORMAT
        try:
            metadata = Metadata.decode(snapshot.metadata)
            _check(snapshot, metadata, self._chain.genesis_hash)
            _check_room(metadata, self._place.parent)
            root = Hash(app_hash)
        except (BadSnapshot, ValueError) as error:
            log.warning("a snapshot of block %d is refused: %s", snapshot.height, error)
            return Offered.REJECT
        self._place.mkdir(mode=0o700)
        self._accepted = _Accepted(snapshot.height, root, metadata, self._place / "rows")
        log.info("joining at block %d, with %d chunks", snapshot.height, snapshot.chunks)
        return Offered.ACCEPT

    async def apply(self, request: abci.ApplySnapshotChunk) -> abci.ApplySnapshotChunkAnswer:
        """Take a chunk in, and with the last one begin. Raises: NodeError, StoreError, OSError."""
        accepted, index = self._accepted, request.index
        if accepted is None or index >= len(accepted.metadata.hashes):
            return Applied(result=Applied.REJECT_SNAPSHOT)
        metadata = accepted.metadata
        if blake2_256(request.chunk) != metadata.hashes[index]:
            log.warning("chunk %d of a snapshot is not what its hash says", index)
            senders = [request.sender] if request.sender else []
            return Applied(result=Applied.RETRY, refetch_chunks=[index], reject_senders=senders)
        if len(request.chunk) != metadata.length_of(index):
            log.warning("a snapshot of block %d has a chunk of no length of ours", accepted.height)
            self._forget()
            return Applied(result=Applied.REJECT_SNAPSHOT)
        await asyncio.to_thread(accepted.put, index, request.chunk)
        if accepted.missing:
            return Applied(result=Applied.ACCEPT)
        try:
            await self._ledger.join(
                accepted.height, accepted.root, lambda: read_stream(accepted.path)
            )
        except BadSnapshot as error:
            log.warning("a snapshot of block %d is refused: %s", accepted.height, error)
            return Applied(result=Applied.REJECT_SNAPSHOT)
        finally:
            self._forget()
        return Applied(result=Applied.ACCEPT)

    def _forget(self) -> None:
        self._accepted = None
        shutil.rmtree(self._place, ignore_errors=True)


class _Accepted:
    """A snapshot whose chunks come in, in any order."""

    def __init__(self, height: int, root: Hash, metadata: Metadata, path: Path) -> None:
        self.height = height
        self.root = root
        self.metadata = metadata
        self.path = path
        self.missing = set(range(len(metadata.hashes)))

    def put(self, index: int, chunk: bytes) -> None:
        with self.path.open("r+b" if self.path.exists() else "xb") as file:
            file.seek(index * CHUNK)
            file.write(chunk)
        self.missing.discard(index)


def _check(snapshot: abci.Snapshot, metadata: Metadata, genesis: Hash) -> None:
    """Raises: BadSnapshot: what is offered contradicts itself, or is of another chain."""
    if not 0 < snapshot.height <= BlockNumber.MAX:
        raise BadSnapshot("there is no such block")
    if metadata.genesis != genesis:
        raise BadSnapshot(f"it is of the chain {metadata.genesis}")
    if snapshot.chunks != len(metadata.hashes):
        raise BadSnapshot("it has another number of chunks than its metadata")
    if snapshot.hash != metadata.hash_at(snapshot.height):
        raise BadSnapshot("its hash is not that of its metadata")


def _check_room(metadata: Metadata, shelf: Path) -> None:
    """Raises: BadSnapshot: chunks and what is made of them would fill the disk. OSError."""
    if shutil.disk_usage(shelf).free < metadata.size * PER_BYTE + MIN_FREE:
        raise BadSnapshot(f"its {metadata.size >> 20} MiB need {PER_BYTE} times that of disk")


@dataclass(frozen=True, slots=True)
class Snapshots:
    """All of it, as CometBFT's questions need it."""

    shelf: Shelf
    keeper: Keeper
    joining: Joining

    @classmethod
    def at(cls, data: Path, chain: Chain, ledger: Ledger, every: int) -> Self:
        """In a node's data directory. Raises: NodeError: it cannot be written."""
        shelf = Shelf(data / "snapshots", chain.genesis_hash)
        return cls(shelf, Keeper(shelf, data / "chain", every), Joining(chain, ledger, shelf.path))

    async def answer(self, request: abci.Request) -> abci.Response | None:
        """The answer to what is asked of snapshots; None to all else.

        Raises: NodeError, StoreError: the node must stop.
        """
        try:
            return await self._answer(request)
        except OSError as error:
            raise NodeError(f"{self.shelf.path} cannot be used: {error.strerror}.") from error

    async def _answer(self, request: abci.Request) -> abci.Response | None:
        match request.WhichOneof("value"):
            case "load_snapshot_chunk":
                asked = request.load_snapshot_chunk
                chunk = await asyncio.to_thread(
                    self.shelf.chunk, asked.height, asked.format, asked.chunk
                )
                return abci.Response(load_snapshot_chunk=abci.LoadSnapshotChunkAnswer(chunk=chunk))
            case "offer_snapshot":
                offer = request.offer_snapshot
                result = self.joining.offer(offer.snapshot, offer.app_hash)
                return abci.Response(offer_snapshot=Offered(result=result))
            case "apply_snapshot_chunk":
                applied = await self.joining.apply(request.apply_snapshot_chunk)
                return abci.Response(apply_snapshot_chunk=applied)
            case _:
                return None

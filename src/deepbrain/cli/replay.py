"""`dbc replay`: every block of a chain once more, from block 0, and the first that is not as it says."""

import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepbrain.cli.chain import CONNECT_SECONDS, Choices, block_on
from deepbrain.cli.extras import ensure_installed
from deepbrain.cli.failure import UserError
from deepbrain.cli.home import node_url
from deepbrain.cli.output import counting, emit, printable

if TYPE_CHECKING:
    from deepbrain.node.replay import Difference, Source
    from deepbrain.runtime.chainspec import ChainSpec


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    blocks: int
    """Executed and right, block 0 left out."""
    seconds: float
    wrong: "Difference | None"

    def as_json(self) -> dict[str, Any]:
        wrong = self.wrong
        return {
            "ok": wrong is None,
            "blocks": self.blocks,
            "seconds": round(self.seconds, 3),
            "difference": None
            if wrong is None
            else {
                "block": wrong.number,
                "what": wrong.what,
                "stored": wrong.stored,
                "found": wrong.found,
            },
        }


@click.command()
@click.option("--verify", is_flag=True, required=True,
              help="Compare each block with what comes of it.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Data directory of a node that is stopped.")  # fmt: skip
@click.option("--node", "node", metavar="URL", help="A node that runs (default: as for `dbc`).")
@click.option("--spec", metavar="NAME|FILE", help="The chain spec, unless it is one of ours.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def replay(
    verify: bool, data: Path | None, node: str | None, spec: str | None, as_json: bool
) -> int:
    """Execute every block again, and compare.

    Believes nothing but the chain spec: signatures, roots and hashes are all made anew, and what was
    minted, burned and slashed is added up from the events. Ends with 1 at the first difference, and says
    which block it is in and what differs.
    """
    del verify  # there is nothing else yet that replaying is for; scripts say it already
    ensure_installed("node")
    if data is not None and node is not None:
        raise click.UsageError("blocks come from --data or from --node, not from both")
    if data is not None:
        result = block_on(_of_directory(data, spec))
    else:
        url = Choices.current().url if node is None else node_url(node)
        result = block_on(_of_node(url, spec))
    if as_json:
        emit(result.as_json())
    elif result.wrong is None:
        click.echo(f"{result.blocks} blocks executed, all as they say, in {result.seconds:.1f} s")
    else:
        click.echo(printable(f"after {result.blocks} blocks that are right, {result.wrong}"))
    return 0 if result.wrong is None else 1


async def _of_directory(data: Path, spec: str | None) -> Result:
    from deepbrain.node.replay import StoredBlocks
    from deepbrain.state.lmdb import LmdbStore

    if not (data / "chain" / "data.mdb").is_file():
        raise UserError(f"{data} is no node's data directory: name the one given to its --data")
    store = LmdbStore(data / "chain")
    try:
        return await _replayed(StoredBlocks(store), spec)
    finally:
        store.close()


async def _of_node(url: str, spec: str | None) -> Result:
    async with _blocks_of(url) as source:
        return await _replayed(source, spec)


@contextlib.asynccontextmanager
async def _blocks_of(url: str) -> "AsyncIterator[Source]":
    """Raises: NodeUnreachable, RpcError."""
    from deepbrain.client.errors import RpcError
    from deepbrain.client.rpc import Rpc
    from deepbrain.node.replay import RpcBlocks
    from deepbrain.primitives.ids import Hash

    async with await Rpc.open(url, seconds=CONNECT_SECONDS) as rpc:

        async def ask(calls: Any) -> list[Any]:
            answers = await rpc.batch(calls)
            for answer in answers:
                if isinstance(answer, RpcError):
                    raise answer
            return answers

        genesis, head = await ask(
            [("archive_v1_genesisHash", ()), ("archive_v1_finalizedHeight", ())]
        )
        try:
            yield RpcBlocks(ask, Hash(bytes.fromhex(genesis.removeprefix("0x"))), int(head))
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{url} is no node of this chain's: {error}") from error


async def _replayed(source: "Source", name: str | None) -> Result:
    from deepbrain.node.replay import Difference
    from deepbrain.node.replay import replay as replayed

    spec = _spec(source, name)
    began, last = time.monotonic(), 0
    wrong: Difference | None = None
    with _scratch() as store, counting("executing blocks", source.head) as reached:
        async for found in replayed(source, spec, store):
            if isinstance(found, Difference):
                wrong = found
                break
            last = found
            reached(found)
    return Result(last, time.monotonic() - began, wrong)


def _spec(source: "Source", name: str | None) -> "ChainSpec":
    from deepbrain.node.node import load_spec
    from deepbrain.node.replay import spec_for

    if name is not None:
        return load_spec(name)
    spec = spec_for(source.genesis)
    if spec is None:
        raise UserError(
            f"no chain spec of ours makes the chain {source.genesis}; name its file with --spec"
        )
    return spec


@contextlib.contextmanager
def _scratch() -> Iterator[Any]:
    """A store on disk that is gone afterwards: a chain need not fit into memory."""
    from deepbrain.state.lmdb import LmdbStore
    from deepbrain.state.store import Retention

    with tempfile.TemporaryDirectory(prefix="dbc-replay-") as path:
        store = LmdbStore(Path(path), retention=Retention(states=1, proofs=1), sync=False)
        try:
            yield store
        finally:
            store.close()

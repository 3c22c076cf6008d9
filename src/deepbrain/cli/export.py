"""`dbc export`: a chain spec that begins with the state of a chain that is stopped."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepbrain.cli.extras import ensure_installed
from deepbrain.cli.failure import UserError
from deepbrain.cli.output import emit, say

if TYPE_CHECKING:
    from deepbrain.node.chain import Chain


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True,
              help="Data directory of a node that is stopped.")  # fmt: skip
@click.option("--spec", required=True, metavar="NAME|FILE", help="The chain spec it runs with.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True,
              help="Where the new chain spec goes; it must not exist.")  # fmt: skip
@click.option("--id", "identity", metavar="NAME", help="Call the new chain otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(data: Path, spec: str, out: Path, identity: str | None, as_json: bool) -> None:
    """Begin another chain with the state of one.

    A data directory belongs to one engine: this is the way from one node alone to many validators, and
    back. Accounts, machines, orders and stakes come along; who validates is who was elected last. Blocks
    stay behind, and so does every signature: the new chain has another genesis hash.

    \b
    dbc export --data ~/.dbc/network/node --spec dev --out chain.json
    python -m deepbrain.node --engine cometbft --spec chain.json --data NEW
    """
    ensure_installed("node")
    if out.exists():
        raise UserError(f"{out} exists; name a file that does not")
    file = _spec_file(spec)
    found = _exported(data, spec, file, identity)
    try:
        with out.open("x") as target:
            json.dump(file, target, indent=1)
            target.write("\n")
    except OSError:
        out.unlink(missing_ok=True)
        raise
    if as_json:
        emit(found)
        return
    say(f"{found['entries']} entries as of block {found['block']} are in {out}")
    if not found["validators"]:
        say(
            "nobody validates: under CometBFT somebody must; have them elected before, by `dbc validate join`"
        )


def _spec_file(spec: str) -> dict[str, Any]:
    """The spec as it is written. Raises: NodeError: there is none, or it is no spec."""
    from deepbrain.node.node import load_spec, read_spec

    load_spec(spec)
    return read_spec(spec)


def _exported(data: Path, spec: str, file: dict[str, Any], identity: str | None) -> dict[str, Any]:
    """Put the state into `file`; gives what it is.

    Raises: UserError: it is no data directory. NodeError, StoreError: the node runs, or it is another
    chain. BadChainSpec: the state cannot be exported.
    """
    from deepbrain.node.chain import Chain
    from deepbrain.node.node import load_spec
    from deepbrain.state.lmdb import LmdbStore

    if not (data / "chain" / "data.mdb").is_file():
        raise UserError(f"{data} is no node's data directory: name the one given to its --data")
    store = LmdbStore(data / "chain")
    try:
        engine = (store.table_get("meta", b"engine") or b"").decode()
        return _fill(Chain(store, load_spec(spec), engine), file, identity)
    finally:
        store.close()


def _fill(chain: "Chain", file: dict[str, Any], identity: str | None) -> dict[str, Any]:
    from deepbrain.runtime.genesis import export_state
    from deepbrain.runtime.source import SOURCE

    head = chain.head
    with chain.snapshot(head.hash) as state:
        entries = export_state(chain.executive(chain.spec_version()).runtime, state, head.hash)
        earliest = chain.earliest
    genesis = file["genesis"]
    genesis |= {"balances": {}, "validators": [], "root": None}
    genesis["source"] = genesis["source"] or str(SOURCE)
    genesis["raw"] = {f"0x{key.hex()}": f"0x{value.hex()}" for key, value in entries.items()}
    # Block 1 of the new chain is later than the last of the old one.
    file["constants"].setdefault("Timestamp", {})["genesis_time"] = int(earliest)
    file["id"] = identity or file["id"]
    return {
        "block": head.number,
        "block_hash": str(head.hash),
        "entries": len(entries),
        "validators": len(chain.validators()),
    }

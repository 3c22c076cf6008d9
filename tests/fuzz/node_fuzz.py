"""Hostile extrinsics, calls and JSON frames against a whole node without a socket, guided by coverage.

python -m tests.fuzz.node_fuzz --runs 1000000 --seed 1 --report build/fuzz.json

The first byte of an input says what the rest is: an extrinsic as it is or with a right length in front,
a call that is made in a block, or a frame. Whatever comes, the node answers with JSON-RPC 2.0, its errors
are well-formed and none of them is `Internal error`, a call fails with a declared failure or succeeds, and
memory stays where it was. The fuzzer (atheris on libFuzzer) keeps what reaches new code and changes it.
"""

import argparse
import asyncio
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["deepbrain"]):
    from tests.node.world import (
        DEV,
        Wallet,
        account,
        bond_call,
        hexed,
        machine_id,
        transfer_call,
    )

    from deepbrain.node.chain import Chain, InherentData, Order
    from deepbrain.node.examiner import HeadExaminer
    from deepbrain.node.pool import Pool
    from deepbrain.node.rpc.errors import INTERNAL_ERROR
    from deepbrain.node.rpc.subscriptions import Outbox, Peer, Subscriptions
    from deepbrain.node.rpc.table import rpc_table
    from deepbrain.node.signatures import InlineSignatures
    from deepbrain.pallets.balances import Balances
    from deepbrain.pallets.machines import Machines
    from deepbrain.pallets.oracle import Oracle
    from deepbrain.pallets.rent import Rent
    from deepbrain.pallets.sudo import Sudo
    from deepbrain.pallets.system import System
    from deepbrain.pallets.utility import Utility
    from deepbrain.primitives.errors import DecodeError
    from deepbrain.primitives.ids import Hash, OrderId
    from deepbrain.primitives.units import PLANCK, U8, U16, U32, Balance, MicroUsd, Moment, Seconds
    from deepbrain.scale import encode_compact
    from deepbrain.state.memory import MemoryStore

RAW, PREFIXED, CALL, FRAME = range(4)
MIB = 1 << 20
GROWTH = 192 * MIB
"""What the process may grow by, coverage counters and kept inputs included."""


class Target:
    """One node, and what came of the inputs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.chain = Chain(MemoryStore(), DEV, "solo")
        data = InherentData(Moment(1), account("Alice"))
        self.chain.finalize(Order(self.chain.head.hash, data, ()), ())
        self.pool = Pool(HeadExaminer(self.chain), InlineSignatures())
        self.table = rpc_table(self.chain, self.pool, "fuzz")
        self.state = self.chain.snapshot()
        executive = self.chain.executive(1)
        self.calls = executive.runtime.calls
        self.block = executive.runtime.at(self.state, self.chain.head.hash)
        self.signer = account("Alice")
        # With a machine to rent: else most calls fail at their first step.
        bond = bond_call(self.chain.genesis_hash)
        failed = self.block.dispatch(bond, account("Charlie"))
        assert failed is None, failed
        self.outcomes: dict[str, int] = {}

    def feed(self, data: bytes) -> None:
        if not data:
            return
        kind, body = data[0] % 4, data[1:]
        if kind == CALL:
            self.count(self.make(body))
        elif kind == FRAME:
            self.count(self.ask(body))
        else:
            extrinsic = encode_compact(len(body)) + body if kind == PREFIXED else body
            params = json.dumps([hexed(extrinsic)])
            self.count(self.ask(frame("author_submitExtrinsic", params)))

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def make(self, data: bytes) -> str:
        """Decode a call and make it, then take it back. Raises: whatever is a bug."""
        try:
            call = self.calls.decode(data)
        except DecodeError:
            return "no call"
        assert call.encode() == data, "two encodings of one call"
        assert call.weight >= 0
        journal = self.block.context.journal
        mark = journal.mark()
        failure = self.block.dispatch(call, self.signer)
        journal.rollback(mark)
        return "call made" if failure is None else f"call failed: {type(failure).__name__}"

    def ask(self, text: bytes) -> str:
        answer = self.loop.run_until_complete(self._answer(text))
        return "nothing to answer" if answer is None else self.checked(json.loads(answer))

    async def _answer(self, text: bytes) -> str | None:
        subscriptions = Subscriptions(Outbox(lambda: None))
        try:
            answer = await self.table.answer(text, Peer(local=False, subscriptions=subscriptions))
            subscriptions.answered()
            await asyncio.sleep(0)  # what was begun may run
            return answer
        finally:
            subscriptions.close()

    def checked(self, answer: Any) -> str:
        """What kind of answer it is. Raises: AssertionError: it is malformed, or tells of a bug."""
        if isinstance(answer, list):
            assert answer
            return " and ".join(sorted({self.checked(each) for each in answer}))
        assert answer["jsonrpc"] == "2.0"
        assert "id" in answer
        assert ("result" in answer) != ("error" in answer)
        if "result" in answer:
            return "answered"
        error = answer["error"]
        assert isinstance(error["code"], int)
        assert isinstance(error["message"], str)
        assert set(error) <= {"code", "message", "data"}
        assert error["code"] != INTERNAL_ERROR, "a bug"
        return f"error {error['code']}"


def frame(method: str, params: str, identity: str = "1") -> bytes:
    return f'{{"jsonrpc":"2.0","id":{identity},"method":"{method}","params":{params}}}'.encode()


def seeds(target: Target) -> list[bytes]:
    """Inputs that are right: what is nearly right starts from them."""
    genesis = target.chain.genesis_hash
    wallet = Wallet(genesis)
    transfer = transfer_call(account("Dave"), PLANCK)
    price = Oracle.set_price.make(micro_usd=MicroUsd(5))
    place = Rent.place.make(
        machine=machine_id(),
        units=U16(1),
        seconds=Seconds(600),
        manifest_hash=Hash(bytes(32)),
        max_total=Balance(1000 * PLANCK),
        offer_version=U32(0),
        start_within=Seconds(120),
    )
    calls = [
        transfer,
        place,
        price,
        bond_call(genesis),
        Balances.transfer_all.make(dest=account("Dave"), keep_alive=False),
        Balances.burn.make(value=Balance(1), keep_alive=True),
        Machines.set_price.make(machine=machine_id(), price=MicroUsd(7)),
        Machines.pause.make(machine=machine_id()),
        Rent.start.make(order=OrderId(0)),
        Rent.close.make(order=OrderId(0), exit_code=U8(0)),
        System.remark_with_event.make(remark=b"hello"),
        Sudo.sudo.make(call=price),
        Utility.batch.make(calls=(transfer, place)),
        Utility.batch_all.make(calls=(Sudo.sudo.make(call=price), transfer)),
        Utility.force_batch.make(calls=(Utility.batch.make(calls=(transfer,)),)),
    ]
    found = [bytes((CALL,)) + call.encode() for call in calls]
    for nonce, call in enumerate(calls):
        extrinsic = wallet.sign("Alice", call, nonce=nonce, tip=nonce)
        found += [bytes((RAW,)) + extrinsic, bytes((PREFIXED,)) + extrinsic[2:]]
    head, key = f'"{genesis}"', hexed(System.number.key_of())
    follow = '"s00000001"'
    params = {
        "state_getStorage": f'["{key}"]',
        "state_call": '["AccountNonceApi_account_nonce","0x' + "00" * 32 + '"]',
        "state_getKeysPaged": f'["0x",10,"{key}",{head}]',
        "state_queryStorageAt": f'[["{key}"],{head}]',
        "state_getReadProof": f'[["{key}"],{head}]',
        "chain_getBlockHash": '[[0,1,"0x1"]]',
        "chainHead_v1_follow": "[true]",
        "chainHead_v1_storage": f'[{follow},{head},[{{"key":"{key}","type":"value"}}],null]',
        "chainHead_v1_call": f'[{follow},{head},"Core_version",""]',
        "chainHead_v1_unpin": f"[{follow},[{head},{head}]]",
        "archive_v1_storage": f'[{head},[{{"key":"0x","type":"descendantsHashes"}}],null]',
        "archive_v1_call": f'[{head},"Metadata_metadata_at_version","0x10000000"]',
        "payment_queryInfo": f'["{hexed(wallet.transfer("Bob"))}"]',
        "wallet_buildPayload": (
            f'["{hexed(account("Bob"))}","Balances","transfer_keep_alive",'
            f'{{"dest":"{hexed(account("Dave"))}","value":"5"}}]'
        ),
        "transaction_v1_broadcast": f'["{hexed(wallet.transfer("Bob"))}"]',
    }
    for method in target.table.names():
        found.append(bytes((FRAME,)) + frame(method, params.get(method, f"[{head}]")))
    batch = b",".join(frame(method, given) for method, given in list(params.items())[:5])
    return [*found, bytes((FRAME,)) + b"[" + batch + b"]"]


def words(target: Target) -> list[str]:
    """What a mutation may put in as a whole."""
    names = [*target.table.names(), '"params":[', '"id":', "null", "true", '"0x', "[[", "}}"]
    names += ["descendantsValues", "closestDescendantMerkleValue", "paginationStartKey", "1e9"]
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    target = Target()
    place = Path(tempfile.mkdtemp(prefix="deepbrain-fuzz-"))
    corpus = place / "corpus"
    corpus.mkdir()
    given = seeds(target)
    for number, seed in enumerate(given):
        (corpus / f"{number:04}").write_bytes(seed)
        target.feed(seed)
    right = dict(target.outcomes)
    target.outcomes.clear()
    dictionary = place / "words"
    dictionary.write_text("".join(f"{json.dumps(word)}\n" for word in words(target)))
    before, started, count = _resident(), time.monotonic(), 0

    def one(data: bytes) -> None:
        nonlocal count
        target.feed(data)
        count += 1
        if count == options.runs:
            grown = _resident() - before
            report = {
                "runs": count,
                "seconds": round(time.monotonic() - started, 1),
                "grown_mib": round(grown / MIB, 1),
                "kept": len(list(corpus.iterdir())),
                "seeds": len(given),
                "outcomes": dict(sorted(target.outcomes.items())),
                "outcomes_of_seeds": dict(sorted(right.items())),
            }
            options.report.write_text(json.dumps(report, indent=2) + "\n")
            shutil.rmtree(place)
            assert grown <= GROWTH, f"the node grew by {grown / MIB:.0f} MiB"

    # libFuzzer runs what it begins with once before it counts: it ends when our own count is full.
    flags = [f"-runs={options.runs}", f"-seed={options.seed}", f"-dict={dictionary}"]
    flags += ["-max_len=4096", "-rss_limit_mb=2048", "-timeout=20", f"-artifact_prefix={place}/"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()

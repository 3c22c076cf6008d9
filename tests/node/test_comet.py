"""CometBFT's room: frames, its directory, the process, and the answers that need no CometBFT."""

import asyncio
import base64
import json
import stat
import subprocess
import sys
import time
import tomllib
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.node.world import DEV, Wallet, account, running_node
from tests.validators.chain import STAKE, spec_file, stash

from deepbrain.frame.consensus import ConsensusAddress, ConsensusKey
from deepbrain.node.chain import Chain
from deepbrain.node.comet import abci_pb2 as abci
from deepbrain.node.comet import app as apps
from deepbrain.node.comet import process as processes
from deepbrain.node.comet import socket as sockets
from deepbrain.node.comet.app import App
from deepbrain.node.comet.home import CometConfig, CometHome, chain_id, genesis_of, settings_of
from deepbrain.node.comet.process import CometProcess
from deepbrain.node.comet.program import VERSION, find_cometbft, version_of
from deepbrain.node.errors import NodeError
from deepbrain.node.examiner import HeadExaminer
from deepbrain.node.ledger import NodeLedger
from deepbrain.node.pool import Pool
from deepbrain.node.signatures import InlineSignatures
from deepbrain.pallets.system import System
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.keys import Keypair, Scheme
from deepbrain.primitives.units import Moment
from deepbrain.runtime.chainspec import ChainSpec
from deepbrain.scale import decode
from deepbrain.state.memory import MemoryStore
from deepbrain.state.trie import verify_proof

KEY = Keypair.from_uri("//a validator", Scheme.ED25519)
OWN = ConsensusAddress.of(ConsensusKey(KEY.public))
OTHER = ConsensusAddress(bytes(20))


# Frames.


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 64))
def test_frames_come_out_as_they_went_in_however_they_are_cut(messages, size):
    requests = [abci.Request(insert_tx=abci.InsertTx(tx=one)) for one in messages]
    stream = b"".join(sockets.framed(one) for one in requests)
    received, found = bytearray(), []
    for at in range(0, len(stream), size):
        received += stream[at : at + size]
        found += [abci.Request.FromString(frame) for frame in sockets.take_frames(received)]
    assert found == requests
    assert not received


@given(st.binary(max_size=400))
def test_garbage_is_a_frame_or_none_or_an_error_and_never_more(garbage):
    received = bytearray(garbage)
    try:
        taken = list(sockets.take_frames(received))
    except ValueError:
        return
    assert sum(map(len, taken)) <= len(garbage)


def test_a_frame_longer_than_any_request_is_an_error():
    with pytest.raises(ValueError, match="has at most"):
        list(sockets.take_frames(bytearray(b"\xff\xff\xff\xff\x0f")))
    with pytest.raises(ValueError, match="does not end"):
        list(sockets.take_frames(bytearray(b"\x80" * 9)))


def test_the_answer_to_a_flush_is_the_fixed_one():
    assert sockets.FLUSH == b"\x12\x00"
    assert sockets.FLUSHED == b"\x02\x1a\x00"


async def test_answers_keep_the_order_of_requests_while_one_takes_time(tmp_path):
    class Slow:
        def at_once(self, request):
            return abci.Response(echo=request.echo) if request.HasField("echo") else None

        async def answer(self, request):
            await asyncio.sleep(0.05)
            return abci.Response(commit=abci.CommitAnswer(retain_height=7))

    deep = tmp_path / ("d" * 100) / ("e" * 100)  # longer than a socket's address may be
    deep.mkdir(parents=True)
    async with sockets.serving(deep / "abci.sock", Slow()):
        assert stat.S_IMODE((deep / "abci.sock").stat().st_mode) == 0o600
        link = tmp_path / "s"
        link.symlink_to(deep)
        reader, writer = await asyncio.open_unix_connection(str(link / "abci.sock"))
        for request in (
            abci.Request(commit={}),
            abci.Request(flush={}),
            abci.Request(echo=abci.Echo(message="after")),
        ):
            data = request.SerializeToString()
            writer.write(bytes([len(data)]) + data)
        received, answers = bytearray(), []
        async with asyncio.timeout(5):
            while len(answers) < 3:
                received += await reader.read(1000)
                answers += [
                    abci.Response.FromString(frame) for frame in sockets.take_frames(received)
                ]
        kinds = [answer.WhichOneof("value") for answer in answers]
        assert kinds == ["commit", "flush", "echo"]
        writer.close()
        await writer.wait_closed()
    assert not (deep / "abci.sock").exists()


# The program.


def test_another_version_is_refused_with_what_to_do(tmp_path):
    wrong, none = tmp_path / "wrong", tmp_path / "none"
    wrong.write_bytes(b"\x7fELF...\nmod\tgithub.com/cometbft/cometbft\tv0.38.21\th1:abc=\n...")
    none.write_bytes(b"#!/bin/sh\n")
    assert version_of(wrong) == "v0.38.21"
    with pytest.raises(
        NodeError, match=r"is CometBFT v0\.38\.21, and this node works with v0\.40\.0"
    ):
        find_cometbft(wrong)
    with pytest.raises(NodeError, match="is no CometBFT"):
        find_cometbft(none)
    with pytest.raises(NodeError, match="cannot be read"):
        find_cometbft(tmp_path / "absent")


def test_the_one_that_the_scripts_got_is_of_the_pinned_version():
    assert version_of(find_cometbft()) == VERSION


# Its directory.


@pytest.fixture
def home(tmp_path):
    return CometHome(tmp_path / "comet")


def test_keys_are_made_once_and_only_their_owner_reads_them(home):
    keys = home.ensure_keys()
    again = CometHome(home.path).ensure_keys()
    assert (again.key, again.node_id) == (keys.key, keys.node_id)
    files = [home.path / "config" / name for name in ("priv_validator_key.json", "node_key.json")]
    files.append(home.path / "data" / "priv_validator_state.json")
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert home.last_signed() == 0
    stored = json.loads(files[0].read_text())
    assert base64.b64decode(stored["pub_key"]["value"]) == keys.key
    assert stored["address"] == keys.address.hex().upper()


def test_damaged_files_are_named_and_their_secrets_are_not(home):
    home.ensure_keys()
    key = home.path / "config" / "priv_validator_key.json"
    secret = json.loads(key.read_text())["priv_key"]["value"]
    key.write_text(json.dumps({"priv_key": {"value": secret[:-9]}}))
    with pytest.raises(NodeError, match=r"priv_validator_key\.json is damaged") as caught:
        home.ensure_keys()
    assert secret[:12] not in str(caught.value)
    (home.path / "data" / "priv_validator_state.json").write_text("{")
    with pytest.raises(NodeError, match="could sign twice"):
        home.last_signed()


def test_genesis_comes_from_the_spec_alone_and_evidence_lasts_no_longer_than_the_stake(tmp_path):
    spec = ChainSpec.parse(spec_file([ConsensusKey(KEY.public)], interval_ms=500))
    chain = Chain(MemoryStore(), spec, "cometbft")
    runtime = chain.executive(1).runtime
    name = chain_id(spec.id, chain.genesis_hash)
    assert name == f"dbc-local-{chain.genesis_hash.hex()[:16]}"
    genesis = genesis_of(runtime, name)
    unbonding = int(runtime.constants["Validators"]["unbonding"])
    held = unbonding - int(runtime.constants["Timestamp"]["era_length"]) // 1000
    evidence = genesis["consensus_params"]["evidence"]
    assert int(evidence["max_age_duration"]) == held * 10**9
    assert int(evidence["max_age_num_blocks"]) == held * 2
    assert genesis == genesis_of(runtime, name)
    with pytest.raises(NodeError, match="too long"):
        chain_id("x" * 40, chain.genesis_hash)


def test_settings_are_toml_and_the_three_rules_stand_in_them():
    config = CometConfig(listen="127.0.0.1:1", peers=("a@b:1", "c@d:2"), private=True)
    settings = tomllib.loads(settings_of(config, 1000, first=False))
    assert settings["mempool"]["type"] == "app"
    assert settings["mempool"]["broadcast"] is True
    assert settings["consensus"]["create_empty_blocks"] is True
    assert settings["consensus"]["timeout_commit"] == "880ms"
    assert settings["consensus"]["double_sign_check_height"] == 0
    assert settings["rpc"]["laddr"] == ""
    assert settings["p2p"]["persistent_peers"] == "a@b:1,c@d:2"
    first = tomllib.loads(settings_of(CometConfig(), 6000, first=True))
    assert first["consensus"]["double_sign_check_height"] > 0
    assert first["p2p"]["addr_book_strict"] is True


# The process.


def script(tmp_path, text):
    path = tmp_path / "cometbft"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def kept(tmp_path, text, height=lambda: 5):
    return CometProcess(script(tmp_path, text), tmp_path, prepare=lambda: None, height=height)


@pytest.fixture
def hurry(monkeypatch):
    monkeypatch.setattr(processes, "_PAUSES", (0.0,))


def line(message, **facts):
    return json.dumps({"_msg": message, "level": "error", "module": "consensus", "ts": "t"} | facts)


async def test_one_that_ends_at_once_again_and_again_stops_the_node_with_its_reason(
    tmp_path, hurry
):
    process = kept(tmp_path, "echo 'ERROR: found signature from the same key'; exit 1")
    with pytest.raises(NodeError, match="block 5: another node signs with this validator's key"):
        await process.keep()


async def test_one_that_gets_on_is_started_again_for_ever(tmp_path, hurry):
    heights = iter(range(10_000))
    process = kept(tmp_path, "exit 0", height=lambda: next(heights))
    task = asyncio.create_task(process.keep())
    async with asyncio.timeout(20):
        while process.restarts <= 2 * processes.MAX_FAILURES:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await process.stop()


def test_it_ends_with_a_node_that_is_killed_before_the_two_have_met(tmp_path):
    program = script(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    node = f"""
import asyncio, pathlib
from deepbrain.node.comet.process import CometProcess
path = pathlib.Path({str(program)!r})
asyncio.run(CometProcess(path, path.parent, prepare=lambda: None, height=lambda: 0).keep())
"""
    parent = subprocess.Popen([sys.executable, "-c", node])
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pid = int((tmp_path / "pid").read_text())
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.02)


async def test_lost_consensus_is_heard_though_the_process_lives_on(tmp_path, hurry, caplog):
    said = line("CONSENSUS FAILURE!!!", err="wrong Block.Header.AppHash", stack="long")
    process = kept(tmp_path, f"echo '{said}'; exec sleep 60")
    with pytest.raises(NodeError, match="the network has another state than this node"):
        async with asyncio.timeout(20):
            await process.keep()
    assert "CONSENSUS FAILURE" in caplog.text
    assert "long" not in caplog.text


async def test_a_wrong_proposal_of_somebody_else_is_not_our_fault(tmp_path, hurry, caplog):
    said = line("prevoting nil", err="wrong Block.Header.AppHash")
    process = kept(tmp_path, f"echo '{said}'; exit 1")
    with pytest.raises(NodeError, match="it ends with 1 at once"):
        await process.keep()


async def test_of_a_panic_the_first_line_is_written_and_no_stack(tmp_path, hurry, caplog):
    process = kept(tmp_path, "echo 'panic: oh'; echo; echo 'goroutine 1 [running]:'; exit 2")
    with pytest.raises(NodeError, match=r"it has lost consensus \(panic: oh\)"):
        await process.keep()
    assert "goroutine" not in caplog.text


async def test_what_a_person_can_mend_is_said_in_our_words(tmp_path, hurry, caplog):
    said = line("Error dialing peer", err="incompatible: peer is on a different network. Got x")
    process = kept(tmp_path, f"echo '{said}'; exit 1")
    with pytest.raises(NodeError):
        await process.keep()
    assert "this node's chain spec is not the one of the others (Error dialing peer" in caplog.text


async def test_the_same_complaint_is_written_once_a_minute(tmp_path, hurry, caplog):
    said = line("Error dialing peer", err="refused")
    process = kept(tmp_path, f"for i in 1 2 3; do echo '{said}'; done; echo; exit 1")
    with pytest.raises(NodeError):
        await process.keep()
    assert caplog.text.count("Error dialing peer") == 1


# What it asks.


@asynccontextmanager
async def asked(last_signed=0, spec=None):
    spec = spec or ChainSpec.parse(spec_file([ConsensusKey(KEY.public)]))
    chain = Chain(MemoryStore(), spec, "cometbft")
    pool = Pool(HeadExaminer(chain), InlineSignatures())
    ledger = NodeLedger(chain, pool)
    app = App(chain, ledger, pool, chain_id="dbc-x", own=OWN, last_signed=last_signed)
    pool.on_admitted = app.announce
    draining = asyncio.create_task(app.drain())
    app.chain, app.pool, app.wallet = chain, pool, Wallet(chain.genesis_hash)
    try:
        yield app
    finally:
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        ledger.close()
        if app.failed.done():
            app.failed.exception()
        else:
            app.failed.cancel()


def insert(app, extrinsic):
    return app.at_once(abci.Request(insert_tx=abci.InsertTx(tx=extrinsic))).insert_tx.code


def reap(app, max_bytes=0):
    return list(app.at_once(abci.Request(reap_txs=abci.ReapTxs(max_bytes=max_bytes))).reap_txs.txs)


def moment(seconds):
    return abci.Time(seconds=1_800_000_000 + seconds, nanos=999_999_999)


def vote(address, flag):
    return abci.VoteInfo(validator=abci.Validator(address=address, power=1), block_id_flag=flag)


async def finalize(app, *txs, votes=(), misbehavior=(), height=None):
    height = height or app.chain.head.number + 1
    return (
        await app.answer(
            abci.Request(
                finalize_block=abci.FinalizeBlock(
                    txs=txs,
                    decided_last_commit=abci.CommitInfo(votes=votes),
                    misbehavior=misbehavior,
                    height=height,
                    time=moment(height),
                    proposer_address=OWN,
                )
            )
        )
    ).finalize_block


async def block(app, *txs, **more):
    answer = await finalize(app, *txs, **more)
    await app.answer(abci.Request(commit={}))
    return answer


async def test_what_a_peer_announces_is_taken_at_once_and_judged_later():
    async with asked() as app:
        extrinsic = app.wallet.transfer("Alice")
        assert insert(app, extrinsic) == apps.OK
        assert blake2_256(extrinsic) not in app.pool
        assert insert(app, extrinsic) == apps.OK
        async with asyncio.timeout(5):
            while blake2_256(extrinsic) not in app.pool:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert app.pool.own() == []
        assert reap(app) == [extrinsic]  # for those who have no line to whoever sent it
        assert insert(app, b"") == insert(app, bytes(200_000)) == apps.BAD


async def test_a_flood_from_peers_is_bounded():
    async with asked() as app:
        codes = [insert(app, n.to_bytes(4, "big")) for n in range(apps.MAX_INBOX + 10)]
        assert codes.count(apps.LATER) == 10
        async with asyncio.timeout(30):
            while app._inbox:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(app.pool) == 0
        assert insert(app, b"again") == apps.OK


async def test_own_extrinsics_are_announced_once_in_order_and_within_the_limit():
    async with asked() as app:
        extrinsics = [app.wallet.transfer("Alice") for _ in range(5)]
        await app.pool.submit(extrinsics)
        size = len(extrinsics[0]) + apps.PER_EXTRINSIC
        assert reap(app, 2 * size + 1) == extrinsics[:2]
        await block(app, *extrinsics[:3])
        assert reap(app) == extrinsics[3:]  # the third is in a block by now
        assert reap(app) == []


async def info_of(app):
    return (await app.answer(abci.Request(info={}))).info


async def test_how_far_we_are_is_told_when_a_commit_has_ended():
    """Its CometBFT was killed meanwhile, and another one asks."""
    async with asked() as app:
        await finalize(app)
        finish = app._ledger.finalize

        async def slowly(*args):
            await asyncio.sleep(0.1)
            return await finish(*args)

        app._ledger.finalize = slowly
        committing = asyncio.create_task(app.answer(abci.Request(commit={})))
        await asyncio.sleep(0.01)
        assert (await info_of(app)).last_block_height == 1
        await committing


async def test_a_block_is_written_when_it_is_committed_and_not_before():
    async with asked() as app:
        root = (await info_of(app)).last_block_app_hash
        answer = await finalize(app, app.wallet.transfer("Alice"))
        info = await info_of(app)
        assert (info.last_block_height, info.last_block_app_hash) == (0, root)
        await app.answer(abci.Request(commit={}))
        info = await info_of(app)
        assert (info.last_block_height, info.last_block_app_hash) == (1, answer.app_hash)
        assert [result.code for result in answer.tx_results] == [apps.OK]


async def test_a_call_that_fails_is_in_the_block_with_another_code():
    async with asked() as app:
        too_much = app.wallet.transfer("Alice", amount=10**30)
        answer = await block(app, too_much, app.wallet.transfer("Bob"))
        assert [result.code for result in answer.tx_results] == [apps.BAD, apps.OK]


async def test_genesis_of_another_chain_stops_the_node():
    async with asked() as app:
        request = abci.Request(init_chain=abci.InitChain(chain_id="dbc-y", initial_height=1))
        with pytest.raises(NodeError, match="has the genesis of dbc-y, and this node is of dbc-x"):
            await app.answer(request)
        assert isinstance(app.failed.exception(), NodeError)


async def test_the_first_validators_are_those_of_our_genesis():
    async with asked() as app:
        request = abci.Request(init_chain=abci.InitChain(chain_id="dbc-x", initial_height=1))
        answer = (await app.answer(request)).init_chain
        (first,) = answer.validators
        assert (first.pub_key.ed25519, first.power) == (bytes(KEY.public), STAKE // 10**15)
        assert answer.app_hash == bytes(app.chain.head.header.state_root)


async def test_a_spec_without_validators_is_refused():
    async with asked(spec=DEV) as app:
        request = abci.Request(init_chain=abci.InitChain(chain_id="dbc-x"))
        with pytest.raises(NodeError, match="has no validators"):
            await app.answer(request)


async def test_data_that_does_not_go_with_cometbfts_stops_the_node():
    async with asked() as app:
        with pytest.raises(NodeError, match="CometBFT is at block 7 and this node's data at 0"):
            await finalize(app, height=7)


@pytest.mark.parametrize("flag", [abci.FLAG_COMMIT, abci.FLAG_NIL])
async def test_a_twin_is_found_before_both_sign(flag):
    """Blocks that are caught up with carry our own signature, and we were not there."""
    async with asked(last_signed=1) as app:
        await block(app)
        await block(app, votes=[vote(OWN, flag)])  # of block 1, which we did sign
        with pytest.raises(NodeError, match="signed block 2, and not here"):
            await block(app, votes=[vote(OTHER, flag), vote(OWN, flag)])


async def test_our_own_votes_are_no_twins_once_we_take_part():
    async with asked() as app:
        reap(app)
        assert app.live
        await block(app)
        await block(app, votes=[vote(OWN, abci.FLAG_COMMIT)])


async def test_the_author_is_the_stash_of_the_proposer():
    async with asked() as app:
        await block(app)
        assert app.chain.author_of(OWN) == stash(1).public
        assert app.chain.author_of(OTHER) == account("Alice").__class__(bytes(32))


async def test_who_misbehaves_is_slashed_through_the_report():
    async with asked() as app:
        before = app.chain.validators()
        crime = abci.Misbehavior(
            type=abci.Misbehavior.DUPLICATE_VOTE,
            validator=abci.Validator(address=OWN),
            height=1,
        )
        await block(app)
        await block(app, misbehavior=[crime])
        body = app.chain.block(app.chain.head.hash).extrinsics
        assert len(body) == 2  # the time, and the report
        assert app.chain.validators() == before  # the last one stays: a set is never empty


async def test_a_query_gives_a_value_with_a_proof_under_the_app_hash():
    async with asked() as app:
        answer = await block(app, app.wallet.transfer("Alice"))
        key = System.account.key_of(account("Dave"))
        query = abci.Query(path="/state", data=key, prove=True)
        found = app.at_once(abci.Request(query=query)).query
        (op,) = found.proof_ops.ops
        nodes = decode(tuple[bytes, ...], op.data)
        assert verify_proof(answer.app_hash, nodes, key) == found.value
        for bad in (
            abci.Query(path="/else", data=key),
            abci.Query(path="/state", data=b""),
            abci.Query(path="/state", data=bytes(5000)),
            abci.Query(path="/state", data=key, height=99),
            abci.Query(path="/state", data=key, height=-1),
        ):
            assert app.at_once(abci.Request(query=bad)).query.code == apps.BAD


async def test_a_block_that_breaks_the_rules_is_rejected_and_one_of_the_pool_is_not():
    async with asked() as app:
        good = app.wallet.transfer("Alice")

        async def verdict(*txs):
            request = abci.ProcessProposal(txs=txs, height=1, time=moment(1), proposer_address=OWN)
            answer = await app.answer(abci.Request(process_proposal=request))
            return answer.process_proposal.status

        assert await verdict(good) == abci.ProcessProposalAnswer.ACCEPT
        assert await verdict(good, good) == abci.ProcessProposalAnswer.REJECT
        assert await verdict(b"garbage") == abci.ProcessProposalAnswer.REJECT


@pytest.mark.parametrize(("off", "word"), [(7200, "ahead of"), (-7200, "behind")])
async def test_a_clock_that_is_hours_off_is_told_and_a_halt_is_not(off, word, caplog):
    async with asked() as app:

        async def judge(now):
            app._clock = lambda: Moment((1_800_000_001 + now) * 1000)
            request = abci.ProcessProposal(height=1, time=moment(1), proposer_address=OWN)
            await app.answer(abci.Request(process_proposal=request))

        await judge(off)  # the first block after a halt is as old as that
        for _ in range(10):
            await judge(1)
        assert "clock" not in caplog.text
        for _ in range(2 * apps.CLOCK_BLOCKS):
            await judge(off)
        assert caplog.text.count(f"s {word} the chain's time") == 1


async def test_a_proposal_keeps_within_what_cometbft_allows():
    async with asked() as app:
        extrinsics = [app.wallet.transfer("Alice") for _ in range(4)]
        await app.pool.submit(extrinsics)

        async def proposed(most):
            request = abci.PrepareProposal(
                height=1, time=moment(1), proposer_address=OWN, max_tx_bytes=most
            )
            return list(
                (await app.answer(abci.Request(prepare_proposal=request))).prepare_proposal.txs
            )

        assert await proposed(1 << 20) == extrinsics
        assert await proposed(2 * len(extrinsics[0]) + 2 * apps.PER_EXTRINSIC) == extrinsics[:2]


async def test_what_cannot_start_under_cometbft_says_so(tmp_path):
    with pytest.raises(NodeError, match="name a --data directory"):
        async with running_node(None, comet=CometConfig()):
            pass
    (tmp_path / "no").write_bytes(b"no")
    with pytest.raises(NodeError, match="is no CometBFT"):
        async with running_node(tmp_path / "data", comet=CometConfig(program=tmp_path / "no")):
            pass

"""Blocks: what their header can be rebuilt from, what fits in them, what they say."""

import pytest
from tests.runtime.local import ALICE, BOB, FERDIE, LocalChain, load_spec

from deepbrain.frame.events import FINALIZATION, INITIALIZATION
from deepbrain.frame.header import Header, author_of
from deepbrain.frame.weight import READ, WRITE
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.system import CODE_KEY, Code, System
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.units import PLANCK, Balance, BlockNumber
from deepbrain.runtime.apis import UnknownApi, call
from deepbrain.runtime.chainspec import BadChainSpec, ChainSpec
from deepbrain.runtime.errors import UnknownRuntime
from deepbrain.runtime.genesis import genesis_header, genesis_state
from deepbrain.runtime.runtime import Runtime, runtime_of
from deepbrain.scale import decode_compact
from deepbrain.state.trie import full_root, ordered_root


@pytest.fixture
def chain():
    return LocalChain()


def transfers(chain, number):
    made = Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(PLANCK))
    return [chain.signed(ALICE, made, ahead=n) for n in range(number)]


def test_the_header_follows_from_the_state_and_its_root(chain):
    parent = chain.head
    outcome = chain.block(*transfers(chain, 3))
    system = chain.runtime.at(chain.state, chain.head).system
    header = Header(
        parent_hash=system.parent_hash.get(),
        number=system.number.get(),
        state_root=full_root(chain.state.items.items()),
        extrinsics_root=system.extrinsics_root.get(),
        digest=system.digest.get(),
    )
    assert (header.parent_hash, header.number) == (parent, 1)
    assert header.extrinsics_root == outcome.extrinsics_root
    assert header.extrinsics_root == ordered_root(outcome.extrinsics)
    assert author_of(header.digest) == FERDIE.public
    assert Header.decode(header.encode()) == header


def test_the_hash_of_a_block_is_known_from_the_next_on():
    chain = LocalChain(load_spec(System={"block_hash_count": 5}))
    hashes = [chain.head]
    for _ in range(20):
        chain.block()
        hashes.append(chain.head)
    known = dict(chain.now().system.block_hash.items())
    assert known[BlockNumber(0)] == hashes[0]
    assert sorted(known) == [0, 15, 16, 17, 18, 19]
    assert all(hashes[number] == digest for number, digest in known.items())


def test_events_stand_with_their_extrinsic(chain):
    chain.bond()
    outcome = chain.block(*transfers(chain, 2))
    records = chain.runtime.events.decode(chain.now().system.events.get())
    assert chain.now().system.event_count.get() == len(records)
    for n, receipt in enumerate(outcome.receipts):
        seen = [record.event for record in records if record.phase == n]
        assert seen == [deposited.event for deposited in receipt.events]
    assert {record.phase for record in records} <= {INITIALIZATION, FINALIZATION, 0, 1, 2}
    with pytest.raises(DecodeError):
        chain.runtime.events.decode(chain.now().system.events.get() + b"\0")


def test_a_block_holds_so_much_and_a_quarter_is_kept_for_root(chain):
    many = transfers(chain, 2600)
    proposal = chain.executive.propose(chain.state, chain.context(), many, chain.verified)
    assert 2000 <= len(proposal.extrinsics) < 2600
    assert proposal.bad == ()
    limits = chain.runtime.limits
    assert limits.normal_weight * 99 // 100 < proposal.outcome.weight <= limits.normal_weight


def test_a_block_is_at_most_a_mebibyte_long(chain):
    big = [chain.signed(ALICE, System.remark.make(remark=bytes(4096)), ahead=n) for n in range(300)]
    proposal = chain.executive.propose(chain.state, chain.context(), big, chain.verified)
    assert sum(map(len, proposal.extrinsics)) <= chain.runtime.limits.normal_length
    assert proposal.bad == ()


def test_genesis_is_what_the_spec_says():
    runtime = Runtime(load_spec())
    state = genesis_state(runtime)
    assert state == genesis_state(runtime)
    code = Code.decode(state[CODE_KEY])
    assert (code.name, code.spec_version) == ("deepbrain", 1)
    header = genesis_header(full_root(state.items()))
    assert header.number == 0
    chain = LocalChain()
    assert chain.head == header.hash()
    assert chain.free(ALICE) == 10**7 * PLANCK
    assert list(chain.now().try_state()) == []


def test_other_figures_are_another_chain():
    roots = {
        full_root(genesis_state(Runtime(load_spec(**constants))).items())
        for constants in ({}, {"Rent": {"min_term": 11}}, {"Sudo": {"root_lifetime": 5}})
    }
    assert len(roots) == 3


def test_mainnet_has_no_root_key_and_no_money_of_ours():
    runtime = Runtime(load_spec("mainnet"))
    state = genesis_state(runtime)
    assert runtime.spec.root is None
    assert runtime.spec.balances == ()
    assert len(state) > 5


@pytest.mark.parametrize(
    "constants",
    [
        {"Rent": {"max_trem": 5}},
        {"Rant": {"max_term": 5}},
        {"Rent": {"max_term": "5"}},
        {"System": {"version": 1}},
        {"Rent": {"burn_schedule": [{"gpus": 1}]}},
    ],
)
def test_a_spec_with_a_slip_is_refused(constants):
    with pytest.raises(BadChainSpec):
        Runtime(load_spec(**constants))


def test_a_spec_has_exactly_its_keys():
    with pytest.raises(BadChainSpec, match="exactly these keys"):
        ChainSpec.parse({"id": "x"})


def test_an_unknown_version_of_the_rules_is_one_sentence():
    with pytest.raises(UnknownRuntime, match="upgrade it"):
        runtime_of(load_spec(), 99)


def test_runtime_apis_answer_by_name(chain):
    chain.block(*transfers(chain, 2))

    def ask(name, data=b""):
        return call(chain.executive, chain.state, chain.head, name, data)

    assert ask("AccountNonceApi_account_nonce", bytes(ALICE.public)) == (2).to_bytes(4, "little")
    raw = transfers(chain, 1)[0]
    info = ask("TransactionPaymentApi_query_info", raw + len(raw).to_bytes(4, "little"))
    weight, at = decode_compact(info, 0)
    _, at = decode_compact(info, at)
    fee = int.from_bytes(info[at + 1 :], "little")
    assert fee == weight + len(raw) * 10**9
    details = ask("TransactionPaymentApi_query_fee_details", raw + len(raw).to_bytes(4, "little"))
    assert details[0] == 1
    by_weight = ask("TransactionPaymentApi_query_weight_to_fee", info[:at])
    by_length = ask("TransactionPaymentApi_query_length_to_fee", len(raw).to_bytes(4, "little"))
    assert int.from_bytes(by_weight, "little") + int.from_bytes(by_length, "little") == fee
    assert ask("Metadata_metadata_versions") == bytes((12, 14, 0, 0, 0, 15, 0, 0, 0, 16, 0, 0, 0))
    for version in (14, 15, 16):
        found = ask("Metadata_metadata_at_version", version.to_bytes(4, "little"))
        assert found[0] == 1
        assert b"meta" + bytes((version,)) in found[:10]
    for version in (13, 17):
        assert ask("Metadata_metadata_at_version", version.to_bytes(4, "little")) == b"\0"
    assert b"meta" in ask("Metadata_metadata")[:9]
    assert ask("Core_version") == chain.runtime.version.encode()
    validity = ask("TaggedTransactionQueue_validate_transaction", b"\x02" + raw + bytes(chain.head))
    assert validity[0] == 0
    stale = chain.signed(ALICE, Balances.burn.make(Balance(1), True), ahead=-1)
    refused = ask(
        "TaggedTransactionQueue_validate_transaction", b"\x02" + stale + bytes(chain.head)
    )
    assert refused == b"\x01\x00\x03"
    with pytest.raises(UnknownApi, match="Exported method Core_nothing is not found"):
        ask("Core_nothing")
    for junk in (b"", b"\xff" * 40, raw):
        with pytest.raises(DecodeError):
            ask("TransactionPaymentApi_query_info", junk)
    with pytest.raises(DecodeError):
        ask("AccountNonceApi_account_nonce", bytes(33))


def test_hooks_are_charged_to_the_block(chain):
    empty = chain.block().weight
    assert empty >= 8 * WRITE + READ
    assert isinstance(chain.head, Hash)
    assert isinstance(FERDIE.public, AccountId)

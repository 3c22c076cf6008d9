"""A chain's state begins another chain, under whatever engine."""

import asyncio
import json
import shutil

import pytest
from tests.node.world import (
    RpcClient,
    Wallet,
    account,
    bond_call,
    connected,
    hexed,
    is_final,
    machine_id,
    running_node,
)
from tests.runtime.local import place_call
from tests.validators.chain import free_ports, spec_file

from deepbrain.cli.main import run
from deepbrain.node.chain import Chain, InherentData, Order
from deepbrain.node.comet.home import CometConfig, CometHome
from deepbrain.node.errors import NodeError
from deepbrain.node.node import load_spec
from deepbrain.pallets.machines import Machines
from deepbrain.pallets.rent import Rent
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import System
from deepbrain.pallets.validators import Validators, validate_message
from deepbrain.primitives.ids import OrderId
from deepbrain.primitives.units import PLANCK, U32, Balance, BlockNumber
from deepbrain.state.lmdb import LmdbStore
from deepbrain.state.memory import MemoryStore

SHORT = {"Timestamp": {"era_length": 1000}}


async def final(client: RpcClient, *extrinsics: bytes) -> None:
    for extrinsic in extrinsics:
        watch = await client.call("author_submitAndWatchExtrinsic", hexed(extrinsic))
        await client.until(watch, is_final)


@pytest.fixture
async def lived(tmp_path):
    """A chain that one node made: people, a machine, an order, and somebody elected to validate."""
    spec = tmp_path / "old.json"
    spec.write_text(json.dumps(spec_file([], **SHORT)))
    data = tmp_path / "old"
    keys = CometHome(tmp_path / "keys").ensure_keys()
    chain = load_spec(str(spec))
    async with running_node(data, spec=chain, interval=0.2) as node, connected(node) as client:
        genesis = node.chain.genesis_hash
        wallet = Wallet(genesis)
        signature = keys.validator.sign(validate_message(genesis, account("Bob")))
        await final(
            client,
            wallet.transfer("Alice", to="somebody new"),
            wallet.sign("Charlie", bond_call(genesis)),
            wallet.sign("Alice", place_call(machine=machine_id())),
            wallet.sign("Bob", Validators.bond.make(value=Balance(5000 * PLANCK))),
            wallet.sign("Bob", Validators.validate.make(key=keys.key, signature=signature)),
        )
        async with asyncio.timeout(20):
            while not node.chain.validators():  # noqa: ASYNC110 - the chain elects
                await asyncio.sleep(0.05)
    return tmp_path, wallet.transfer("Alice")


def state_of(chain):
    with chain.snapshot() as state:
        return dict(state.iterate(b""))


def exported(path, *more, code=0):
    words = ("--data", str(path / "old"), "--spec", str(path / "old.json"))
    assert run(["export", *words, "--out", str(path / "new.json"), *more]) == code


async def test_everything_but_the_blocks_comes_along(lived, capsys):
    path, late = lived
    exported(path, "--id", "second", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["validators"] == 1
    store = LmdbStore(path / "old" / "chain")
    old = Chain(store, load_spec(str(path / "old.json")), "solo")
    new = Chain(MemoryStore(), load_spec(str(path / "new.json")), "solo")
    before, after = state_of(old), state_of(new)
    stays = {key for key in before if before[key] == after.get(key)}
    for item, keys in (
        (System.account, (account("somebody new"),)),
        (Machines.machines, (machine_id(),)),
        (Rent.orders, (OrderId(0),)),
        (Validators.ledger, (account("Bob"),)),
    ):
        assert item.key_of(*keys) in stays
    assert not [key for key in after if key.startswith(System.block_hash.prefix)]
    assert new.genesis_hash != old.genesis_hash
    assert new.spec.id == "second"
    assert new.validators() == old.validators()
    # It goes on, with rules that hold, and an extrinsic for the old chain is none of it.
    data = InherentData(new.earliest, account("Alice"))
    assert not new.accepts(Order(new.head.hash, data, (late,)), ())
    new.finalize(Order(new.head.hash, data, ()), ())
    with new.snapshot() as state:
        block = new.executive(new.spec_version()).runtime.at(state, new.head.hash)
        assert list(block.try_state()) == []
    store.close()


@pytest.mark.timeout(120)
async def test_one_node_s_chain_goes_on_with_validators_and_can_be_replayed(lived):
    path, _ = lived
    exported(path)
    shutil.copytree(path / "keys", path / "new" / "comet")
    (port,) = free_ports(1)
    comet = CometConfig(listen=f"127.0.0.1:{port}", private=True)
    spec = load_spec(str(path / "new.json"))
    new = path / "new"
    async with running_node(new, spec=spec, comet=comet) as node, connected(node) as client:
        wallet = Wallet(node.chain.genesis_hash)
        wallet.nonces["Alice"] = 2  # the old chain's count goes on
        await final(client, wallet.transfer("Alice", to="somebody new"))
    words = ("--verify", "--data", str(path / "new"), "--spec", str(path / "new.json"))
    assert await asyncio.to_thread(run, ["replay", *words]) == 0


async def test_what_cannot_be_exported_is_refused_in_a_sentence(lived, capsys):
    path, _ = lived

    def refused(sentence, *more):
        capsys.readouterr()
        exported(path, *more, code=1)
        assert sentence in capsys.readouterr().err

    store = LmdbStore(path / "old" / "chain")
    refused("is in use by process")
    store.close()
    (path / "new.json").write_text("mine")
    refused("exists; name a file that does not")
    assert (path / "new.json").read_text() == "mine"
    (path / "new.json").unlink()
    async with (
        running_node(path / "old", spec=load_spec(str(path / "old.json")), interval=0.2) as node,
        connected(node) as client,
    ):
        wallet = Wallet(node.chain.genesis_hash)
        wallet.nonces["Alice"] = 2
        call = System.schedule_upgrade.make(
            spec_version=U32(2), source=node.chain.genesis_hash, block=BlockNumber(10**6)
        )
        await final(client, wallet.sign("Alice", Sudo.sudo.make(call=call)))
    refused("an upgrade is scheduled")
    assert not (path / "new.json").exists()


async def test_a_state_that_is_not_sound_begins_no_chain(lived):
    path, _ = lived
    exported(path)
    good = json.loads((path / "new.json").read_text())

    def refused(sentence, **genesis):
        bad = good | {"genesis": good["genesis"] | genesis}
        (path / "bad.json").write_text(json.dumps(bad))
        with pytest.raises(NodeError, match=sentence):
            Chain(MemoryStore(), load_spec(str(path / "bad.json")), "solo")

    raw = good["genesis"]["raw"]
    who = "0x" + System.account.key_of(account("somebody new")).hex()
    refused("is not sound", raw={key: raw[key] for key in raw if key != who})
    refused("nothing else of genesis", root="5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY")
    refused("is no key, or is there twice", raw=raw | {"0x": "0x00"})
    refused("cannot be used", raw=raw | {"0xzz": "0x00"})
    refused("names no version", raw={})

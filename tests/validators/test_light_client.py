"""CometBFT's own light client verifies a header; our read proof under its `app_hash` proves the state."""

import os
from contextlib import asynccontextmanager

import aiohttp
import pytest
from tests.node.world import Wallet, account, bond_call, hexed, machine_id
from tests.runtime.local import place_call
from tests.validators.load import genesis_of
from tests.validators.stories import value
from tests.validators.town import COMET_RPC, eventually, town

from deepbrain.node.comet.home import chain_id
from deepbrain.node.comet.program import find_cometbft
from deepbrain.pallets.rent import Rent
from deepbrain.pallets.system import System
from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.ids import Hash, OrderId
from deepbrain.state.trie import verify_proofs

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
PROXY = 8888


@asynccontextmanager
async def light_client(place, name, trusted, home):
    """CometBFT's light client on the last validator's host; the first block is trusted."""
    urls = [f"http://{one.address}:{COMET_RPC}" for one in place.validators]
    argv = [
        *(str(find_cometbft()), "light", name, "-p", urls[0], "-w", ",".join(urls[1:])),
        *("--height", "1", "--hash", trusted, "--laddr", f"tcp://127.0.0.1:{PROXY}"),
        *("--home-dir", str(home)),
    ]
    at = place.validators[-1]
    process = at.run_beside(argv, home.with_suffix(".log"))
    try:

        async def ask(path):
            async with at.session().get(f"http://127.0.0.1:{PROXY}{path}") as answer:
                return (await answer.json(content_type=None))["result"]

        async def serves():
            assert process.poll() is None, home.with_suffix(".log").read_text()
            try:
                return bool(await ask("/status"))
            except (aiohttp.ClientError, OSError):
                return False

        await eventually(serves, why="the light client does not serve")
        yield ask
    finally:
        process.kill()
        process.wait()


async def test_an_order_and_a_balance_are_proven_under_a_verified_header(tmp_path):
    async with town(2, interval_ms=500) as place:
        node = place[1]
        genesis = genesis_of(place)
        wallet = Wallet(genesis)
        for extrinsic in (
            wallet.sign("Charlie", bond_call(genesis)),
            wallet.sign("Alice", place_call(machine=machine_id())),
        ):
            await node.call("author_submitExtrinsic", hexed(extrinsic))

        async def ordered():
            return await value(node, Rent.orders, OrderId(0)) is not None

        await eventually(ordered)
        height = await node.height()
        await place.grow(3)
        trusted = await node.comet_rpc("/block?height=1")
        name = chain_id("local", genesis)
        digest = trusted["result"]["block_id"]["hash"]
        async with light_client(place, name, digest, tmp_path / "light") as ask:
            found = await ask(f"/commit?height={height + 1}")
            header = found["signed_header"]["header"]
        assert header["height"] == str(height + 1)
        app_hash = Hash.from_hex(header["app_hash"])

        at = await node.call("chain_getBlockHash", height)
        order, balance = Rent.orders.key_of(OrderId(0)), System.account.key_of(account("Alice"))
        keys = [hexed(order), hexed(balance)]
        proof = await node.call("state_getReadProof", keys, at)
        nodes = [bytes.fromhex(one[2:]) for one in proof["proof"]]
        proven = verify_proofs(app_hash, nodes, [order, balance])
        assert Rent.orders.decode(proven[order]).renter == account("Alice")
        assert System.account.decode(proven[balance]).data.reserved > 0
        forged = [nodes[0][:-1] + bytes([nodes[0][-1] ^ 1]), *nodes[1:]]
        with pytest.raises(DecodeError):
            verify_proofs(app_hash, forged, [order, balance])


async def test_a_light_client_refuses_a_header_that_it_was_not_given(tmp_path):
    """The control: with another hash to trust nothing is verified."""
    async with town(2, interval_ms=500) as place:
        await place.grow(2)
        name = chain_id("local", genesis_of(place))
        with pytest.raises(AssertionError, match="expected header's hash ABAB"):
            async with light_client(place, name, "AB" * 32, tmp_path / "light"):
                pass

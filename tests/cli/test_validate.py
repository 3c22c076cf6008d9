"""A validator is set up, joins, leaves: each step says what it costs, and again changes nothing."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import click
import pytest
from tests.node.world import running_node
from tests.validators.chain import spec_file

from deepbrain.cli.chain import Choices
from deepbrain.cli.failure import UserError
from deepbrain.cli.keys import named
from deepbrain.cli.validate import commands
from deepbrain.cli.validate.place import NODE_KEY, SIGN_STATE, VALIDATOR_KEY, Place, Proof
from deepbrain.cli.validate.standing import Member, era_of, read_standing
from deepbrain.client import Client
from deepbrain.node.comet.home import CometHome
from deepbrain.pallets.validators import Validators
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import PLANCK
from deepbrain.runtime.chainspec import ChainSpec

ALICE, BOB = named("//Alice"), named("//Bob")


@pytest.fixture(autouse=True)
def no_building(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """CometBFT is taken for there."""

    async def get(say: Callable[[str], None]) -> Path:
        return tmp_path / "cometbft"

    monkeypatch.setattr("deepbrain.node.comet.program.get_cometbft", get)


@asynccontextmanager
async def chain(
    tmp_path: Path, **constants: dict[str, int]
) -> AsyncIterator[tuple[Choices, Client]]:
    """A chain with one validator at genesis, made by one node alone."""
    first = CometHome(tmp_path / "first").ensure_keys()
    spec = ChainSpec.parse(spec_file([first.key], **constants))
    async with running_node(spec=spec, interval=0.2) as node:
        url = f"ws://127.0.0.1:{node.server.port}"
        async with await Client.connect(url) as client:
            yield Choices(url, "//Alice"), client


def init(dbc: Callable[..., object], data: Path, *more: str) -> dict[str, str]:
    outcome = dbc("validate", "init", "--data", str(data), "--spec", "local", "--json", *more)
    assert outcome.code == 0, outcome.err  # type: ignore[attr-defined]
    found: dict[str, str] = json.loads(outcome.out)  # type: ignore[attr-defined]
    return found


def test_init_twice_changes_nothing(dbc: Callable[..., object], tmp_path: Path) -> None:
    data = tmp_path / "node"
    made = init(dbc, data)
    files = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert init(dbc, data) == made
    assert files == {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert made["chain_id"].startswith("dbc-local-")
    assert f"--data {data} --engine cometbft" in made["command"]
    keys = Place(data).keys()
    assert (made["key"], made["node_id"]) == (keys.key.hex(), keys.node_id)
    for name in (VALIDATOR_KEY, NODE_KEY, SIGN_STATE):
        assert (data / name).stat().st_mode & 0o777 == 0o600
    secret = json.loads((data / VALIDATOR_KEY).read_text())["priv_key"]["value"]
    assert secret not in json.dumps(made)


def test_the_node_takes_the_command_that_init_prints(
    dbc: Callable[..., object], tmp_path: Path
) -> None:
    import shlex

    from deepbrain.node.__main__ import _parser

    made = init(dbc, tmp_path / "a node")
    _, *rest = shlex.split(made["command"])
    assert rest[:2] == ["-m", "deepbrain.node"]
    options = _parser().parse_args(rest[2:])
    assert (options.engine, options.data) == ("cometbft", tmp_path / "a node")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (VALIDATOR_KEY, "{}", "restore the key from your backup"),
        (VALIDATOR_KEY, None, "restore it from your backup"),
        (NODE_KEY, "nonsense", "is damaged"),
        (SIGN_STATE, "nonsense", "could sign twice"),
    ],
)
def test_damaged_keys_are_refused_and_never_replaced(
    dbc: Callable[..., object], tmp_path: Path, name: str, change: str | None, words: str
) -> None:
    data = tmp_path / "node"
    init(dbc, data)
    if change is None:
        (data / name).unlink()
    else:
        (data / name).write_text(change)
    outcome = dbc("validate", "init", "--data", str(data), "--spec", "local")
    assert outcome.code == 1  # type: ignore[attr-defined]
    assert words in outcome.err  # type: ignore[attr-defined]
    assert len(outcome.err.splitlines()) == 1  # type: ignore[attr-defined]
    assert not (data / name).exists() if change is None else (data / name).read_text() == change


def test_a_key_that_came_from_a_backup_is_warned_of(
    dbc: Callable[..., object], tmp_path: Path
) -> None:
    data = tmp_path / "node"
    assert not init(dbc, data)["warnings"][:-1]
    (data / SIGN_STATE).unlink()
    assert "no other one has run with it" in init(dbc, data)["warnings"][0]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["join", "--stake", "5"], "name the key"),
        (["join", "--stake", "5", "--data", "/nowhere", "--proof", "00"], "name the key"),
        (["init", "--data", "/nowhere", "--spec", "nosuch"], "no chain spec nosuch"),
        (["status", "--data", "/nowhere"], "dbc validate init"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    dbc: Callable[..., object], args: list[str], words: str
) -> None:
    outcome = dbc("--node", "ws://127.0.0.1:1", "--wallet", "//Alice", "validate", *args)
    assert (outcome.code, outcome.out) == (1, "")  # type: ignore[attr-defined]
    assert words in outcome.err  # type: ignore[attr-defined]
    assert len(outcome.err.splitlines()) == 1  # type: ignore[attr-defined]


def test_a_proof_is_for_one_account_on_one_chain() -> None:
    from deepbrain.cli.validate.place import proof_of
    from deepbrain.node.comet.home import ConsensusKeys
    from deepbrain.primitives.keys import Scheme

    keys = ConsensusKeys(*(Keypair.from_seed(bytes([n] * 32), Scheme.ED25519) for n in (1, 2)))
    genesis, other = Hash(b"\x01" * 32), Hash(b"\x02" * 32)
    proof = Proof.parse(str(proof_of(keys, genesis, ALICE.account)))
    proof.ensure_for(genesis, ALICE.account)
    for where, who in ((other, ALICE.account), (genesis, BOB.account)):
        with pytest.raises(UserError, match="another stash or another chain"):
            proof.ensure_for(where, who)
    for text in ("", "zz", "00" * 95, "00" * 97):
        with pytest.raises(UserError, match="this is no proof"):
            Proof.parse(text)


async def test_join_bonds_once_however_often_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = tmp_path / "node"
    Place(node).make_keys()
    async with chain(tmp_path) as (choices, client):

        async def join(stake: int) -> str:
            await commands._join(choices, ALICE, node, None, stake * PLANCK, yes=True)
            return capsys.readouterr().err

        async def stake() -> int:
            ledger = await client.at().get(Validators.ledger, ALICE.account)
            assert ledger is not None
            return int(ledger.active) // PLANCK

        said = await join(20_000)
        assert "20,000.00 DBC more of your balance" in said
        assert "the next era begins in" in said
        assert "comes back after 10m00s" in said
        assert await stake() == 20_000
        assert "stands for election with 20,000.00 DBC" in await join(20_000)
        assert await stake() == 20_000
        assert "5,000.00 DBC more" in await join(25_000)
        await join(10_000)  # less than there is: nothing is taken back
        assert await stake() == 25_000
        (own, *_) = [
            one for one in (await read_standing(client, [ALICE.account])).members if one.own
        ]
        assert (own.state, own.key, own.stake) == (
            "candidate",
            Place(node).keys().key,
            25_000 * PLANCK,
        )


async def test_whoever_comes_back_needs_no_new_money(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = tmp_path / "node"
    Place(node).make_keys()
    async with chain(tmp_path, Validators={"unbonding": 600}) as (choices, client):
        await commands._join(choices, ALICE, node, None, 20_000 * PLANCK, yes=True)
        await commands._leave(choices, ALICE, yes=True)
        assert "20,000.00 DBC are unbonded" in capsys.readouterr().err
        with pytest.raises(UserError, match="nothing can be withdrawn yet; try again in"):
            await commands._withdraw(choices, ALICE, yes=True)
        with pytest.raises(UserError, match="has nothing at stake"):
            await commands._leave(choices, ALICE, yes=True)
        await commands._join(choices, ALICE, node, None, 21_000 * PLANCK, yes=True)
        said = capsys.readouterr().err
        assert "1,000.00 DBC more of your balance and 20,000.00 DBC that waited" in said
        ledger = await client.at().get(Validators.ledger, ALICE.account)
        assert ledger is not None
        assert (int(ledger.active), ledger.unlocking) == (21_000 * PLANCK, ())


async def test_withdrawn_when_it_is_due(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import asyncio

    node = tmp_path / "node"
    Place(node).make_keys()
    async with chain(tmp_path, Validators={"unbonding": 1}) as (choices, client):
        await commands._join(choices, ALICE, node, None, 20_000 * PLANCK, yes=True)
        await commands._leave(choices, ALICE, yes=True)
        await asyncio.sleep(2.0)  # the wait is of the chain's clock
        await commands._withdraw(choices, ALICE, yes=True)
        assert "20,000.00 DBC are yours again" in capsys.readouterr().err
        assert await client.at().get(Validators.ledger, ALICE.account) is None
        with pytest.raises(UserError, match="nothing was unbonded"):
            await commands._withdraw(choices, ALICE, yes=True)


async def test_what_the_chain_would_refuse_is_refused_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, other = tmp_path / "node", tmp_path / "other"
    Place(node).make_keys()
    Place(other).make_keys()
    async with chain(tmp_path) as (choices, client):

        async def refused(words: str, data: Path, stake: int, who: object = ALICE) -> None:
            with pytest.raises(UserError, match=words):
                await commands._join(choices, who, data, None, stake * PLANCK, yes=True)  # type: ignore[arg-type]

        await refused("at stake at least", node, 999)
        await refused("are missing from the stake", node, 10**9)
        await commands._join(choices, ALICE, node, None, 20_000 * PLANCK, yes=True)
        await refused("validates with another key", other, 20_000)
        await refused("this consensus key belongs to", node, 20_000, BOB)
        assert await client.at().get(Validators.ledger, BOB.account) is None

        def no(*args: object, **kwargs: object) -> None:
            raise click.Abort

        monkeypatch.setattr(click, "confirm", no)
        with pytest.raises(click.Abort):
            await commands._join(choices, BOB, other, None, 20_000 * PLANCK, yes=False)
        assert await client.at().get(Validators.ledger, BOB.account) is None


async def test_what_waits_in_the_pool_is_waited_for(tmp_path: Path) -> None:
    from deepbrain.cli.validate.staking import read_stash

    class Busy:
        """A node where something of the account's waits."""

        def __init__(self, client: Client) -> None:
            self._client = client

        def __getattr__(self, name: str) -> object:
            return getattr(self._client, name)

        async def request(self, method: str, *params: object) -> object:
            return 1

    async with chain(tmp_path) as (_, client):
        with pytest.raises(UserError, match="waits for a block"):
            await read_stash(Busy(client), ALICE.account)  # type: ignore[arg-type]


async def test_status_tells_everything_in_json(tmp_path: Path) -> None:
    async with chain(tmp_path) as (_, client):
        standing = (await read_standing(client)).to_json()
    assert standing["era"] == 0
    assert 0 < standing["next_era_in_seconds"] <= 60
    (only,) = standing["validators"]
    assert only["state"] == "validating"
    assert (only["power"], only["missed"], only["own"]) == (100_000, 0, False)
    assert int(only["stake"]) == 100_000 * PLANCK
    assert standing["offences"] == []


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "bonded"),
        ({"candidate": True}, "candidate"),
        ({"candidate": True, "wanted": 5}, "joining"),
        ({"candidate": True, "wanted": 5, "power": 5}, "validating"),
        ({"wanted": 5, "power": 5}, "leaving"),
        ({"candidate": True, "power": 5}, "leaving"),
        ({"tombstoned": True, "power": 5}, "banned"),
    ],
)
def test_a_member_is_one_thing(facts: dict[str, int], state: str) -> None:
    assert Member(AccountId(bytes(32)), **facts).state == state  # type: ignore[arg-type]


def test_eras_are_counted_from_the_first_block() -> None:
    era = era_of(first=1000, now=7000, length=5000)
    assert (era.number, era.seconds_left) == (1, 4)
    assert era_of(0, 0, 5000).seconds_left == 5


def test_reset_forgets_the_chain_and_keeps_keys_and_what_was_signed(
    dbc: Callable[..., object], tmp_path: Path
) -> None:
    from deepbrain.state.errors import StoreError
    from deepbrain.state.lmdb import LmdbStore

    data = tmp_path / "node"
    init(dbc, data)
    (data / SIGN_STATE).write_text('{"height": "77", "round": 0, "step": 3}')
    kept = {name: (data / name).read_bytes() for name in (VALIDATOR_KEY, NODE_KEY, SIGN_STATE)}
    for name in ("comet/data/blockstore.db", "comet/data/cs.wal", "snapshots/10"):
        (data / name).mkdir(parents=True)
        (data / name / "file").write_bytes(b"blocks")
    store = LmdbStore(data / "chain")
    with pytest.raises(StoreError, match="is in use by process"):
        Place(data).forget_chain()
    assert (data / "comet/data/blockstore.db").exists()
    store.close()
    dbc("validate", "reset", "--data", str(data), "-y")
    assert kept == {name: (data / name).read_bytes() for name in kept}
    assert sorted(one.name for one in data.iterdir()) == ["comet"]
    assert [one.name for one in (data / "comet/data").iterdir()] == [Path(SIGN_STATE).name]
    with pytest.raises(UserError, match="holds no chain"):
        Place(data).forget_chain()

"""`dbc validate`: be one of those who make the blocks."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.extras import ensure_installed
from deepbrain.cli.failure import UserError
from deepbrain.cli.output import emit, say, table
from deepbrain.primitives.units import Balance

if TYPE_CHECKING:
    from deepbrain.cli.keys import Chosen
    from deepbrain.cli.validate.place import Proof
    from deepbrain.cli.validate.staking import Stash
    from deepbrain.cli.validate.standing import Standing
    from deepbrain.client import Client
    from deepbrain.frame.calls import Call
    from deepbrain.primitives.ids import AccountId, Hash

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON; amounts in planck.")
_YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.group()
def validate() -> None:
    """Be one of those who make the blocks.

    A validator runs a node with a consensus key, and has DBC at stake. The stake is in the wallet's
    account, the *stash*; the key is on the node's host, and the two need not meet.

    \b
    dbc validate init --data /var/lib/deepbrain-node       on the node's host
    dbc --wallet savings validate join --data /var/lib/deepbrain-node --stake 20000
    dbc validate status --data /var/lib/deepbrain-node
    """


@validate.command()
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="The node's directory."
)
@click.option(
    "--spec", default="mainnet", show_default=True, metavar="NAME|FILE", help="The chain."
)
@click.option(
    "--stash",
    metavar="ADDRESS",
    help="Also prove that the key votes for this account, to join from where its wallet is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def init(data: Path, spec: str, stash: str | None, as_json: bool) -> None:
    """Get CometBFT and make a validator's keys.

    Says how to run the node, and what to do next. Running it again changes nothing: keys that are
    there stay. Nothing is spent, and no node is asked.

    \b
    dbc validate init --data /var/lib/deepbrain-node
    dbc validate init --data /srv/node --spec chain.json
    """
    ensure_installed("node")
    made = _init(data, spec, stash)
    if as_json:
        emit(made)
        return
    click.echo(f"consensus key  {made['key']}")
    click.echo(f"address        {made['address']}")
    click.echo(f"node id        {made['node_id']}")
    click.echo(f"chain id       {made['chain_id']}")
    if made["proof"] is not None:
        click.echo(f"proof          {made['proof']}")
    for warning in made["warnings"]:
        say(warning)
    say(f"back up {made['backup']}, and nothing else of this directory")
    say("run the node, and name at least one node of the chain as its peer:")
    click.echo(f"{made['command']} --peer ID@HOST:26656")
    how = f"--proof {made['proof']}" if made["proof"] else f"--data {shlex.quote(str(data))}"
    say(
        "when `dbc doctor` finds nothing wrong with it, put DBC at stake: "
        f"`dbc --wallet NAME validate join {how} --stake DBC`"
    )


@validate.command()
@click.option("--data", type=click.Path(path_type=Path), help="The node's directory, with its key.")
@click.option(
    "--proof",
    "given",
    metavar="HEX",
    help="What `init --stash` printed, where the key is elsewhere.",
)
@click.option(
    "--stake", type=quantity.DBC, required=True, metavar="DBC", help="What is at stake in all."
)
@_YES
def join(data: Path | None, given: str | None, stake: Balance, yes: bool) -> None:
    """Put DBC at stake and stand for election.

    The wallet is the stash: what is missing from its stake is bonded, nothing where none is missing.
    Whoever has the most at stake is elected when the next era begins. Run the node first: a validator
    that does not vote is taken out, and one that votes twice is slashed.

    \b
    dbc --wallet savings validate join --data /var/lib/deepbrain-node --stake 20000
    dbc --wallet savings validate join --proof 5f0c… --stake 20000
    """
    if (data is None) == (given is None):
        raise UserError("name the key: --data with the node's directory, or --proof")
    choices = Choices.current()
    block_on(_join(choices, choices.chosen(), data, given, int(stake), yes=yes))


@validate.command()
@_YES
def leave(yes: bool) -> None:
    """Stand for election no more, and unbond the whole stake.

    The key votes until the next era begins: let the node run until `status` no longer shows it. The
    stake can still be slashed until it is withdrawn.
    """
    choices = Choices.current()
    block_on(_leave(choices, choices.chosen(), yes=yes))


@validate.command()
@_YES
def withdraw(yes: bool) -> None:
    """Take back what was unbonded long enough ago."""
    choices = Choices.current()
    block_on(_withdraw(choices, choices.chosen(), yes=yes))


@validate.command()
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="The node's directory."
)
@_YES
def reset(data: Path, yes: bool) -> None:
    """Forget the chain, so that the node syncs it again.

    For a node that says its state is another one than the network's, or whose disk was damaged. Keys
    stay, and so does what was signed last: without it the validator could sign twice. Stop the node
    first.
    """
    from deepbrain.cli.validate.place import Place

    if not yes:
        click.confirm(f"Remove the chain in {data}?", abort=True, err=True)
    Place(data).forget_chain()
    say("the chain is gone, the keys are here: start the node, and it syncs from its peers")


@validate.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="Mark the validator whose key is here."
)
@_JSON
def status(data: Path | None, as_json: bool) -> None:
    """Show who validates, who wants to, and what they missed.

    Your own is marked, where --data or --wallet tells which it is.
    """
    standing = block_on(_status(Choices.current(), data))
    if as_json:
        emit(standing.to_json())
    else:
        _show(standing)


def _init(data: Path, spec: str, stash: str | None) -> dict[str, Any]:
    from deepbrain.cli.keys import account_of
    from deepbrain.cli.validate.place import SIGN_STATE, VALIDATOR_KEY, Place, proof_of
    from deepbrain.node.comet.home import chain_id
    from deepbrain.node.comet.program import get_cometbft
    from deepbrain.node.node import load_spec

    chain = load_spec(spec)
    account = None if stash is None else account_of(stash)
    place = Place(data)
    is_new = not (data / VALIDATOR_KEY).exists()
    has_signed_here = (data / SIGN_STATE).exists()
    program = block_on(get_cometbft(say))
    keys = place.make_keys()
    genesis = _genesis_of(chain)
    warnings = []
    if not is_new and not has_signed_here:
        warnings.append(
            "this key has come without what it signed last: start the node only when no other one "
            "has run with it for some minutes"
        )
    if not chain.validators:
        warnings.append(f"the chain {chain.id} has no validators at genesis: it does not begin yet")
    spec_shown = str(Path(spec).absolute()) if Path(spec).is_file() else spec
    return {
        "data": str(data.absolute()),
        "key": keys.key.hex(),
        "address": keys.address.hex(),
        "node_id": keys.node_id,
        "chain_id": chain_id(chain.id, genesis),
        "genesis": str(genesis),
        "cometbft": str(program),
        "proof": None if account is None else str(proof_of(keys, genesis, account)),
        "backup": str((data / VALIDATOR_KEY).absolute()),
        "command": shlex.join(place.command(spec_shown)),
        "warnings": warnings,
    }


def _genesis_of(chain: Any) -> "Hash":
    from deepbrain.node.chain import Chain
    from deepbrain.node.comet.home import COMETBFT
    from deepbrain.state.memory import MemoryStore

    return Chain(MemoryStore(), chain, COMETBFT).genesis_hash


async def _join(
    choices: Choices,
    chosen: "Chosen",
    data: Path | None,
    given: str | None,
    stake: int,
    *,
    yes: bool,
) -> None:
    from deepbrain.cli.validate.staking import fee_of, one_call, plan_joining, read_stash
    from deepbrain.cli.validate.standing import read_era
    from deepbrain.pallets.validators import Validators

    async with choices.client() as client:
        proof = _proof(data, given, client.genesis_hash, chosen.account)
        stash = await read_stash(client, chosen.account)
        joining = await plan_joining(client, stash, proof, stake)
        calls = joining.calls()
        if not calls:
            say(f"{chosen.address} stands for election with {quantity.dbc(stash.ledger.active)}")
            return
        unbonding = int(await client.constant(Validators, "unbonding"))
        fee = await fee_of(client, one_call(calls))
        say(f"consensus key {proof.key.hex()}")
        say(_money(stash, joining.bond, joining.rebond))
        say(
            f"fee {quantity.dbc(fee)}; once unbonded it comes back after {quantity.span(unbonding)}, "
            "and can be slashed until then"
        )
        _confirm("dbc: put this at stake?", yes=yes)
        receipt = await client.submit(one_call(calls), chosen.unlock())
        now = await read_stash(client, chosen.account)
        era = await read_era(client, client.at())
        say(
            f"{chosen.address} stands for election since block {receipt.block.number} with "
            f"{quantity.dbc(now.ledger.active)} at stake"
        )
        say(
            f"the next era begins in {quantity.span(era.seconds_left)}: then it is elected, if it is "
            "among the first; `dbc validate status` shows it"
        )


def _money(stash: "Stash", bond: int, rebond: int) -> str:
    total = int(stash.ledger.active) + bond + rebond
    parts = [f"{quantity.dbc(bond)} more of your balance"] if bond else []
    parts += [f"{quantity.dbc(rebond)} that waited to be withdrawn"] if rebond else []
    has = f"{quantity.dbc(total)} at stake"
    return f"{has}: {' and '.join(parts)}" if parts else f"{has}, all of it there already"


def _proof(data: Path | None, given: str | None, genesis: "Hash", stash: "AccountId") -> "Proof":
    from deepbrain.cli.validate.place import Place, Proof

    if given is not None:
        proof = Proof.parse(given)
        proof.ensure_for(genesis, stash)
        return proof
    assert data is not None
    return Place(data).prove(genesis, stash)


async def _leave(choices: Choices, chosen: "Chosen", *, yes: bool) -> None:
    from deepbrain.cli.validate.staking import read_stash
    from deepbrain.cli.validate.standing import read_era
    from deepbrain.pallets.validators import Unbonded, Validators

    async with choices.client() as client:
        stash = await read_stash(client, chosen.account)
        if not stash.ledger.active:
            raise UserError(
                f"{chosen.address} has nothing at stake; `dbc validate status` shows who has"
            )
        unbonding = int(await client.constant(Validators, "unbonding"))
        # Whoever unbonds everything is no candidate any more: it takes no second call.
        calls = [Validators.unbond.make(value=stash.ledger.active)]
        await _announce(
            client,
            calls,
            f"unbonds {quantity.dbc(stash.ledger.active)}, which can be withdrawn after "
            f"{quantity.span(unbonding)} and slashed until then",
        )
        _confirm("dbc: leave the validators?", yes=yes)
        receipt = await client.submit(calls[0], chosen.unlock())
        amount = int(receipt.one(Unbonded).amount)
        say(f"{quantity.dbc(amount)} are unbonded in block {receipt.block.number}")
        if stash.votes:
            era = await read_era(client, client.at())
            say(
                f"its key votes until the next era, in {quantity.span(era.seconds_left)}: let the node "
                "run until `dbc validate status` shows it no longer"
            )


async def _withdraw(choices: Choices, chosen: "Chosen", *, yes: bool) -> None:
    from deepbrain.cli.validate.staking import read_stash
    from deepbrain.pallets.validators import Validators, Withdrawn

    async with choices.client() as client:
        stash = await read_stash(client, chosen.account)
        if not stash.due:
            wait = stash.next_due
            raise UserError(
                "nothing was unbonded; `dbc validate leave` does that"
                if wait is None
                else f"nothing can be withdrawn yet; try again in {quantity.span(wait)}"
            )
        calls = [Validators.withdraw_unbonded.make()]
        await _announce(client, calls, f"withdraws {quantity.dbc(stash.due)}")
        _confirm("dbc: withdraw it?", yes=yes)
        receipt = await client.submit(calls[0], chosen.unlock())
        amount = int(receipt.one(Withdrawn).amount)
        say(f"{quantity.dbc(amount)} are yours again, in block {receipt.block.number}")


async def _announce(client: "Client", calls: "Sequence[Call]", what: str) -> None:
    from deepbrain.cli.validate.staking import fee_of, one_call

    say(f"{what}; fee {quantity.dbc(await fee_of(client, one_call(calls)))}")


def _confirm(question: str, *, yes: bool) -> None:
    """Raises: Abort."""
    if not yes:
        click.confirm(question, abort=True, err=True)


async def _status(choices: Choices, data: Path | None) -> "Standing":
    from deepbrain.cli.validate.place import Place
    from deepbrain.cli.validate.standing import read_standing

    key = None if data is None else Place(data).keys().key
    own = () if choices.key is None else (choices.chosen().account,)
    async with choices.client() as client:
        return await read_standing(client, own, key)


def _show(standing: "Standing") -> None:
    from deepbrain.primitives import ss58

    era = standing.era
    say(
        f"era {era.number} at block {standing.block}; the next one begins in "
        f"{quantity.span(era.seconds_left)}"
    )
    rows = [
        (
            "*" if member.own else "",
            ss58.encode(member.account),
            member.state,
            quantity.about(member.stake),
            quantity.about(member.unbonding) if member.unbonding else "",
            str(member.power) if member.power else "",
            f"{member.missed} of {standing.max_missed}" if member.missed else "",
        )
        for member in standing.members
    ]
    head = ("", "validator", "state", "stake DBC", "unbonding DBC", "power", "missed")
    table("", head, rows, "nobody validates here")
    for offence in standing.offences:
        say(
            f"offence {offence.number}: {ss58.encode(offence.offender)} loses "
            f"{quantity.dbc(offence.amount)} for {offence.kind} in "
            f"{quantity.span(offence.seconds_left)}, unless that is cancelled"
        )

"""A renter's whole journey, from the wish to the bill, and what goes wrong on the way."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.cli.market import ALICE, Broken, Market, Provider, open_market

from deepbrain.cli.failure import UserError
from deepbrain.cli.interrupts import Interrupts
from deepbrain.cli.interrupts import Wish as Signal
from deepbrain.cli.keys import named
from deepbrain.cli.renter import deliver, follow
from deepbrain.cli.renter.journal import runs
from deepbrain.cli.renter.orders import _attach, _bill, _logs, _stop, orders_of
from deepbrain.cli.renter.run import _run
from deepbrain.cli.renter.tenant import _copy_in, _copy_out, _exec
from deepbrain.cli.renter.wish import Wish
from deepbrain.client.results import ResultsRefused
from deepbrain.client.workspace import scan
from deepbrain.net.messages import ALL_SCOPES
from deepbrain.pallets.machines import Isolation, Machines, Network
from deepbrain.pallets.rent import Ended, Ending, Rent
from deepbrain.pallets.system import System
from deepbrain.primitives.ids import OrderId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import MicroUsd, Seconds
from deepbrain.provider.act import Actor
from deepbrain.provider.plan import Prepare
from deepbrain.sandbox.fake import FakeSandbox
from deepbrain.sandbox.sandbox import Mode
from deepbrain.sandbox.sandbox import Network as SandboxNetwork


class Killed(BaseException):
    """Nothing of ours catches it."""


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    home = tmp_path / "market"
    home.mkdir()
    async with open_market(home) as opened:
        yield opened


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "job"
    root.mkdir()
    (root / "train.py").write_text("print('hello')")
    (root / ".env").write_text("SECRET=1")
    return root


def wish(*argv: str, **changes: object) -> Wish:
    return dataclasses.replace(
        Wish(argv=argv, seconds=Seconds(600), start_within=Seconds(60)), **changes
    )


async def run(market: Market, asked: Wish, into: Path, sent: Path | None = None, **flags) -> int:  # type: ignore[no-untyped-def]
    workspace = None if sent is None else scan(sent)
    options = {"detach": False, "yes": True} | flags
    return await _run(market.choices, asked, workspace, into, named("//Alice"), **options)


async def order(market: Market, number: int = 0):  # type: ignore[no-untyped-def]
    return await market.client.at().get(Rent.orders, OrderId(number))


async def printed(capsys: pytest.CaptureFixture[str], words: str) -> None:
    async with asyncio.timeout(20):
        while words not in capsys.readouterr().out:  # noqa: ASYNC110 - it rings no bell
            await asyncio.sleep(0.05)


async def test_a_job_runs_streams_comes_back_and_is_settled(
    market: Market, workspace: Path, tmp_path: Path, capsysbinary
) -> None:
    provider = await market.provider()
    into = tmp_path / "dbc-out"
    code = await run(market, wish("job", "3", env=(("GREETING", "hi"),)), into, workspace)
    out, err = capsysbinary.readouterr()
    assert code == 3
    assert out == b"workspace: train.py\n"
    assert b"GREETING=hi\n" in err
    assert (into / "0" / "model.bin").read_bytes() == b"weights"
    assert not (into / "0" / "train.py").exists()
    settled = await order(market)
    assert isinstance(settled.status, Ended)
    assert (settled.status.ending, settled.status.exit_code) == (Ending.EXITED, 3)
    bill = settled.status.bill
    assert bill.paid + bill.burned + bill.refunded == settled.held()
    assert err.splitlines()[-1].startswith(b"dbc: order 0 exited with 3: ")
    assert b"gvisor" in err.splitlines()[-1]
    assert runs() == []
    assert await market.client.at().get(Machines.rented, provider.id) == 0


async def test_no_workspace_and_no_results_leave_nothing_behind(
    market: Market, tmp_path: Path
) -> None:
    await market.provider()
    assert await run(market, wish("echo", "hi"), tmp_path / "out") == 0
    assert list((tmp_path / "out").iterdir()) == []


async def test_results_that_nothing_matches_are_not_to_be_tried_again(
    market: Market, tmp_path: Path, capsys
) -> None:
    await market.provider()
    assert await run(market, wish("echo", "hi", out=("*.npz",)), tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert "dbc: results: the files were not copied out: there is no *.npz\n" in said
    assert "attach" not in said


async def test_out_of_memory_is_137(market: Market, tmp_path: Path) -> None:
    await market.provider()
    assert await run(market, wish("hog"), tmp_path / "out") == 137


async def test_the_end_of_the_term_is_124(market: Market, tmp_path: Path, capsys) -> None:
    await market.provider()
    assert await run(market, wish("sleep", "60", seconds=Seconds(10)), tmp_path / "out") == 124
    assert "end of its term" in capsys.readouterr().err


async def test_when_machines_do_not_start_others_are_tried_and_only_one_order_is_held(
    market: Market, tmp_path: Path, capsys
) -> None:
    await market.provider(price=1, listen=False)
    await market.provider(price=2, kind=Broken)
    await market.provider(price=3)
    assert await run(market, wish("echo", "hi"), tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert "no answer" in said
    assert "the sandbox is broken" in said
    listed, _ = await orders_of(market.client, ALICE.public)
    assert [entry.order.status.ending for entry in listed] == [Ending.FAILED, Ending.EXITED]
    assert listed[0].order.status.bill.paid == 0


async def test_when_nobody_starts_the_reasons_are_given_and_nothing_is_held(
    market: Market, tmp_path: Path
) -> None:
    await market.provider(listen=False)
    with pytest.raises(UserError, match=r"no machine started the job.*nothing is held") as caught:
        await run(market, wish("echo"), tmp_path / "out")
    assert caught.value.code == 125
    account = await market.client.at().get(System.account, ALICE.public)
    assert account.data.reserved == 0
    assert runs() == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"gpu": "H100"}, "no machine offers a H100"),
        ({"units": 9}, "ask for fewer"),
        ({"max_price": MicroUsd(1)}, "raise --max-price"),
        ({"machine": "ffff0000"}, "no machine is called"),
        ({"image": "nonsense"}, "does not have the image nonsense"),
        ({"image": "./nonsense.tar"}, "does not exist"),
        ({"seconds": Seconds(1)}, "rents for 10s to 60d"),
        ({"network": Network.INTERNET}, "offers internet; ask for --network none"),
    ],
)
async def test_wishes_that_cannot_be_met_are_one_sentence(
    market: Market, tmp_path: Path, asked, words: str
) -> None:
    await market.provider()
    with pytest.raises(UserError, match=words) as caught:
        await run(market, wish("echo", **asked), tmp_path / "out")
    assert caught.value.code == 125
    assert runs() == []


async def test_machines_without_isolation_serve_their_owner_alone(
    market: Market, tmp_path: Path
) -> None:
    await market.provider(isolation=Isolation.PROCESS)
    with pytest.raises(UserError, match="only its owner"):
        await run(market, wish("echo"), tmp_path / "out")


async def test_a_machine_that_isolates_otherwise_than_it_says_gets_nothing(
    market: Market, tmp_path: Path
) -> None:
    await market.provider(mode=Mode.PROCESS)
    with pytest.raises(UserError, match="isolates by process"):
        await run(market, wish("echo"), tmp_path / "out")
    assert await order(market) is None


async def test_a_wish_for_the_internet_takes_machines_that_have_it(
    market: Market, tmp_path: Path
) -> None:
    await market.provider(price=1_000)
    dearer = await market.provider(network=Network.INTERNET)
    await run(market, wish("echo", network=Network.INTERNET), tmp_path / "out")
    placed = await order(market)
    assert placed is not None
    assert placed.machine == dearer.id
    assert [(await tenant(provider)) for provider in market.providers] == [
        None,
        SandboxNetwork.INTERNET,
    ]


@pytest.mark.parametrize("wished", [None, Network.NONE])
async def test_a_job_gets_what_the_machine_offers_unless_it_wants_none(
    market: Market, tmp_path: Path, wished: Network | None
) -> None:
    machine = await market.provider(network=Network.INTERNET)
    await run(market, wish("echo", network=wished), tmp_path / "out")
    expected = SandboxNetwork.INTERNET if wished is None else SandboxNetwork.NONE
    assert await tenant(machine) is expected


async def test_a_machine_that_has_lost_its_network_gets_nothing(
    market: Market, tmp_path: Path
) -> None:
    machine = await market.provider(network=Network.INTERNET)
    machine.agent.sandbox._report = dataclasses.replace(  # type: ignore[attr-defined]
        machine.agent.sandbox.report, network=SandboxNetwork.NONE
    )
    with pytest.raises(UserError, match="its network is none, and its offer says internet"):
        await run(market, wish("echo"), tmp_path / "out")
    assert await order(market) is None
    await run(market, wish("echo", network=Network.NONE), tmp_path / "out")


async def tenant(provider: Provider) -> SandboxNetwork | None:
    """The network of the machine's only tenant, if it has one."""
    states = await provider.agent.sandbox.list()
    return states[0].spec.network if states else None


async def test_too_little_money_is_said_before_anything_is_placed(
    market: Market, tmp_path: Path
) -> None:
    await market.provider()
    poor = named("//Poor")
    with pytest.raises(UserError, match=r"has 0\.00 DBC free"):
        await _run(market.choices, wish("echo"), None, tmp_path, poor, detach=False, yes=True)


async def test_without_a_terminal_the_price_must_be_agreed_to_beforehand(
    market: Market, tmp_path: Path
) -> None:
    await market.provider()
    with pytest.raises(UserError, match="pass -y"):
        await run(market, wish("echo"), tmp_path, yes=False)


async def detached(market: Market, tmp_path: Path, *argv: str) -> OrderId:
    await run(market, wish(*argv), tmp_path / "out", detach=True)
    listed, _ = await orders_of(market.client, ALICE.public)
    return listed[-1].id


async def test_a_detached_order_is_found_by_key_and_gone_on_with(
    market: Market, tmp_path: Path, capsys
) -> None:
    await market.provider()
    number = await detached(market, tmp_path, "job", "4")
    assert capsys.readouterr().out.strip() == str(number)
    for entry in runs():
        entry.discard()  # another machine that holds the key
    code = await _attach(market.choices, named("//Alice"), number, tmp_path / "there")
    assert code == 4
    assert (tmp_path / "there" / "0" / "model.bin").exists()
    again = await _attach(market.choices, named("//Alice"), number, tmp_path / "again")
    assert again == 4
    await _logs(market.choices, named("//Alice"), number, follow=False)
    assert "workspace:" in capsys.readouterr().out


async def test_stop_settles_at_once_and_the_bill_adds_up(market: Market, tmp_path: Path) -> None:
    await market.provider()
    number = await detached(market, tmp_path, "serve")
    await _stop(market.choices, named("//Alice"), number)
    bill = await _bill(market.choices, ALICE.public, number)
    assert bill["state"] == "stopped"
    assert int(bill["paid"]) + int(bill["burned"]) + int(bill["refunded"]) == int(bill["held"])
    with pytest.raises(UserError, match="has ended already"):
        await _stop(market.choices, named("//Alice"), number)
    with pytest.raises(UserError, match="another key"):
        await _stop(market.choices, named("//Bob"), number)
    with pytest.raises(UserError, match="no order 99"):
        await _bill(market.choices, ALICE.public, OrderId(99))


async def test_stopping_while_following_waits_for_the_last_words(
    market: Market, tmp_path: Path, capsys, monkeypatch
) -> None:
    await market.provider()
    signals = Interrupts(interactive=False)
    monkeypatch.setattr("deepbrain.cli.interrupts.Interrupts", lambda: signals)
    following = asyncio.create_task(run(market, wish("serve"), tmp_path / "out"))
    await printed(capsys, "serving")
    signals.wish(Signal.STOP)
    assert await following == 7
    assert "told to stop" in capsys.readouterr().out
    assert (await order(market)).status.ending is Ending.STOPPED


async def test_a_wish_to_detach_leaves_the_order_running(
    market: Market, tmp_path: Path, capsys, monkeypatch
) -> None:
    await market.provider()
    signals = Interrupts(interactive=False)
    monkeypatch.setattr("deepbrain.cli.interrupts.Interrupts", lambda: signals)
    following = asyncio.create_task(run(market, wish("serve"), tmp_path / "out"))
    await printed(capsys, "serving")
    signals.wish(Signal.DETACH)
    assert await following == 0
    assert (await order(market)).is_open()


async def test_a_machine_that_vanishes_is_given_up_and_its_order_closed(
    market: Market, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(deliver, "PATIENCE_SECONDS", 3.0)
    monkeypatch.setattr(follow, "_SOUND_SECONDS", 0.1)
    provider = await market.provider()
    following = asyncio.create_task(run(market, wish("serve"), tmp_path / "out"))
    await printed(capsys, "serving")
    await provider.vanish()
    assert await following == 123
    assert "cannot be reached any more" in capsys.readouterr().err
    assert not (await order(market)).is_open()


async def test_a_run_killed_after_placing_is_gone_on_with_from_its_journal(
    market: Market, workspace: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """As `kill -9` between `place` and the upload: nothing of the process is left but its files."""
    await market.provider()

    async def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("deepbrain.cli.renter.rental.deliver", killed)
        with pytest.raises(Killed):
            await run(market, wish("job", "0"), tmp_path / "out", workspace)
    assert (await order(market)).is_open()
    (workspace / "train.py").write_text("changed since")
    code = await _attach(market.choices, named("//Alice"), OrderId(0), tmp_path / "out")
    assert code == 0
    assert "workspace: train.py" in capsys.readouterr().out
    assert runs() == []


async def test_exec_and_cp_work_beside_the_job(
    market: Market, workspace: Path, tmp_path: Path, capsysbinary
) -> None:
    await market.provider()
    number = await detached(market, tmp_path, "serve")
    alice = named("//Alice")
    code = await _exec(market.choices, alice, number, ("echo", "hi"), (), "", False, False)
    assert code == 0
    assert b"hi\n" in capsysbinary.readouterr().out
    assert await _exec(market.choices, alice, number, ("exit", "9"), (), "", False, False) == 9
    await _copy_in(market.choices, alice, number, str(workspace), "inputs")
    await _copy_out(market.choices, alice, number, "inputs/train.py", f"{tmp_path}/back.py")
    assert (tmp_path / "back.py").read_text() == "print('hello')"
    assert not (tmp_path / ".env").exists()
    assert int(ALL_SCOPES) == 15
    assert isinstance(ALICE, Keypair)


async def test_copies_arrive_where_cp_would_have_them(
    market: Market, workspace: Path, tmp_path: Path
) -> None:
    provider = await market.provider()
    number = await detached(market, tmp_path, "serve")
    alice, file = named("//Alice"), str(workspace / "train.py")
    sandbox = provider.agent.sandbox
    assert isinstance(sandbox, FakeSandbox)
    volume = sandbox._tenant(int(number)).volume

    async def arrived(source: str, path: str) -> list[str]:
        before = set(volume.rglob("*"))
        await _copy_in(market.choices, alice, number, source, path)
        found = set(volume.rglob("*")) - before
        return sorted(each.relative_to(volume).as_posix() for each in found if each.is_file())

    assert await arrived(file, "") == ["train.py"]
    assert await arrived(file, "other.py") == ["other.py"]
    assert await arrived(file, "new/name.py") == ["new/name.py"]
    assert await arrived(file, "new") == ["new/train.py"]
    assert await arrived(f"{workspace}", "data") == ["data/train.py"]
    assert await arrived(f"{workspace}/", "data") == ["data/job/train.py"]
    assert await arrived(f"{workspace}/.", "more/") == ["more/train.py"]
    assert await arrived(f"{workspace}", ".") == ["job/train.py"]
    with pytest.raises(UserError, match="no directory absent/"):
        await arrived(file, "absent/")

    async def back(path: str, target: str) -> list[str]:
        before = set((tmp_path / "here").rglob("*"))
        await _copy_out(market.choices, alice, number, path, f"{tmp_path}/here/{target}")
        found = set((tmp_path / "here").rglob("*")) - before
        return sorted(each.relative_to(tmp_path / "here").as_posix() for each in found)

    (tmp_path / "here").mkdir()
    assert await back("train.py", "") == ["train.py"]
    assert await back("train.py", "mine.py") == ["mine.py"]
    assert await back("data/job", "kept/") == ["kept", "kept/train.py"]
    assert await back("data/job", "kept") == ["kept/job", "kept/job/train.py"]
    with pytest.raises(ResultsRefused, match="no directory"):
        await back("train.py", "absent/")
    assert not (tmp_path / "here" / "absent").exists()


async def test_an_order_that_ends_before_its_job_runs_is_not_waited_for(
    market: Market, tmp_path: Path, monkeypatch
) -> None:
    """A machine that takes everything and then does nothing: the chain's window ends it."""

    act = Actor.act

    async def stuck(self, action, known) -> None:
        await (asyncio.sleep(3600) if isinstance(action, Prepare) else act(self, action, known))

    monkeypatch.setattr(Actor, "act", stuck)
    await market.provider()
    with pytest.raises(UserError, match="lapsed"):
        await run(market, wish("echo", start_within=Seconds(5)), tmp_path / "out")
    assert (await order(market)).status.ending is Ending.LAPSED


async def test_results_of_another_chain_are_never_mixed_with_these(
    market: Market, tmp_path: Path
) -> None:
    await market.provider()
    into = tmp_path / "out"
    (into / "0").mkdir(parents=True)
    assert await run(market, wish("job", "0"), into) == 0
    genesis = market.client.genesis_hash.hex()[:8]
    assert (into / f"0-{genesis}" / "model.bin").exists()
    assert list((into / "0").iterdir()) == []

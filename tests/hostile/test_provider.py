"""A machine against the renter who rents it, with the real command, over a real chain and real streams.

Each lie has a control: where its defence is off, the harm is there.
"""

import asyncio
import contextlib
import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.cli.market import BOB, Market, Provider, open_market
from tests.cli.test_rental import order, run, wish
from tests.hostile.provider_lies import (
    ORDERS_A_TERMINAL,
    always_busy,
    failed,
    hangs_up,
    hostile_results,
    lying,
    sends,
    silent,
)

from deepbrain.cli import output
from deepbrain.cli.failure import UserError
from deepbrain.cli.renter import deliver, follow
from deepbrain.net import session as session_module
from deepbrain.net.errors import RefusalCode, Refused
from deepbrain.net.frames import reply_bytes
from deepbrain.net.messages import (
    CopyOut,
    Have,
    ImageOffer,
    PutBlob,
    PutManifest,
    Status,
)
from deepbrain.pallets.machines import Machines
from deepbrain.pallets.rent import Ended, Ending
from deepbrain.primitives.ids import MachineId
from deepbrain.primitives.units import U64, Seconds

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    home = tmp_path / "market"
    home.mkdir()
    async with open_market(home) as opened:
        yield opened


async def liar(market: Market, lies: dict, greeting: dict | None = None) -> Provider:  # type: ignore[type-arg]
    """The cheapest machine of the market."""
    provider = await market.provider(price=1)
    lying(provider.agent, lies, greeting)
    return provider


async def refuses(*_: object) -> None:
    raise Refused(RefusalCode.FAILED, f"no {ORDERS_A_TERMINAL}")


OFFER = ImageOffer(name="base\x1b[2J\n\u202e", digest=bytes(32), size=U64(1))  # type: ignore[arg-type]

WORDS: dict[str, tuple[dict, dict]] = {  # type: ignore[type-arg]
    "a refusal": ({PutManifest: refuses}, {}),
    "a failure's detail": ({Status: failed(f"no {ORDERS_A_TERMINAL}")}, {}),
    "a reason to close": ({PutManifest: hangs_up([])}, {}),
    "an isolation mode": ({}, {"mode": ORDERS_A_TERMINAL[:20]}),
}


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("checked", [True, False])
async def test_a_machines_words_are_shown_as_words(
    market: Market, tmp_path: Path, capsys, monkeypatch, name: str, checked: bool
) -> None:
    """They stand in the sentence that says why another machine is tried."""
    monkeypatch.setattr(deliver, "PATIENCE_SECONDS", 4.0)
    if not checked:
        monkeypatch.setattr(output, "printable", lambda text: text)
    await liar(market, *WORDS[name])
    await market.provider(price=2)
    assert await run(market, wish("echo", "hi"), tmp_path / "out") == 0
    lines = [line for line in capsys.readouterr().err.split("\n") if line]
    obeyed = [line for line in lines if not line.isprintable()]
    told = [line for line in lines if "trying" in line]
    if checked:
        assert obeyed == []
        assert len(told) == 1
    elif name != "a reason to close":  # where only printable bytes of it are taken at all
        assert obeyed, "unchecked, they reach the terminal"


async def test_names_of_images_are_shown_as_words(market: Market, tmp_path: Path, capsys) -> None:
    provider = await market.provider(price=1)
    digest = (await provider.agent.greeting()).images[0].digest
    lying(provider.agent, {}, {"images": (OFFER.but(digest=digest),)})
    with pytest.raises(UserError) as caught:
        await run(market, wish("echo", image="nosuch"), tmp_path / "out")
    assert "\x1b" in str(caught.value), "what the machine said"
    output.say(str(caught.value))
    assert "\x1b" not in capsys.readouterr().err


async def test_a_machine_that_greets_as_another_gets_nothing(
    market: Market, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(deliver, "PATIENCE_SECONDS", 1.0)
    await liar(market, {}, {"machine": MachineId(bytes(32))})
    with pytest.raises(UserError, match="names itself by another id"):
        await run(market, wish("echo"), tmp_path / "out")
    held = await order(market)
    assert held is None or held.status.bill.paid == 0


async def test_a_greeting_without_end_is_cut(market: Market, tmp_path: Path, monkeypatch) -> None:
    """A message of a gibibyte is promised in answer to hello."""
    provider = await market.provider(price=1)

    sent = 0

    async def receive(self, incoming) -> None:
        nonlocal sent
        connection = await incoming.complete(5)
        with contextlib.suppress(Exception):
            stream = await connection.accept()
            await stream.write((1 << 30).to_bytes(4, "little"))
            while True:
                await stream.write(bytes(1 << 16))
                sent += 1 << 16

    monkeypatch.setattr(type(provider.agent._gate), "_receive", receive)
    with pytest.raises(UserError, match="a message has 1 to"):
        await run(market, wish("echo"), tmp_path / "out")
    assert sent < 16 << 20


@pytest.mark.parametrize("request_", [PutManifest, Status])
async def test_a_machine_that_never_gets_on_with_it_is_given_up(
    market: Market, tmp_path: Path, monkeypatch, request_: type
) -> None:
    """It answers that it is alive, and nothing else."""
    monkeypatch.setattr(deliver, "PATIENCE_SECONDS", 1.5)
    await liar(market, {request_: silent})
    with pytest.raises(UserError, match="does not get on with it"):
        await run(market, wish("sleep", "500"), tmp_path / "out")
    settled = await order(market)
    assert isinstance(settled.status, Ended)
    if request_ is PutManifest:
        assert settled.status.bill.paid == 0, "it never had what to run"
    else:
        assert settled.status.bill.used < 20, "it ran unseen until it was given up"
    monkeypatch.setattr(deliver, "PATIENCE_SECONDS", 60.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await run(market, wish("echo"), tmp_path / "out")


async def test_a_machine_that_hangs_up_every_time_is_given_up(
    market: Market, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(deliver, "PATIENCE_SECONDS", 5.0)
    seen: list[int] = []
    await liar(market, {PutManifest: hangs_up(seen)})
    with pytest.raises(UserError, match="nothing is held"):
        async with asyncio.timeout(30):
            await run(market, wish("echo"), tmp_path / "out")
    assert seen


async def test_a_machine_that_is_busy_for_ever_loses_the_order_at_its_window(
    market: Market, tmp_path: Path
) -> None:
    """Each of its statuses says that there is progress."""
    seen: list[int] = []
    await liar(market, {Status: always_busy(seen), PutManifest: silent})
    with pytest.raises(UserError, match=r"lapsed|window|does not get on"):
        async with asyncio.timeout(45):
            await run(market, wish("echo", start_within=Seconds(6)), tmp_path / "out")
    settled = await order(market)
    assert isinstance(settled.status, Ended)
    assert settled.status.bill.paid == 0
    assert seen


@pytest.mark.parametrize("watched", [True, False])
async def test_what_is_billed_and_not_run_is_closed(
    market: Market, tmp_path: Path, monkeypatch, watched: bool
) -> None:
    """It has declared the start, and says that it is still at it; whether it runs, nobody can see."""
    monkeypatch.setattr(follow, "BILLED_SECONDS", 2.0 if watched else 600.0)
    await liar(market, {Status: always_busy([])})
    renting = asyncio.create_task(run(market, wish("sleep", "500"), tmp_path / "out"))
    await asyncio.wait([renting], timeout=30 if watched else 8)
    if not watched:
        assert not renting.done(), "it would pay for the whole term"
        renting.cancel()
        await asyncio.wait([renting])
        return
    with pytest.raises(UserError, match="has the order billed, and does not run it"):
        await renting
    settled = await order(market)
    assert isinstance(settled.status, Ended)
    assert settled.status.ending is Ending.STOPPED
    assert settled.status.bill.used < 20


async def test_more_of_a_file_than_there_is(market: Market, tmp_path: Path) -> None:
    async def has_more(_visit, _request, stream) -> None:
        await stream.write(reply_bytes(Have(offset=U64((1 << 64) - 1))))

    await liar(market, {PutBlob: has_more})
    sent = tmp_path / "job"
    sent.mkdir()
    (sent / "file").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="more of the file than there is"):
        await run(market, wish("echo"), tmp_path / "out", sent)
    with pytest.raises(
        (OverflowError, OSError, ValueError)
    ):  # what such an offset does where nobody looks
        await session_module._send_file(
            None,
            sent / "file",
            (1 << 64) - 1,
            1 << 64,
            None,  # type: ignore[arg-type]
        )


ELSEWHERE = [Path("/tmp/dbc-hostile-provider"), Path("/tmp/dbc-hostile-absolute")]


def left_elsewhere() -> list[str]:
    found = [str(path) for path in ELSEWHERE if os.path.lexists(path)]
    for path in ELSEWHERE:
        path.unlink(missing_ok=True)
    return found


async def test_results_that_reach_out_arrive_as_plain_files(
    market: Market, tmp_path: Path, capsys
) -> None:
    await liar(market, {CopyOut: sends(hostile_results())})
    assert await run(market, wish("echo", "hi"), tmp_path / "dbc-out") == 0
    root = tmp_path / "dbc-out" / "0"
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    inside = {"out", "out/dbc-hostile-provider", "su"}
    assert set(found) == inside | {"model.bin", "MODEL.bin", "n\u00e9", "ne\u0301"}
    assert not found["out"].is_symlink()
    assert (root / "model.bin").read_bytes() == b"weights"
    assert all(stat.S_IMODE(path.lstat().st_mode) & 0o7022 == 0 for path in found.values())
    assert left_elsewhere() == []
    assert {path.name for path in (tmp_path / "dbc-out").iterdir()} == {"0"}
    lines = capsys.readouterr().err.splitlines()
    assert sum("left out" in line for line in lines) == 9
    assert all(line.isprintable() for line in lines)


def test_the_results_reach_out(tmp_path: Path) -> None:
    """Where the library's own reader takes them, trusting."""
    root = tmp_path / "deep" / "deeper" / "root"
    root.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(hostile_results())) as tar:
        for member in tar:
            with contextlib.suppress(OSError, tarfile.TarError):
                tar.extract(member, root, filter="fully_trusted")
    assert len(left_elsewhere()) == 2
    assert (tmp_path / "deep" / "escaped").exists()
    assert (root / ".git/hooks/post-checkout").exists()
    assert (root / "su").stat().st_mode & stat.S_ISUID


@pytest.mark.parametrize("checked", [True, False])
async def test_a_machine_names_no_service_of_the_renters_own_as_its_relay(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    """Her program would ask it by HTTP, from inside her network."""
    asked = []

    async def service(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(True)
        writer.close()

    if not checked:
        monkeypatch.setattr("deepbrain.cli.renter.relays.is_near", lambda _: False)
    async with await asyncio.start_server(service, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        provider = await market.provider()
        listed = await market.client.at().get(Machines.machines, provider.id)
        assert listed is not None
        address = listed.address.but(
            relays=(f"http://127.0.0.1:{port}", f"http://localhost:{port}")
        )
        await market.client.submit(
            Machines.set_address.make(machine=provider.id, address=address), BOB
        )
        assert await run(market, wish("job", "0"), tmp_path / "out") == 0
        await asyncio.sleep(0.5)
    assert bool(asked) is not checked

"""The examples run as they are printed."""

import runpy
import sys
from pathlib import Path

import pytest
from tests.cli.market import open_market

EXAMPLES = Path(__file__).parents[2] / "examples"


async def test_the_market_example_reads_a_network(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    main = runpy.run_path(str(EXAMPLES / "market.py"))["main"]
    async with open_market(tmp_path) as market:
        provider = await market.provider()
        await main(market.url)
    said = capsys.readouterr().out
    assert provider.id.hex()[:12] in said
    assert "1 machines" in said


def test_the_training_example_learns_and_leaves_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "--seconds", "1", "--hidden", "16"])
    runpy.run_path(str(EXAMPLES / "digits" / "train.py"), run_name="__main__")
    assert "final loss" in capsys.readouterr().out
    assert (tmp_path / "model.npz").stat().st_size > 1000

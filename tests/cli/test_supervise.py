"""Children are kept, given up with their own last words, and ended in order."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deepbrain.cli import supervise
from deepbrain.cli.failure import UserError
from deepbrain.cli.supervise import Child, Program, Trace, end


def child(tmp_path: Path, script: str) -> Child:
    argv = (sys.executable, "-c", script)
    return Child(Program("the child", argv, tmp_path / "log" / "child.log"), lambda: None)


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.01)


async def test_a_child_that_dies_is_started_again_and_ends_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_FIRST_DELAY", 0.01)
    kept = child(tmp_path, "import time; time.sleep(60)")
    keeping = asyncio.create_task(kept.keep())
    await until(lambda: kept.pid is not None)
    first = kept.pid
    assert first is not None
    Trace.of(first)
    import os

    os.kill(first, signal.SIGKILL)
    await until(lambda: kept.pid not in (None, first))
    await kept.stop()
    await keeping
    assert kept.restarts == 1
    assert kept.pid is None


async def test_a_child_that_does_not_stay_up_is_given_up_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(supervise, "_LONGEST_DELAY", 0.01)
    with pytest.raises(UserError, match="does not stay up: the port is taken"):
        await child(tmp_path, "import sys; sys.exit('the port is taken')").keep()


async def test_a_child_that_is_killed_again_and_again_is_never_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_FIRST_DELAY", 0.01)
    kept = child(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    keeping = asyncio.create_task(kept.keep())
    await until(lambda: kept.restarts > supervise.MAX_QUICK_ENDS or keeping.done())
    assert not keeping.done()
    await kept.stop()
    await keeping


def test_a_trace_does_not_mistake_another_process_for_its_own() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    trace = Trace.of(process.pid)
    assert trace is not None
    assert trace.alive
    assert not Trace(trace.pid, trace.started - 1).alive
    reaper = process
    end([Trace(trace.pid, trace.started - 1)], seconds=0.2)
    assert trace.alive
    end([trace], seconds=5)
    assert not trace.alive
    assert reaper.wait() == -signal.SIGTERM
    assert Trace.of(reaper.pid) is None

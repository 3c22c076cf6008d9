"""A command's terminal: what ends with it."""

import asyncio
import os
import signal

import pytest
from tests.provider.house import eventually, house

from deepbrain.cli.terminal import ended_by_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_the_command_over_there_at_once(tmp_path, number):
    async with house("iroh", tmp_path) as home:
        session = await home.running(1, "sleep", "9")

        async def command() -> None:
            with ended_by_signals():
                async with await session.exec(["cat"]) as running:
                    await running.read()

        def live() -> int:
            return sum(one.live for one in home.sandbox._tenants[1].sessions)

        task = asyncio.create_task(_outcome(command()))
        await eventually(lambda: live() == 1)
        os.kill(os.getpid(), number)
        assert await task == 128 + number
        await eventually(lambda: live() == 0, seconds=3)


async def _outcome(work) -> int:
    try:
        await work
    except SystemExit as end:
        return int(end.code)
    return 0

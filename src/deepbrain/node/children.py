"""Processes that a node starts beside itself, and ends with itself."""

import asyncio
import contextlib


async def end(process: asyncio.subprocess.Process | None, patience: float) -> None:
    """SIGTERM, and SIGKILL after `patience` seconds; nothing where there is none any more."""
    if process is None or process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            process.kill()
            await process.wait()

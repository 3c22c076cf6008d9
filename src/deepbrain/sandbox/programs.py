"""Programs that a checkout or a home may bring along, before those of the system; and how to get them."""

import asyncio
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from deepbrain.sandbox.sandbox import SandboxError

HOW_TO_GET: Final = "`dbc join` and `dbc network up` get it"

_FROM: Final = re.compile(r"^get-[a-z]+: ")
"""What the scripts begin their lines with."""

GET_GVISOR: Final = Path(__file__).with_name("tool") / "get-gvisor"


def kept_programs() -> Path:
    """Where what was built for this user is kept."""
    return Path.home() / ".cache" / "deepbrain" / "bin"


def find_binary(name: str, variable: str) -> Path | None:
    """By environment variable, then below a `.cache/bin` of the checkout or home, then by PATH."""
    candidates = [Path(told)] if (told := os.environ.get(variable)) else []
    candidates += [directory / name for directory in _beside()]
    candidates += [kept_programs() / name]
    candidates += [Path(entry) / name for entry in os.get_exec_path()]
    for path in candidates:
        try:
            if path.is_file() and os.access(path, os.X_OK):
                return path.absolute()
        except OSError:
            continue
    return None


def _beside() -> tuple[Path, ...]:
    """Where a checkout keeps its programs, if this package is in one."""
    return tuple(parent / ".cache" / "bin" for parent in Path(__file__).resolve().parents)


async def get_programs(say: Callable[[str], None], *, gvisor: bool = True) -> None:
    """Build the tenant tool and, where it can work, gVisor, if they are missing here or old.

    Once it takes one to five minutes, Go included where there is none; a call that finds all done
    takes some milliseconds. What a checkout or the path brings along is left as it is. `say` is told
    what is going on.

    Raises: SandboxError: the reason, in one sentence.
    """
    runsc, tool = find_binary("runsc", "DBC_RUNSC"), find_binary("dbc-tool", "DBC_TOOL")
    kept = kept_programs()
    gets_tool = tool is None or tool.parent == kept
    gets_runsc = gvisor and (runsc is None or runsc.parent == kept) and await _may_isolate()
    if not (gets_tool or gets_runsc):
        return
    if tool is None or (runsc is None and gets_runsc):
        say("getting what tenants run in: once on a machine, one to five minutes")
    only = () if gets_runsc else ("--tool-only",)
    await run_script(GET_GVISOR, *only, str(kept), say=say)


async def run_script(script: Path, *arguments: str, say: Callable[[str], None]) -> None:
    """Run a script that gets a program, telling `say` its lines.

    Raises: SandboxError: the last line, where it fails.
    """
    process = await asyncio.create_subprocess_exec(
        *("sh", str(script), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ) | {"PYTHON": sys.executable},
    )
    last = ""
    try:
        if process.stderr is not None:
            async for line in process.stderr:
                last = _FROM.sub("", line.decode(errors="replace").strip())
                say(last)
        code = await process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    if code:
        raise SandboxError(last or f"{script.name} ended with {code}")


async def _may_isolate() -> bool:
    """Whether gVisor could work here at all; if not, it need not be built."""
    wanted = ("--mount", "--net", "--pid", "--fork") if os.geteuid() == 0 else ("--user",)
    try:
        process = await asyncio.create_subprocess_exec(
            *("unshare", *wanted, "true"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return True  # it cannot be told
    return await process.wait() == 0

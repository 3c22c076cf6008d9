"""The CometBFT program: which version, where it is, how to get it."""

import mmap
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from deepbrain.node.errors import NodeError
from deepbrain.sandbox.programs import find_binary, kept_programs, run_script
from deepbrain.sandbox.sandbox import SandboxError

VERSION: Final = "v0.40.0"
GET_COMETBFT: Final = Path(__file__).with_name("get-cometbft")

_MODULE: Final = re.compile(rb"\nmod\tgithub\.com/cometbft/cometbft\t([^\t\n]{1,64})[\t\n]")
"""The line of a Go program's build information that names its main module. What the program prints of
itself is no help: the one of 0.40.0 says 0.39.0."""


def find_cometbft(told: Path | None = None) -> Path:
    """The program at the path that was told, else of the environment, the checkout, the home, or PATH.

    Raises: NodeError: there is none, or it is of another version.
    """
    path = told or find_binary("cometbft", "DBC_COMETBFT")
    if path is None:
        raise NodeError(
            f"CometBFT {VERSION} is not here: get it with `dbc validate init`, or with "
            f"`go install github.com/cometbft/cometbft/cmd/cometbft@{VERSION}`."
        )
    found = version_of(path)
    if found != VERSION:
        raise NodeError(
            f"{path} is {'no CometBFT' if found is None else f'CometBFT {found}'}, and this node "
            f"works with {VERSION}: name that one with --cometbft."
        )
    return path.absolute()


def version_of(path: Path) -> str | None:
    """The version that the program was built from; None: it is no CometBFT.

    Raises: NodeError: it cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = _MODULE.search(data)
            return None if found is None else found[1].decode("ascii", "replace")
    except (OSError, ValueError) as error:
        raise NodeError(f"{path} cannot be read: {error}.") from error


async def get_cometbft(say: Callable[[str], None]) -> Path:
    """The program, built for this user where it is not here: once, one to three minutes.

    `say` is told what is going on. Raises: NodeError: the reason, in one sentence.
    """
    with suppress(NodeError):
        return find_cometbft()
    kept = kept_programs()
    say("getting CometBFT: once on a machine, one to three minutes")
    try:
        await run_script(GET_COMETBFT, str(kept), say=say)
    except SandboxError as error:
        raise NodeError(str(error)) from error
    return find_cometbft(kept / "cometbft")

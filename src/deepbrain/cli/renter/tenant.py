"""`dbc exec` and `dbc cp`: beside the job, on its machine."""

import asyncio
import os
import posixpath
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.failure import UserError
from deepbrain.cli.output import files_and_size, progress, say
from deepbrain.cli.renter.orders import ORDER, arguments, reaching
from deepbrain.primitives.ids import OrderId
from deepbrain.sandbox.sandbox import TOOL

if TYPE_CHECKING:
    from deepbrain.cli.keys import Chosen
    from deepbrain.client.workspace import Workspace
    from deepbrain.net.session import Session

_CHUNK: Final = 1 << 18
_ITSELF: Final = ("", ".", "..")
"""Last parts of a path that give a copy no name."""


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable.")
@click.option("--workdir", default="", metavar="DIR", help="Where to start (default: /workspace).")
@click.argument("order", type=ORDER)
@click.argument("argv", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(
    interactive: bool, tty: bool, env: tuple[str, ...], workdir: str, order: OrderId,
    argv: tuple[str, ...],
) -> int:  # fmt: skip
    """Run one more command in a running order.

    \b
    dbc exec 7 nvidia-smi
    dbc exec -it 7 bash
    tar c data | dbc exec -i 7 tar x

    The exit code is the command's. It ends when this does.
    """
    argv = arguments(argv)
    if not argv:
        raise UserError("name a command to run, such as `dbc exec 7 nvidia-smi`")
    if tty and not os.isatty(0):
        raise UserError("a terminal was asked for, and standard input is none; leave out -t")
    choices = Choices.current()
    return block_on(_exec(choices, choices.chosen(), order, argv, env, workdir, interactive, tty))


@click.command()
@click.argument("source")
@click.argument("target")
def cp(source: str, target: str) -> None:
    """Copy files to or from a running or ended order.

    One side is ORDER:PATH, with PATH relative to /workspace. As with `scp -r`, what exists as a directory
    is copied into; otherwise the copy gets the name. Nothing here is ever written over.

    \b
    dbc cp 7:model.npz .            one file, into this directory
    dbc cp 7:checkpoints ./keep     a directory, into keep/ or as keep
    dbc cp train.py 7:              into the running job's /workspace
    dbc cp ./data 7:inputs          as the job's inputs, or into it where it is there
    dbc cp ./data/. 7:inputs        what is in data, into inputs/
    """
    there, here = _remote(source), _remote(target)
    if (there is None) == (here is None):
        raise UserError("one side is ORDER:PATH and the other a path here, such as 7:model.npz")
    choices = Choices.current()
    chosen = choices.chosen()
    if there is not None:
        order, path = there
        block_on(_copy_out(choices, chosen, order, path.rstrip("/"), target))
    elif here is not None:
        order, path = here
        block_on(_copy_in(choices, chosen, order, source, path))


def _remote(text: str) -> tuple[OrderId, str] | None:
    number, colon, path = text.partition(":")
    if not colon or not (number.isascii() and number.isdigit() and len(number) <= 18):
        return None
    return OrderId(int(number)), path


def _is_directory_here(path: str) -> bool:
    return Path(path).is_dir()


def _new_name(path: str, target: str) -> Path:
    """Where a copy of `path` goes: below `target` where that is a directory. Raises: UserError."""
    name = Path(path).name
    if not name or name == "..":
        raise UserError("name a file or directory below /workspace, such as 7:model.npz")
    return Path(target, name) if _is_directory_here(target) else Path(target)


def _scan(source: Path) -> "Workspace":
    from deepbrain.client.workspace import scan, scan_file

    workspace = scan(source) if source.is_dir() else scan_file(source)
    for note in workspace.notes:
        say(note)
    return workspace


async def _landing(
    session: "Session", workspace: "Workspace", source: str, path: str
) -> "tuple[Workspace, str]":
    """What to send and the directory to unpack it in, so that `source` arrives at `path` as `cp -r` has it.

    Raises: UserError: a file should go into a directory that is not there.
    """
    from deepbrain.client.workspace import as_name, below

    name, is_directory = posixpath.basename(source.rstrip("/")), _is_directory_here(source)
    if is_directory and name in _ITSELF:
        return workspace, path or "."
    exists = path.strip("/") in ("", ".") or await _is_directory(session, path)
    if is_directory:
        return below(workspace, name) if exists else workspace, path or "."
    if exists:
        return workspace, path or "."
    parent, name = posixpath.split(path)
    if name in _ITSELF:
        raise UserError(
            f"there is no directory {path} in the order; make it first, or name the file"
        )
    return as_name(workspace, name), parent or "."


async def _is_directory(session: "Session", path: str) -> bool:
    """Whether a directory is there. Raises: UserError: the machine cannot tell."""
    async with await session.exec((TOOL, "is-directory", path)) as command:
        code = await command.wait()
    if code not in (0, 1):
        raise UserError(f"the machine does not tell whether {path} is a directory; copy with scp")
    return code == 0


async def _exec(
    choices: Choices, chosen: "Chosen", order: OrderId, argv: tuple[str, ...],
    env: tuple[str, ...], workdir: str, interactive: bool, is_tty: bool,
) -> int:  # fmt: skip
    from deepbrain.cli.renter.wish import parse_env
    from deepbrain.cli.terminal import ended_by_signals, join, size

    variables = parse_env(env)
    if is_tty and "TERM" not in dict(variables):
        variables += (("TERM", os.environ.get("TERM") or "dumb"),)
    columns, rows = size()
    with ended_by_signals():
        async with reaching(choices, chosen, order) as reach:
            session = await reach.session()
            command = await session.exec(
                argv, env=variables, cwd=workdir, tty=is_tty, cols=columns, rows=rows
            )
            async with command:
                return await join(command, interactive=interactive, is_tty=is_tty)


async def _copy_out(
    choices: Choices, chosen: "Chosen", order: OrderId, path: str, target: str
) -> None:
    from deepbrain.cli.renter.reach import closing
    from deepbrain.client.results import receive_file

    place = _new_name(path, target)
    only_directory = target.endswith("/") and place == Path(target)
    async with reaching(choices, chosen, order) as reach:
        session = await reach.session()
        with progress(f"copying {path}", None) as advance:
            async with closing(session.copy_out([path])) as chunks:
                results = await receive_file(
                    chunks, path, place, progress=advance, only_directory=only_directory
                )
    for omission in results.omitted:
        say(f"left out {omission}")
    say(f"{files_and_size(results.files, results.size)} in {place}")


async def _copy_in(
    choices: Choices, chosen: "Chosen", order: OrderId, source: str, path: str
) -> None:
    from deepbrain.client.workspace import pack

    found = _scan(Path(source))
    with tempfile.TemporaryDirectory(prefix="dbc-cp-") as scratch:
        async with reaching(choices, chosen, order) as reach:
            session = await reach.session()
            workspace, into = await _landing(session, found, source, path)
            packed = await asyncio.to_thread(pack, workspace, Path(scratch) / "files.tar")
            with progress(f"copying {source}", packed.size) as advance:
                await session.copy_in(_chunks(packed.path, advance), into)
    say(f"{files_and_size(found.files, found.size)} in {order}:{path or '.'}")


async def _chunks(path: Path, advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            advance(len(chunk))
            yield chunk

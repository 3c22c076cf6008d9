"""How things are printed: results on stdout, words to a person on stderr, JSON when asked for.

Sentences, names and models come from machines that may be hostile, and a terminal obeys what it shows:
everything goes through `printable` here. (A job's own output does not: that is the job's.)

rich is imported when a table or a bar is really shown.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from deepbrain.cli.quantity import size


def printable(text: str) -> str:
    """Without what a terminal obeys: controls, line ends, marks that hide or turn text around."""
    return "".join(char if char.isprintable() else "�" for char in text)


def say(text: str) -> None:
    """A line for the person; scripts that read stdout never see it."""
    click.echo(f"dbc: {printable(text)}", err=True)


def emit(value: Any) -> None:
    """JSON on stdout. Integers of money are strings: JSON readers round what is above 2**53."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo(
        "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)
    )


def _escaped(char: str) -> str:
    """As JSON writes it in ASCII; only strings hold such characters."""
    return json.dumps(char)[1:-1]


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """A table on stdout; plain tab-separated lines where stdout is no terminal."""
    if not rows:
        say(empty)
        return
    if not sys.stdout.isatty():
        click.echo("\t".join(head))
        for row in rows:
            click.echo("\t".join(printable(cell) for cell in row))
        return
    _rich_table(title, head, rows)


def _rich_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, box=None, header_style="bold", title_justify="left", pad_edge=False)
    for name in head:
        grid.add_column(name, overflow="fold")
    for row in rows:
        # As text, not markup: names of machines and images come from strangers.
        grid.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(grid)


@contextlib.contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while bytes move (nothing where stderr is no terminal); `advance(bytes)`."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("dbc: {task.description}", markup=False), BarColumn(), DownloadColumn(),
               TransferSpeedColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(label), total=total)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def counting(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while things are counted (nothing where it is no terminal); `reached(count)`."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("dbc: {task.description}", markup=False), BarColumn(),
               MofNCompleteColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(label), total=total)
        yield lambda count: bar.update(task, completed=count)


@contextlib.contextmanager
def waiting(label: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr with what is awaited; `update(text)` changes it, or prints it plainly."""
    if not sys.stderr.isatty():
        seen = [label]
        say(label)

        def plain(text: str) -> None:
            if text != seen[0]:
                seen[0] = text
                say(text)

        yield plain
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(printable(label))) as status:
        yield lambda text: status.update(Text(printable(text)))


def files_and_size(files: int, count: int) -> str:
    return f"{files} file{'' if files == 1 else 's'}, {size(count)}"

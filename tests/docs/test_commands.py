"""Every `dbc …` in the README and the guides is a command line that the command takes."""

from pathlib import Path

import click
import pytest
from tests.docs.pages import ROOT, command_lines, commands, pages

from deepbrain.cli.main import PANELS, dbc

GUIDES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs/guide").glob("*.md")),
    ROOT / "docs/security.md",
]


def refusal(arguments: list[str]) -> str | None:
    """Why the command line is none; nothing is run."""
    group: click.Command = dbc
    context: click.Context | None = None
    try:
        while True:
            context = group.make_context("dbc", arguments, parent=context)
            if not isinstance(group, click.Group):
                return None
            left = [*context._protected_args, *context.args]
            if not left:
                return "Missing command"
            name, found, arguments = group.resolve_command(context, left)
            assert name is not None and found is not None
            group = found
    except click.exceptions.Exit:
        return None  # --help and --version end here
    except click.ClickException as error:
        return error.format_message()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_every_command_line_parses(page: Path) -> None:
    wrong = []
    for line in command_lines(page):
        for arguments in commands(line.text):
            why = refusal(arguments)
            if why and not (line.is_in_text and why.startswith("Missing ")):
                wrong.append(f"{line}: {why}")
    assert not wrong, "\n".join(wrong)


def test_every_command_is_explained_in_a_guide() -> None:
    lines = [line for page in GUIDES for line in command_lines(page)]
    told = {word for line in lines for arguments in commands(line.text) for word in arguments}
    assert not {name for panel in PANELS.values() for name in panel} - told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dbc ps -a", [["ps", "-a"]]),
        ("sudo dbc doctor   # why", [["doctor"]]),
        ("sudo -E dbc --wallet a ps", [["--wallet", "a", "ps"]]),
        ('dbc logs "$order"', [["logs", "7"]]),
        ("order=$(dbc ps -a)", [["ps", "-a"]]),
        ("tar c data | dbc exec -i 7 tar x", [["exec", "-i", "7", "tar", "x"]]),
        ("dbc run -- python3 -c 'a; b'; dbc ps", [["run", "--", "python3", "-c", "a; b"], ["ps"]]),
    ],
)
def test_a_shells_line_is_taken_apart(text: str, expected: list[list[str]]) -> None:
    assert list(commands(text)) == expected


def test_a_wrong_line_would_be_found() -> None:
    assert refusal(["run", "--fur", "10m", "--", "true"])
    assert refusal(["network", "upp"])
    assert refusal(["run", "--for", "10 parsecs", "--", "true"])
    assert refusal(["nosuch"])
    assert refusal(["run", "--for", "10m", "--", "true"]) is None


def test_pages_are_found() -> None:
    assert len(pages()) > 40

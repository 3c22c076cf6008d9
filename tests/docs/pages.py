"""The pages of this repository, and what is written in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_LINK = re.compile(r"\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^ {0,3}```")
_PROMPT = re.compile(r"(host|home)?\$ ")
_RUNS_DBC = re.compile(r"((host|home)?\$ )?(sudo (-E )?)?dbc |.*(\| |\$\()dbc ")
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Line:
    """A command line as a page shows it."""

    page: Path
    number: int
    text: str
    is_in_text: bool
    """It may name a command without its arguments, as in `dbc logs -f`."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}: {self.text}"


def pages() -> list[Path]:
    """Every page that is ours."""
    found = [*ROOT.glob("*.md")]
    for directory in ("docs", "examples", "src", "tests", "bench", "tools"):
        found += (ROOT / directory).rglob("*.md")
    return sorted(found)


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Targets of the page's links, with their lines; none of those that are shown as code."""
    for number, text in _prose(page):
        for target in _LINK.findall(_SPAN.sub("", text)):
            yield number, target


def headings(page: Path) -> set[str]:
    """The anchors that a page has, as GitHub forms them."""
    found = set()
    for _, text in _prose(page):
        if text.startswith("#"):
            plain = text.lstrip("#").strip().lower().replace("`", "")
            found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def command_lines(page: Path) -> Iterator[Line]:
    """Every line of a block that runs `dbc`, and every `dbc …` in running text."""
    for number, text in _code(page):
        if _RUNS_DBC.match(text):
            yield Line(page, number, _PROMPT.sub("", text, count=1), is_in_text=False)
    for number, text in _prose(page):
        for span in _SPAN.findall(text):
            if span.startswith("dbc "):
                yield Line(page, number, span, is_in_text=True)


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each `dbc` in a shell's line, variables as if they held an order's number.

    Raises: ValueError: its quotes do not match.
    """
    words = shlex.shlex(text, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    words.commenters = "#"
    command: list[str] = []
    for word in (*words, ";"):
        if set(word) <= set(";|&<>()"):
            if "dbc" in command[:3]:
                yield command[command.index("dbc") + 1 :]
            command = []
        else:
            command.append("7" if word.startswith("$") else word)


def session_lines(page: Path) -> Iterator[tuple[str, str]]:
    """Every line that a page has somebody type, in order: at whose prompt (`host`, `home`), and what."""
    for _, text in _code(page):
        if (prompt := _PROMPT.match(text)) and prompt[1]:
            yield prompt[1], text[prompt.end() :]


def _prose(page: Path) -> Iterator[tuple[int, str]]:
    return ((number, text) for number, text, is_code in _lines(page) if not is_code)


def _code(page: Path) -> Iterator[tuple[int, str]]:
    return ((number, text) for number, text, is_code in _lines(page) if is_code)


def _lines(page: Path) -> Iterator[tuple[int, str, bool]]:
    is_code = False
    for number, text in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(text):
            is_code = not is_code
        else:
            yield number, text, is_code

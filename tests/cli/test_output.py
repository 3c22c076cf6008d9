"""A machine's words reach a terminal as words: no controls, no lines of their own, no markup."""

import json

import pytest

from deepbrain.cli import output
from deepbrain.cli.main import run
from deepbrain.cli.output import emit, printable, say, table, waiting

OBEYED = [
    "\x1b[2J\x1b[1;1H",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil\x1b\\",
    "\x9b31m",
    "\x9d0;x\x9c",
    "\r\n",
    "\n",
    "\t",
    "\x08",
    "\x00",
    "\x7f",
    "\u202e",
    "\u2066",
    "\u2028",
    "\u200b",
    "\ufeff",
    "\U000e0041",
]


@pytest.mark.parametrize("text", OBEYED, ids=ascii)
def test_nothing_that_a_terminal_obeys_is_said(text, capsys):
    say(f"the machine refused: {text}paid 0 DBC")
    table("t", ("a",), [(f"x{text}y",)], "none")
    with waiting("wait") as report:
        report(f"unpacking {text}")
    emit({"model": f"x{text}y"})
    shown = capsys.readouterr()
    lines = (shown.err + shown.out).splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(shown.err.splitlines()) == 3
    assert json.loads(shown.out.partition("\n")[2].partition("\n")[2])["model"] == f"x{text}y"


def test_words_stay_as_they_are():
    assert printable("größer than 日本 — 10 × “GPU”") == "größer than 日本 — 10 × “GPU”"


def test_an_error_of_a_machine_is_one_line(monkeypatch, capsys):
    from deepbrain.net.errors import RefusalCode, Refused

    def refused(*_: object, **__: object) -> None:
        raise Refused(RefusalCode.FAILED, "no\x1b[2J\ndbc: order 7 exited with 0")

    monkeypatch.setattr("deepbrain.cli.main.dbc.main", refused)
    assert run(["ps"]) == 1
    assert capsys.readouterr().err == "dbc: no�[2J�dbc: order 7 exited with 0\n"


def test_on_a_terminal_no_markup_is_obeyed(monkeypatch, capsys):
    monkeypatch.setattr(output.sys.stderr, "isatty", lambda: True)
    with waiting("[/nothing] [link=http://evil]x") as report:
        report("[/also nothing]")
    with output.progress("[/x] copying", 10) as advance:
        advance(10)
    capsys.readouterr()

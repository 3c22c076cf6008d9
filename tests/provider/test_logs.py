"""One line an event, whatever is said."""

import json
import logging

import pytest

from deepbrain.provider.logs import MAX_TEXT, EventFormatter


def line(message: str, *args: object, as_json: bool = False, **how: object) -> str:
    record = logging.getLogger("x").makeRecord(
        "x", logging.INFO, "file.py", 1, message, args, None, func="_watch_job", **how
    )
    return EventFormatter("agent", as_json=as_json).format(record)


def fields(text: str) -> dict[str, str]:
    """A strict reader of `key=value`: what cannot be read is no line of ours."""
    found, rest = {}, text
    while rest:
        key, _, rest = rest.partition("=")
        if rest.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:].removeprefix(" ")
        else:
            value, _, rest = rest.partition(" ")
        found[key] = value
    return found


def test_an_order_and_an_event_are_fields() -> None:
    found = fields(line("order %s: %s", 7, "Launch", extra={"event": "launch"}))
    assert (found["order"], found["event"], found["text"]) == ("7", "launch", "Launch")
    assert (found["level"], found["from"]) == ("info", "agent")
    assert fields(line("order 7: gone"))["event"] == "watch-job", "else the function that spoke"
    assert "order" not in fields(line("no order 7: here"))


@pytest.mark.parametrize("said", ['a"b', "x\norder=8 event=paid", "a b=c", "\x1b[2J", "ü\u2028y"])
def test_strangers_words_stay_in_their_field(said: str) -> None:
    for text in (line("order 7: %s", said), line("order 7: %s", said, as_json=True)):
        assert len(text.splitlines()) == 1
        assert text.isascii() and text.isprintable()
    assert fields(line("order 7: %s", said))["text"] == said
    assert json.loads(line("order 7: %s", said, as_json=True))["order"] == 7


def test_a_line_has_an_end() -> None:
    assert len(line("%s", "x" * 10**6)) < MAX_TEXT + 200

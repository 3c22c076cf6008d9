"""What agent and helper say: one line an event, as `key=value` or as JSON.

    time=2026-05-01T12:00:00.123Z level=info from=agent event=launch order=7 text="…"

A message that begins with `order 7: ` is about that order, and the number becomes a field. The event is
`extra={"event": …}`, else the function that spoke. Strangers' words are quoted: they cannot begin a line
or a field. A line is at most `MAX_TEXT` characters of text, and of a traceback as many again.
"""

import json
import logging
import re
import sys
import time
from typing import Final

MAX_TEXT: Final = 4000

FORMATS: Final = ("text", "json")

LOG_FORMAT: Final = "DBC_LOG_FORMAT"
"""Environment: one of `FORMATS`, for helper and agent alike."""

_ORDER: Final = re.compile(r"order (\d{1,20}): ")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/@+-]+")


class EventFormatter(logging.Formatter):
    """Formats for `program`, such as `agent`."""

    def __init__(self, program: str, *, as_json: bool = False) -> None:
        super().__init__()
        self._program = program
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        if self._as_json:
            return json.dumps(fields, ensure_ascii=True)
        return " ".join(f"{key}={_word(value)}" for key, value in fields.items())

    def fields(self, record: logging.LogRecord) -> dict[str, str | int]:
        """What the line holds, in the order it is shown."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        text = record.getMessage()
        fields: dict[str, str | int] = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "from": self._program,
            "event": getattr(record, "event", record.funcName.strip("_").replace("_", "-")),
        }
        if about := _ORDER.match(text):
            fields["order"] = int(about[1])
            text = text[about.end() :]
        fields["text"] = text[:MAX_TEXT]
        if record.exc_info:
            # The end of a traceback says what happened.
            fields["trace"] = self.formatException(record.exc_info)[-MAX_TEXT:]
        return fields


def set_up(program: str, level: str = "info", form: str = "text") -> None:
    """Log to standard error, where systemd or a supervisor takes it.

    A full disk or a closed pipe at its other end loses lines, and nothing else.
    """
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(program, as_json=form == "json"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _word(value: str | int) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)

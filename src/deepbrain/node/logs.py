"""What a node says, on standard error: a line for people, or one JSON object a line for programs."""

import json
import logging
import sys
import time
from typing import Final

FORMATS: Final = ("text", "json")
MAX_TEXT: Final = 8000
"""Characters of a message, and of a traceback as many again, in JSON."""


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `message`, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_TEXT],
        }
        if record.exc_info:
            # The end of a traceback says what happened.
            fields["exception"] = self.formatException(record.exc_info)[-MAX_TEXT:]
        return json.dumps(fields)


def set_up(level: str, form: str) -> None:
    """Log from `level` on, in one of `FORMATS`."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])

"""A log that strangers cannot fill: of one message a bounded number of lines a minute, the rest counted."""

import logging
import time
from dataclasses import dataclass
from typing import Final

LINES_PER_MINUTE: Final = 120
_MESSAGES: Final = 256
"""Different messages that are remembered; they are the program's own, so there are not many."""


@dataclass(slots=True)
class _Minute:
    began: float
    lines: int = 0
    dropped: int = 0


class Quiet(logging.Filter):
    """Of a handler. What counts as one message is its text before names and numbers are filled in."""

    def __init__(self, lines_per_minute: int = LINES_PER_MINUTE) -> None:
        super().__init__()
        self._most = lines_per_minute
        self._minutes: dict[str, _Minute] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        minute = self._minute_of(str(record.msg), time.monotonic())
        if minute.lines >= self._most:
            minute.dropped += 1
            return False
        minute.lines += 1
        return True

    def _minute_of(self, message: str, now: float) -> _Minute:
        minute = self._minutes.get(message)
        if minute is not None and now - minute.began < 60:
            return minute
        if minute is not None and minute.dropped:
            self._tell(message, minute.dropped)
        if len(self._minutes) >= _MESSAGES:
            self._minutes.clear()
        self._minutes[message] = fresh = _Minute(now)
        return fresh

    def _tell(self, message: str, dropped: int) -> None:
        logging.getLogger(__name__).warning("%s lines %r were left out", dropped, message)

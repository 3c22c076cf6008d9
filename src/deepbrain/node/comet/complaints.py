"""What CometBFT says of what is wrong, and what it means to whoever runs the node.

It writes one JSON object a line; what is none comes from Go itself: why it did not start, or a panic and
the stacks of all its routines, of which the first line is enough.
"""

import json
import logging
from typing import Any, Final, NamedTuple

MAX_TEXT: Final = 2000
FAILURE: Final = "CONSENSUS FAILURE!!!"
"""Its consensus is dead from here on, though the process lives and calls itself healthy."""

_PANIC: Final = "panic: "
_PLAIN: Final = ("ERROR: ", _PANIC)

_MEANINGS: Final = {
    "found signature from the same key": (
        "another node signs with this validator's key, or did a moment ago. Two at a time would be "
        "slashed: stop the other one, and start this one when it has been silent for a minute"
    ),
    "is too far in the future": (
        "this machine's clock is more than a minute behind the chain's: set it, and keep it right "
        "with NTP"
    ),
    "peer is on a different network": (
        "a peer is of another chain: this node's chain spec is not the one of the others"
    ),
    "no space left on device": "the disk is full: make room",
    "address already in use": "its port is taken: choose another with --p2p",
}
"""What is in its complaints, and what a person is told."""

_HOPELESS: Final = {
    "wrong Block.Header.AppHash": (
        "the network has another state than this node: it meets another version of the rules, or a "
        "damaged disk. Forget its chain with `dbc validate reset` and sync again; if that does not "
        "help, upgrade"
    ),
}
"""As above, where it has lost consensus: starting it again would change nothing, and it would take
honest peers for liars. A proposal of somebody else may be as wrong; that is his complaint, not ours."""


class Complaint(NamedTuple):
    """One thing that it said."""

    text: str
    """Empty: nothing worth saying."""
    level: int = logging.WARNING
    reason: str = ""
    """What to do about it, where we know."""
    lost: bool = False
    """Whether it has lost consensus."""
    hopeless: bool = False
    """Whether another start would end the same way."""


def read_complaint(line: str) -> Complaint:
    """What a line of its log means."""
    try:
        entry: dict[str, Any] = json.loads(line)
        message, level = str(entry.pop("_msg")), entry.pop("level", "error")
    except (ValueError, KeyError, TypeError, AttributeError):
        if not line.startswith(_PLAIN):
            return Complaint("")
        message, level, entry = line, "error", {}
    facts = [f"{name}={entry[name]}" for name in sorted(entry) if name not in ("stack", "ts")]
    text = " ".join((message, *facts))[:MAX_TEXT]
    lost = FAILURE in message or message.startswith(_PANIC)
    if lost:
        reason = _first(_HOPELESS, text)
        if reason:
            return Complaint(text, logging.ERROR, reason, lost=True, hopeless=True)
    reason = _first(_MEANINGS, text)
    if lost:
        return Complaint(
            text, logging.ERROR, reason or f"it has lost consensus ({text})", lost=True
        )
    if reason:
        return Complaint(f"{reason} ({text})", logging.ERROR, reason)
    return Complaint(text, logging.WARNING if level == "error" else logging.INFO)


def _first(table: dict[str, str], text: str) -> str:
    return next((told for sign, told in table.items() if sign in text), "")

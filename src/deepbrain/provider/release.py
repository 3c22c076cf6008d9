"""Helper and agent are of one release: they talk in a form that only that release promises.

A new release may be installed while an old helper runs; the next agent that it starts is then of the
new one. That agent sees it and ends; the helper becomes the new release's, and tenants notice nothing.
"""

import os
from typing import Final

from deepbrain import __version__

VARIABLE: Final = "DBC_HELPER_RELEASE"
"""Environment of the agent: the helper's release."""

OTHER: Final = 75
"""How an agent ends that is not of its helper's release."""


def announced() -> dict[str, str]:
    """What a helper adds to its agent's environment."""
    return {VARIABLE: __version__}


def is_other() -> bool:
    """Whether the helper that started this agent is of another release. To be asked once."""
    return os.environ.pop(VARIABLE, __version__) != __version__

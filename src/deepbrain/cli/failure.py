"""Exit codes, and how an exception becomes one sentence."""

import errno
from dataclasses import dataclass
from typing import Final

from deepbrain.primitives.errors import DeepBrainError

NOT_STARTED: Final = 125
"""`run` was refused, or no machine started it. Nothing is billed."""
TERM_OVER: Final = 124
MEMORY: Final = 137
PROVIDER_LOST: Final = 123


class UserError(DeepBrainError):
    """One sentence for a person: what is wrong and what to do. `code` is the exit code."""

    def __init__(self, sentence: str, code: int = 1) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Failure:
    """What a person and a script learn of an error."""

    sentence: str
    code: int

    @staticmethod
    def refused_code(path: str, otherwise: int) -> int:
        """A wrong command line is 2, but `run` must not look as if the job had exited with 2."""
        return NOT_STARTED if path.split()[-1:] == ["run"] else otherwise


def explain(error: Exception) -> Failure | None:
    """The sentence for an expected error; `None` for a bug, whose traceback is worth having."""
    if isinstance(error, UserError):
        return Failure(str(error), error.code)
    if isinstance(error, DeepBrainError):
        return Failure(str(error), 1)
    if isinstance(error, OSError):
        return _of_the_system(error)
    return None


def _of_the_system(error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure("the disk is full; free some room and try again", 1)
    where = f"{error.filename}: " if error.filename is not None else ""
    return Failure(f"{where}{(error.strerror or str(error)).lower()}", 1)

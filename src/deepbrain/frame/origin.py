"""Who makes a call. The annotation of a call's first parameter is the check.

def place(self, renter: Signed, …)         an account that signed the extrinsic
def set_key(self, origin: Root, …)         the root key, until its sunset
def set(self, origin: Inherent, …)         the block itself; nobody can submit it
def batch(self, origin: Anyone, …)         whoever it is, but not the block; passed on to other calls

An origin that does not fit is `BadOrigin`, before anything of the call is run.
"""

from enum import Enum
from typing import Annotated, Any, Final, TypeAlias, get_args, get_origin

from deepbrain.frame.errors import BadOrigin
from deepbrain.primitives.ids import AccountId


class Authority(Enum):
    """An origin that is no account."""

    ROOT = "root"
    INHERENT = "inherent"


ROOT: Final = Authority.ROOT
INHERENT: Final = Authority.INHERENT

Origin: TypeAlias = AccountId | Authority

SIGNED: Final = "signed"

Signed = Annotated[AccountId, SIGNED]
"""The account that signed."""
Root = Annotated[Authority, Authority.ROOT]
"""The root key."""
Inherent = Annotated[Authority, Authority.INHERENT]
"""The block."""

ANYONE: Final = "anyone"

Anyone = Annotated[AccountId | Authority, ANYONE]
"""An account that signed, or the root key."""


def required_origin(hint: Any) -> str | Authority:
    """What an annotation of a first parameter asks for. Raises: TypeError: it is no origin."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    if marks and (marks[0] in (SIGNED, ANYONE) or isinstance(marks[0], Authority)):
        required: str | Authority = marks[0]
        return required
    raise TypeError("the first parameter of a call is Signed, Root, Inherent or Anyone")


def check_origin(required: str | Authority, origin: Origin) -> None:
    """Raises: BadOrigin: `origin` is not what a call requires."""
    if required is ANYONE:
        fits = origin is not INHERENT
    elif isinstance(origin, Authority):
        fits = origin is required
    else:
        fits = required is SIGNED
    if not fits:
        raise BadOrigin

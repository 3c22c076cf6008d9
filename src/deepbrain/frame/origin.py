"""Who makes a call. The annotation of a call's first parameter is the check.

def place(self, renter: Signed, …)         an account that signed the extrinsic
def set_key(self, origin: Root, …)         the root key, until its sunset
def set(self, origin: Inherent, …)         the block itself; nobody can submit it

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


def required_origin(hint: Any) -> str | Authority:
    """What an annotation of a first parameter asks for. Raises: TypeError: it is no origin."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    if marks and (marks[0] is SIGNED or isinstance(marks[0], Authority)):
        required: str | Authority = marks[0]
        return required
    raise TypeError("the first parameter of a call is Signed, Root or Inherent")


def check_origin(required: str | Authority, origin: Origin) -> None:
    """Raises: BadOrigin: `origin` is not what a call requires."""
    if isinstance(origin, Authority):
        if origin is not required:
            raise BadOrigin
    elif required is not SIGNED:
        raise BadOrigin

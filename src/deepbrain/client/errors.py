"""What can go wrong between us and a node; each text is one sentence for a person.

RpcError                    the node answered with an error
├── InvalidExtrinsic        it will not take the extrinsic (nonce, balance, signature, era)
NodeUnreachable             no connection within the time allowed
ConnectionLost              the connection broke while an answer was awaited
WrongChain                  the node serves another genesis, or rules this program does not know
CallFailed                  included in a block, and failed there for a declared reason
SubmissionUnknown           nobody can say yet whether the extrinsic was included
"""

from typing import Any

from deepbrain.primitives.errors import DeepBrainError

INVALID_TRANSACTION = 1010
TEMPORARILY_BANNED = 1012
ALREADY_IMPORTED = 1013
TOO_LOW_PRIORITY = 1014
METHOD_NOT_FOUND = -32601


class RpcError(DeepBrainError):
    """The error member of a JSON-RPC answer."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        detail = f": {data}" if isinstance(data, str) and data else ""
        super().__init__(f"the node refused ({code} {message}{detail})")
        self.code = code
        self.message = message
        self.data = data


class InvalidExtrinsic(RpcError):
    """The pool refused an extrinsic; nothing was submitted."""


class NodeUnreachable(DeepBrainError):
    """No node answers at the URL."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"no node answers at {url} ({reason}); start one with `dbc network up`, "
            "or name another with --node"
        )
        self.url = url


class ConnectionLost(DeepBrainError):
    """The connection broke before the answer came; the request may or may not have been served."""

    def __init__(self) -> None:
        super().__init__("the connection to the node was lost before it answered; try again")


class WrongChain(DeepBrainError):
    """The node is not the one expected."""


class NotIncluded(DeepBrainError):
    """An extrinsic was accepted by the pool and is in no block; nothing happened."""


class SubmissionUnknown(DeepBrainError):
    """An extrinsic was sent, and neither its inclusion nor its refusal could be seen in time."""


class CallFailed(DeepBrainError):
    """A call was included and failed; its fee was charged, and nothing else happened.

    `reason` is the declared error's class (or the name of a built-in reason such as `BadOrigin`),
    for `match`ing; the text holds its first docstring line.
    """

    def __init__(self, reason: type[DeepBrainError] | str, doc: str = "") -> None:
        name = reason if isinstance(reason, str) else reason.__name__
        super().__init__(f"the chain refused: {name}" + (f" ({doc})" if doc else ""))
        self.reason = reason
        self.name = name

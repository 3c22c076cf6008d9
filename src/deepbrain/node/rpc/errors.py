"""Errors as a JSON-RPC client sees them: Substrate's codes and texts, which clients compare.

    -32700 parse error          -32600 invalid request      -32601 method not found
    -32602 invalid params       -32603 internal error       -32006…-32011 a limit was reached
    -32800…-32804 chainHead_v1                              1001…1018 the pool said no (author)
    4001…4003 state

Source: `jsonrpsee-types` error codes; `sc-rpc-api` author and state error codes; the JSON-RPC
interface specification of Polkadot for `chainHead_v1`.
"""

from typing import Final

from deepbrain.node.rpc.wire import Json, write
from deepbrain.primitives.errors import DeepBrainError

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
TOO_MANY_SUBSCRIPTIONS: Final = -32006
REQUEST_TOO_BIG: Final = -32007
RESPONSE_TOO_BIG: Final = -32008
SERVER_BUSY: Final = -32009
BATCH_TOO_LARGE: Final = -32010

TOO_MANY_FOLLOWS: Final = -32800
NOT_PINNED: Final = -32801
NO_RUNTIME: Final = -32802
NOT_WAITING: Final = -32803
DUPLICATE_HASHES: Final = -32804

BAD_FORMAT: Final = 1001
INVALID_TRANSACTION: Final = 1010
TEMPORARILY_BANNED: Final = 1012
ALREADY_IMPORTED: Final = 1013
TOO_LOW_PRIORITY: Final = 1014
IMMEDIATELY_DROPPED: Final = 1016

INVALID_BLOCK_RANGE: Final = 4001
INVALID_COUNT: Final = 4002
STATE_CLIENT: Final = 4003


class RpcFault(DeepBrainError):
    """What goes into the `error` member of an answer."""

    def __init__(self, code: int, message: str, data: Json = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def encode(self) -> str:
        """The JSON text of the error object."""
        body: dict[str, Json] = {"code": self.code, "message": self.message}
        if self.data is not None:
            body["data"] = self.data
        return write(body)


def method_not_found() -> RpcFault:
    """The text is compared by `polkadot-api`."""
    return RpcFault(METHOD_NOT_FOUND, "Method not found")


def invalid_params(reason: str) -> RpcFault:
    return RpcFault(INVALID_PARAMS, "Invalid params", reason)


def client_error(reason: str, code: int = STATE_CLIENT) -> RpcFault:
    """Substrate's `Client error: …`, for state that is not there or a call that failed."""
    return RpcFault(code, f"Client error: {reason}")

"""Failures of reading a block or its state, in Substrate's words."""

from collections.abc import Iterator
from contextlib import contextmanager

from deepbrain.node.errors import UnknownBlock
from deepbrain.node.rpc.errors import client_error
from deepbrain.primitives.errors import DecodeError
from deepbrain.runtime.apis import UnknownApi
from deepbrain.state.errors import UnknownState


@contextmanager
def known() -> Iterator[None]:
    """Turn an unknown block, a forgotten state or a failed call into the error that clients know."""
    try:
        yield
    except UnknownBlock as error:
        raise client_error(f"UnknownBlock: {error}") from None
    except UnknownState as error:
        raise client_error(f"UnknownBlock: State already discarded: {error}") from None
    except UnknownApi as error:
        raise client_error(f"Execution failed: Other: {error}") from None
    except DecodeError as error:
        raise client_error(f"Execution failed: the arguments are malformed: {error}") from None

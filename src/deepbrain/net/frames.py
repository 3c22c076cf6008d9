"""Messages on a stream, one at a time, bounded and strict."""

import struct
from typing import Any, Final, TypeVar

from deepbrain.net.errors import MalformedMessage, Refused
from deepbrain.net.messages import MAX_FRAME, Refusal, Reply, Request
from deepbrain.net.stream import Stream
from deepbrain.primitives.errors import DecodeError
from deepbrain.scale import codec_of

R = TypeVar("R", bound=Reply)

_LENGTH: Final = struct.Struct("<I")
LENGTH_BYTES: Final = _LENGTH.size
_REQUEST: Final = codec_of(Request)
_REPLY: Final = codec_of(Reply)


async def read_frame(stream: Stream, limit: int = MAX_FRAME) -> bytes:
    """One frame's body. Raises: MalformedMessage: empty or above `limit` bytes; NetError."""
    (length,) = _LENGTH.unpack(await stream.read_exactly(4))
    if not 0 < length <= limit:
        raise MalformedMessage(f"a message has 1 to {limit} bytes here, not {length}")
    return await stream.read_exactly(length)


def framed(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


def request_bytes(request: Request) -> bytes:
    return framed(_REQUEST.encode(request))


async def begun(stream: Stream, request: Request) -> Stream:
    """The stream with its request on the way; without it nobody could end what was opened."""
    try:
        await stream.write(request_bytes(request))
    except BaseException:
        await stream.reset()
        raise
    return stream


def reply_bytes(reply: Reply) -> bytes:
    return framed(_REPLY.encode(reply))


def parse_request(body: bytes) -> Request:
    """Raises: MalformedMessage: it is none."""
    return _parsed(_REQUEST, body)  # type: ignore[no-any-return]


def parse_reply(body: bytes) -> Reply:
    """Raises: MalformedMessage: it is none."""
    return _parsed(_REPLY, body)  # type: ignore[no-any-return]


async def read_request(stream: Stream, limit: int = MAX_FRAME) -> Request:
    """Raises: MalformedMessage; NetError."""
    return parse_request(await read_frame(stream, limit))


async def read_reply(stream: Stream) -> Reply:
    """Raises: Refused: the answer is a refusal; MalformedMessage; NetError."""
    reply = parse_reply(await read_frame(stream))
    if isinstance(reply, Refusal):
        raise Refused(reply.code, reply.reason)
    return reply


async def expect_reply(stream: Stream, kind: type[R]) -> R:
    """The answer, which must be of this kind. Raises: Refused; MalformedMessage; NetError."""
    reply = await read_reply(stream)
    if not isinstance(reply, kind):
        raise MalformedMessage(f"the answer is {type(reply).__name__}, not {kind.__name__}")
    return reply


def _parsed(codec: Any, body: bytes) -> Any:
    try:
        return codec.decode(body)
    except DecodeError as error:
        raise MalformedMessage(f"the message is malformed: {error}") from error
